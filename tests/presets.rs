//! The presets `dubbo` and `bolt` between the real libraries of their protocols, in processes of their own. Behind
//! the feature `peers`; `tests/run` installs what these tests need.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Daemon, PATIENCE, Plan, becomes};
use serde_json::{Value, json};

/// Short connections of one client, with two to four calls on each.
const CONNECTIONS: u64 = 500;

/// A script of `tests/peers/node`.
struct Node {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Node {
    fn start(script: &str, args: &[&str]) -> Self {
        let root = env!("CARGO_MANIFEST_DIR");
        let mut child = Command::new("node")
            .arg(format!("{root}/tests/peers/node/{script}"))
            .args(args)
            .env("NODE_PATH", format!("{root}/target/node/node_modules"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node is installed by `tests/run`");
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn succeeds(mut self) -> bool {
        self.child.wait().unwrap().success()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The server of one of the libraries.
struct Server {
    node: Node,
    address: String,
}

impl Server {
    fn start(args: &[&str]) -> Self {
        let mut node = Node::start("presets_server.js", args);
        let address = format!("127.0.0.1:{}", node.hear());
        Self { node, address }
    }

    fn ask(&mut self, command: &str) -> Value {
        self.node.tell(command);
        serde_json::from_str(&self.node.hear()).unwrap()
    }

    fn count(&mut self, name: &str) -> u64 {
        self.ask("count")[name].as_u64().unwrap()
    }
}

fn plan(preset: &str, server: &str) -> Plan {
    Plan::without_protocol("multiplex", server).set("protocol", &format!("{preset:?}"))
}

/// A client of the library that does `what`, so many times.
fn client(what: &str, preset: &str, daemon: &Daemon, number: u64) -> Node {
    let (port, number) = (daemon.port().to_string(), number.to_string());
    Node::start("presets_client.js", &[what, preset, &port, &number])
}

/// Two processes that use the same ids, and for Dubbo one of another library.
fn short_connections(preset: &str) {
    let mut server = Server::start(&[preset]);
    let daemon = plan(preset, &server.address).set("pool.max_connections", "2").start_ready();
    let mut clients =
        vec![client("short", preset, &daemon, CONNECTIONS), client("short", preset, &daemon, CONNECTIONS)];
    let mut calls = 2 * (2 * CONNECTIONS + CONNECTIONS / 10);
    if preset == "dubbo" {
        clients.push(client("other", preset, &daemon, CONNECTIONS));
        calls += CONNECTIONS;
    }
    for client in clients {
        assert!(client.succeeds());
    }
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), calls);
    assert!(server.count("accepted") <= 2);
    // Those of clients are answered by warmline.
    assert_eq!(server.count("heartbeats"), 0);
}

/// The same where each call has a connection to itself, which is the default.
fn exclusive(preset: &str) {
    let mut server = Server::start(&[preset]);
    let daemon = Plan::without_protocol("exclusive", &server.address)
        .set("protocol", &format!("{preset:?}"))
        .set("pool.max_connections", "4")
        .start_ready();
    assert_eq!(server.ask("heartbeats 100"), 100);
    assert!(client("short", preset, &daemon, CONNECTIONS).succeeds());
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), 2 * CONNECTIONS + CONNECTIONS / 10);
    assert!(server.count("accepted") <= 4);
    assert_eq!(daemon.metric("desync_total", &[]), 0);
}

/// A server that mixes ids up is found out by the client, not by warmline.
fn a_wrong_id_is_noticed(preset: &str) {
    let server = Server::start(&[preset, "swap"]);
    let daemon = plan(preset, &server.address).set("pool.max_connections", "1").start_ready();
    let mut client = client("short", preset, &daemon, 1);
    assert_eq!(client.hear(), "ERR_ASSERTION");
    assert!(!client.succeeds());
}

/// The server's heartbeats have ids that are also those of requests in flight.
fn heartbeats_of_the_server(preset: &str) {
    let mut server = Server::start(&[preset]);
    let daemon = plan(preset, &server.address).set("pool.max_connections", "1").start_ready();
    assert_eq!(server.ask("heartbeats 1000"), 1000);
    let mut busy = client("busy", preset, &daemon, 20);
    assert_eq!(busy.hear(), "busy");
    for _ in 0..20 {
        assert_eq!(server.ask("heartbeats 100"), 100);
    }
    busy.tell("enough");
    assert!(busy.succeeds());
    assert_eq!(server.ask("heartbeats 1"), 1);
    daemon.assert_conserved();
    assert_eq!(daemon.metric("desync_total", &[]), 0);
    assert_eq!(server.count("accepted"), 1);
}

fn oneway(preset: &str) {
    let mut server = Server::start(&[preset]);
    let daemon = plan(preset, &server.address).set("pool.max_connections", "2").start_ready();
    assert!(client("oneway", preset, &daemon, CONNECTIONS).succeeds());
    daemon.assert_conserved();
    assert_eq!((daemon.outcome("sent"), daemon.outcome("ok")), (CONNECTIONS, CONNECTIONS));
    becomes("notes", CONNECTIONS, || server.count("notes"));
    assert!(server.count("accepted") <= 2);
}

fn without_a_server(preset: &str) {
    let gone = Server::start(&[preset]).address;
    let daemon = plan(preset, &gone).set("required", "false").start_ready();
    assert!(client("refused", preset, &daemon, CONNECTIONS).succeeds());
    if preset == "dubbo" {
        assert!(client("other_refused", preset, &daemon, CONNECTIONS).succeeds());
    }
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), 0);
}

