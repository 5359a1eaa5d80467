//! Endpoints that share the requests of an upstream, by each policy: as their weights say, around one that is killed
//! under load, and as before when it is back.
//!
//! Nothing here takes place at a time: what is to come about is waited for, and requests are counted at the servers.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use std::collections::HashMap;

use common::{
    Asked, Call, Crowd, Daemon, End, Endpoint, Load, Plan, Protocol, UPSTREAM, becomes, eventually,
    in_protocol,
};

const WORKERS: [usize; 2] = [1, 2];
/// Each has one request outstanding.
const CLIENTS: usize = 12;
/// Requests that show who serves.
const MANY: u64 = 600;
/// Different keys that requests of a crowd have.
const KEYS: usize = 30;
/// Bytes of each.
const KEY: usize = 7;

in_protocol!(
    multiplex,
    "frame multiplex",
    one_of_three_is_killed,
    keys_of_one_of_three_that_is_killed,
    keys_by_id_of_one_of_three_that_is_killed,
    a_backup_waits_for_worse_times,
    least_in_flight_follows_the_weights,
    round_robin_follows_the_weights,
    keys_are_spread_by_weight,
    a_warm_floor_is_spread,
    lifetimes_spread_connections
);
in_protocol!(
    exclusive,
    "frame exclusive",
    one_of_three_is_killed,
    keys_of_one_of_three_that_is_killed,
    keys_by_id_of_one_of_three_that_is_killed,
    a_backup_waits_for_worse_times,
    least_in_flight_follows_the_weights,
    round_robin_follows_the_weights,
    a_warm_floor_is_spread,
    lifetimes_spread_connections,
    a_restarted_one_has_its_share_of_a_full_pool,
    a_hot_key_takes_idle_connections_of_others
);
in_protocol!(line, "line", one_of_three_is_killed, keys_of_one_of_three_that_is_killed);

/// How a request leads to its endpoint.
#[derive(Clone, Copy, Debug)]
enum Key {
    Method,
    Bytes,
    Id,
}

fn by_policy(p: &Protocol, policy: &str) -> Plan {
    p.plan("127.0.0.1:1").set("balance.policy", &format!("{policy:?}"))
}

fn by_key(p: &Protocol, key: Key) -> Plan {
    let at = if p.is_framed() { p.wire.header() } else { 0 };
    let bytes = format!("{{ offset = {at}, size = {KEY} }}");
    let plan = by_policy(p, "hash");
    match key {
        Key::Method if p.is_framed() => plan.set("protocol.frame.method", &bytes),
        Key::Method => plan,
        Key::Bytes => plan.set("balance.key", &bytes),
        Key::Id => plan.set("balance.key", "\"id\""),
    }
}

/// Back soon, and with the whole share soon.
fn hasty(plan: Plan) -> Plan {
    plan.level("info")
        .set("pool.max_connections", &CLIENTS.to_string())
        .set("health.interval", "\"200ms\"")
        .set("balance.slow_start", "\"300ms\"")
}

fn keys() -> Vec<String> {
    (0..KEYS).map(|key| format!("key{key:04}")).collect()
}

fn addresses<'a>(endpoints: impl IntoIterator<Item = &'a Endpoint>) -> Vec<&'a str> {
    endpoints.into_iter().map(|endpoint| &*endpoint.address).collect()
}

fn up(daemon: &Daemon, endpoint: &Endpoint) -> u64 {
    daemon.metric("endpoint_up", &[("upstream", UPSTREAM), ("endpoint", &*endpoint.address)])
}

/// Waits for so many further replies; how many requests each endpoint was given meanwhile.
fn window(crowd: &Crowd, endpoints: &[Endpoint], count: u64) -> Vec<u64> {
    let before = endpoints.iter().map(Endpoint::given).collect::<Vec<_>>();
    crowd.is_served(count);
    endpoints.iter().zip(before).map(|(endpoint, before)| endpoint.given() - before).collect()
}

