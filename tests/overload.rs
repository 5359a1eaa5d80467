//! More is asked for than there is room for: who is greedy does not starve the others, what is beyond a bound stays
//! unread or is refused in the protocol's words, and the figures say how long the oldest has waited.
//!
//! Nothing takes place at a time: waits are judged by bounds that the test itself has measured.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "plain threads, no runtime")]

mod common;

use std::collections::HashSet;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{
    Asked, Client, Daemon, Plan, Protocol, Server, Wire, becomes, eventually, in_protocol, message, socket,
};

const WORKERS: [usize; 2] = [1, 2];

in_protocol!(multiplex, "frame multiplex", a_full_queue_refuses, a_long_wait_ends);
in_protocol!(pipeline, "frame pipeline", a_full_queue_refuses, a_long_wait_ends);
in_protocol!(exclusive, "frame exclusive", a_full_queue_refuses, a_long_wait_ends);
in_protocol!(no_ids, "frame without ids or words", a_full_queue_refuses, a_long_wait_ends);
in_protocol!(line, "line", a_full_queue_refuses, a_long_wait_ends);

/// One connection, with room for one request.
fn narrow(p: &Protocol, server: &Server) -> Plan {
    let plan = p.pool(server, 1).set("pool.acquire_timeout", "\"1m\"").set("timeouts.request", "\"1m\"");
    if p.is_exclusive() { plan } else { plan.set("pool.max_in_flight", "1") }
}

fn multiplex() -> Protocol {
    Protocol::named("frame multiplex")
}

/// A client with one request, which has an id of its own.
struct Waiter {
    client: Client,
    asked: Asked,
}

impl Waiter {
    fn new(p: &Protocol, daemon: &Daemon, verb: &str, id: u64) -> Self {
        let asked = Asked::with_id(p.wire, verb, 0, id);
        let client = p.client(&daemon.address);
        client.send(&asked.bytes);
        Self { client, asked }
    }

    fn is_answered(&mut self) {
        self.client.expect(&self.asked);
    }

    /// In the words of the protocol, under its own id.
    fn is_refused(&mut self, p: &Protocol) {
        let message = self.client.message();
        match &message {
            None => assert!(!p.has_words, "closed without a word"),
            Some(it) => assert!(p.is_refusal(it, self.asked.reply.id), "{it:?} to {}", self.asked.reply.id),
        }
    }
}

fn waiting(daemon: &Daemon) -> u64 {
    daemon.metric("queue_waiting", &[])
}

fn refused(daemon: &Daemon, reason: &str) -> u64 {
    daemon.metric("refused_total", &[("reason", reason)])
}

/// The only room is taken by one; five wait, and three more are one too many each.
fn a_full_queue_refuses(p: &Protocol) {
    for workers in WORKERS {
        let mut server = p.server();
        let daemon = narrow(p, &server).set("pool.max_waiting", "5").workers(workers).start_ready();
        let mut first = Waiter::new(p, &daemon, "hold", 100);
        server.reaches("held", 1);
        let mut others =
            (1..=5).map(|id| Waiter::new(p, &daemon, "echo", 100 + id)).collect::<Vec<_>>();
        becomes("requests waiting", 5, || waiting(&daemon));
        for id in 1..=3 {
            Waiter::new(p, &daemon, "echo", 200 + id).is_refused(p);
        }
        assert_eq!((refused(&daemon, "queue_full"), waiting(&daemon)), (3, 5));
        server.ask("release");
        first.is_answered();
        others.iter_mut().for_each(Waiter::is_answered);
        daemon.assert_conserved();
        assert_eq!((daemon.outcome("ok"), daemon.outcome("refused")), (6, 3));
        assert_eq!((refused(&daemon, "queue_full"), daemon.metric("refused_total", &[])), (3, 3));
        assert_eq!(server.count("requests"), 6);
        server.assert_no_violation();
    }
}

/// The only room is taken by one, and nobody waits for ever.
fn a_long_wait_ends(p: &Protocol) {
    for workers in WORKERS {
        let mut server = p.server();
        let plan = narrow(p, &server).without("pool.acquire_timeout");
        let daemon = plan.set("pool.acquire_timeout", "\"200ms\"").workers(workers).start_ready();
        let mut first = Waiter::new(p, &daemon, "hold", 100);
        server.reaches("held", 1);
        let mut others =
            (1..=4).map(|id| Waiter::new(p, &daemon, "echo", 100 + id)).collect::<Vec<_>>();
        others.iter_mut().for_each(|other| other.is_refused(p));
        assert_eq!((refused(&daemon, "acquire_timeout"), waiting(&daemon)), (4, 0));
        server.ask("release");
        first.is_answered();
        daemon.assert_conserved();
        assert_eq!((daemon.outcome("ok"), daemon.outcome("refused")), (1, 4));
        assert_eq!(daemon.metric("refused_total", &[]), 4);
        assert_eq!(server.count("requests"), 1);
        server.assert_no_violation();
    }
}

/// What one client has outstanding is bounded, and what it sends beyond that stays where it is.
#[test]
fn the_rest_of_one_client_stays_unread() {
    const MOST: u64 = 5;
    const ROUNDS: u64 = 4;
    let p = multiplex();
    for workers in WORKERS {
        let mut server = p.server();
        let plan = p.pool(&server, 1).set("pool.max_per_client", &MOST.to_string());
        let daemon = plan.set("timeouts.request", "\"1m\"").workers(workers).start_ready();
        let mut client = p.client(&daemon.address);
        let asked = (1..=MOST * ROUNDS).map(|id| Asked::with_id(p.wire, "hold", 0, id)).collect::<Vec<_>>();
        client.send(&asked.iter().flat_map(|asked| asked.bytes.clone()).collect::<Vec<_>>());
        let mut owed = asked.iter().map(|asked| asked.request.nonce).collect::<HashSet<_>>();
        for round in 1..=ROUNDS {
            server.reaches("held", MOST);
            daemon.wait_still();
            assert_eq!(server.count("requests"), MOST * round);
            assert_eq!(daemon.metric("accepted_total", &[]), MOST * round);
            server.ask("release");
            for _ in 0..MOST {
                let reply = client.message().unwrap();
                let place = usize::try_from(reply.id).unwrap() - 1;
                assert_eq!(reply, asked[place].reply);
                assert!(owed.remove(&asked[place].request.nonce), "{} twice", reply.id);
            }
        }
        daemon.assert_conserved();
        assert_eq!(daemon.outcome("ok"), MOST * ROUNDS);
        server.assert_no_violation();
    }
}
