//! Failures that others had, each as a named test, for every protocol and mode they can happen in.
//!
//! The numbers are those of the reliability design: what a client, a server or the system does wrong, and
//! what must not come of it. Items 9 and 10 have files of their own (`idle_limit.rs`, `comebacks.rs`), 8 needs a
//! network of its own (`peers.rs`), 11 is a unit test.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{
    Answer, Asked, Client, Daemon, Load, Message, Plan, Protocol, Server, Wire, becomes, call,
    call_until_served, eventually, flags, in_each_protocol, is_refused,
};
use rustix::process::Signal;

in_each_protocol! {
    all:
        item_01_cancel_at_every_byte,
        item_02_stray_bytes_on_an_idle_connection,
        item_03_reply_before_the_request_is_whole,
        item_04_fewer_bytes_than_declared,
        item_05_longest_messages,
        item_06_unread_client_bytes,
        item_07_few_fds,
        item_07_out_of_fds,
        item_12_drain_answers_what_was_taken_in,
        item_12_drain_under_load,
        item_14_every_call_hangs_once,
        item_16_half_closing_client;
    framed:
        item_05_length_fields,
        item_05_impossible_lengths,
        item_16_oneway_and_close,
        item_16_oneway_that_is_lost,
        item_17_log_lines;
}

fn leave(client: Client, with_reset: bool) {
    if with_reset {
        client.stream.reset().unwrap();
    }
}