/// Whether each has its part by weight, give or take so many per cent.
fn are_shares(counts: &[u64], weights: &[u32], percent: u64) -> bool {
    let (all, parts) = (counts.iter().sum::<u64>(), u64::from(weights.iter().sum::<u32>()));
    counts.iter().zip(weights).all(|(count, weight)| {
        let right = all * u64::from(*weight);
        (count * parts).abs_diff(right) * 100 <= right * percent
    })
}

/// What failed was, at most, in flight at one of so many deaths; all else was answered, once.
fn judge(daemon: &Daemon, endpoints: &mut [Endpoint], calls: &[Call], deaths: usize) {
    let of = |end| calls.iter().filter(|call| call.end == end).map(|call| call.nonce).collect::<Vec<_>>();
    let (replied, failed) = (of(End::Replied), of(End::Refused));
    assert_eq!(of(End::Closed).len(), 0, "closed without a word");
    let lost = daemon.outcome("lost");
    assert!(failed.len() <= deaths * CLIENTS, "{} failed, {lost} of them lost", failed.len());
    daemon.assert_conserved();
    assert_eq!(lost, failed.len() as u64);
    assert_eq!(daemon.outcome("ok") + lost, daemon.metric("requests_total", &[]));
    let mut seen = HashMap::<u128, u32>::new();
    for (nonce, count) in endpoints.iter().flat_map(Endpoint::journal) {
        *seen.entry(nonce).or_default() += count;
    }
    assert_eq!(seen.values().filter(|count| **count > 1).count(), 0, "requests that ran twice");
    assert_eq!(replied.iter().filter(|nonce| !seen.contains_key(nonce)).count(), 0, "replies from nowhere");
    for endpoint in endpoints {
        endpoint.server().assert_no_violation();
    }
}

/// Each endpoint gets its third before; the others the whole meanwhile; each its third after.
fn one_of_three_is_killed(p: &Protocol) {
    for (policy, workers) in WORKERS.iter().flat_map(|w| [("least_in_flight", *w), ("round_robin", *w)]) {
        let mut endpoints = [(); 3].map(|()| Endpoint::new(*p));
        let plan = hasty(by_policy(p, policy)).endpoints(&addresses(&endpoints)).workers(workers);
        let daemon = plan.set("pool.min_connections", "3").start_ready();
        let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:1"]);
        share_evenly(&crowd, &endpoints);

        endpoints[1].kill();
        becomes("endpoint_up of the one that is killed", 0, || up(&daemon, &endpoints[1]));
        let before = endpoints[1].given();
        crowd.is_served(MANY);
        assert_eq!(endpoints[1].given(), before);

        endpoints[1].serve();
        share_evenly(&crowd, &endpoints);
        judge(&daemon, &mut endpoints, &crowd.finish(), 1);
    }
}

fn share_evenly(crowd: &Crowd, endpoints: &[Endpoint]) {
    eventually("even shares", || {
        let counts = window(crowd, endpoints, MANY);
        are_shares(&counts, &vec![1; endpoints.len()], 20).then_some(())
    });
}

fn keys_of_one_of_three_that_is_killed(p: &Protocol) {
    for (key, workers) in [Key::Method, Key::Bytes].into_iter().zip(WORKERS) {
        keys_around_a_death(p, key, workers);
    }
}

fn keys_by_id_of_one_of_three_that_is_killed(p: &Protocol) {
    for workers in WORKERS {
        keys_around_a_death(p, Key::Id, workers);
    }
}

