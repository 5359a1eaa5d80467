//! All endpoints of an upstream die and come back: refused at once, tried in turns that requests do not hasten,
//! no storm on the return, and served again (item 10 of the reliability design).
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use common::{Crowd, Daemon, End, Endpoint, Plan, Protocol, becomes, in_protocol, sampling};

/// As many as connections: the first endpoint that is back may have them all.
const CLIENTS: usize = 8;
const CONNECTIONS: u64 = 8;
const CONNECTING: u64 = 2;
/// Requests that are refused while nobody is there.
const REFUSED: u64 = 1_000;
/// Requests that are served before and after.
const SERVED: u64 = 200;

in_protocol!(multiplex, "frame multiplex", all_die_and_come_back, dies_again_and_again);
in_protocol!(pipeline, "frame pipeline", all_die_and_come_back);
in_protocol!(exclusive, "frame exclusive", all_die_and_come_back, dies_again_and_again);
in_protocol!(line, "line", all_die_and_come_back, says_why);

/// No timeout may help: whoever is refused is refused at once.
fn plan(p: &Protocol, endpoints: &[Endpoint]) -> Plan {
    let addresses = endpoints.iter().map(|endpoint| &*endpoint.address).collect::<Vec<_>>();
    p.plan(addresses[0])
        .endpoints(&addresses)
        .level("info")
        .set("pool.max_connections", &CONNECTIONS.to_string())
        .set("pool.max_connecting", &CONNECTING.to_string())
        .set("pool.acquire_timeout", "\"10m\"")
        .set("timeouts.connect", "\"10m\"")
        .set("timeouts.request", "\"10m\"")
}

fn connects_failed(daemon: &Daemon) -> u64 {
    let metrics = daemon.metrics();
    metrics.sum("upstream_connects_total", &[]) - metrics.sum("upstream_connects_total", &[("result", "ok")])
}

fn all_die_and_come_back(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p), Endpoint::new(*p)];
    let daemon = plan(p, &endpoints).start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo"]);
    crowd.is_served(SERVED);

    let most = AtomicU64::new(0);
    let sample = || {
        let connecting = daemon.metric("upstream_connections", &[("state", "connecting")]);
        most.fetch_max(connecting, SeqCst);
    };
    sampling(sample, || {
        endpoints.iter_mut().for_each(Endpoint::kill);
        crowd.is_refused(REFUSED);
        let tried = connects_failed(&daemon);
        // Each endpoint is tried at intervals that grow; requests that are refused have no part in it.
        assert!(tried > 0 && tried * 10 <= REFUSED, "{tried} attempts for {REFUSED} refusals");
        for endpoint in &endpoints {
            assert_eq!(daemon.metric("endpoint_up", &[("endpoint", &endpoint.address)]), 0);
        }
        endpoints.iter_mut().for_each(Endpoint::serve);
        crowd.is_served(SERVED);
        for endpoint in &endpoints {
            becomes("endpoint_up", 1, || daemon.metric("endpoint_up", &[("endpoint", &endpoint.address)]));
        }
        crowd.is_served(SERVED);
    });
    assert!(most.load(SeqCst) <= CONNECTING, "{} connecting at a time", most.load(SeqCst));

    let calls = crowd.finish();
    assert!(calls.iter().all(|call| call.end != End::Closed), "closed without a word");
    let accepted = endpoints.each_mut().map(|endpoint| endpoint.server().count("accepted"));
    // The cap, and one that made room for the endpoint that was later.
    assert!(accepted.iter().sum::<u64>() <= CONNECTIONS + 1, "{accepted:?} connections on the return");
    for endpoint in &mut endpoints {
        assert!(endpoint.server().count("requests") > 0, "a share for both");
        endpoint.server().assert_no_violation();
    }
    daemon.assert_conserved();
    // What was in flight when they died is lost, all else was refused.
    let (lost, refused) = (daemon.outcome("lost"), daemon.outcome("refused"));
    assert!(lost <= CLIENTS as u64, "{lost} lost");
    assert_eq!(daemon.outcome("ok") + lost + refused, calls.len() as u64);
    assert_eq!(daemon.metric("refused_total", &[("reason", "down")]), refused);
}

/// Once one request is served, all are, until the next death.
fn dies_again_and_again(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p)];
    let daemon = plan(p, &endpoints).start_ready();
    for _ in 0..5 {
        endpoints[0].kill();
        for _ in 0..20 {
            let mut client = p.client(&daemon.address);
            client.ask("echo");
            p.expect_refusal(&mut client);
        }
        endpoints[0].serve();
        common::call_until_served(&daemon.address, p.wire);
        for _ in 0..20 {
            common::call(&daemon.address, p.wire, "echo");
        }
        endpoints[0].server().assert_no_violation();
    }
    daemon.assert_conserved();
}

/// The refusal names the last error.
fn says_why(p: &Protocol) {
    let mut endpoints = [Endpoint::new(*p)];
    let daemon = plan(p, &endpoints).start_ready();
    endpoints[0].kill();
    becomes("endpoint_up", 0, || daemon.metric("endpoint_up", &[]));
    for _ in 0..20 {
        let mut client = p.client(&daemon.address);
        client.ask("echo");
        let message = client.message().unwrap();
        let text = String::from_utf8(message.payload).unwrap();
        assert!(text.starts_with("ERR upstream is down: ") && text.contains("refused"), "{text}");
        assert!(text.contains(&endpoints[0].address), "{text}");
    }
    daemon.assert_conserved();
}