fn item_01_cancel_at_every_byte(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    let size = Asked::new(p.wire, "delay:1", 100).bytes.len();
    let cancel = |sent: usize, read: usize, with_reset: bool| {
        let asked = Asked::new(p.wire, "delay:1", 100);
        let victim = p.client(&daemon.address);
        victim.send(&asked.bytes[..sent]);
        let mut neighbour = p.client(&daemon.address);
        let wanted = neighbour.ask("echo");
        assert_eq!(victim.read_exact(read), p.wire.reply(&asked.reply)[..read]);
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

fn item_02_stray_bytes_on_an_idle_connection(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    for (so_far, command) in ["stray 1", "stray 12", "stray 100", "unsolicited"].into_iter().enumerate() {
        call(&daemon.address, p.wire, "echo");
        server.reaches("open", 1);
        server.ask(command);
        becomes("desync_total", so_far as u64 + 1, || daemon.metric("desync_total", &[]));
        call(&daemon.address, p.wire, "echo");
    }
    assert_eq!(server.count("accepted"), 5, "each stray byte costs its connection");
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_03_reply_before_the_request_is_whole(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    for _ in 0..3 {
        let asked = Asked::new(p.wire, "early:100", 8 << 20);
        let mut client = p.client(&daemon.address);
        client.send(&asked.bytes);
        client.expect_reply_or_refusal(&asked);
        for _ in 0..3 {
            call(&daemon.address, p.wire, "echo");
        }
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_04_fewer_bytes_than_declared(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 1).set("timeouts.client_read", "\"300ms\"").start_ready();
    let short = || {
        let client = p.client(&daemon.address);
        if p.is_framed() {
            client.send(&p.wire.head(1000, 0, 1));
        }
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
        call(&daemon.address, p.wire, "echo");
        assert!(is_refused(&silent.receive()), "a client that sends nothing more is not waited for");
        assert_eq!(server.count("requests"), round, "half a request never travels");
    }
    server.assert_no_violation();
    assert_eq!((server.count("accepted"), server.count("truncated")), (1, 0));
    becomes("clients", 0, || daemon.metric("client_connections", &[]));
    daemon.assert_conserved();
}

/// The bound of messages where it is tested, in bytes.
const MAX: usize = 64 << 10;

fn bounded(p: &Protocol, server: &Server) -> Daemon {
    p.plan(&server.address).set(p.max_message(), "\"64KiB\"").set("pool.max_connections", "1").start_ready()
}

fn item_05_longest_messages(p: &Protocol) {
    let mut server = p.server();
    let daemon = bounded(p, &server);
    let around = p.wire.reply(&Message::default()).len();
    for size in [MAX - 1, MAX] {
        let mut client = p.client(&daemon.address);
        let asked = Asked::new(p.wire, "echo", size - around);
        assert_eq!(asked.bytes.len(), size);
        client.send(&asked.bytes);
        client.expect(&asked);
    }
    let mut client = p.client(&daemon.address);
    let too_large = Asked::new(p.wire, "echo", MAX + 1 - around);
    client.send(&too_large.bytes);
    p.expect_refusal(&mut client);
    assert_eq!((daemon.outcome("too_large"), server.count("requests")), (1, 2));
    let shortest = p.wire.reply(&Asked::new(p.wire, "big:00000", 0).reply).len();
    for (desyncs, size) in [(0, MAX - 1), (0, MAX), (1, MAX + 1), (2, 2 * MAX)] {
        let mut client = p.client(&daemon.address);
        let asked = client.ask(&format!("big:{:05}", size - shortest));
        let answer = client.expect_reply_or_refusal(&asked);
        assert_eq!(is_refused(&answer), size > MAX, "a reply of {size} bytes");
        assert_eq!(daemon.metric("desync_total", &[]), desyncs);
        call(&daemon.address, p.wire, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_05_length_fields(p: &Protocol) {
    const GIGA: u64 = 1 << 31;
    let above = |wire: Wire| {
        let max = (MAX - wire.header()) as u64;
        [max + 1, GIGA - 1, GIGA, GIGA + 1, u64::from(u32::MAX)]
    };
    let around_4g = [(1 << 32) - 16, (1 << 32) - 15, (1 << 32) - 8, (1 << 32) - 7];
    let far_above = [1 << 32, (1 << 63) - 1, 1 << 63, (1 << 63) + 1, u64::MAX - 23, u64::MAX - 24, u64::MAX];
    let narrow = [&above(p.wire)[..], &around_4g].concat();
    let wide = [&above(Wire::Wide)[..], &far_above].concat();
    for (wire, lengths) in [(p.wire, narrow), (Wire::Wide, wide)] {
        let p = &Protocol { wire, ..*p };
        let mut server = p.server();
        let daemon = bounded(p, &server);
        for (refused, length) in (1..).zip(lengths) {
            let mut client = Client::connect(&daemon.address, wire);
            client.send(&wire.head(length, 0, 1));
            assert!(is_refused(&client.receive()), "length {length}");
            becomes("too_large", refused, || daemon.outcome("too_large"));
            call(&daemon.address, wire, "echo");
            assert_eq!(server.count("requests"), refused);
        }
        assert_eq!(server.count("accepted"), 1);
        server.assert_no_violation();
        daemon.assert_conserved();
    }
}

/// Lengths that come out below nothing, or below the header they stand in.
fn item_05_impossible_lengths(p: &Protocol) {
    // The server is never reached.
    let server = p.server();
    let mode = if p.mode == "multiplex" { "exclusive" } else { p.mode };
    for (adjust, values) in [(0, &[0, 1, 3_u32][..]), (-16, &[0, 15, 16, 19]), (-1000, &[0, 999, 1000, 1003])]
    {
        let daemon = Plan::without_protocol(mode, &server.address)
            .set("protocol.frame.length", &format!("{{ size = 4, adjust = {adjust} }}"))
            .start_ready();
        for value in values {
            let mut client = p.client(&daemon.address);
            client.send(&value.to_be_bytes());
            assert_eq!(client.receive(), Answer::Closed, "{value} and {adjust}");
        }
        assert_eq!(daemon.metric("refused_total", &[("reason", "malformed")]), values.len() as u64);
        daemon.assert_conserved();
    }
}

fn item_06_unread_client_bytes(p: &Protocol) {
    let server = p.server();
    for one_shot in ["true", "false"] {
        let mut daemon = p
            .pool(&server, 1)
            .set("sockets.one_shot", one_shot)
            .set("timeouts.client_read", "\"1s\"")
            .start_ready();
        let next = Asked::new(p.wire, "echo", 40_000);
        for extra in [1, 16, 17, 300, 20_000] {
            let mut client = p.client(&daemon.address);
            let asked = client.ask("big:200000");
            client.send(&next.bytes[..extra]);
            client.expect(&asked);
            client.finish_sending();
            assert!(is_refused(&client.receive()));
        }
        let mut client = p.client(&daemon.address);
        let asked = client.ask("big:200000");
        client.send(&next.bytes[..20_000]);
        daemon.signal(Signal::TERM);
        // Whether it was taken in before the signal is open; if it was, the reply is whole.
        client.expect_reply_or_refusal(&asked);
        assert_eq!(daemon.wait(), Some(0));
    }
}

fn item_07_few_fds(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 2).fd_limit(128).start_ready();
    let load = Load::start(&daemon.address, p.wire, "--connections 3000 --concurrency 200");
    load.finish().assert_all_ok(3000);
    server.assert_no_violation();
    assert_eq!(daemon.metric("accept_errors_total", &[]), 0);
    assert!(daemon.metric("open_fds", &[]) <= 128);
    daemon.assert_conserved();
}

fn item_07_out_of_fds(p: &Protocol) {
    let server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    call(&daemon.address, p.wire, "echo");
    let before = daemon.limit_fds(daemon.open_fds());
    let clients = (0..50).map(|_| p.client(&daemon.address)).collect::<Vec<_>>();
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

fn item_12_drain_answers_what_was_taken_in(p: &Protocol) {
    let mut server = p.server();
    let mut daemon = p.pool(&server, 2).start_ready();
    let mut clients = (0..2).map(|_| p.client(&daemon.address)).collect::<Vec<_>>();
    let held = clients.iter().map(|client| client.ask("hold")).collect::<Vec<_>>();
    server.reaches("held", 2);
    let mut waiting = (0..8).map(|_| p.client(&daemon.address)).collect::<Vec<_>>();
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

fn item_12_drain_under_load(p: &Protocol) {
    let mut server = p.server();
    let mut daemon = p.pool(&server, 2).start_ready();
    let load = Load::start(&daemon.address, p.wire, "--connections 20000 --concurrency 16");
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
    let p = Protocol::named("frame exclusive");
    let server = p.server();
    let mut daemon = p.pool(&server, 2).start_ready();
    let _silent = p.client(&daemon.address);
    becomes("clients", 1, || daemon.metric("client_connections", &[]));
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait(), Some(0));
}

fn item_14_every_call_hangs_once(p: &Protocol) {
    let mut server = p.server();
    let connections = if p.is_exclusive() { 4 } else { 1 };
    let daemon = p.pool(&server, connections).set("timeouts.request", "\"2s\"").start_ready();
    for _ in 0..3 {
        server.ask("fault hang 4");
        let mut clients = (0..4).map(|_| p.client(&daemon.address)).collect::<Vec<_>>();
        let hung = clients.iter().map(|client| client.ask("echo")).collect::<Vec<_>>();
        for client in &mut clients {
            p.expect_refusal(client);
        }
        if p.mode == "pipeline" {
            // Behind a hung call it hangs until `stall`.
            call_until_served(&daemon.address, p.wire);
        }
        for _ in 0..20 {
            call(&daemon.address, p.wire, "echo");
        }
        for asked in hung {
            let nonce = asked.request.nonce;
            assert_eq!(server.ask(&format!("seen {nonce:032x}"))["seen"], 1, "sent once, never again");
        }
    }
    assert!(daemon.outcome("timeout") == 12 || p.mode == "pipeline");
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn item_16_oneway_and_close(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 2).start_ready();
    for _ in 0..500 {
        p.client(&daemon.address).send(&Asked::oneway(p.wire).bytes);
    }
    server.reaches("oneway", 500);
    server.assert_no_violation();
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("sent"), 500);
}

/// An error message would pass for the reply to the next call: the client is told by a close.
fn item_16_oneway_that_is_lost(p: &Protocol) {
    let server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    drop(server);
    let down = || daemon.metric("upstream_connects_total", &[("result", "refused")]);
    eventually("a refused connect", || (down() > 0).then_some(()));
    let mut client = p.client(&daemon.address);
    client.send(&Asked::oneway(p.wire).bytes);
    assert_eq!(client.message(), None, "an answer to a one-way request");
    assert_eq!((daemon.outcome("refused"), daemon.outcome("sent")), (1, 0));
    daemon.assert_conserved();
}

fn item_16_half_closing_client(p: &Protocol) {
    let mut server = p.server();
    let daemon = p.pool(&server, 2).start_ready();
    for _ in 0..50 {
        let mut client = p.client(&daemon.address);
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

fn item_17_log_lines(p: &Protocol) {
    const SECRET: &str = "SECRET-PAYLOAD";
    let mut server = p.server();
    let daemon = p.pool(&server, 1).start_ready();
    let mut client = p.client(&daemon.address);
    let id = u64::from_be_bytes(*b"\n\x1b[31m\r\x07");
    client.send(&p.wire.head(u32::MAX.into(), flags::ONEWAY, id));
    client.send(SECRET.as_bytes());
    assert!(is_refused(&client.receive()));
    let asked = call(&daemon.address, p.wire, "echo");
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
