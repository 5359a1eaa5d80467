//! Item 9 of the reliability design: servers that close idle connections, and what an idle connection may meet.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_methods, reason = "between two requests nothing happens")]

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::{Daemon, Plan, Protocol, Server, becomes, call, call_until_served, in_each_protocol};

in_each_protocol! {
    all:
        item_09_idle_connections_that_the_server_ends;
    framed:
        item_09_a_limit_that_goes_away;
}

fn pool(p: &Protocol, server: &Server, floor: u32) -> Plan {
    p.plan(&server.address).set("pool.min_connections", &floor.to_string())
}

/// Without `--idle` it does not close.
fn server(p: &Protocol, address: &str, args: &[&str]) -> Server {
    Server::for_mode_with(address, p.wire, p.mode, args)
}

fn says(daemon: &Daemon, words: &str) -> bool {
    daemon.log_text().contains(words)
}

fn shows_limit(daemon: &Daemon) -> bool {
    daemon.get("/metrics").1.contains("\nwarmline_endpoint_idle_limit_seconds{")
}

fn closed(daemon: &Daemon, reason: &str) -> u64 {
    daemon.metric("upstream_closed_total", &[("reason", reason)])
}

/// One request each time `pause` has passed, of which none fails, until `look` is satisfied.
fn call_until(p: &Protocol, daemon: &Daemon, pause: Duration, what: &str, mut look: impl FnMut() -> bool) {
    for _ in 0..100 {
        call(&daemon.address, p.wire, "echo");
        sleep(pause);
        if look() {
            return;
        }
    }
    panic!("never happened: {what}");
}

fn a_request_now_and_then(floor: u32, args: &[&str]) {
    let p = Protocol::named("frame exclusive");
    let mut server = server(&p, "127.0.0.1:0", &[&["--idle", "2000"], args].concat());
    let daemon = pool(&p, &server, floor).start_ready();
    let pause = Duration::from_secs(3);
    call_until(&p, &daemon, pause, "learned", || shows_limit(&daemon));
    assert!(says(&daemon, "idle limit learned"), "{}", daemon.log_text());
    assert_eq!(daemon.metric("endpoint_idle_limit_seconds", &[("endpoint", &server.address)]), 2, "rounded");
    let (before, by_server) = (closed(&daemon, "idle_limit"), closed(&daemon, "peer"));
    for _ in 0..4 {
        call(&daemon.address, p.wire, "echo");
        sleep(pause);
    }
    assert!(closed(&daemon, "idle_limit") >= before + 4);
    // One scout may have been due.
    assert!(closed(&daemon, "peer") <= by_server + 1, "{}", daemon.log_text());
    assert_eq!(daemon.outcome("ok"), daemon.metric("accepted_total", &[]), "no failure");
    server.assert_no_violation();
    daemon.assert_conserved();
}

#[test]
fn item_09_a_request_now_and_then() {
    a_request_now_and_then(1, &[]);
}

#[test]
fn item_09_a_request_now_and_then_and_several_connections() {
    a_request_now_and_then(4, &[]);
}

#[test]
fn item_09_a_request_now_and_then_to_a_server_that_resets() {
    a_request_now_and_then(2, &["--idle-reset"]);
}

fn item_09_a_limit_that_goes_away(p: &Protocol) {
    let pause = Duration::from_millis(600);
    let limited = server(p, "127.0.0.1:0", &["--idle", "500"]);
    let address = limited.address.clone();
    let daemon = pool(p, &limited, 1).start_ready();
    call_until(p, &daemon, pause, "learned", || shows_limit(&daemon));
    drop(limited);
    let mut free = server(p, &address, &[]);
    call_until_served(&daemon.address, p.wire);
    call_until(p, &daemon, pause, "unlearned", || !shows_limit(&daemon));
    assert!(says(&daemon, "idle limit unlearned"), "{}", daemon.log_text());
    let before = closed(&daemon, "idle_limit");
    let accepted = free.count("accepted");
    for _ in 0..3 {
        call(&daemon.address, p.wire, "echo");
        sleep(pause);
    }
    assert_eq!((closed(&daemon, "idle_limit"), free.count("accepted")), (before, accepted), "they stay");
    free.assert_no_violation();
    daemon.assert_conserved();
}

fn item_09_idle_connections_that_the_server_ends(p: &Protocol) {
    let mut server = p.server();
    for (command, reason) in [("end fin", "peer"), ("end rst", "peer"), ("stray 100", "desync")] {
        let daemon = p.pool(&server, 2).start_ready();
        server.reaches("open", 2);
        server.ask(command);
        // The end is seen when it comes, and not by a request.
        becomes("ends seen", 2, || closed(&daemon, reason));
        call(&daemon.address, p.wire, "echo");
        assert_eq!(daemon.outcome("ok"), daemon.metric("accepted_total", &[]));
        server.assert_no_violation();
        daemon.assert_conserved();
        drop(daemon);
        server.reaches("open", 0);
    }
}
