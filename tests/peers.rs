//! Peers that are not Rust, and what needs a network of its own. Behind the feature `peers`; `tests/run`
//! installs what these tests need.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{Load, Plan, Server, Wire, becomes, in_own_network, kernel};
use rustix::process::Signal;

/// One-request connections of each of three clients: 21,000 in each mode.
const CONNECTIONS: u32 = 7_000;

/// The Python server.
struct Python {
    child: Child,
    lines: BufReader<ChildStdout>,
    port: String,
}

impl Python {
    fn start(protocol: &str) -> Self {
        let mut child = Command::new("python3")
            .args([&script("server.py"), protocol])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is installed by `tests/run`");
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, lines, port: String::new() };
        server.port = server.line();
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn accepted(&mut self) -> u32 {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        self.line().parse().unwrap()
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn script(name: &str) -> String {
    format!("{}/tests/peers/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// PHP and Python clients side by side, over a few connections to a Python server.
fn through_warmline(wire: Wire, protocol: &str, mode: &str) {
    let mut server = Python::start(protocol);
    let daemon = Plan::new(wire, mode, &format!("127.0.0.1:{}", server.port))
        .set("pool.max_connections", "2")
        .start_ready();
    let port = daemon.port().to_string();
    let count = CONNECTIONS.to_string();
    let php = script(&format!("{protocol}_client.php"));
    let python = script("client.py");
    let commands = [
        vec!["php", &php, &port, &count],
        vec!["python3", &python, protocol, &port, &count],
        vec!["php", &php, &port, &count],
    ];
    let children =
        commands.map(|words| Command::new(words[0]).args(&words[1..]).stdout(Stdio::null()).spawn().unwrap());
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), u64::from(3 * CONNECTIONS));
    assert!(server.accepted() <= 2);
}

#[test]
fn frame_exclusive() {
    through_warmline(Wire::Tagged, "frame", "exclusive");
}

#[test]
fn frame_pipeline() {
    through_warmline(Wire::Tagged, "frame", "pipeline");
}

#[test]
fn frame_multiplex() {
    through_warmline(Wire::Tagged, "frame", "multiplex");
}

#[test]
fn line_exclusive() {
    through_warmline(Wire::Line, "line", "exclusive");
}

#[test]
fn line_pipeline() {
    through_warmline(Wire::Line, "line", "pipeline");
}

#[test]
fn item_08_burst_of_connects_exclusive() {
    burst_of_connects("exclusive");
}

#[test]
fn item_08_burst_of_connects_multiplex() {
    burst_of_connects("multiplex");
}

/// Five thousand clients connect while warmline accepts nothing: all of them find room in the accept queue.
fn burst_of_connects(mode: &str) {
    const CLIENTS: u64 = 5_000;
    if !in_own_network(&format!("item_08_burst_of_connects_{mode}")) {
        return;
    }
    let mut server = Server::for_mode(Wire::Tagged, mode);
    let daemon = Plan::new(Wire::Tagged, mode, &server.address)
        .global("limits.max_clients", "16000")
        .set("max_clients", "16000")
        .set("timeouts.client_read", "\"2m\"")
        .start_ready();
    daemon.signal(Signal::STOP);
    let mut load = Load::start(
        &daemon.address,
        Wire::Tagged,
        &format!("--hold --connections {CLIENTS} --concurrency 8"),
    );
    load.wait_open();
    daemon.signal(Signal::CONT);
    becomes("clients", CLIENTS, || daemon.metric("client_connections", &[]));
    load.go();
    load.finish().assert_all_ok(CLIENTS);
    server.assert_no_violation();
    daemon.assert_conserved();
    for counter in ["ListenOverflows", "ListenDrops", "TCPTimeWaitOverflow"] {
        assert_eq!(kernel::tcp_ext(counter), 0, "{counter}");
    }
}

/// A short-lived load leaves no connection of either side behind in a network that only it uses.
#[test]
fn one_shot_load_leaves_the_network_clean() {
    const CONNECTIONS: u32 = 20_000;
    if !in_own_network("one_shot_load_leaves_the_network_clean") {
        return;
    }
    let server = Server::start(Wire::Tagged, &["--exclusive"]);
    let mut daemon =
        Plan::new(Wire::Tagged, "exclusive", &server.address).set("sockets.one_shot", "true").start_ready();
    let args = format!("--connections {CONNECTIONS} --concurrency 4 --close eof");
    Load::start(&daemon.address, Wire::Tagged, &args).finish().assert_all_ok(CONNECTIONS.into());
    assert_eq!(daemon.terminate(), Some(0));
    let left = kernel::tcp().iter().filter(|socket| socket.state == kernel::TIME_WAIT).count();
    assert!(left <= CONNECTIONS as usize / 50, "{left} sockets in TIME_WAIT");
    assert_eq!(kernel::time_wait(kernel::port(&server.address)), 0);
    assert_eq!(kernel::tcp_ext("ListenOverflows"), 0);
}