/// Its keys go elsewhere until it is back, and those of the others never.
fn keys_around_a_death(p: &Protocol, key: Key, workers: usize) {
    let keys = keys();
    let keys = keys.iter().map(|key| &**key).collect::<Vec<_>>();
    let mut endpoints = [(); 3].map(|()| Endpoint::sound(*p));
    let daemon = hasty(by_key(p, key)).endpoints(&addresses(&endpoints)).workers(workers).start_ready();
    let homes = places(p, &daemon, &endpoints, &keys);
    assert!((0..3).all(|endpoint| homes.contains(&endpoint)), "nobody lives at some: {homes:?}");

    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &keys);
    crowd.is_served(MANY);
    endpoints[1].kill();
    becomes("endpoint_up of the one that is killed", 0, || up(&daemon, &endpoints[1]));
    let gone = crowd.now();
    crowd.is_served(MANY);
    let back = crowd.now();
    endpoints[1].serve();
    becomes("endpoint_up of the one that is back", 1, || up(&daemon, &endpoints[1]));
    becomes("where keys lead", homes.clone(), || places(p, &daemon, &endpoints, &keys));
    let home = crowd.now();
    crowd.is_served(MANY);
    let calls = crowd.finish();
    judge(&daemon, &mut endpoints, &calls, 1);

    let journals = endpoints.each_ref().map(Endpoint::journal);
    let mut elsewhere = HashMap::new();
    for call in calls.iter().filter(|call| call.end == End::Replied) {
        let at = journals.iter().position(|journal| journal.contains_key(&call.nonce)).unwrap();
        let its_home = homes[keys.iter().position(|key| *key == call.verb).unwrap()];
        if its_home != 1 || call.began > home {
            assert_eq!(at, its_home, "where {} was led", call.verb);
        } else if call.began > gone && call.ended < back {
            assert_ne!(at, 1, "where {} was led", call.verb);
            assert_eq!(*elsewhere.entry(&call.verb).or_insert(at), at, "where {} was led", call.verb);
        }
    }
    assert_eq!(elsewhere.len(), homes.iter().filter(|home| **home == 1).count());
}

/// Where each key leads to now.
fn places(p: &Protocol, daemon: &Daemon, endpoints: &[Endpoint], keys: &[&str]) -> Vec<usize> {
    let ask = |(place, key): (usize, &&str)| {
        let asked = Asked::with_id(p.wire, key, 100, place as u64 + 1);
        let mut client = p.client(&daemon.address);
        client.send(&asked.bytes);
        client.expect(&asked);
        asked.request.nonce
    };
    let nonces = keys.iter().enumerate().map(ask).collect::<Vec<_>>();
    let journals = endpoints.iter().map(Endpoint::journal).collect::<Vec<_>>();
    let place = |nonce| journals.iter().position(|journal| journal.contains_key(nonce)).unwrap();
    nonces.iter().map(place).collect()
}

fn a_backup_waits_for_worse_times(p: &Protocol) {
    let plans = ["least_in_flight", "round_robin"].map(|policy| by_policy(p, policy));
    for plan in plans.into_iter().chain([by_key(p, Key::Method)]) {
        for workers in WORKERS {
            backup_steps_in(p, hasty(plan.clone()).workers(workers));
        }
    }
}

/// It gets nothing before all others are gone, then everything, and nothing again when they are back.
fn backup_steps_in(p: &Protocol, plan: Plan) {
    let mut endpoints = [(); 3].map(|()| Endpoint::sound(*p));
    let [one, other, backup] = addresses(&endpoints)[..] else { unreachable!() };
    let daemon = plan.with_backup(&[one, other], backup).start_ready();
    let keys = keys();
    let crowd =
        Crowd::start(*p, &daemon.address, CLIENTS, &keys.iter().map(|key| &**key).collect::<Vec<_>>());
    crowd.is_served(MANY);
    endpoints[0].kill();
    becomes("endpoint_up of the first", 0, || up(&daemon, &endpoints[0]));
    crowd.is_served(MANY);
    assert_eq!(endpoints[2].given(), 0, "requests at the backup");

    endpoints[1].kill();
    // Each client may have had its reply and not counted it yet.
    crowd.is_served(MANY + CLIENTS as u64);
    assert!(endpoints[2].given() >= MANY);

    endpoints[0].serve();
    endpoints[1].serve();
    eventually("requests at the first two only", || {
        let counts = window(&crowd, &endpoints, MANY);
        (counts[0] > 0 && counts[1] > 0 && counts[2] == 0).then_some(())
    });
    judge(&daemon, &mut endpoints, &crowd.finish(), 2);
}

fn least_in_flight_follows_the_weights(p: &Protocol) {
    follows_the_weights(p, "least_in_flight");
}

fn round_robin_follows_the_weights(p: &Protocol) {
    follows_the_weights(p, "round_robin");
}

