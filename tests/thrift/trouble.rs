//! What goes wrong, with clients of a real library beside it: bad input, large messages, a server that is not there.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};

use super::common::{Plan, UPSTREAM, eventually};
use super::{CONNECTIONS, Client, Server, plan};

const ROUNDS: u64 = 20;

/// What warmline says to `bytes` and nothing after them, up to its close.
pub(crate) fn told(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut said = Vec::new();
    // A reset after the words is as good an end.
    let _ = stream.read_to_end(&mut said);
    said
}

pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A strict binary call of `echo` with these fields for its arguments.
fn call(fields: &[u8]) -> Vec<u8> {
    [b"\x80\x01\x00\x01\x00\x00\x00\x04echo\x00\x00\x00\x07", fields].concat()
}

/// The type of the exception in a frame that answers [`call`].
fn exception(said: &[u8]) -> u8 {
    let head = b"\x80\x01\x00\x03\x00\x00\x00\x04echo\x00\x00\x00\x07\x0b\x00\x01";
    assert_eq!(&said[4..4 + head.len()], head, "{said:x?}");
    said[said.len() - 2]
}

#[test]
fn bad_input_disturbs_no_neighbour() {
    let mut server = Server::start("node", "framed", "binary");
    let daemon = plan(&server, "multiplex")
        .set("pool.min_connections", "1")
        .without("pool.max_connections")
        .set("pool.max_connections", "1")
        .set("protocol.thrift.max_message", "\"1MiB\"")
        .start_ready();
    let neighbours: Vec<Client> = ["accelerated", "node", "go"]
        .map(|kind| Client::start([kind, "framed", "binary"], daemon.port(), CONNECTIONS))
        .into();
    // Each is refused as malformed or as too large under its seqid.
    let refused: [Vec<u8>; 6] = [
        framed(&call(&[12, 0, 1])),
        framed(&[call(&[0]), call(&[0])].concat()),
        framed(&call(&[15, 0, 1, 12, 0x7f, 0xff, 0xff, 0xff, 0])),
        framed(&call(&[11, 0, 1, 0xff, 0xff, 0xff, 0xff, 0])),
        framed(&call(&[12, 0, 1].repeat(70))),
        [&[0x10, 0, 0, 0], &call(&[])[..]].concat(),
    ];
    let closed: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\n\r\n", b"\0\0\0\0\0\0", b"\0\0\0\x05\x80\x02\0\0\0", b"\xff\xff\xff\xff\0\0"];
    for _ in 0..ROUNDS {
        for bad in &refused {
            assert_eq!(exception(&told(daemon.port(), bad)), 7);
        }
        for bad in closed {
            assert_eq!(told(daemon.port(), bad), b"");
        }
        // Cut short, and a one-way call of a method that nobody has: the server answers that.
        assert_eq!(told(daemon.port(), &framed(&call(&[0]))[..20]), b"");
        assert_eq!(
            told(daemon.port(), &framed(b"\x80\x01\x00\x04\x00\x00\x00\x04none\x00\x00\x00\x07\x00")),
            b""
        );
    }
    for neighbour in neighbours {
        neighbour.assert_all_right();
    }
    daemon.assert_conserved();
    assert_eq!(server.counts().0, 1);
    assert_eq!(daemon.metric("desync_total", &[("upstream", UPSTREAM)]), 0);
    let too_large = daemon.metric("refused_total", &[("upstream", UPSTREAM), ("reason", "too_large")]);
    let malformed = daemon.metric("refused_total", &[("upstream", UPSTREAM), ("reason", "malformed")]);
    assert_eq!((too_large, malformed), (ROUNDS, ROUNDS * 9));
    assert!(daemon.log_text().contains("malformed request"));
}

#[test]
fn large_frames_travel_in_parts() {
    for mode in ["exclusive", "multiplex"] {
        let server = Server::start("go", "framed", "binary");
        let daemon = plan(&server, mode).set("pool.max_buffered", "\"4KiB\"").start_ready();
        // One message in twenty has 20,000 bytes.
        let clients =
            ["go", "node", "ruby"].map(|kind| Client::start([kind, "framed", "binary"], daemon.port(), 100));
        for client in clients {
            client.assert_all_right();
        }
        // A type that Thrift does not have, when most of it is with the server.
        let large = [&call(&[11, 0, 1, 0, 0, 0x4e, 0x20])[..], &b"x".repeat(20_000), &[99, 0]].concat();
        assert_eq!(exception(&told(daemon.port(), &framed(&large))), 7);
        Client::start(["go", "framed", "binary"], daemon.port(), 10).assert_all_right();
        daemon.assert_conserved();
    }
}

#[test]
fn probes_ask_for_what_nobody_has_or_for_a_method() {
    for (kind, probe) in [
        ("threaded", "\"ping\""),
        ("go", "\"ping\""),
        ("node", "\"ping\""),
        ("multiplexed", "{ method = \"Echo:echo\" }"),
    ] {
        let mut server = Server::start(kind, "framed", "compact");
        let daemon = plan(&server, "exclusive")
            .set("health.probe", probe)
            .set("health.interval", "\"20ms\"")
            .start_ready();
        let probes = |result| daemon.metric("probes_total", &[("upstream", UPSTREAM), ("result", result)]);
        eventually("probes that are answered", || (probes("ok") > 4).then_some(()));
        assert_eq!((probes("failed"), probes("timeout")), (0, 0), "{kind}");
        assert_eq!(daemon.metric("endpoint_up", &[("upstream", UPSTREAM)]), 1);
        assert!(server.counts().0 <= 2, "a connection for each probe");
    }
}

#[test]
fn without_a_server_the_library_is_told_so() {
    let daemon = Plan::without_protocol("exclusive", "127.0.0.1:1").set("protocol", "\"thrift\"").start();
    let said = eventually("a refusal", || {
        let said = told(daemon.port(), &framed(&call(&[0])));
        (!said.is_empty()).then_some(said)
    });
    assert_eq!(exception(&said), 6);
    assert!(String::from_utf8_lossy(&said).contains("upstream is down: 127.0.0.1:1"));
}
