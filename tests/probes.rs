//! Probes find out without any traffic: an endpoint that does not answer gets no requests, and is taken back when
//! it answers again. They keep to the cap.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{
    Asked, Crowd, Daemon, End, Endpoint, Plan, Protocol, UPSTREAM, becomes, call, eventually, in_protocol,
};
use rustix::process::Signal;

/// Requests that show that an endpoint has no share.
const SOME: usize = 50;
const UNHEALTHY_AFTER: u64 = 2;

in_protocol!(multiplex, "frame multiplex", stands_still, dies, expects, keeps_to_the_cap);
in_protocol!(pipeline, "frame pipeline", stands_still, stands_still_under_load, stays, keeps_to_the_cap);
in_protocol!(
    exclusive,
    "frame exclusive",
    stands_still,
    stands_still_under_load,
    stays,
    dies,
    expects,
    keeps_to_the_cap
);
in_protocol!(line, "line", stands_still, dies, expects, keeps_to_the_cap);

/// Probes at this interval; each must be answered before the next one.
fn plan(p: &Protocol, endpoints: &[&Endpoint], interval: &str) -> Plan {
    let addresses = endpoints.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>();
    p.plan(addresses[0])
        .endpoints(&addresses)
        .level("info")
        .set("pool.min_connections", &addresses.len().to_string())
        .set("health.interval", &format!("{interval:?}"))
        .set("health.timeout", &format!("{interval:?}"))
        .set("health.unhealthy_after", &UNHEALTHY_AFTER.to_string())
}

/// With a request of the protocol as the probe.
fn asking(plan: Plan, p: &Protocol, expect: impl FnOnce(&[u8]) -> Vec<u8>) -> Plan {
    let asked = Asked::new(p.wire, "probe", 0);
    let reply = p.wire.reply(&asked.reply);
    let bytes = |bytes: &[u8]| {
        let digits = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
        format!("\"hex:{}\"", digits.concat())
    };
    let (send, expect) = (bytes(&asked.bytes), bytes(&expect(&reply)));
    plan.set("health.probe", &format!("{{ send = {send}, expect = {expect} }}"))
}

fn up(daemon: &Daemon, endpoint: &Endpoint) -> u64 {
    daemon.metric("endpoint_up", &[("upstream", UPSTREAM), ("endpoint", &endpoint.address)])
}

fn probes(daemon: &Daemon, result: &str) -> u64 {
    daemon.metric("probes_total", &[("upstream", UPSTREAM), ("result", result)])
}

/// It answers nothing, and nobody asks.
fn stands_still(p: &Protocol) {
    let (good, mut faulty) = (Endpoint::new(*p), Endpoint::new(*p));
    let daemon = asking(plan(p, &[&faulty, &good], "200ms"), p, <[u8]>::to_vec).start_ready();
    eventually("probes that are answered", || (probes(&daemon, "ok") > 4).then_some(()));
    assert_eq!((up(&daemon, &good), up(&daemon, &faulty)), (1, 1));

    faulty.server().signal(Signal::STOP);
    becomes("endpoint_up", 0, || up(&daemon, &faulty));
    assert!(probes(&daemon, "timeout") >= UNHEALTHY_AFTER);
    for _ in 0..SOME {
        call(&daemon.address, p.wire, "echo");
    }
    assert_eq!((good.given(), up(&daemon, &good)), (SOME as u64, 1));

    faulty.server().signal(Signal::CONT);
    becomes("endpoint_up", 1, || up(&daemon, &faulty));
    assert_eq!(faulty.given(), 0, "requests at a server that stands still");
    eventually("a share of the requests", || {
        call(&daemon.address, p.wire, "echo");
        (faulty.given() > 0).then_some(())
    });
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), good.given() + faulty.given(), "probes are no requests");
    for mut endpoint in [good, faulty] {
        assert!(endpoint.server().count("probes") > 0);
        endpoint.server().assert_no_violation();
    }
}

