//! Clients whose bytes are no requests, beside fifty that share a connection with nothing but theirs between them.
//! The server is Go's, which closes a connection on anything that it cannot read.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::{Value, json};

use crate::common::{Daemon, PATIENCE, becomes};
use crate::library::{GO, Peer};
use crate::plan;

const NEIGHBOURS: usize = 50;
/// Log lines of one kind that are let through at a time.
const LINES: usize = 5;

/// One that asks until it is told to stop; it is always answered, and right.
fn neighbour(address: &str, number: usize, stop: &AtomicBool) -> u64 {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        asked += 1;
        let text = format!("{number} \u{e9}\" {asked}");
        let args = json!({"A": number, "B": asked, "Text": text});
        let request = json!({"method": "Arith.Multiply", "params": [args], "id": asked});
        writeln!(&stream, "{request}").unwrap();
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        let reply: Value = serde_json::from_str(&line).unwrap();
        let result = json!({"Product": number as u64 * asked, "Text": format!("<{text}>")});
        assert_eq!(reply, json!({"id": asked, "result": result, "error": null}));
    }
    asked
}

/// What a client is told that sends `bytes` and nothing more.
fn told(daemon: &Daemon, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&daemon.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut text = Vec::new();
    // Who has closed its half and has everything sees a reset.
    let _ = stream.read_to_end(&mut text);
    String::from_utf8(text).unwrap()
}

/// Tells the neighbours to stop, whatever happens.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Each of `classes` comes while the neighbours ask.
fn beside_neighbours(mut server: Peer, daemon: &Daemon, classes: &[(&str, Vec<u8>, &str)]) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stopping = Stop(&stop);
        let start = |number| {
            let (address, stop) = (&daemon.address, &stop);
            scope.spawn(move || neighbour(address, number, stop))
        };
        let neighbours = (0..NEIGHBOURS).map(start).collect::<Vec<_>>();
        becomes("neighbours", true, || daemon.outcome("ok") > NEIGHBOURS as u64);
        for (before, (class, bytes, expected)) in classes.iter().enumerate() {
            let text = told(daemon, bytes);
            assert!(text.contains(expected), "{class}: {text}");
            let refused = |reason| daemon.metric("refused_total", &[("reason", reason)]);
            becomes(class, before as u64 + 1, || refused("malformed") + refused("too_large"));
            becomes(class, before + 1, || daemon.log_text().matches("malformed request: ").count());
        }
        drop(stopping);
        for neighbour in neighbours {
            assert!(neighbour.join().unwrap() > 1);
        }
    });
    daemon.assert_conserved();
    assert_eq!(server.accepted(), 1);
    assert_eq!(daemon.metric("upstream_closed_total", &[]), 0);
}

#[test]
fn neighbours_notice_nothing() {
    let (parse, invalid, large) = ("-32700", "Invalid Request", "-32057");
    let classes: Vec<(&str, Vec<u8>, &str)> = vec![
        ("not JSON", b"hello\n".to_vec(), parse),
        ("brackets that do not fit", b"{\"method\":[}\n".to_vec(), parse),
        ("a control character", b"{\"method\":\"a\nb\",\"params\":[],\"id\":1}\n".to_vec(), parse),
        ("half a surrogate pair", b"{\"method\":\"\\ud800\",\"params\":[],\"id\":1}\n".to_vec(), parse),
        ("not UTF-8", b"{\"method\":\"\xff\",\"params\":[],\"id\":1}\n".to_vec(), parse),
        ("nested too deep", [b'['; 200].to_vec(), parse),
        ("too large", format!("{{\"method\":\"{}\"", "x".repeat(2000)).into_bytes(), large),
        ("no object", b"\"x\"\n".to_vec(), invalid),
        ("no method", b"{\"params\":[],\"id\":1}\n".to_vec(), invalid),
        ("a method that is no text", b"{\"method\":7,\"params\":[],\"id\":1}\n".to_vec(), invalid),
        ("an id twice", b"{\"method\":\"a\",\"params\":[],\"id\":1,\"id\":2}\n".to_vec(), invalid),
        (
            "an id in another letter case",
            b"{\"method\":\"a\",\"params\":[],\"id\":1,\"ID\":2}\n".to_vec(),
            invalid,
        ),
        ("params that are none", b"{\"method\":\"a\",\"params\":7,\"id\":1}\n".to_vec(), invalid),
        ("an unknown edition", b"{\"jsonrpc\":\"3\",\"method\":\"a\",\"id\":1}\n".to_vec(), invalid),
        ("an empty batch", b"[]\n".to_vec(), invalid),
        ("a batch of nothing", b"[1]\n".to_vec(), invalid),
    ];
    for classes in classes.chunks(LINES) {
        let server = Peer::serve(&GO);
        let plan = plan(&GO, "multiplex", server.port)
            .set("protocol.jsonrpc.max_message", "\"1000B\"")
            .without("pool.max_connections")
            .set("pool.max_connections", "1");
        beside_neighbours(server, &plan.start_ready(), classes);
    }
}

/// Each would close the connection of all: Go's server has none.
#[test]
fn batches_to_a_server_without_them_cost_nobody_anything() {
    let server = Peer::serve(&GO);
    let plan = plan(&GO, "multiplex", server.port)
        .set("protocol.jsonrpc.batches", "false")
        .without("pool.max_connections")
        .set("pool.max_connections", "1");
    let batch = br#"[{"jsonrpc":"2.0","method":"Arith.Multiply","params":[{"A":1,"B":2}],"id":1}]"#;
    let class = ("a batch", [&batch[..], b"\n"].concat(), "batches are turned off");
    beside_neighbours(server, &plan.start_ready(), &vec![class; LINES]);
}

/// What is no JSON between two headers is answered, and its sender goes on.
#[test]
fn with_headers_a_client_goes_on() {
    let mut server = Peer::serve(&crate::library::VSCODE);
    let daemon = plan(&crate::library::VSCODE, "multiplex", server.port).start_ready();
    let message = |body: &str| format!("Content-Length: {}\r\n\r\n{body}", body.len());
    let call = message(r#"{"jsonrpc":"2.0","method":"multiply","params":[6,7,"x"],"id":"mine"}"#);
    let said = told(&daemon, (message("{]") + &message("[1]") + &call).as_bytes());
    let places = ["-32700", "-32600", r#""product":42"#].map(|text| said.find(text));
    assert!(places.is_sorted() && places[0].is_some(), "{said}");
    assert!(said.contains(r#"{"id":"mine","#), "{said}");
    let said = told(&daemon, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(said.contains("-32700"), "{said}");
    assert_eq!(daemon.metric("refused_total", &[("reason", "malformed")]), 3);
    daemon.assert_conserved();
    assert_eq!(server.accepted(), 1);
}