/// On each number of threads 10,000 requests of short clients, and 5,000 of one that asks again and again: 30,000.
fn follows_the_weights(p: &Protocol, policy: &str) {
    for (weights, workers) in WORKERS.iter().flat_map(|workers| [([1; 3], *workers), ([1, 2, 3], *workers)]) {
        let mut servers = [(); 3].map(|()| p.server());
        let shares = servers.iter().zip(weights).map(|(server, weight)| (&*server.address, weight));
        let plan = by_policy(p, policy).weighted(&shares.collect::<Vec<_>>()).workers(workers);
        let daemon = plan.level("info").set("pool.min_connections", "3").start_ready();
        let mut given = move || servers.each_mut().map(|server| server.count("requests"));
        // A time of its own makes servers equal that a busy machine does not.
        for (clients, requests, verb) in [(10_000, 1, "delay:1"), (1, 5_000, "echo")] {
            let before = given();
            let load = format!("--connections {clients} --requests-per-connection {requests} --verb {verb}");
            Load::start(&daemon.address, p.wire, &format!("{load} --concurrency 16"))
                .finish()
                .assert_all_ok(clients * requests);
            let counts = given().iter().zip(before).map(|(now, before)| now - before).collect::<Vec<_>>();
            assert_eq!(counts.iter().sum::<u64>(), clients * requests);
            assert!(
                are_shares(&counts, &weights, 5),
                "{policy} {weights:?} on {workers} threads: {counts:?}"
            );
        }
        daemon.assert_conserved();
    }
}

/// Each of 30,000 keys leads to the same endpoint again, in any order, at any warmline.
fn keys_are_spread_by_weight(p: &Protocol) {
    const DISTINCT: u64 = 30_000;
    for weights in [[1; 3], [1, 2, 3]] {
        let endpoints = [(); 3].map(|()| Endpoint::new(*p));
        let shares = endpoints.iter().zip(weights).map(|(endpoint, weight)| (&*endpoint.address, weight));
        let plan = by_key(p, Key::Id).weighted(&shares.collect::<Vec<_>>()).level("info");
        let mut ids = (1..=DISTINCT).collect::<Vec<_>>();
        let mut homes = HashMap::new();
        for workers in WORKERS {
            let daemon = plan.clone().workers(workers).start_ready();
            fastrand::shuffle(&mut ids);
            let nonces = ask_with_ids(p, &daemon, &ids);
            let journals = endpoints.each_ref().map(Endpoint::journal);
            for (id, nonce) in ids.iter().zip(nonces) {
                let at = journals.iter().position(|journal| journal.contains_key(&nonce)).unwrap();
                assert_eq!(*homes.entry(*id).or_insert(at), at, "where {id} was led");
            }
        }
        let counts = (0..3).map(|at| homes.values().filter(|home| **home == at).count() as u64);
        let counts = counts.collect::<Vec<_>>();
        assert!(are_shares(&counts, &weights, 5), "{weights:?}: {counts:?}");
    }
}

/// One client that has some outstanding at a time; its nonces.
fn ask_with_ids(p: &Protocol, daemon: &Daemon, ids: &[u64]) -> Vec<u128> {
    let mut client = p.client(&daemon.address);
    let mut nonces = Vec::new();
    for ids in ids.chunks(32) {
        let asked = ids.iter().map(|id| (*id, Asked::with_id(p.wire, "echo", 0, *id)));
        let mut asked = asked.collect::<HashMap<_, _>>();
        nonces.extend(ids.iter().map(|id| asked[id].request.nonce));
        client.send(&ids.iter().flat_map(|id| asked[id].bytes.clone()).collect::<Vec<_>>());
        while !asked.is_empty() {
            let reply = client.message().unwrap();
            assert_eq!(reply, asked.remove(&reply.id).unwrap().reply);
        }
    }
    nonces
}