/// One call in flight, one that waits, and one that is refused: two calls end well, after the refusal.
fn with_a_full_queue(preset: &str) {
    let mut server = Server::start(&[preset]);
    let daemon = ["max_connections", "max_in_flight", "max_waiting"]
        .iter()
        .fold(plan(preset, &server.address), |plan, key| plan.set(&format!("pool.{key}"), "1"))
        .start_ready();
    let mut full = client("full", preset, &daemon, 3);
    assert_eq!(full.hear(), "refused");
    server.ask("release");
    assert!(full.succeeds());
    assert_eq!(daemon.metric("refused_total", &[("reason", "queue_full")]), 1);
}

/// A server that answers one-way calls all the same.
#[test]
fn a_sofa_server_answers_oneways() {
    for mode in ["multiplex", "exclusive"] {
        let mut server = Server::start(&["bolt", "sofa"]);
        let daemon = Plan::without_protocol(mode, &server.address)
            .set("protocol", "\"bolt\"")
            .set("pool.max_connections", "2")
            .start_ready();
        assert!(client("oneway", "bolt", &daemon, CONNECTIONS).succeeds());
        becomes("notes", CONNECTIONS, || server.count("notes"));
        becomes("answers to them", CONNECTIONS, || daemon.metric("late_replies_total", &[]));
        daemon.assert_conserved();
        assert_eq!((daemon.outcome("sent"), daemon.outcome("ok")), (CONNECTIONS, CONNECTIONS), "{mode}");
        assert_eq!(daemon.metric("desync_total", &[]), 0, "{mode}");
        assert!(server.count("accepted") <= 2);
    }
}

