//! More is asked for than there is room for: who is greedy does not starve the others, what is beyond a bound stays
//! unread or is refused in the protocol's words, and the figures say how long the oldest has waited.
//!
//! Nothing takes place at a time: waits are judged by bounds that the test itself has measured.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "plain threads, no runtime")]

mod common;

use std::collections::{HashMap, HashSet};
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use common::{
    Asked, Client, Crowd, Daemon, End, Plan, Protocol, Server, becomes, eventually, in_protocol, socket,
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
        let mut others = (1..=5).map(|id| Waiter::new(p, &daemon, "echo", 100 + id)).collect::<Vec<_>>();
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
        let mut others = (1..=4).map(|id| Waiter::new(p, &daemon, "echo", 100 + id)).collect::<Vec<_>>();
        for other in &mut others {
            other.is_refused(p);
        }
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

/// A request that waits: it was not there before it was sent, and it was when it was seen.
struct Waiting {
    waiter: Waiter,
    sent: Instant,
    seen: Instant,
}

impl Waiting {
    fn new(p: &Protocol, daemon: &Daemon, verb: &str, id: u64) -> Self {
        let before = waiting(daemon);
        let sent = Instant::now();
        let waiter = Waiter::new(p, daemon, verb, id);
        becomes("requests waiting", before + 1, || waiting(daemon));
        Self { waiter, sent, seen: Instant::now() }
    }

    /// Its client goes, and it with it.
    fn goes(self, daemon: &Daemon) {
        let before = waiting(daemon);
        self.waiter.client.stream.reset().unwrap();
        becomes("requests waiting", before - 1, || waiting(daemon));
    }
}

/// Looks how long the oldest has waited, which is one that was sent and seen then.
#[track_caller]
fn oldest_is(daemon: &Daemon, sent: Instant, seen: Instant) {
    let before = Instant::now();
    let told = daemon.seconds("queue_oldest_wait_seconds");
    let bounds = before - seen..=sent.elapsed();
    assert!(bounds.contains(&told), "{told:?} is not within {bounds:?}");
}

/// Lets the oldest grow so old that it cannot be taken for who comes next.
fn grows_older(daemon: &Daemon) {
    let older = daemon.seconds("queue_oldest_wait_seconds") + Duration::from_millis(100);
    eventually("an older one", || (daemon.seconds("queue_oldest_wait_seconds") > older).then_some(()));
}

#[test]
fn the_oldest_wait_is_told() {
    for p in ["frame multiplex", "frame exclusive", "line"].map(Protocol::named) {
        for workers in WORKERS {
            let mut server = p.server();
            let daemon = narrow(&p, &server).workers(workers).start_ready();
            let mut first = Waiter::new(&p, &daemon, "hold", 1);
            server.reaches("held", 1);
            assert_eq!(daemon.seconds("queue_oldest_wait_seconds"), Duration::ZERO);
            let [one, mut two, mut three] = [2, 3, 4].map(|id| {
                let it = Waiting::new(&p, &daemon, "hold", id);
                grows_older(&daemon);
                it
            });
            oldest_is(&daemon, one.sent, one.seen);
            one.goes(&daemon);
            oldest_is(&daemon, two.sent, two.seen);
            server.ask("release");
            first.is_answered();
            server.reaches("held", 1);
            oldest_is(&daemon, three.sent, three.seen);
            for waiting in [&mut two, &mut three] {
                server.reaches("held", 1);
                server.ask("release");
                waiting.waiter.is_answered();
            }
            assert_eq!(daemon.seconds("queue_oldest_wait_seconds"), Duration::ZERO);
            daemon.assert_conserved();
        }
    }
}

/// The oldest has waited too long; the next one is young.
#[test]
fn the_oldest_wait_is_that_of_the_next_after_a_refusal() {
    let p = Protocol::named("frame exclusive");
    for workers in WORKERS {
        let mut server = p.server();
        let plan = narrow(&p, &server).without("pool.acquire_timeout");
        let daemon = plan.set("pool.acquire_timeout", "\"400ms\"").workers(workers).start_ready();
        let mut first = Waiter::new(&p, &daemon, "hold", 1);
        server.reaches("held", 1);
        eventually("a young one alone", || {
            let mut old = Waiting::new(&p, &daemon, "echo", 2);
            grows_older(&daemon);
            let mut young = Waiting::new(&p, &daemon, "echo", 3);
            old.waiter.is_refused(&p);
            let (before, metrics, after) = (Instant::now(), daemon.metrics(), Instant::now());
            let alone = metrics.sum("queue_waiting", &[]) == 1;
            let told = Duration::from_secs_f64(metrics.value("queue_oldest_wait_seconds", &[]));
            let bounds = before - young.seen..=after - young.sent;
            assert!(!alone || bounds.contains(&told), "{told:?} is not within {bounds:?}");
            young.waiter.is_refused(&p);
            alone.then_some(())
        });
        server.ask("release");
        first.is_answered();
        daemon.assert_conserved();
    }
}

/// A request whose connection was lost is the first in turn, and others have waited longer.
#[test]
fn the_oldest_wait_is_not_that_of_a_retried_one() {
    let p = Protocol::named("line");
    for workers in WORKERS {
        let mut server =
            Server::for_mode_with("127.0.0.1:0", p.wire, p.mode, &["--on-connect", "greet:hi\\n"]);
        let plan = narrow(&p, &server).set("preamble.expect", "\"hi\\n\"").set("timeouts.connect", "\"1m\"");
        let plan = plan.set("retry.idempotent", "\"*\"").set("retry.attempts", "5");
        let daemon = plan.workers(workers).start_ready();
        let mut retried = Waiter::new(&p, &daemon, "hold", 1);
        server.reaches("held", 1);
        let other = Waiting::new(&p, &daemon, "echo", 2);
        grows_older(&daemon);

        server.ask("on-connect hang");
        let sent = Instant::now();
        server.ask("end rst");
        becomes("requests waiting", 2, || waiting(&daemon));
        let seen = Instant::now();
        oldest_is(&daemon, other.sent, other.seen);
        other.goes(&daemon);
        oldest_is(&daemon, sent, seen);

        server.ask("on-connect greet:hi\\n");
        server.ask("end rst");
        server.reaches("held", 1);
        server.ask("release");
        retried.is_answered();
        daemon.assert_conserved();
        assert_eq!(daemon.metric("retries_total", &[("rung", "idempotent")]), 1);
    }
}

/// The second request of a client waits longer than the first one of another that came after it.
#[test]
fn the_oldest_wait_is_not_that_of_the_first_in_turn() {
    let p = multiplex();
    for workers in WORKERS {
        let mut server = p.server();
        let daemon = narrow(&p, &server).workers(workers).start_ready();
        let mut first = Waiter::new(&p, &daemon, "hold", 1);
        server.reaches("held", 1);
        let mut greedy = p.client(&daemon.address);
        let asked = [1, 2, 3].map(|id| Asked::with_id(p.wire, "hold", 0, id));
        let sent = Instant::now();
        greedy.send(&asked.each_ref().map(|asked| asked.bytes.clone()).concat());
        becomes("requests waiting", 3, || waiting(&daemon));
        let seen = Instant::now();
        grows_older(&daemon);
        let mut polite = Waiting::new(&p, &daemon, "hold", 1);

        let mut next = |left: u64| {
            server.ask("release");
            becomes("requests waiting", left, || waiting(&daemon));
            server.reaches("held", 1);
        };
        next(3);
        first.is_answered();
        next(2);
        greedy.expect(&asked[0]);
        // What is at the server now is that of the polite one.
        oldest_is(&daemon, sent, seen);
        next(1);
        polite.waiter.is_answered();
        oldest_is(&daemon, sent, seen);
        next(0);
        greedy.expect(&asked[1]);
        server.ask("release");
        greedy.expect(&asked[2]);
        daemon.assert_conserved();
    }
}

/// What the greedy client was told so far.
#[derive(Debug, Default)]
struct Told {
    replies: AtomicU64,
    refusals: AtomicU64,
}

/// Sends as much as is taken from it, under ids that count up, until it is to stop; then waits for what is owed.
fn is_greedy(p: &Protocol, address: &str, told: &Told, stop: &AtomicBool) {
    let stream = socket::Stream::connect(address).unwrap();
    stream.set_patience(common::PATIENCE).unwrap();
    let sent = std::sync::Mutex::new(HashMap::new());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for id in 1.. {
                if stop.load(SeqCst) {
                    break;
                }
                let asked = Asked::with_id(p.wire, VERB, 0, id);
                sent.lock().unwrap().insert(id, asked.reply);
                (&stream).write_all(&asked.bytes).unwrap();
            }
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let (mut input, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            while let Some(message) = p.wire.decode(&mut input).unwrap() {
                let right = sent.lock().unwrap().remove(&message.id).expect("an id that is owed");
                let is_reply = message == right;
                assert!(is_reply || p.is_refusal(&message, right.id), "{message:?} instead of {right:?}");
                if is_reply { &told.replies } else { &told.refusals }.fetch_add(1, SeqCst);
            }
            match (&stream).read(&mut buffer).unwrap() {
                0 => break,
                read => input.extend_from_slice(&buffer[..read]),
            }
        }
    });
    assert!(sent.into_inner().unwrap().is_empty(), "requests without an answer");
}

