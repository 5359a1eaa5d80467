//! Failures that others had, each as a named test, in both modes that matter for them.
//!
//! The numbers are those of the reliability design: what a client, a server or the system does wrong, and
//! what must not come of it. Items 9 and 10 are shown in paused time, 8 needs a network of its own
//! (`peers.rs`), 11 is a unit test.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{
    Answer, Asked, Client, Daemon, Load, Plan, Server, Wire, becomes, call, eventually, flags, is_refused,
};
use rustix::process::Signal;

const WIRE: Wire = Wire::Tagged;

/// Makes a test of each function in each mode.
macro_rules! in_each_mode {
    ($($name:ident),* $(,)?) => {
        mod exclusive {
            $(#[test] fn $name() { super::$name("exclusive"); })*
        }
        mod multiplex {
            $(#[test] fn $name() { super::$name("multiplex"); })*
        }
    };
}

in_each_mode! {
    item_01_cancel_at_every_byte,
    item_02_stray_bytes_on_an_idle_connection,
    item_03_reply_before_the_request_is_whole,
    item_04_fewer_bytes_than_declared,
    item_05_length_fields,
    item_06_unread_client_bytes,
    item_07_few_fds,
    item_07_out_of_fds,
    item_12_drain_answers_what_was_taken_in,
    item_12_drain_under_load,
    item_14_every_call_hangs_once,
    item_16_oneway_and_close,
    item_16_half_closing_client,
    item_17_log_lines,
}

/// A pool of exactly so many connections.
fn pool(mode: &str, server: &Server, connections: u32) -> Plan {
    Plan::new(WIRE, mode, &server.address)
        .set("pool.min_connections", &connections.to_string())
        .set("pool.max_connections", &connections.to_string())
}

fn leave(client: Client, with_reset: bool) {
    if with_reset {
        client.stream.reset().unwrap();
    }
}

fn item_01_cancel_at_every_byte(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).start_ready();
    let size = Asked::new(WIRE, "delay:1", 100).bytes.len();
    let cancel = |sent: usize, read: usize, with_reset: bool| {
        let asked = Asked::new(WIRE, "delay:1", 100);
        let victim = Client::connect(&daemon.address, WIRE);
        victim.send(&asked.bytes[..sent]);
        let mut neighbour = Client::connect(&daemon.address, WIRE);
        let wanted = neighbour.ask("echo");
        assert_eq!(victim.read_exact(read), WIRE.encode(&asked.reply)[..read]);
        leave(victim, with_reset);
        neighbour.expect(&wanted);
    };
    for with_reset in [false, true] {
        for at in 0..size {
            cancel(at, 0, with_reset);
        }
        for at in 0..=size {
            cancel(size, at, with_reset);
        }
    }
    daemon.assert_conserved();
    server.assert_no_violation();
    assert_eq!(server.count("accepted"), 1, "clients that leave must not cost a connection");
}

fn item_02_stray_bytes_on_an_idle_connection(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).start_ready();
    for (so_far, command) in ["stray 1", "stray 12", "stray 100", "unsolicited"].into_iter().enumerate() {
        call(&daemon.address, WIRE, "echo");
        server.reaches("open", 1);
        server.ask(command);
        becomes("desync_total", so_far as u64 + 1, || daemon.metric("desync_total", &[]));
        call(&daemon.address, WIRE, "echo");
    }
    assert_eq!(server.count("accepted"), 5, "each stray byte costs its connection");
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_03_reply_before_the_request_is_whole(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).start_ready();
    for _ in 0..3 {
        let asked = Asked::new(WIRE, "early:100", 8 << 20);
        let mut client = Client::connect(&daemon.address, WIRE);
        client.send(&asked.bytes);
        client.expect_reply_or_refusal(&asked);
        for _ in 0..3 {
            call(&daemon.address, WIRE, "echo");
        }
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_04_fewer_bytes_than_declared(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).set("timeouts.client_read", "\"300ms\"").start_ready();
    let short = || {
        let client = Client::connect(&daemon.address, WIRE);
        client.send(&WIRE.head(1000, 0, 1));
        client.send(b"only some");
        client
    };
    for round in 1..=20 {
        let mut silent = short();
        leave(short(), true);
        leave(short(), false);
        let mut half = short();
        half.finish_sending();
        assert!(is_refused(&half.receive()));
        call(&daemon.address, WIRE, "echo");
        assert!(is_refused(&silent.receive()), "a client that sends nothing more is not waited for");
        assert_eq!(server.count("requests"), round, "half a request never travels");
    }
    server.assert_no_violation();
    assert_eq!((server.count("accepted"), server.count("truncated")), (1, 0));
    becomes("clients", 0, || daemon.metric("client_connections", &[]));
    daemon.assert_conserved();
}

fn item_05_length_fields(mode: &str) {
    const MAX: u64 = 64 << 10;
    const GIGA: u64 = 1 << 31;
    let above = |header: u64| [MAX - header + 1, GIGA - 1, GIGA, GIGA + 1, u64::from(u32::MAX)];
    let tagged = [&above(16)[..], &[(1 << 32) - 16, (1 << 32) - 15]].concat();
    let far_above = [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, u64::MAX - 23, u64::MAX - 24, u64::MAX];
    let wide = [&above(24)[..], &far_above].concat();
    for (wire, lengths) in [(Wire::Tagged, tagged), (Wire::Wide, wide)] {
        let mut server = Server::for_mode(wire, mode);
        let daemon = Plan::new(wire, mode, &server.address)
            .set("protocol.frame.max_message", "\"64KiB\"")
            .set("pool.max_connections", "1")
            .start_ready();
        for size in [MAX - 1, MAX] {
            let size = usize::try_from(size).unwrap() - wire.header();
            let asked = Asked::new(wire, "echo", size);
            let mut client = Client::connect(&daemon.address, wire);
            client.send(&asked.bytes);
            client.expect(&asked);
        }
        for (refused, length) in (1..).zip(lengths) {
            let mut client = Client::connect(&daemon.address, wire);
            client.send(&wire.head(length, 0, 1));
            assert!(is_refused(&client.receive()), "length {length}");
            becomes("too_large", refused, || daemon.outcome("too_large"));
            call(&daemon.address, wire, "echo");
            assert_eq!(server.count("requests"), 2 + refused);
        }
        assert_eq!(server.count("accepted"), 1);
        reply_over_the_limit(&daemon, wire);
        server.assert_no_violation();
        daemon.assert_conserved();
    }
}

fn reply_over_the_limit(daemon: &Daemon, wire: Wire) {
    let mut client = Client::connect(&daemon.address, wire);
    client.ask("big:70000");
    assert_eq!(client.receive(), Answer::Refused);
    call(&daemon.address, wire, "echo");
    assert_eq!(daemon.metric("desync_total", &[]), 1);
}

fn item_06_unread_client_bytes(mode: &str) {
    let server = Server::for_mode(WIRE, mode);
    for one_shot in ["true", "false"] {
        let mut daemon = pool(mode, &server, 1)
            .set("sockets.one_shot", one_shot)
            .set("timeouts.client_read", "\"1s\"")
            .start_ready();
        let next = Asked::new(WIRE, "echo", 40_000);
        for extra in [1, 16, 17, 300, 20_000] {
            let mut client = Client::connect(&daemon.address, WIRE);
            let asked = client.ask("big:200000");
            client.send(&next.bytes[..extra]);
            client.expect(&asked);
            client.finish_sending();
            assert!(is_refused(&client.receive()));
        }
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("big:200000");
        client.send(&next.bytes[..20_000]);
        daemon.signal(Signal::TERM);
        // Whether it was taken in before the signal is open; if it was, the reply is whole.
        client.expect_reply_or_refusal(&asked);
        assert_eq!(daemon.wait(), Some(0));
    }
}

fn item_07_few_fds(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 2).fd_limit(128).start_ready();
    let load = Load::start(&daemon.address, WIRE, "--connections 3000 --concurrency 200");
    load.finish().assert_all_ok(3000);
    server.assert_no_violation();
    assert_eq!(daemon.metric("accept_errors_total", &[]), 0);
    assert!(daemon.metric("open_fds", &[]) <= 128);
    daemon.assert_conserved();
}

