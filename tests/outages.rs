//! Two endpoints under load, and one of them fails in every way there is.
//!
//! What fails must have been in flight on it: each client gets its own reply or an explicit refusal, no request
//! that reached the good endpoint fails, none runs twice, and after its recovery the endpoint has a share again.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::collections::HashSet;
use std::process::Command;

use common::{
    Crowd, Daemon, End, Endpoint, Plan, Protocol, UPSTREAM, becomes, eventually, in_own_network, in_protocol,
};
use rustix::process::Signal;

/// Each has one request outstanding. Where a connection has one at a time, the good endpoint may have them all.
const CLIENTS: usize = 10;
const CONNECTIONS: usize = 8;
const EJECT_AFTER: usize = 3;
/// How requests end that a silent endpoint has: some are younger than what their connection is given up for.
const UNANSWERED: [&str; 2] = ["timeout", "lost"];
/// Requests that show that an endpoint serves.
const SOME: u64 = 20;
/// Requests that are served without the faulty endpoint.
const MANY: u64 = 300;

in_protocol!(multiplex, "frame multiplex", killed, restarted, stopped, refusing, silent, resetting);
in_protocol!(pipeline, "frame pipeline", killed, stopped, silent);
in_protocol!(exclusive, "frame exclusive", killed, restarted, stopped, refusing, silent, resetting);
in_protocol!(line, "line", killed, restarted, stopped, refusing, silent, resetting);

fn plan(p: &Protocol, endpoints: &[&Endpoint]) -> Plan {
    let addresses = endpoints.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>();
    p.plan(addresses[0])
        .endpoints(&addresses)
        .level("info")
        .set("pool.max_connections", &CONNECTIONS.to_string())
        .set("timeouts.connect", "\"300ms\"")
        .set("timeouts.request", "\"500ms\"")
        .set("health.interval", "\"300ms\"")
        .set("health.timeout", "\"300ms\"")
        .set("health.eject_after", &EJECT_AFTER.to_string())
        .set("health.eject_for", "\"200ms\"")
}

/// Two endpoints under load, of which one is to fail.
struct Outage {
    good: Endpoint,
    faulty: Endpoint,
    daemon: Daemon,
    crowd: Crowd,
}

impl Outage {
    /// Both serve.
    fn begin(p: &Protocol) -> Self {
        let (good, faulty) = (Endpoint::new(*p), Endpoint::new(*p));
        let daemon = plan(p, &[&faulty, &good]).start_ready();
        let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo"]);
        let this = Self { good, faulty, daemon, crowd };
        this.both_serve();
        this
    }

    fn both_serve(&self) {
        for (name, endpoint) in [("good", &self.good), ("faulty", &self.faulty)] {
            let enough = endpoint.given() + SOME;
            eventually(&format!("requests at the {name} one"), || (endpoint.given() >= enough).then_some(()));
        }
    }

    fn up(&self, endpoint: &Endpoint) -> u64 {
        let labels = [("upstream", UPSTREAM), ("endpoint", &*endpoint.address)];
        self.daemon.metric("endpoint_up", &labels)
    }

    fn is_down(&self) {
        becomes("endpoint_up of the faulty one", 0, || self.up(&self.faulty));
        self.crowd.is_served(MANY);
        assert_eq!(self.up(&self.good), 1);
    }

    fn is_back(&self) {
        becomes("endpoint_up of the faulty one", 1, || self.up(&self.faulty));
        self.both_serve();
    }

    fn ejections(&self) -> u64 {
        self.daemon.metric("ejections_total", &[("upstream", UPSTREAM)])
    }

    /// What can fail of an endpoint that takes requests and answers none: what it had when it was ejected, and
    /// then one request for each time that it is tried again.
    fn most_unanswered(&self) -> usize {
        EJECT_AFTER + CLIENTS + usize::try_from(self.ejections()).unwrap()
    }

    /// Holds for every outage. Returns the requests that failed: none but those that ended as one of
    /// `outcomes`.
    fn judge(self, outcomes: &[&str]) -> (HashSet<u128>, Endpoint) {
        let Self { mut good, mut faulty, daemon, crowd } = self;
        let calls = crowd.finish();
        let of = |end| calls.iter().filter(|call| call.end == end).map(|call| call.nonce).collect::<Vec<_>>();
        let (replied, failed) = (of(End::Replied), of(End::Refused));
        assert_eq!(of(End::Closed).len(), 0, "closed without a word");

        daemon.assert_conserved();
        assert_eq!(daemon.outcome("ok"), replied.len() as u64);
        let ended_so = outcomes.iter().map(|outcome| daemon.outcome(outcome)).sum::<u64>();
        assert_eq!(ended_so, failed.len() as u64, "{outcomes:?}");
        assert_eq!(daemon.metric("requests_total", &[]), calls.len() as u64);
        assert_eq!(daemon.metric("retries_total", &[("rung", "idempotent")]), 0);

        let (by_good, by_faulty) = (good.journal(), faulty.journal());
        let twice = by_good.iter().chain(&by_faulty).filter(|(_, count)| **count > 1).count();
        let by_both = by_good.keys().filter(|nonce| by_faulty.contains_key(nonce)).count();
        assert_eq!((twice, by_both), (0, 0), "requests that ran twice");
        let spoilt = failed.iter().filter(|nonce| by_good.contains_key(nonce)).count();
        assert_eq!(spoilt, 0, "of {} requests that failed, some were with the good one", failed.len());
        let served = |nonce: &&u128| by_good.contains_key(nonce) || by_faulty.contains_key(nonce);
        assert_eq!(replied.iter().filter(served).count(), replied.len(), "replies from nowhere");
        for endpoint in [&mut good, &mut faulty] {
            endpoint.server().assert_no_violation();
        }
        (failed.into_iter().collect(), faulty)
    }
}