/// What each request of the unequal contest asks for.
const VERB: &str = "delay:2";

/// A client that sends all it can over one connection, beside a hundred with one request at a time.
#[test]
fn a_greedy_client_starves_nobody() {
    const POLITE: usize = 100;
    const ENOUGH: u64 = 6000;
    let p = multiplex();
    for workers in WORKERS {
        let mut server = p.server();
        let plan = p.pool(&server, 2).set("pool.max_in_flight", "4").set("pool.max_waiting", "128");
        let daemon = plan.set("pool.max_per_client", "1000").level("info").workers(workers).start_ready();
        let (told, stop) = (Told::default(), AtomicBool::new(false));
        let (calls, greedy) = std::thread::scope(|scope| {
            scope.spawn(|| is_greedy(&p, &daemon.address, &told, &stop));
            eventually("refusals", || (told.refusals.load(SeqCst) > 0).then_some(()));
            let before = told.replies.load(SeqCst);
            let crowd = Crowd::start(p, &daemon.address, POLITE, &[VERB]);
            crowd.is_served(ENOUGH);
            let calls = crowd.finish();
            let greedy = told.replies.load(SeqCst) - before;
            stop.store(true, SeqCst);
            (calls, greedy)
        });
        let mut answered = vec![0; POLITE];
        calls.iter().filter(|call| call.end == End::Replied).for_each(|call| answered[call.client] += 1);
        let refused = calls.iter().filter(|call| call.end != End::Replied).count();
        let equal = (answered.iter().sum::<u64>() + greedy) / (POLITE as u64 + 1);
        let least = answered.iter().min().unwrap();
        assert!(least * 2 >= equal, "{answered:?} beside {greedy}");
        assert!(
            refused * 100 <= calls.len(),
            "{refused} of {} polite ones refused beside {greedy}",
            calls.len()
        );
        daemon.assert_conserved();
        server.assert_no_violation();
    }
}
