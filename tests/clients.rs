//! What clients see of warmline: how their connections end, in which order they are answered, and that
//! ten thousand of them are no trouble.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::io::ErrorKind;

use common::{Answer, Asked, Client, Daemon, Load, Plan, Server, Wire, becomes, call, eventually, kernel};
use rustix::process::Signal;

const WIRE: Wire = Wire::Tagged;

fn exclusive(server: &Server) -> Plan {
    Plan::new(WIRE, "exclusive", &server.address)
}

fn settings(server: &Server, settings: &[(&str, &str)]) -> Daemon {
    settings.iter().fold(exclusive(server), |plan, (key, value)| plan.set(key, value)).start_ready()
}

#[test]
fn ten_thousand_clients_held_open() {
    const CLIENTS: u64 = 10_000;
    let mut server = Server::start(WIRE, &["--exclusive"]);
    let daemon = exclusive(&server)
        .global("limits.max_clients", "10000")
        .set("timeouts.client_read", "\"2m\"")
        .set("pool.max_connections", "8")
        .start_ready();
    let args = format!("--hold --connections {CLIENTS} --concurrency 8");
    let mut load = Load::start(&daemon.address, WIRE, &args);
    load.wait_open();
    becomes("clients", CLIENTS, || daemon.metric("client_connections", &[]));
    load.go();
    load.finish().assert_all_ok(CLIENTS);
    becomes("clients", 0, || daemon.metric("client_connections", &[]));
    server.assert_no_violation();
    assert!(server.count("max_open") <= 8);
    daemon.assert_conserved();
}

/// A client that closes its half before its reply comes gets that, and then a clean end.
#[track_caller]
fn half_close(server: &mut Server, daemon: &Daemon, verb: &str) {
    // The only connection is busy, so that the reply cannot come before.
    let mut first = Client::connect(&daemon.address, WIRE);
    let held = first.ask("hold");
    server.reaches("held", 1);
    let mut client = Client::connect(&daemon.address, WIRE);
    let asked = client.ask(verb);
    client.finish_sending();
    server.ask("release");
    first.expect(&held);
    client.expect(&asked);
    let (rest, end) = client.read_to_end();
    assert!(rest.is_empty() && end.is_ok(), "{verb}: {end:?} after {} bytes", rest.len());
}

/// A one-shot client is not watched while it waits: that it has closed its half must be known all the same before
/// the end of its session is chosen.
#[test]
fn a_half_closing_one_shot_client_gets_its_reply_and_a_clean_end() {
    let mut server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true"), ("pool.max_connections", "1")]);
    for verb in ["echo", "big:10000", "big:30000", "big:1000000"] {
        half_close(&mut server, &daemon, verb);
    }
}

/// A one-shot client is not watched while it waits: what it asks meanwhile is not to be thrown away.
#[test]
fn a_one_shot_client_that_asks_again_before_its_reply_has_both() {
    let mut server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true"), ("pool.max_connections", "1")]);
    for verb in ["echo", "big:3000", "big:10000", "big:30000"] {
        // The only connection is busy, so that the reply cannot come before the second request.
        let mut first = Client::connect(&daemon.address, WIRE);
        let held = first.ask("hold");
        server.reaches("held", 1);
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask(verb);
        // Not read together with the first one.
        becomes("requests waiting", 1, || daemon.metric("queue_waiting", &[]));
        client.ask("echo");
        server.ask("release");
        first.expect(&held);
        client.expect(&asked);
        let answer = client.receive();
        assert!(matches!(answer, Answer::Reply(_)), "{verb}: {answer:?} for the second request");
    }
}

#[test]
fn a_half_closing_reader_gets_its_reply_and_a_clean_end() {
    let mut server = Server::start(WIRE, &["--exclusive"]);
    for close in ["\"auto\"", "\"fin\"", "\"reset\""] {
        let one = ("pool.max_connections", "1");
        let daemon = settings(&server, &[("sockets.client_close", close), one]);
        for verb in ["echo", "big:1000000"] {
            half_close(&mut server, &daemon, verb);
        }
    }
}

