//! What a server process may do wrong: clients get their own reply or an explicit "no", and the pool serves
//! again as soon as the server does. In both modes that matter for it.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{
    Answer, Asked, Client, Daemon, Message, Plan, Server, Wire, becomes, call, eventually, flags, is_refused,
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
    refuses,
    hangs_on_connect,
    closes_on_connect,
    resets_on_connect,
    speaks_first,
    hangs_after_k_bytes,
    resets_at_k,
    closes_at_k,
    closes_after_the_reply,
    half_closes,
    sends_one_byte_at_a_time,
    sends_garbage,
    replies_late,
    replies_twice,
    sends_heartbeats,
    says_it_closes,
    is_stopped,
    is_killed,
    restarts_again_and_again,
}

fn start(mode: &str, address: &str) -> Daemon {
    plan(mode, address).start()
}

/// One connection, and timeouts short enough to be waited for.
fn plan(mode: &str, address: &str) -> Plan {
    Plan::new(WIRE, mode, address)
        .set("pool.min_connections", "1")
        .set("pool.max_connections", "1")
        .set("timeouts.connect", "\"300ms\"")
        .set("timeouts.request", "\"400ms\"")
}

/// Asks until it is served: each time the right reply or an explicit "no".
fn is_served_again(daemon: &Daemon) {
    eventually("served again", || {
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("echo");
        matches!(client.expect_reply_or_refusal(&asked), Answer::Reply(_)).then_some(())
    });
}

/// Asks for something that goes wrong, then for something that must not.
fn fails_once(daemon: &Daemon, verb: &str) {
    let mut client = Client::connect(&daemon.address, WIRE);
    client.ask(verb);
    assert_eq!(client.receive(), Answer::Refused, "{verb}");
    call(&daemon.address, WIRE, "echo");
}

fn a_free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// Places in a reply: in the header, at its end, in the payload.
fn places() -> Vec<usize> {
    let size = Asked::new(WIRE, "partial:100:hang", 100).bytes.len();
    vec![0, 1, 4, 8, 15, 16, 17, 60, size - 1]
}

