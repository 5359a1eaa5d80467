//! Servers that die and come back under load: what may be run twice does not fail, what may not is not, and a
//! refusal is one in the protocol's words.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::collections::{HashMap, HashSet};

use common::{Call, Crowd, Daemon, End, Endpoint, Plan, Protocol, UPSTREAM, in_protocol};

const CLIENTS: usize = 8;
const CONNECTIONS: usize = 8;
const RESTARTS: usize = 20;
/// Requests that are served between two deaths.
const SOME: u64 = 30;
/// Attempts for each request where there are retries.
const ATTEMPTS: u32 = 5;

in_protocol!(multiplex, "frame multiplex", two_in_turn, alone, never_twice, frame_methods);
in_protocol!(pipeline, "frame pipeline", two_in_turn, alone, never_twice);
in_protocol!(exclusive, "frame exclusive", two_in_turn, alone, never_twice, frame_methods);
in_protocol!(line, "line", two_in_turn, alone, line_methods, never_twice);

fn plan(p: &Protocol, endpoints: &[Endpoint]) -> Plan {
    let addresses = endpoints.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>();
    p.plan(addresses[0])
        .endpoints(&addresses)
        .level("info")
        .set("pool.max_connections", &CONNECTIONS.to_string())
}

fn retrying(plan: Plan, idempotent: &str) -> Plan {
    plan.set("retry.attempts", &ATTEMPTS.to_string())
        .set("retry.idempotent", &format!("[{idempotent:?}]"))
        .set("retry.budget", "1")
}

/// Restarts the endpoints in turn, each up again before the other goes.
fn restart(endpoints: &mut [Endpoint], crowd: &Crowd) {
    let count = endpoints.len();
    crowd.is_served(SOME);
    for round in 0..RESTARTS {
        let endpoint = &mut endpoints[round % count];
        endpoint.kill();
        endpoint.serve();
        crowd.is_served(SOME);
    }
}

fn failed(calls: &[Call]) -> usize {
    let closed = calls.iter().filter(|call| call.end == End::Closed).count();
    assert_eq!(closed, 0, "closed without a word");
    calls.iter().filter(|call| call.end == End::Refused).count()
}

/// How often servers saw each request, all of them together.
fn seen(endpoints: &[Endpoint]) -> HashMap<u128, u32> {
    let mut all = HashMap::new();
    for (nonce, count) in endpoints.iter().flat_map(Endpoint::journal) {
        *all.entry(nonce).or_default() += count;
    }
    all
}

/// Requests that servers saw more than once.
fn twice(endpoints: &[Endpoint]) -> HashSet<u128> {
    seen(endpoints).into_iter().filter(|(_, count)| *count > 1).map(|(nonce, _)| nonce).collect()
}

fn retries(daemon: &Daemon, rung: &str) -> u64 {
    daemon.metric("retries_total", &[("upstream", UPSTREAM), ("rung", rung)])
}

fn judge(daemon: &Daemon, endpoints: &mut [Endpoint], calls: &[Call]) {
    daemon.assert_conserved();
    assert_eq!(daemon.metric("requests_total", &[]), calls.len() as u64);
    assert_eq!(daemon.outcome("ok"), (calls.len() - failed(calls)) as u64);
    let seen = seen(endpoints);
    let unseen = calls.iter().filter(|call| call.end == End::Replied && !seen.contains_key(&call.nonce));
    assert_eq!(unseen.count(), 0, "replies from nowhere");
    let often = seen.values().filter(|count| **count > ATTEMPTS).count();
    assert_eq!(often, 0, "requests that ran more than {ATTEMPTS} times");
    for endpoint in endpoints {
        assert_eq!(endpoint.server().count("violations"), 0);
    }
}

fn two_in_turn(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p), Endpoint::new(*p)];
    let daemon = retrying(plan(p, &endpoints), "*").start_ready();
    // With one in flight at each death at least, so that something must be tried again.
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:3"]);
    restart(&mut endpoints, &crowd);
    let calls = crowd.finish();
    assert_eq!(failed(&calls), 0, "of {} requests", calls.len());
    judge(&daemon, &mut endpoints, &calls);
    assert!(retries(&daemon, "idempotent") > 0, "nothing was tried again");
}

fn alone(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p)];
    let daemon = retrying(plan(p, &endpoints), "*").start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:3"]);
    let mut lives = Vec::new();
    for _ in 0..RESTARTS {
        let born = crowd.now();
        crowd.is_served(SOME);
        lives.push(born..crowd.now());
        endpoints[0].kill();
        crowd.is_refused(SOME);
        endpoints[0].serve();
    }
    let born = crowd.now();
    crowd.is_served(SOME);
    lives.push(born..crowd.now());
    let calls = crowd.finish();
    assert!(failed(&calls) >= RESTARTS * usize::try_from(SOME).unwrap());
    for life in lives {
        let within = |call: &&Call| call.began >= life.start && call.ended < life.end;
        let first = calls.iter().filter(within).filter(|call| call.end == End::Replied);
        let first = first.map(|call| call.ended).min().unwrap();
        let late = calls.iter().filter(within).filter(|call| call.end != End::Replied && call.began > first);
        assert_eq!(late.count(), 0, "refused after others were served again");
    }
    judge(&daemon, &mut endpoints, &calls);
    let other = calls.len() as u64 - daemon.outcome("ok");
    assert_eq!(daemon.outcome("refused") + daemon.outcome("lost"), other);
}

/// Nothing is marked.
fn never_twice(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p), Endpoint::new(*p)];
    let plan = plan(p, &endpoints).set("retry.attempts", &ATTEMPTS.to_string()).set("retry.budget", "1");
    let daemon = plan.start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["delay:3"]);
    restart(&mut endpoints, &crowd);
    let calls = crowd.finish();
    assert_eq!(twice(&endpoints), HashSet::new());
    // Somebody is always in flight, and one that was begun is not begun again.
    assert!((1..=RESTARTS * CLIENTS).contains(&failed(&calls)), "{} failed", failed(&calls));
    judge(&daemon, &mut endpoints, &calls);
    assert_eq!(retries(&daemon, "idempotent"), 0);
}

fn line_methods(p: &Protocol) {
    marked(p, |plan| plan);
}

/// The method is a field of the frame.
fn frame_methods(p: &Protocol) {
    marked(p, |plan| plan.set("protocol.frame.method", "{ offset = 16, size = 7 }"));
}

fn marked(p: &Protocol, with_method: impl Fn(Plan) -> Plan) {
    const MARKED: &str = "delay:4";
    let mut endpoints = [Endpoint::new(*p), Endpoint::new(*p)];
    let daemon = with_method(retrying(plan(p, &endpoints), MARKED)).start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &[MARKED, "delay:3"]);
    restart(&mut endpoints, &crowd);
    let calls = crowd.finish();
    judge(&daemon, &mut endpoints, &calls);
    let twice = twice(&endpoints);
    assert!(!twice.is_empty(), "nothing ran twice");
    let wrong = calls.iter().filter(|call| call.verb != MARKED && twice.contains(&call.nonce)).count();
    assert_eq!(wrong, 0, "of {} that ran twice, some were not marked", twice.len());
    let spared = calls.iter().filter(|call| call.verb == MARKED && call.end != End::Replied).count();
    assert_eq!(spared, 0, "marked ones fail");
}