fn item_07_out_of_fds(mode: &str) {
    let server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).start_ready();
    call(&daemon.address, WIRE, "echo");
    let before = daemon.limit_fds(daemon.open_fds());
    let clients = (0..50).map(|_| Client::connect(&daemon.address, WIRE)).collect::<Vec<_>>();
    let asked = clients.iter().map(|client| client.ask("echo")).collect::<Vec<_>>();
    eventually("several failed accepts", || {
        (daemon.log_text().matches("accept failed").count() >= 3).then_some(())
    });
    daemon.limit_fds(before);
    for (mut client, asked) in clients.into_iter().zip(asked) {
        client.expect(&asked);
    }
    let failed = daemon.metric("accept_errors_total", &[]);
    assert!((3..1000).contains(&failed), "{failed} failed accepts");
    daemon.assert_conserved();
}

fn item_12_drain_answers_what_was_taken_in(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let mut daemon = pool(mode, &server, 2).start_ready();
    let mut clients = (0..2).map(|_| Client::connect(&daemon.address, WIRE)).collect::<Vec<_>>();
    let held = clients.iter().map(|client| client.ask("hold")).collect::<Vec<_>>();
    server.reaches("held", 2);
    let mut waiting = (0..8).map(|_| Client::connect(&daemon.address, WIRE)).collect::<Vec<_>>();
    let wanted = waiting.iter().map(|client| client.ask("hold")).collect::<Vec<_>>();
    becomes("requests accepted", 10, || daemon.metric("accepted_total", &[]));
    daemon.signal(Signal::TERM);
    eventually("refused connects", || std::net::TcpStream::connect(&daemon.address).is_err().then_some(()));
    assert_eq!(daemon.get("/readyz").0, 503);
    let all = std::thread::scope(|scope| {
        let readers = clients.iter_mut().zip(&held).chain(waiting.iter_mut().zip(&wanted));
        let readers = readers.map(|(client, asked)| scope.spawn(|| client.expect(asked))).collect::<Vec<_>>();
        eventually("every reply", || {
            server.ask("release");
            readers.iter().all(std::thread::ScopedJoinHandle::is_finished).then_some(())
        });
        readers.into_iter().all(|reader| reader.join().is_ok())
    });
    assert!(all, "each request was answered");
    assert_eq!(daemon.wait(), Some(0));
    server.assert_no_violation();
}