fn a_warm_floor_is_spread(p: &Protocol) {
    for (weights, workers) in WORKERS.iter().flat_map(|workers| [([1; 3], *workers), ([1, 2, 3], *workers)]) {
        let servers = [(); 3].map(|()| p.server());
        let shares = servers.iter().zip(weights).map(|(server, weight)| (&*server.address, weight));
        let plan = by_policy(p, "least_in_flight").weighted(&shares.collect::<Vec<_>>()).workers(workers);
        let plan = plan.set("pool.min_connections", "6").set("pool.max_connections", "8");
        let daemon = plan.start_ready();
        let parts = weights.iter().sum::<u32>();
        let right = weights.map(|weight| (6 * weight / parts) as usize);
        assert_eq!(servers.each_ref().map(|server| daemon.upstream_sockets(&server.address)), right);
    }
}

fn sockets(daemon: &Daemon, endpoints: &[Endpoint]) -> Vec<usize> {
    endpoints.iter().map(|endpoint| daemon.upstream_sockets(&endpoint.address)).collect()
}

/// One endpoint has all connections, until the other is there.
fn lifetimes_spread_connections(p: &Protocol) {
    for workers in WORKERS {
        let mut endpoints = [(); 2].map(|()| Endpoint::new(*p));
        endpoints[1].kill();
        let plan = by_policy(p, "least_in_flight").endpoints(&addresses(&endpoints)).workers(workers);
        let plan = plan.set("pool.min_connections", "6").set("pool.max_connections", "6");
        let daemon = plan.level("info").set("pool.max_lifetime", "\"1s\"").start_ready();
        assert_eq!(sockets(&daemon, &endpoints), [6, 0]);
        let crowd = Crowd::start(*p, &daemon.address, 2, &["echo"]);
        endpoints[1].serve();
        becomes("connections", vec![3, 3], || sockets(&daemon, &endpoints));
        assert!(daemon.metric("upstream_closed_total", &[("reason", "lifetime")]) > 0);
        judge(&daemon, &mut endpoints, &crowd.finish(), 0);
    }
}

/// The cap is reached all the time, and clients wait.
fn a_restarted_one_has_its_share_of_a_full_pool(p: &Protocol) {
    for (policy, workers) in ["least_in_flight", "round_robin"].into_iter().zip(WORKERS) {
        let mut endpoints = [(); 2].map(|()| Endpoint::new(*p));
        let plan = hasty(by_policy(p, policy)).endpoints(&addresses(&endpoints)).workers(workers);
        let daemon = plan.without("pool.max_connections").set("pool.max_connections", "8").start_ready();
        let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:1"]);
        share_evenly(&crowd, &endpoints);
        endpoints[0].kill();
        endpoints[0].serve();
        becomes("connections", vec![4, 4], || sockets(&daemon, &endpoints));
        share_evenly(&crowd, &endpoints);
        judge(&daemon, &mut endpoints, &crowd.finish(), 1);
    }
}

/// One connection more than endpoints, and it is always where it is needed.
fn a_hot_key_takes_idle_connections_of_others(p: &Protocol) {
    const ROUNDS: u64 = 4;
    for workers in WORKERS {
        let mut endpoints = [(); 3].map(|()| Endpoint::new(*p));
        let plan = by_key(p, Key::Id).endpoints(&addresses(&endpoints)).workers(workers);
        let daemon = plan.set("pool.max_connections", "4").start_ready();
        let homes = places(p, &daemon, &endpoints, &["echo"; KEYS]);
        for round in 0..ROUNDS {
            for (hot, endpoint) in endpoints.iter_mut().enumerate() {
                let id = homes.iter().position(|home| *home == hot).unwrap() as u64 + 1;
                let asked = [(); 2].map(|()| Asked::with_id(p.wire, "hold", 0, id));
                let mut clients = asked.each_ref().map(|asked| {
                    let client = p.client(&daemon.address);
                    client.send(&asked.bytes);
                    client
                });
                endpoint.server().reaches("held", 2);
                endpoint.server().ask("release");
                clients.iter_mut().zip(&asked).for_each(|(client, asked)| client.expect(asked));
            }
            // The first one may have been free.
            let gave_way = daemon.metric("upstream_closed_total", &[("reason", "balance")]);
            assert!(gave_way >= 3 * round + 2, "{gave_way} gave way in round {round}");
        }
        daemon.assert_conserved();
        assert_eq!(daemon.outcome("ok"), KEYS as u64 + 6 * ROUNDS);
    }
}
