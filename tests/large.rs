//! Messages that are large, and clients that are slow, against the real binary: what is streamed takes no
//! memory, a slow reader costs its neighbours nothing, a slow writer holds no connection.
//!
//! No timeout but the rule of one second can end anything here: whoever waits for another one waits for ever.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use common::{Daemon, PATIENCE, Plan, Wire, becomes, stream};
use socket2::{Domain, Socket, Type};

const MIB: u64 = 1 << 20;
/// What the daemon may have in all while it carries a frame of 1 GiB.
const CONSTANT: u64 = 32 * MIB;

fn plan(wire: Wire, mode: &str, connections: usize) -> Plan {
    let plan = Plan::new(wire, mode, &stream::serve(wire))
        .set("pool.max_connections", &connections.to_string())
        .set("pool.acquire_timeout", "\"10m\"");
    let timeouts = ["request", "client_read", "client_progress", "client_write"];
    timeouts.iter().fold(plan, |plan, name| plan.set(&format!("timeouts.{name}"), "\"10m\""))
}

/// A server that answers a large request at once, without reading it, and closes.
fn serve_hasty() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let (mut stream, mut head) = (stream.unwrap(), [0; 24]);
                if stream.read_exact(&mut head).is_ok() {
                    let length = 5u64.to_be_bytes();
                    stream.write_all(&[&length, &[0; 8], &head[16..], &b"early"[..]].concat()).unwrap();
                }
            });
        }
    });
    address
}

#[test]
fn the_early_reply_of_a_server_that_closes_is_passed_on() {
    for mode in ["exclusive", "multiplex"] {
        let daemon = Plan::new(Wire::Wide, mode, &serve_hasty()).start_ready();
        for _ in 0..20 {
            let client = stream::connect(&daemon.address);
            (&client).write_all(&stream::request_head(Wire::Wide, 3 * MIB, 100, false)).unwrap();
            stream::write(&client, 3 * MIB - 16).unwrap();
            let mut reply = [0; 24 + 5];
            (&client).read_exact(&mut reply).unwrap();
            assert!(reply.ends_with(b"early"), "{mode}: an error instead");
        }
        assert_eq!(daemon.outcome("ok"), 20);
    }
}

/// The kernel's buffers are so large that a socket becomes writable once in seconds only.
#[expect(clippy::disallowed_methods, reason = "a client at a pace of its own; there is no runtime here")]
#[test]
fn a_reader_that_goes_on_steadily_is_not_cut() {
    const SIZE: u64 = 24 * MIB;
    let daemon =
        plan(Wire::Wide, "multiplex", 1).set("protocol.frame.max_message", "\"64MiB\"").start_ready();
    let client = stream::connect(&daemon.address);
    (&client).write_all(&stream::request(Wire::Wide, 100, SIZE, false)).unwrap();
    let mut read = Vec::new();
    for _ in 0..50 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let mut some = vec![0; 20_000];
        (&client).read_exact(&mut some).unwrap();
        read.append(&mut some);
    }
    stream::expect_reply(read.chain(&client), Wire::Wide, SIZE);
    assert_eq!(daemon.metric("client_timeouts_total", &[]), 0);
}

#[track_caller]
fn assert_at_rest(daemon: &Daemon) {
    becomes("clients", 0, || daemon.metric("client_connections", &[]));
    becomes("memory used", 0, || daemon.metric("memory_used_bytes", &[]));
    daemon.assert_conserved();
}

/// A request of 100 bytes that gets its right reply of 100 bytes.
#[track_caller]
fn call(daemon: &Daemon) {
    let mut client = stream::connect(&daemon.address);
    client.write_all(&stream::request(Wire::Wide, 100, 100, false)).unwrap();
    stream::expect_reply(&client, Wire::Wide, 100);
}

fn a_frame_of_a_gibibyte_each_way(mode: &str) {
    const SIZE: u64 = 1 << 30;
    let daemon = plan(Wire::Wide, mode, 2)
        .set("protocol.frame.max_message", "\"2GiB\"")
        .global("limits.memory", "\"8GiB\"")
        .start_ready();
    let client = stream::connect(&daemon.address);
    (&client).write_all(&stream::request_head(Wire::Wide, SIZE, SIZE, false)).unwrap();
    stream::write(&client, SIZE - 16).unwrap();
    stream::expect_reply(&client, Wire::Wide, SIZE);
    drop(client);
    assert_at_rest(&daemon);
    assert_eq!(daemon.outcome("ok"), 1);
    let peak = daemon.peak_memory();
    assert!(peak < CONSTANT, "{peak} bytes");
    assert!(peak < daemon.memory_bound());
}

#[test]
fn a_frame_of_a_gibibyte_each_way_exclusive() {
    a_frame_of_a_gibibyte_each_way("exclusive");
}

#[test]
fn a_frame_of_a_gibibyte_each_way_multiplex() {
    a_frame_of_a_gibibyte_each_way("multiplex");
}

/// A client whose kernel takes next to nothing of a reply.
fn slow_reader(daemon: &Daemon) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(1).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(&daemon.address.parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    socket.into()
}