/// Requests that hang on it do not hide it from the probes.
fn stands_still_under_load(p: &Protocol) {
    const CLIENTS: usize = 4;
    let (good, mut faulty) = (Endpoint::new(*p), Endpoint::new(*p));
    let daemon = asking(plan(p, &[&faulty, &good], "200ms"), p, <[u8]>::to_vec)
        .set("timeouts.request", "\"60s\"")
        .start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo"]);
    eventually("requests at both", || (good.given().min(faulty.given()) > 10).then_some(()));
    faulty.server().signal(Signal::STOP);
    becomes("endpoint_up", 0, || up(&daemon, &faulty));
    assert!(probes(&daemon, "timeout") >= UNHEALTHY_AFTER);
    faulty.server().signal(Signal::CONT);
    becomes("endpoint_up", 1, || up(&daemon, &faulty));
    assert!(crowd.finish().iter().all(|call| call.end == End::Replied));
    daemon.assert_conserved();
}

/// Probes that fail are no traffic: they eject nobody, so the probes go on, and find out when it is well again.
fn stays(p: &Protocol) {
    let (good, mut faulty) = (Endpoint::new(*p), Endpoint::new(*p));
    let daemon = asking(plan(p, &[&faulty, &good], "200ms"), p, <[u8]>::to_vec).start_ready();
    eventually("probes that are answered", || (probes(&daemon, "ok") > 4).then_some(()));
    faulty.server().signal(Signal::STOP);
    // More than `health.eject_after`.
    eventually("probes that are not", || (probes(&daemon, "timeout") > 8).then_some(()));
    assert_eq!(daemon.metric("ejections_total", &[("upstream", UPSTREAM)]), 0, "without a request");
    faulty.server().signal(Signal::CONT);
    becomes("endpoint_up", 1, || up(&daemon, &faulty));
}

/// Connecting is enough to notice that.
fn dies(p: &Protocol) {
    let (good, mut faulty) = (Endpoint::new(*p), Endpoint::new(*p));
    let plan = plan(p, &[&faulty, &good], "200ms").set("health.probe", "\"connect\"");
    let daemon = plan.start_ready();
    eventually("probes that succeed", || (probes(&daemon, "ok") > 4).then_some(()));
    for _ in 0..2 {
        faulty.kill();
        becomes("endpoint_up", 0, || up(&daemon, &faulty));
        eventually("probes that fail", || (probes(&daemon, "failed") > 0).then_some(()));
        faulty.serve();
        becomes("endpoint_up", 1, || up(&daemon, &faulty));
    }
    assert_eq!(up(&daemon, &good), 1);
    assert_eq!(daemon.metric("accepted_total", &[]), 0);
}

/// A reply that is not the one that was hoped for.
fn expects(p: &Protocol) {
    let only = Endpoint::new(*p);
    let wrong = |reply: &[u8]| [&reply[..reply.len() - 1], b"?"].concat();
    let daemon = asking(plan(p, &[&only], "200ms"), p, wrong).start_ready();
    becomes("endpoint_up", 0, || up(&daemon, &only));
    assert!(probes(&daemon, "failed") >= UNHEALTHY_AFTER);
    assert_eq!(probes(&daemon, "ok"), 0);
    // Nobody is better: it is not left out.
    call(&daemon.address, p.wire, "echo");
    daemon.assert_conserved();
}

fn keeps_to_the_cap(p: &Protocol) {
    const CONNECTIONS: usize = 2;
    let mut only = Endpoint::new(*p);
    let plan = asking(plan(p, &[&only], "1s"), p, <[u8]>::to_vec)
        .set("pool.max_connections", &CONNECTIONS.to_string());
    let daemon = plan.start_ready();
    // Where everything is busy there is traffic enough to judge by, and no probe; so somebody must pause.
    let crowd = Crowd::start(*p, &daemon.address, CONNECTIONS, &["delay:2"]);
    crowd.is_served(10);
    let before = probes(&daemon, "ok");
    eventually("probes under load", || (probes(&daemon, "ok") >= before + 3).then_some(()));
    let calls = crowd.finish();
    assert!(calls.iter().all(|call| call.end == End::Replied));
    assert_eq!((probes(&daemon, "failed"), probes(&daemon, "timeout")), (0, 0));
    assert!(only.server().count("max_open") <= CONNECTIONS as u64);
    only.server().assert_no_violation();
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), calls.len() as u64);
}