fn item_12_drain_under_load(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let mut daemon = pool(mode, &server, 2).start_ready();
    let load = Load::start(&daemon.address, WIRE, "--connections 20000 --concurrency 16");
    eventually("load", || (server.count("requests") > 500).then_some(()));
    daemon.signal(Signal::TERM);
    let totals = load.finish();
    assert_eq!(daemon.wait(), Some(0));
    server.assert_no_violation();
    assert_eq!(server.count("requests"), totals.count("ok"), "each request that travelled was answered");
    assert!(totals.count("ok") < 20_000, "the drain came in the middle");
}

#[test]
fn a_second_signal_cuts_no_request_where_there_is_none() {
    let server = Server::for_mode(WIRE, "exclusive");
    let mut daemon = pool("exclusive", &server, 2).start_ready();
    let _silent = Client::connect(&daemon.address, WIRE);
    becomes("clients", 1, || daemon.metric("client_connections", &[]));
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
}

fn item_14_every_call_hangs_once(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let connections = if mode == "exclusive" { 4 } else { 1 };
    let daemon = pool(mode, &server, connections).set("timeouts.request", "\"2s\"").start_ready();
    for _ in 0..3 {
        server.ask("fault hang 4");
        let mut clients = (0..4).map(|_| Client::connect(&daemon.address, WIRE)).collect::<Vec<_>>();
        let hung = clients.iter().map(|client| client.ask("echo")).collect::<Vec<_>>();
        for client in &mut clients {
            assert_eq!(client.receive(), Answer::Refused);
        }
        for _ in 0..20 {
            call(&daemon.address, WIRE, "echo");
        }
        for asked in hung {
            let nonce = asked.request.nonce;
            assert_eq!(server.ask(&format!("seen {nonce:032x}"))["seen"], 1, "sent once, never again");
        }
    }
    assert_eq!(daemon.outcome("timeout"), 12);
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_16_oneway_and_close(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 2).start_ready();
    for _ in 0..500 {
        Client::connect(&daemon.address, WIRE).send(&Asked::oneway(WIRE).bytes);
    }
    server.reaches("oneway", 500);
    server.assert_no_violation();
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("sent"), 500);
}

fn item_16_half_closing_client(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 2).start_ready();
    for _ in 0..50 {
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("hold");
        server.reaches("held", 1);
        client.finish_sending();
        server.ask("release");
        client.expect(&asked);
        let (rest, end) = client.read_to_end();
        assert_eq!((rest, end.unwrap()), (vec![], 0), "a clean end after the reply");
    }
    server.assert_no_violation();
    assert_eq!(daemon.outcome("ok"), 50);
}

fn item_17_log_lines(mode: &str) {
    const SECRET: &str = "SECRET-PAYLOAD";
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = pool(mode, &server, 1).start_ready();
    let mut client = Client::connect(&daemon.address, WIRE);
    let id = u64::from_be_bytes(*b"\n\x1b[31m\r\x07");
    client.send(&WIRE.head(u32::MAX.into(), flags::ONEWAY, id));
    client.send(SECRET.as_bytes());
    assert!(is_refused(&client.receive()));
    let asked = call(&daemon.address, WIRE, "echo");
    drop(asked);
    server.ask("stray 100");
    eventually("the log of both", || {
        let log = daemon.log_text();
        (log.contains("malformed request") && log.contains("broke the protocol")).then_some(())
    });
    for line in daemon.log() {
        assert!(!line.iter().any(u8::is_ascii_control), "{}", line.escape_ascii());
        let value = serde_json::from_slice::<serde_json::Value>(&line).expect("a line of JSON");
        assert_no_control_characters(&value);
    }
    let log = daemon.log_text();
    assert!(!log.contains(SECRET), "{log}");
    assert!(!log.contains(&"U".repeat(20)), "{log}");
}

fn assert_no_control_characters(value: &serde_json::Value) {
    match value {
        serde_json::Value::String(text) => assert!(!text.contains(char::is_control), "{text:?}"),
        serde_json::Value::Object(fields) => fields.values().for_each(assert_no_control_characters),
        serde_json::Value::Array(values) => values.iter().for_each(assert_no_control_characters),
        _ => {}
    }
}