/// Requires that the slow reader was cut in the middle of its reply of `size` bytes, and not politely.
#[track_caller]
fn expect_cut(mut slow: TcpStream, daemon: &Daemon, size: usize) {
    becomes("cut", 1, || daemon.metric("client_timeouts_total", &[("reason", "not_taken")]));
    let mut bytes = Vec::new();
    let end = slow.read_to_end(&mut bytes);
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    assert!(bytes.len() < size);
    assert_at_rest(daemon);
    assert_eq!(daemon.metric("client_timeouts_total", &[]), 1);
}

/// One slow reader on a shared connection: its neighbours are answered while it stalls; it alone is cut.
fn item_15_slow_reader(mode: &str) {
    const SIZE: usize = 32 << 20;
    let daemon = plan(Wire::Wide, mode, 1).set("protocol.frame.max_message", "\"64MiB\"").start_ready();
    let neighbour = stream::connect(&daemon.address);
    let mut slow = slow_reader(&daemon);
    slow.write_all(&stream::request(Wire::Wide, 100, SIZE as u64, false)).unwrap();
    // Its reply has begun.
    slow.read_exact(&mut [0]).unwrap();
    for _ in 0..3 {
        (&neighbour).write_all(&stream::request(Wire::Wide, 100, 100, false)).unwrap();
        stream::expect_reply(&neighbour, Wire::Wide, 100);
        call(&daemon);
    }
    drop(neighbour);
    expect_cut(slow, &daemon, SIZE);
    assert_eq!(daemon.outcome("ok"), 6);
    assert_eq!(daemon.metric("upstream_closed_total", &[]), 0);
}

#[test]
fn item_15_slow_reader_pipeline() {
    item_15_slow_reader("pipeline");
}

#[test]
fn item_15_slow_reader_multiplex() {
    item_15_slow_reader("multiplex");
}

/// As above, where a reply is whole before it is passed on.
#[test]
fn item_15_slow_reader_of_a_line() {
    const SIZE: usize = 12 << 20;
    let daemon = plan(Wire::Line, "pipeline", 1).start_ready();
    let ask = |client: &mut TcpStream, size: usize| client.write_all(format!("{size}\n").as_bytes()).unwrap();
    let mut slow = slow_reader(&daemon);
    ask(&mut slow, SIZE);
    slow.read_exact(&mut [0]).unwrap();
    for _ in 0..3 {
        let mut neighbour = stream::connect(&daemon.address);
        ask(&mut neighbour, 100);
        let mut reply = [0; 101];
        neighbour.read_exact(&mut reply).unwrap();
        assert_eq!(reply[..], [&[b'x'; 100][..], b"\n"].concat());
    }
    expect_cut(slow, &daemon, SIZE);
    assert_eq!(daemon.metric("upstream_closed_total", &[]), 0);
}

/// What a client has not sent whole takes no connection.
fn slow_writer_of_a_whole_request(mode: &str) {
    const SIZE: usize = 64 << 10;
    let daemon = plan(Wire::Wide, mode, 1).start_ready();
    let bytes = stream::request(Wire::Wide, SIZE, 100, false);
    let mut slow = stream::connect(&daemon.address);
    slow.write_all(&bytes[..SIZE - 1]).unwrap();
    // Beyond 4 KiB it takes memory: then warmline is reading it.
    becomes("memory used", SIZE as u64, || daemon.metric("memory_used_bytes", &[]));
    (0..3).for_each(|_| call(&daemon));
    slow.write_all(&bytes[SIZE - 1..]).unwrap();
    stream::expect_reply(&slow, Wire::Wide, 100);
    drop(slow);
    assert_at_rest(&daemon);
    assert_eq!(daemon.outcome("ok"), 4);
}

#[test]
fn slow_writer_of_a_whole_request_exclusive() {
    slow_writer_of_a_whole_request("exclusive");
}

#[test]
fn slow_writer_of_a_whole_request_multiplex() {
    slow_writer_of_a_whole_request("multiplex");
}

/// A request in parts takes one connection while it trickles, never all of them.
fn slow_writer_in_parts(mode: &str) {
    const SIZE: usize = 1 << 20;
    let daemon = plan(Wire::Wide, mode, 2).start_ready();
    let bytes = stream::request(Wire::Wide, SIZE, 100, false);
    let (first, second) = (stream::connect(&daemon.address), stream::connect(&daemon.address));
    for (accepted, mut slow) in [(1, &first), (2, &second)] {
        slow.write_all(&bytes[..100 << 10]).unwrap();
        becomes("accepted", accepted, || daemon.metric("accepted_total", &[]));
    }
    let last = SIZE - 3;
    let mut sent = 100 << 10;
    while sent < last {
        let next = last.min(sent + (300 << 10));
        (&first).write_all(&bytes[sent..next]).unwrap();
        call(&daemon);
        sent = next;
    }
    for at in last..SIZE {
        (&first).write_all(&bytes[at..=at]).unwrap();
        call(&daemon);
    }
    stream::expect_reply(&first, Wire::Wide, 100);
    (&second).write_all(&bytes[100 << 10..]).unwrap();
    stream::expect_reply(&second, Wire::Wide, 100);
    drop((first, second));
    assert_at_rest(&daemon);
    assert_eq!(daemon.outcome("ok"), daemon.metric("accepted_total", &[]));
}

#[test]
fn slow_writer_in_parts_exclusive() {
    slow_writer_in_parts("exclusive");
}

#[test]
fn slow_writer_in_parts_multiplex() {
    slow_writer_in_parts("multiplex");
}