/// Fifty neighbours on the same connection go on while others send what is no request.
fn bad_input(preset: &str, bad: &[&[u8]]) {
    let mut server = Server::start(&[preset]);
    let daemon = plan(preset, &server.address).set("pool.max_connections", "1").start_ready();
    let mut busy = client("busy", preset, &daemon, 50);
    assert_eq!(busy.hear(), "busy");
    for bytes in bad.iter().cycle().take(20 * bad.len()) {
        let mut stream = TcpStream::connect(&daemon.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        // Whether with an error, with FIN or with RST: it is told, and not left to wait.
        if let Err(fault) = stream.read_to_end(&mut answer) {
            assert_eq!(fault.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:02x?}");
        }
    }
    busy.tell("enough");
    assert!(busy.succeeds());
    let reasons =
        ["malformed", "too_large"].map(|reason| daemon.metric("refused_total", &[("reason", reason)]));
    assert_eq!(reasons.iter().sum::<u64>(), 20 * bad.len() as u64, "{reasons:?}");
    assert!(daemon.log_text().contains("malformed request: not what this protocol begins a message with"));
    assert_eq!(server.ask("count"), json!({ "accepted": 1, "notes": 0, "heartbeats": 0 }));
    assert_eq!(daemon.metric("desync_total", &[]), 0);
}

macro_rules! with_each {
    ($($preset:ident: $($test:ident)*;)*) => {$(
        mod $preset {
            $(#[test] fn $test() { super::$test(stringify!($preset)); })*
        }
    )*};
}

with_each! {
    dubbo: short_connections exclusive a_wrong_id_is_noticed heartbeats_of_the_server oneway without_a_server
        with_a_full_queue;
    bolt: short_connections exclusive a_wrong_id_is_noticed heartbeats_of_the_server oneway without_a_server
        with_a_full_queue;
}

#[test]
fn bad_input_for_dubbo() {
    bad_input(
        "dubbo",
        &[
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xda\xbc\xc2",
            // A reply, a reply to a heartbeat, and what is none of all.
            b"\xda\xbb\x02\x14\0\0\0\0\0\0\0\x01\0\0\0\x01N",
            b"\xda\xbb\x22\x14\0\0\0\0\0\0\0\x01\0\0\0\x01N",
            b"\xda\xbb\x42",
            // Bodies of more than 8 MiB, and of a negative size.
            b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\x00\x80\0\x01",
            b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\xff\xff\xff\xff",
        ],
    );
}

#[test]
fn bad_input_for_bolt() {
    bad_input(
        "bolt",
        &[
            b"GET / HTTP/1.1\r\n\r\n",
            // The second version, which may have a checksum.
            b"\x02\x01\x01\0\x01\x01\0\0\0\x01\x01\x01",
            // A reply, a reply to a heartbeat, a type and a command that do not exist.
            b"\x01\0\0\x02\x01\0\0\0\x01\x01\0\0\0\0\0\0\0\0\0\0",
            b"\x01\0\0\0\x01\0\0\0\x01\x01\0\0\0\0\0\0\0\0\0\0",
            b"\x01\x03\0\x01",
            b"\x01\x01\x01",
            // Sizes of class, header and content that are negative.
            b"\x01\x01\0\x01\x01\0\0\0\x01\x01\0\0\x0b\xb8\x80\0\0\0\0\0\0\0",
            b"\x01\x01\0\x01\x01\0\0\0\x01\x01\0\0\x0b\xb8\0\0\xff\xff\0\0\0\0",
            b"\x01\x01\0\x01\x01\0\0\0\x01\x01\0\0\x0b\xb8\0\0\0\0\xff\xff\xff\xff",
        ],
    );
}

/// Bolt 2 is refused at its first byte, whoever sends it.
#[test]
fn the_second_version_of_bolt() {
    let mut server = Server::start(&["bolt"]);
    let daemon = plan("bolt", &server.address).start_ready();
    assert!(client("version2", "bolt", &daemon, 20).succeeds());
    assert_eq!(daemon.metric("refused_total", &[("reason", "malformed")]), 20);
    assert!(client("short", "bolt", &daemon, 20).succeeds());
    assert!(server.count("accepted") <= 4);
}

/// READONLY: the connection takes nothing new, and another one is opened.
#[test]
fn dubbo_says_that_it_will_close() {
    let mut server = Server::start(&["dubbo"]);
    let daemon = plan("dubbo", &server.address).set("pool.max_connections", "1").start_ready();
    let mut busy = client("busy", "dubbo", &daemon, 20);
    assert_eq!(busy.hear(), "busy");
    for round in 1..=5 {
        assert_eq!(server.ask("readonly"), 1);
        becomes("connections", round + 1, || server.count("accepted"));
        becomes("open connections", 1, || server.ask("open").as_u64().unwrap());
    }
    busy.tell("enough");
    assert!(busy.succeeds());
    daemon.assert_conserved();
    assert_eq!(daemon.metric("desync_total", &[]), 0);
}