fn killed(p: &Protocol) {
    let mut outage = Outage::begin(p);
    outage.faulty.kill();
    outage.is_down();
    outage.faulty.serve();
    outage.is_back();
    let (failed, _) = outage.judge(&["lost"]);
    assert!(failed.len() <= CLIENTS, "{} failed", failed.len());
}

fn restarted(p: &Protocol) {
    let mut outage = Outage::begin(p);
    outage.faulty.kill();
    outage.faulty.serve();
    outage.is_back();
    let (failed, _) = outage.judge(&["lost"]);
    assert!(failed.len() <= CLIENTS, "{} failed", failed.len());
}

fn refusing(p: &Protocol) {
    let (good, mut faulty) = (Endpoint::new(*p), Endpoint::new(*p));
    faulty.kill();
    let daemon = plan(p, &[&faulty, &good]).start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo"]);
    let mut outage = Outage { good, faulty, daemon, crowd };
    outage.is_down();
    assert_eq!(outage.ejections(), 0);
    outage.faulty.serve();
    outage.is_back();
    let (failed, _) = outage.judge(&["lost"]);
    assert_eq!(failed.len(), 0, "requests that it was never given");
}

fn stopped(p: &Protocol) {
    let mut outage = Outage::begin(p);
    outage.faulty.server().signal(Signal::STOP);
    outage.is_down();
    outage.faulty.server().signal(Signal::CONT);
    outage.is_back();
    finish_unanswered(outage);
}

/// It takes requests and answers none.
fn silent(p: &Protocol) {
    let mut outage = Outage::begin(p);
    outage.faulty.server().ask("fault hang 1000000");
    outage.is_down();
    outage.faulty.server().ask("fault echo 0");
    outage.is_back();
    finish_unanswered(outage);
}

/// Each request that failed is one that the endpoint was given.
fn finish_unanswered(outage: Outage) {
    let (ejections, most) = (outage.ejections(), outage.most_unanswered());
    let (failed, faulty) = outage.judge(&UNANSWERED);
    assert!(ejections > 0, "no ejection");
    assert!((EJECT_AFTER..=most).contains(&failed.len()), "{} failed, {ejections} ejections", failed.len());
    eventually("a server that has read everything", || {
        let seen = faulty.journal();
        failed.iter().all(|nonce| seen.contains_key(nonce)).then_some(())
    });
}

fn resetting(p: &Protocol) {
    let mut outage = Outage::begin(p);
    let before = outage.faulty.server().count("accepted");
    outage.faulty.server().ask("on-connect reset");
    outage.faulty.server().ask("end rst");
    outage.is_down();
    let tried = outage.faulty.server().count("accepted") - before;
    outage.faulty.server().ask("on-connect serve");
    outage.is_back();
    let (failed, _) = outage.judge(&["lost"]);
    // What was in flight, and what went into connections that were then reset.
    let most = CLIENTS * (1 + usize::try_from(tried).unwrap());
    assert!(failed.len() <= most, "{} failed, {tried} connections", failed.len());
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs nft and a network namespace; tests/run runs it")]
fn blackholed_multiplex() {
    blackholed("blackholed_multiplex", "frame multiplex");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs nft and a network namespace; tests/run runs it")]
fn blackholed_exclusive() {
    blackholed("blackholed_exclusive", "frame exclusive");
}

#[test]
#[cfg_attr(not(feature = "peers"), ignore = "needs nft and a network namespace; tests/run runs it")]
fn blackholed_line() {
    blackholed("blackholed_line", "line");
}

/// Its packets vanish.
fn blackholed(test: &str, protocol: &str) {
    if !in_own_network(test) {
        return;
    }
    let outage = Outage::begin(&Protocol::named(protocol));
    let host = outage.faulty.address.rsplit_once(':').unwrap().0;
    nft(&format!(
        "table ip hole {{ chain in {{ type filter hook input priority 0; ip daddr {host} drop; ip saddr {host} drop; }}; }}"
    ));
    outage.is_down();
    nft("delete table ip hole");
    outage.is_back();
    let most = outage.most_unanswered();
    let (failed, _) = outage.judge(&UNANSWERED);
    // Whether connects, probes or requests find out first is a race; the last may even be answered after all.
    assert!(failed.len() <= most, "{} failed, {most} may", failed.len());
}

fn nft(command: &str) {
    let output = Command::new("nft").arg(command).output().expect("nft is installed by `tests/run`");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Whoever is alone is never ejected, however often it fails.
fn alone(p: &Protocol) {
    let mut only = Endpoint::new(*p);
    let daemon = plan(p, &[&only]).set("retry.attempts", "1").start_ready();
    only.server().ask(&format!("fault reset {}", 4 * EJECT_AFTER));
    let crowd = Crowd::start(*p, &daemon.address, 2, &["echo"]);
    crowd.is_served(SOME);
    let calls = crowd.finish();
    assert!(calls.iter().all(|call| call.end != End::Closed));
    let failed = calls.iter().filter(|call| call.end == End::Refused).count();
    assert!(failed >= 4 * EJECT_AFTER, "{failed} failed");
    assert_eq!(daemon.metric("ejections_total", &[]), 0);
    daemon.assert_conserved();
    only.server().assert_no_violation();
}

in_protocol!(single, "frame exclusive", alone);
