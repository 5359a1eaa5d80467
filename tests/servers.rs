//! What servers say of their own accord, and how warmline takes it: greetings, heartbeats, farewells, late
//! replies. What they do wrong besides is in the fault matrix.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{
    Answer, Message, Plan, Protocol, Server, becomes, call, call_until_served, eventually, flags,
    in_each_protocol,
};

in_each_protocol! {
    all:
        is_down_from_the_start,
        closes_every_connection,
        replies_late;
    framed:
        says_it_closes,
        sends_heartbeats,
        speaks_first;
}

/// One connection, and timeouts short enough to be waited for.
fn plan(p: &Protocol, address: &str) -> Plan {
    p.plan(address)
        .set("pool.min_connections", "1")
        .set("pool.max_connections", "1")
        .set("timeouts.connect", "\"300ms\"")
        .set("timeouts.request", "\"400ms\"")
}

fn is_down_from_the_start(p: &Protocol) {
    // An address of its own, so that nobody else takes the port meanwhile.
    let listener = std::net::TcpListener::bind("127.0.0.3:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let daemon = plan(p, &address).start();
    for _ in 0..20 {
        let mut client = p.client(&daemon.address);
        client.ask("echo");
        p.expect_refusal(&mut client);
    }
    assert_eq!((daemon.get("/readyz").0, daemon.get("/healthz").0), (503, 200));
    let mut server = Server::for_mode_at(&address, p.wire, p.mode);
    call_until_served(&daemon.address, p.wire);
    eventually("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn closes_every_connection(p: &Protocol) {
    for how in ["close", "reset"] {
        let mut server = p.server();
        server.ask(&format!("on-connect {how}"));
        let daemon = plan(p, &server.address).start();
        for _ in 0..5 {
            let mut client = p.client(&daemon.address);
            client.ask("echo");
            p.expect_refusal(&mut client);
        }
        let accepted = server.count("accepted");
        assert!(accepted < 100, "{accepted} connections for 5 requests");
        server.ask("on-connect serve");
        call_until_served(&daemon.address, p.wire);
        server.assert_no_violation();
        daemon.assert_conserved();
    }
}

fn speaks_first(p: &Protocol) {
    let mut server = p.server();
    server.ask("on-connect greet:hello\\n");
    let daemon = plan(p, &server.address).start();
    let mut client = p.client(&daemon.address);
    client.ask("echo");
    p.expect_refusal(&mut client);
    eventually("a hint in the log", || daemon.log_text().contains("speaks first").then_some(()));
    drop(daemon);

    let daemon = plan(p, &server.address).set("preamble.expect", "\"hello\\n\"").start_ready();
    for _ in 0..10 {
        call(&daemon.address, p.wire, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn says_it_closes(p: &Protocol) {
    let mut server = p.server();
    let daemon = plan(p, &server.address).start_ready();
    for round in 1..=5 {
        call(&daemon.address, p.wire, "closing");
        let closed = || daemon.metric("upstream_closed_total", &[("reason", "closing")]);
        becomes("connections closed", round, closed);
        call(&daemon.address, p.wire, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), 10);
}

fn sends_heartbeats(p: &Protocol) {
    let mut server = p.server();
    let daemon = plan(p, &server.address).start_ready();
    server.reaches("open", 1);
    server.ask("heartbeat");
    server.reaches("heartbeats_answered", 1);
    call(&daemon.address, p.wire, "heartbeat");
    server.reaches("heartbeats_answered", 2);

    let id = if p.wire.has_id() { 99 } else { 0 };
    let mut client = p.client(&daemon.address);
    client.send(&p.wire.head(0, flags::HEARTBEAT, id));
    let answer = Message { flags: flags::HEARTBEAT | flags::ANSWER, id, payload: vec![] };
    assert_eq!(client.receive(), Answer::Reply(answer), "a client's heartbeat is answered in place");
    let asked = client.ask("echo");
    client.expect(&asked);
    server.assert_no_violation();
    assert_eq!((server.count("requests"), server.count("accepted")), (2, 1));
}

fn replies_late(p: &Protocol) {
    let mut server = p.server();
    let daemon = plan(p, &server.address).start();
    for _ in 0..5 {
        let mut client = p.client(&daemon.address);
        client.ask("hold");
        p.expect_refusal(&mut client);
        let mut next = p.client(&daemon.address);
        let asked = next.ask("echo");
        server.ask("release");
        next.expect(&asked);
        call(&daemon.address, p.wire, "echo");
    }
    server.assert_no_violation();
    assert_eq!((daemon.outcome("timeout"), daemon.outcome("ok")), (5, 10));
    daemon.assert_conserved();
}