#[test]
fn a_half_closing_reader_gets_its_reply_and_a_clean_end_in_a_drain() {
    for one_shot in ["false", "true"] {
        let mut server = Server::start(WIRE, &["--exclusive"]);
        let mut daemon = settings(&server, &[("sockets.one_shot", one_shot)]);
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("hold");
        client.finish_sending();
        server.reaches("held", 1);
        daemon.signal(Signal::TERM);
        eventually("refused connects", || {
            std::net::TcpStream::connect(&daemon.address).is_err().then_some(())
        });
        server.ask("release");
        client.expect(&asked);
        assert_eq!(daemon.wait(), Some(0));
        let (rest, end) = client.read_to_end();
        assert!(rest.is_empty() && end.is_ok(), "one_shot {one_shot}: {end:?} after {} bytes", rest.len());
    }
}

#[test]
fn a_one_shot_client_reads_to_a_clean_end() {
    let server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true")]);
    for verb in ["echo", "big:30000", "big:200000", "big:8000000"] {
        for _ in 0..5 {
            let client = Client::connect(&daemon.address, WIRE);
            let asked = client.ask(verb);
            let (bytes, end) = client.read_to_end();
            assert!(end.is_ok(), "{verb}: {end:?} after {} bytes", bytes.len());
            assert!(bytes == WIRE.reply(&asked.reply), "{verb}: {} bytes came", bytes.len());
        }
    }
}

#[test]
fn a_one_shot_client_that_reads_slowly_gets_everything() {
    let server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true"), ("pool.max_connections", "2")]);
    let mut slow = Client::connect(&daemon.address, WIRE);
    let asked = slow.ask("big:8000000");
    // The reply is far larger than all buffers: it waits at the server, and others are served meanwhile.
    eventually("the reply on its way", || (daemon.metric("memory_used_bytes", &[]) > 0).then_some(()));
    for _ in 0..100 {
        call(&daemon.address, WIRE, "echo");
    }
    slow.expect(&asked);
    assert_eq!(slow.receive(), Answer::Closed);
}

#[test]
fn a_one_shot_client_may_ask_again() {
    let server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true")]);
    let mut client = Client::connect(&daemon.address, WIRE);
    let requests = [Asked::new(WIRE, "echo", 100), Asked::new(WIRE, "echo", 100)];
    client.send(&[&requests[0].bytes[..], &requests[1].bytes].concat());
    client.expect(&requests[0]);
    client.expect(&requests[1]);
    assert_eq!(client.receive(), Answer::Closed);
    assert_eq!(daemon.outcome("ok"), 2);
}

#[test]
fn a_one_shot_client_is_not_closed_after_a_oneway_request() {
    let mut server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.one_shot", "true")]);
    let mut client = Client::connect(&daemon.address, WIRE);
    client.send(&Asked::oneway(WIRE).bytes);
    server.reaches("oneway", 1);
    becomes("sent", 1, || daemon.outcome("sent"));
    let asked = client.ask("echo");
    client.expect(&asked);
    assert_eq!(client.receive(), Answer::Closed);
}

#[test]
fn a_late_half_close_ends_cleanly_where_resets_are_off() {
    let server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("sockets.client_close", "\"fin\"")]);
    for _ in 0..50 {
        let client = call(&daemon.address, WIRE, "echo");
        client.finish_sending();
        let (rest, end) = client.read_to_end();
        assert_eq!((rest, end.unwrap()), (vec![], 0));
    }
}

#[test]
fn an_idle_client_is_closed_as_configured() {
    let server = Server::start(WIRE, &["--exclusive"]);
    for (close, reset) in [("\"auto\"", false), ("\"reset\"", true)] {
        let idle = ("timeouts.client_idle", "\"200ms\"");
        let daemon = settings(&server, &[("sockets.client_close", close), idle]);
        let client = call(&daemon.address, WIRE, "echo");
        let (rest, end) = client.read_to_end();
        assert!(rest.is_empty());
        assert_eq!(end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), reset, "{close}");
    }
}

#[test]
fn plain_closing_clients_cost_ports_only_where_resets_are_off() {
    const CONNECTIONS: usize = 500;
    const FEW: usize = CONNECTIONS / 50;
    let server = Server::start(WIRE, &["--exclusive"]);
    for (close, expected) in [("\"auto\"", 0..=FEW), ("\"fin\"", CONNECTIONS - FEW..=CONNECTIONS + FEW)] {
        let daemon = settings(&server, &[("sockets.client_close", close)]);
        // Another test may have had the very port a moment ago.
        let before = kernel::time_wait(daemon.port());
        let args = format!("--connections {CONNECTIONS} --concurrency 2");
        Load::start(&daemon.address, WIRE, &args).finish().assert_all_ok(CONNECTIONS as u64);
        becomes("clients", 0, || daemon.metric("client_connections", &[]));
        let left = kernel::time_wait(daemon.port()).saturating_sub(before);
        assert!(expected.contains(&left), "{close}: {left} in TIME_WAIT");
    }
}