fn refuses(mode: &str) {
    let address = a_free_address();
    let daemon = start(mode, &address);
    for _ in 0..20 {
        let mut client = Client::connect(&daemon.address, WIRE);
        client.ask("echo");
        assert_eq!(client.receive(), Answer::Refused);
    }
    assert_eq!(daemon.get("/readyz").0, 503);
    assert_eq!(daemon.get("/healthz").0, 200);
    let mut server = Server::for_mode_at(&address, WIRE, mode);
    is_served_again(&daemon);
    eventually("ready", || (daemon.get("/readyz").0 == 200).then_some(()));
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn hangs_on_connect(mode: &str) {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    // With its queue full, the kernel ignores who else knocks.
    let wait = std::time::Duration::from_millis(300);
    let full = std::iter::from_fn(|| std::net::TcpStream::connect_timeout(&address, wait).ok());
    let _full = full.collect::<Vec<_>>();
    let daemon = start(mode, &address.to_string());
    for _ in 0..3 {
        let mut client = Client::connect(&daemon.address, WIRE);
        client.ask("echo");
        assert_eq!(client.receive(), Answer::Refused);
    }
    let timeouts = || daemon.metric("upstream_connects_total", &[("result", "timeout")]);
    eventually("a connect that timed out", || (timeouts() > 0).then_some(()));
    daemon.assert_conserved();
}

fn closes_on_connect(mode: &str) {
    fails_on_connect(mode, "close");
}

fn resets_on_connect(mode: &str) {
    fails_on_connect(mode, "reset");
}

fn fails_on_connect(mode: &str, how: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    server.ask(&format!("on-connect {how}"));
    let daemon = start(mode, &server.address);
    for _ in 0..5 {
        let mut client = Client::connect(&daemon.address, WIRE);
        client.ask("echo");
        assert_eq!(client.receive(), Answer::Refused);
    }
    let accepted = server.count("accepted");
    assert!(accepted < 100, "{accepted} connections for 5 requests");
    server.ask("on-connect serve");
    is_served_again(&daemon);
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn speaks_first(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    server.ask("on-connect greet:hello\\n");
    let daemon = start(mode, &server.address);
    let mut client = Client::connect(&daemon.address, WIRE);
    client.ask("echo");
    assert_eq!(client.receive(), Answer::Refused, "a greeting is never passed on");
    eventually("a hint in the log", || daemon.log_text().contains("speaks first").then_some(()));
    drop(daemon);

    let daemon = plan(mode, &server.address).set("preamble.expect", "\"hello\\n\"").start_ready();
    for _ in 0..10 {
        call(&daemon.address, WIRE, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn hangs_after_k_bytes(mode: &str) {
    fails_at_each_place(mode, "hang");
}

fn resets_at_k(mode: &str) {
    fails_at_each_place(mode, "rst");
}

fn closes_at_k(mode: &str) {
    fails_at_each_place(mode, "fin");
}

fn fails_at_each_place(mode: &str, end: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    let places = places();
    for place in &places {
        let mut client = Client::connect(&daemon.address, WIRE);
        client.ask(&format!("partial:{place}:{end}"));
        assert_eq!(client.receive(), Answer::Refused, "{place} bytes, then {end}");
        is_served_again(&daemon);
    }
    server.assert_no_violation();
    daemon.assert_conserved();
    let ended = if end == "hang" { "timeout" } else { "lost" };
    assert!(daemon.outcome(ended) >= places.len() as u64);
}

fn closes_after_the_reply(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    for _ in 0..20 {
        call(&daemon.address, WIRE, "after:fin");
        is_served_again(&daemon);
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("after:rst");
        client.expect_reply_or_refusal(&asked);
        is_served_again(&daemon);
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn half_closes(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    fails_once(&daemon, "half");
    fails_once(&daemon, "partial:20:half");
    call(&daemon.address, WIRE, "after:half");
    is_served_again(&daemon);
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn sends_one_byte_at_a_time(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = Plan::new(WIRE, mode, &server.address).start_ready();
    call(&daemon.address, WIRE, "slow");
    call(&daemon.address, WIRE, "echo");
    server.assert_no_violation();
    assert_eq!(server.count("accepted"), 1);
}

fn sends_garbage(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    for round in 1..=5 {
        fails_once(&daemon, "garbage");
        assert_eq!((daemon.metric("desync_total", &[]), daemon.outcome("desync")), (round, round));
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn replies_late(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    for _ in 0..5 {
        let mut client = Client::connect(&daemon.address, WIRE);
        client.ask("hold");
        assert_eq!(client.receive(), Answer::Refused);
        let mut next = Client::connect(&daemon.address, WIRE);
        let asked = next.ask("echo");
        server.ask("release");
        next.expect(&asked);
        call(&daemon.address, WIRE, "echo");
    }
    server.assert_no_violation();
    assert_eq!((daemon.outcome("timeout"), daemon.outcome("ok")), (5, 10));
    daemon.assert_conserved();
}

fn replies_twice(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = start(mode, &server.address);
    for round in 1..=5 {
        let mut client = Client::connect(&daemon.address, WIRE);
        let asked = client.ask("dup");
        client.expect(&asked);
        becomes("desync_total", round, || daemon.metric("desync_total", &[]));
        call(&daemon.address, WIRE, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn sends_heartbeats(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = plan(mode, &server.address).start_ready();
    server.reaches("open", 1);
    server.ask("heartbeat");
    server.reaches("heartbeats_answered", 1);
    call(&daemon.address, WIRE, "heartbeat");
    server.reaches("heartbeats_answered", 2);

    let mut client = Client::connect(&daemon.address, WIRE);
    client.send(&WIRE.head(0, flags::HEARTBEAT, 99));
    let answer = Message { flags: flags::HEARTBEAT | flags::ANSWER, id: 99, payload: vec![] };
    assert_eq!(client.receive(), Answer::Reply(answer), "a client's heartbeat is answered in place");
    let asked = client.ask("echo");
    client.expect(&asked);
    server.assert_no_violation();
    assert_eq!((server.count("requests"), server.count("accepted")), (2, 1));
}

fn says_it_closes(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = plan(mode, &server.address).start_ready();
    for round in 1..=5 {
        call(&daemon.address, WIRE, "closing");
        let closed = || daemon.metric("upstream_closed_total", &[("reason", "closing")]);
        becomes("connections closed", round, closed);
        call(&daemon.address, WIRE, "echo");
    }
    server.assert_no_violation();
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), 10);
}

fn is_stopped(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let daemon = plan(mode, &server.address).start_ready();
    for _ in 0..3 {
        server.signal(Signal::STOP);
        for _ in 0..3 {
            let mut client = Client::connect(&daemon.address, WIRE);
            client.ask("echo");
            assert_eq!(client.receive(), Answer::Refused);
        }
        server.signal(Signal::CONT);
        is_served_again(&daemon);
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn is_killed(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let address = server.address.clone();
    let daemon = plan(mode, &address).start_ready();
    let mut client = Client::connect(&daemon.address, WIRE);
    client.ask("hold");
    server.reaches("held", 1);
    drop(server);
    assert_eq!(client.receive(), Answer::Refused);
    let mut client = Client::connect(&daemon.address, WIRE);
    client.ask("echo");
    assert!(is_refused(&client.receive()));
    assert_eq!(daemon.outcome("lost"), 1);
    let mut server = Server::for_mode_at(&address, WIRE, mode);
    is_served_again(&daemon);
    server.assert_no_violation();
    daemon.assert_conserved();
}

fn restarts_again_and_again(mode: &str) {
    let mut server = Server::for_mode(WIRE, mode);
    let address = server.address.clone();
    let daemon = plan(mode, &address).start_ready();
    for _ in 0..5 {
        call(&daemon.address, WIRE, "echo");
        server.assert_no_violation();
        drop(server);
        server = Server::for_mode_at(&address, WIRE, mode);
        is_served_again(&daemon);
    }
    server.assert_no_violation();
    daemon.assert_conserved();
}