#[test]
fn what_a_client_sends_ahead_is_answered_in_order() {
    for mode in ["exclusive", "pipeline"] {
        let mut server = Server::for_mode(Wire::Line, mode);
        let daemon = Plan::new(Wire::Line, mode, &server.address).start_ready();
        let mut clients = (0..8).map(|_| Client::connect(&daemon.address, Wire::Line)).collect::<Vec<_>>();
        let asked = |client: &Client| {
            let requests = (0..50).map(|_| Asked::new(Wire::Line, "echo", 200)).collect::<Vec<_>>();
            client.send(&requests.iter().flat_map(|asked| asked.bytes.clone()).collect::<Vec<_>>());
            requests
        };
        let all = clients.iter().map(asked).collect::<Vec<_>>();
        for (client, requests) in clients.iter_mut().zip(&all) {
            for asked in requests {
                client.expect(asked);
            }
        }
        server.assert_no_violation();
    }
}

#[test]
fn a_request_behind_a_large_reply_is_served() {
    for mode in ["exclusive", "pipeline", "multiplex"] {
        let server = Server::for_mode(WIRE, mode);
        // No timeout may come to its rescue.
        let daemon = Plan::new(WIRE, mode, &server.address)
            .set("timeouts.client_read", "\"10m\"")
            .set("timeouts.client_idle", "\"10m\"")
            .start_ready();
        for size in [100, 5_000, 100_000] {
            let large = Asked::with_id(WIRE, "big:500000", 100, 1);
            let next = Asked::with_id(WIRE, "echo", size, 2);
            let mut client = Client::connect(&daemon.address, WIRE);
            client.send(&[&large.bytes[..], &next.bytes].concat());
            for _ in 0..2 {
                let Answer::Reply(reply) = client.receive() else {
                    panic!("{mode}, then {size} bytes: no reply")
                };
                assert_eq!(reply, if reply.id == 1 { &large } else { &next }.reply);
            }
        }
    }
}

#[test]
fn requests_of_one_client_overtake_each_other_where_ids_allow_it() {
    let mut server = Server::for_mode(WIRE, "multiplex");
    let daemon = Plan::new(WIRE, "multiplex", &server.address).start_ready();
    let mut client = Client::connect(&daemon.address, WIRE);
    let held = Asked::with_id(WIRE, "hold", 100, u64::MAX);
    let quick = Asked::with_id(WIRE, "echo", 100, 0);
    client.send(&held.bytes);
    server.reaches("held", 1);
    client.send(&quick.bytes);
    client.expect(&quick);
    server.ask("release");
    client.expect(&held);
    assert_eq!(server.count("accepted"), 1);
}

#[test]
fn at_the_cap_the_client_idle_longest_makes_room() {
    let server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("max_clients", "3")]);
    let mut old = call(&daemon.address, WIRE, "echo");
    let mut others = [call(&daemon.address, WIRE, "echo"), call(&daemon.address, WIRE, "echo")];
    let _new = call(&daemon.address, WIRE, "echo");
    assert_eq!(old.receive(), Answer::Closed);
    let asked = others[1].ask("echo");
    others[1].expect(&asked);
    assert!(daemon.metric("client_connections", &[]) <= 3);
}

#[test]
fn with_the_queue_full_a_client_is_told_so_at_once() {
    let mut server = Server::start(WIRE, &["--exclusive"]);
    let daemon = settings(&server, &[("pool.max_connections", "1"), ("pool.max_waiting", "2")]);
    let mut clients = (0..3).map(|_| Client::connect(&daemon.address, WIRE)).collect::<Vec<_>>();
    let first = clients[0].ask("hold");
    server.reaches("held", 1);
    let waiting = [clients[1].ask("echo"), clients[2].ask("echo")];
    becomes("queue", 2, || daemon.metric("queue_waiting", &[]));
    let mut refused = Client::connect(&daemon.address, WIRE);
    refused.ask("echo");
    assert_eq!(refused.receive(), Answer::Refused);
    assert_eq!(daemon.metric("refused_total", &[("reason", "queue_full")]), 1);
    server.ask("release");
    for (client, asked) in clients.iter_mut().zip([first].iter().chain(&waiting)) {
        client.expect(asked);
    }
    daemon.assert_conserved();
}
