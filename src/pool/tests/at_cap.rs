//! Who waits for whom where the cap is reached, endpoints come and go, and settings change; each was wrong once.
//! Long because it is a list: one story after another, none needing the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::two_endpoints;
use super::world::{Server, World, protocol, settings, settle};
use crate::connection::{Idempotent, Preamble};
use crate::net::Address;
use crate::pool::balance::{Endpoint, Key, Policy};
use crate::pool::{Cap, Settings};
use crate::protocol::{Mode, Refusal};
use crate::queue::rendezvous::hash;
use crate::wire::Budget;

const SECOND: Duration = Duration::from_secs(1);
const KEY: Policy = Policy::Hash(Key::Bytes { offset: 4, size: 1 });

fn endpoints(ports: impl IntoIterator<Item = u16>) -> Vec<Endpoint> {
    ports.into_iter().map(|port| Address::Tcp { host: "10.0.0.1".into(), port }.into()).collect()
}

fn retune(world: &mut World, change: impl FnOnce(&mut Settings)) {
    let mut settings = world.pool.settings().clone();
    change(&mut settings);
    world.pool = world.pool.retune(settings);
}

fn key_to(world: &World, place: usize) -> u8 {
    (0..=255u8).find(|key| world.pool.core.queue.lead(hash(&[*key])) == Some(place)).unwrap()
}

fn serve(mut server: Server, time: Duration) {
    tokio::spawn(async move {
        while let Some((_, id, payload)) = server.try_receive().await {
            sleep(time).await;
            server.send(0, id, &payload).await;
        }
    });
}

/// Answers "slow" after ten seconds, everything else at once.
fn serve_slowly(mut server: Server) {
    tokio::spawn(async move {
        while let Some((_, id, payload)) = server.try_receive().await {
            sleep(if payload == b"slow" { 10 * SECOND } else { Duration::ZERO }).await;
            server.send(0, id, &payload).await;
        }
    });
}

/// Serves, closes, and closes again without a reply: is the endpoint tried again for who waits?
async fn tried_again_after_an_early_close(policy: Policy) {
    let mut limits = settings(Mode::Exclusive, 0, 1);
    limits.balance.policy = policy;
    limits.connection.idempotent = Idempotent::All;
    let mut world = World::new(limits);
    let mut call = world.call(b"a");
    let mut server = world.accept().await;
    server.echo().await;
    call.reply().await;
    drop(server);
    settle().await;
    let mut call = world.call(b"b");
    let mut server = world.accept().await;
    server.receive().await;
    drop(server);
    assert!(call.is_open().await, "it may be tried again");
    let server = timeout(2 * SECOND, world.accept()).await;
    let mut server = server.expect("a pause is 100 ms at most, and nobody looks again after it");
    server.echo().await;
    assert_eq!(call.reply().await, b"b");
}

#[tokio::test(start_paused = true)]
async fn control_least_in_flight_looks_again_after_a_pause() {
    tried_again_after_an_early_close(Policy::LeastInFlight).await;
}

#[tokio::test(start_paused = true)]
async fn hash_looks_again_after_a_pause() {
    tried_again_after_an_early_close(KEY).await;
}

/// A second one that waits for the same endpoint, and a floor that the other endpoint has.
#[tokio::test(start_paused = true)]
async fn hash_looks_again_after_a_pause_with_a_floor_elsewhere() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 2);
    limits.balance.policy = KEY;
    limits.connection.idempotent = Idempotent::All;
    limits.retry.attempts = 4;
    let mut world = World::new(limits);
    let (warm, server) = world.accept_at().await;
    serve(server, Duration::ZERO);
    settle().await;
    let key = key_to(&world, 1 - warm);
    // Its connections end young and without a reply, as those of a server that is starting do.
    let mut calls = [world.call(&[key]), world.call(&[key]), world.call(&[key])];
    let start = Instant::now();
    let mut connects = Vec::new();
    while let Ok((at, server)) = timeout(3 * SECOND, world.accept_at()).await {
        connects.push((at, start.elapsed()));
        if connects.len() <= 2 {
            drop(server);
        } else {
            serve(server, Duration::ZERO);
        }
    }
    let mut answers = Vec::new();
    for call in &mut calls {
        answers.push(call.answer().await.err());
    }
    assert!(!answers.contains(&Some(Refusal::AcquireTimeout)), "{answers:?}, {connects:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lower_cap_holds_for_sockets_that_were_being_opened() {
    let cap = Cap::new(4, 1);
    let mut limits = settings(Mode::Exclusive, 0, 4);
    limits.connection.preamble =
        Some(Preamble { expect: b"hi".as_slice().into(), send: bytes::Bytes::new() });
    let mut world = World::under(&cap, limits, protocol(), Budget::new(1 << 20));
    let mut calls: Vec<_> = (0..4).map(|n| world.call(&[n])).collect();
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(world.accept().await);
    }
    cap.resize(1, 1);
    retune(&mut world, |settings| settings.max_connections = 1);
    settle().await;
    for server in &mut servers {
        use tokio::io::AsyncWriteExt as _;
        server.wire.write_all(b"hi").await.unwrap();
    }
    settle().await;
    for server in &mut servers {
        server.echo().await;
    }
    for call in &mut calls {
        call.reply().await;
    }
    settle().await;
    let idle = world.pool.figures().idle;
    // Under load none of them is ever spare.
    assert_eq!((cap.excess(), idle), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_endpoint_comes_back_when_probes_are_turned_off() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 4);
    limits.health.interval = Some(SECOND);
    let mut world = World::new(limits);
    world.refuse(1, true);
    let (at, server) = world.accept_at().await;
    assert_eq!(at, 0);
    serve(server, Duration::from_millis(1));
    sleep(20 * SECOND).await;
    let up: Vec<_> = world.pool.endpoints().into_iter().map(|it| it.up).collect();
    assert_eq!(up, [true, false]);
    world.refuse(1, false);
    retune(&mut world, |settings| settings.health.interval = None);
    for n in 0..100 {
        world.call(&[n]).reply().await;
        if let Ok((at, _server)) = timeout(SECOND, world.accept_at()).await {
            assert_eq!(at, 1);
            return;
        }
    }
    panic!("it is left out for ever: {:?}", world.pool.endpoints());
}

/// More endpoints than connections, as a name may have any number of addresses.
#[tokio::test(start_paused = true)]
async fn with_hash_every_endpoint_has_its_turn_at_the_cap() {
    let mut limits = settings(Mode::Exclusive, 0, 2);
    limits.endpoints = endpoints(1..=4);
    limits.balance.policy = KEY;
    let mut world = World::new(limits);
    let keys = [0, 1, 2, 3].map(|place| key_to(&world, place));
    let pool = world.pool.clone();
    let counts: Arc<[[AtomicUsize; 2]; 4]> = Arc::default();
    for (place, key) in keys.into_iter().enumerate() {
        for _ in 0..4 {
            let (pool, counts) = (pool.clone(), counts.clone());
            let send = move || {
                let bytes = bytes::Bytes::from(super::world::message(0, 7, &[key]));
                let request = crate::protocol::Request::new(bytes, false);
                pool.admit(request, super::world::ANYBODY, Instant::now())
            };
            let pool = world.pool.clone();
            tokio::spawn(async move {
                loop {
                    let mut ticket = send();
                    let answer = loop {
                        let at = pool.expire(&ticket, Instant::now());
                        let answer = std::future::poll_fn(|cx| ticket.poll_answer(cx));
                        let until = at.unwrap_or_else(|| Instant::now() + SECOND);
                        if let Ok(answer) = tokio::time::timeout_at(until, answer).await {
                            break answer;
                        }
                    };
                    counts[place][usize::from(answer.is_err())].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    let end = Instant::now() + 30 * SECOND;
    while let Ok((_, server)) = tokio::time::timeout_at(end, world.accept_at()).await {
        serve(server, Duration::from_millis(10));
    }
    let counts: Vec<_> = counts.iter().map(|it| [0, 1].map(|at| it[at].load(Ordering::Relaxed))).collect();
    assert!(counts.iter().all(|[ok, _]| *ok > 0), "[ok, refused] by endpoint: {counts:?}");
}

/// One connection that finishes a long request keeps all idle ones from making room.
#[tokio::test(start_paused = true)]
async fn a_slow_leaver_does_not_keep_idle_ones_from_making_room() {
    let mut limits = settings(Mode::Exclusive, 0, 3);
    limits.endpoints = endpoints([1, 2]);
    limits.balance.policy = KEY;
    let mut world = World::new(limits);
    let keys = [0, 1].map(|place| key_to(&world, place));
    let long = world.call(&[keys[0]]);
    let (at, mut busy) = world.accept_at().await;
    assert_eq!(at, 0);
    busy.receive().await;
    let mut calls = [world.call(&[keys[1]]), world.call(&[keys[1]])];
    for _ in 0..2 {
        let (at, server) = world.accept_at().await;
        assert_eq!(at, 1);
        serve(server, Duration::from_millis(1));
    }
    for call in &mut calls {
        call.reply().await;
    }
    // The names have another address in place of the first one.
    retune(&mut world, |settings| settings.endpoints = endpoints([2, 3]));
    settle().await;
    assert_eq!(world.pool.figures().idle, 2);
    let key = key_to(&world, 2);
    let mut call = world.call(&[key]);
    let accepted = timeout(2 * SECOND, world.accept_at()).await;
    assert!(
        accepted.is_ok(),
        "two are idle, and it waits: {:?}, {:?}",
        world.pool.figures(),
        call.answer().await
    );
    drop(long);
}

/// The same among generations: the oldest has one that is on its way out, and the second one idle ones.
#[tokio::test(start_paused = true)]
async fn every_generation_gives_way_not_only_the_oldest() {
    let cap = Cap::new(2, 1);
    let under = |min| World::under(&cap, settings(Mode::Exclusive, min, 2), protocol(), Budget::new(1 << 20));
    let mut first = under(0);
    let _long = first.call(b"long");
    let mut busy = first.accept().await;
    busy.receive().await;
    first.pool.supersede();
    let mut second = under(0);
    second.pool.supersede();
    let mut call = second.call(b"x");
    let server = second.accept().await;
    serve(server, Duration::from_millis(1));
    call.reply().await;
    settle().await;
    assert_eq!(second.pool.figures().idle, 1);
    let mut third = under(1);
    let mut call = third.call(b"y");
    let accepted = timeout(2 * SECOND, third.accept()).await;
    assert!(accepted.is_ok(), "one is idle, and it waits: {:?}", call.answer().await);
}

#[tokio::test(start_paused = true)]
async fn a_superseded_pool_that_is_down_and_asked_nothing_dials_nobody() {
    let world = World::new(settings(Mode::Exclusive, 1, 4));
    world.refuse(0, true);
    sleep(5 * SECOND).await;
    world.pool.supersede();
    sleep(10 * SECOND).await;
    let failed = || {
        use crate::events::ConnectResult;
        world.events.connects.of(ConnectResult::Refused).get()
    };
    let before = failed();
    sleep(600 * SECOND).await;
    assert_eq!(failed() - before, 0, "attempts in ten minutes without a request");
    assert!(matches!(world.call(b"x").answer().await, Err(Refusal::Down(_))));
}

/// A connect timeout that a reload raises.
#[tokio::test]
async fn a_raised_connect_timeout_holds() {
    let connection = settings(Mode::Exclusive, 0, 1).connection;
    let old =
        crate::connection::Settings { connect_timeout: Duration::from_millis(200), ..connection.clone() };
    let new = crate::connection::Settings { connect_timeout: SECOND, ..connection };
    // As `Upstream::replace` makes it, and what `retune` keeps.
    let network = crate::connection::Network::new(&old);
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let to = listener.local_addr().unwrap().as_socket().unwrap();
    let mut full = Vec::new();
    for _ in 0..4 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&to.into());
        full.push(socket);
    }
    let address: Address = Address::from(to);
    let start = Instant::now();
    let dialled = crate::connection::dial(&network, (0, &address), &new).await;
    assert!(dialled.is_err());
    assert!(start.elapsed() >= SECOND, "{:?}: {dialled:?}", start.elapsed());
}

/// Answers on every connection, at once.
#[derive(Debug, Default)]
struct Everywhere(AtomicUsize);

impl crate::connection::Connector for Everywhere {
    fn connect(&self, _: usize, _: &Address, _: Duration) -> crate::connection::Connecting {
        self.0.fetch_add(1, Ordering::Relaxed);
        let (near, far) = crate::wire::memory::pair(4096);
        serve(Server { wire: far.into() }, Duration::ZERO);
        Box::pin(async move { Ok(near.into()) })
    }
}

/// "fast" is not known, "slow" takes a second.
#[derive(Debug)]
struct Names;

impl crate::pool::Resolver for Names {
    fn resolve(&self, name: &Address) -> crate::pool::names::Resolving {
        let name = name.to_string();
        Box::pin(async move {
            if name.starts_with("fast") {
                return Err(std::io::Error::other("nobody knows"));
            }
            sleep(SECOND).await;
            let found = crate::net::Found::from("10.0.0.9:1".parse::<std::net::SocketAddr>().unwrap());
            Ok(crate::net::Answer { found: vec![found], ttl: None })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn one_name_without_an_answer_is_no_reason_to_refuse_while_another_is_looked_up() {
    let mut limits = settings(Mode::Exclusive, 1, 2);
    limits.endpoints = ["fast.example:1", "slow.example:1"]
        .map(|name| Endpoint::from(name.parse::<Address>().unwrap()))
        .into();
    let events = Arc::new(crate::events::Upstream::new("u"));
    let back = crate::lifecycle::Switch::new();
    let means = crate::pool::Means {
        connector: Arc::new(Everywhere::default()),
        resolver: Arc::new(Names),
        cap: Cap::new(2, 1),
    };
    let (pool, keeper) =
        crate::pool::Pool::new(limits, protocol(), events, Budget::new(1 << 20), back.watch(), means);
    let request = crate::protocol::Request::new(super::world::message(0, 7, b"x").into(), false);
    let mut ticket = pool.admit(request, super::world::ANYBODY, Instant::now());
    let _keeper = tokio::spawn(keeper.run());
    let answer = timeout(2 * SECOND, std::future::poll_fn(|cx| ticket.poll_answer(cx))).await;
    assert!(matches!(answer, Ok(Ok(_))), "{answer:?}");
}

/// What a superseded pool has and nobody uses, while the current one has one connection and much to do.
#[tokio::test(start_paused = true)]
async fn what_a_superseded_pool_does_not_use_is_for_the_current_one() {
    let cap = Cap::new(2, 1);
    let under = |min| World::under(&cap, settings(Mode::Exclusive, min, 2), protocol(), Budget::new(1 << 20));
    let mut old = under(0);
    old.pool.supersede();
    let mut call = old.call(b"x");
    serve(old.accept().await, Duration::ZERO);
    call.reply().await;
    let mut new = under(1);
    let _busy = new.call(b"long");
    let mut server = new.accept().await;
    server.receive().await;
    let mut call = new.call(b"y");
    let accepted = timeout(2 * SECOND, new.accept()).await;
    assert!(accepted.is_ok(), "old: {:?}; new: {:?}", old.pool.figures(), call.answer().await);
}

/// A pool at rest rests.
#[tokio::test(start_paused = true)]
async fn a_pool_at_its_cap_that_nobody_asks_rests() {
    let mut limits = settings(Mode::Exclusive, 2, 2);
    limits.endpoints = endpoints(1..=3);
    limits.connection.max_lifetime = 90_000 * SECOND;
    let mut world = World::new(limits);
    for _ in 0..2 {
        serve(world.accept().await, Duration::ZERO);
    }
    world.call(b"x").reply().await;
    sleep(60 * SECOND).await;
    let before = crate::queue::LOOKS.with(std::cell::Cell::get);
    sleep(600 * SECOND).await;
    let looks = crate::queue::LOOKS.with(std::cell::Cell::get) - before;
    assert!(looks < 100, "{looks} looks at the demand in ten minutes without a request");
}

/// hash within the limits of the configuration, but an old generation has one long request.
#[tokio::test(start_paused = true)]
async fn with_hash_an_old_long_request_starves_no_endpoint() {
    let cap = Cap::new(3, 1);
    let mut limits = settings(Mode::Exclusive, 0, 3);
    limits.endpoints = endpoints(1..=3);
    limits.balance.policy = KEY;
    let under = || World::under(&cap, limits.clone(), protocol(), Budget::new(1 << 20));
    let mut old = under();
    let _long = old.call(b"long");
    let mut held = old.accept().await;
    held.receive().await;
    old.pool.supersede();
    let mut world = under();
    let keys = [0, 1, 2].map(|place| key_to(&world, place));
    let counts: Arc<[[AtomicUsize; 2]; 3]> = Arc::default();
    for (place, key) in keys.into_iter().enumerate() {
        for _ in 0..4 {
            let (pool, counts) = (world.pool.clone(), counts.clone());
            tokio::spawn(async move {
                loop {
                    let bytes = bytes::Bytes::from(super::world::message(0, 7, &[key]));
                    let request = crate::protocol::Request::new(bytes, false);
                    let mut ticket = pool.admit(request, super::world::ANYBODY, Instant::now());
                    let answer = loop {
                        let at = pool.expire(&ticket, Instant::now());
                        let answer = std::future::poll_fn(|cx| ticket.poll_answer(cx));
                        let until = at.unwrap_or_else(|| Instant::now() + SECOND);
                        if let Ok(answer) = tokio::time::timeout_at(until, answer).await {
                            break answer;
                        }
                    };
                    counts[place][usize::from(answer.is_err())].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    }
    let end = Instant::now() + 10 * SECOND;
    let mut connects = [0; 3];
    while let Ok((at, server)) = tokio::time::timeout_at(end, world.accept_at()).await {
        connects[at] += 1;
        serve(server, Duration::from_millis(10));
    }
    let counts: Vec<_> = counts.iter().map(|it| [0, 1].map(|at| it[at].load(Ordering::Relaxed))).collect();
    assert!(
        counts.iter().all(|[_, refused]| *refused == 0),
        "[ok, refused] {counts:?}, connects {connects:?}"
    );
}

/// A superseded pool with much in flight on a connection that leaves.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_on_a_leaver_is_no_reason_to_connect() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 8));
    let mut server = world.accept().await;
    settle().await;
    let _calls: Vec<_> = (0..16).map(|n| world.call(&[n])).collect();
    for _ in 0..16 {
        server.receive().await;
    }
    // One more than 16, before there is another connection.
    let _more: Vec<_> = (0..30).map(|n| world.call(&[n])).collect();
    let mut servers = vec![server];
    while let Ok(server) = timeout(SECOND, world.accept()).await {
        servers.push(server);
    }
    let before = servers.len();
    world.pool.supersede();
    while let Ok(server) = timeout(SECOND, world.accept()).await {
        servers.push(server);
    }
    assert_eq!(servers.len(), before, "connections without a request: {:?}", world.pool.figures());
}

/// The same where one of two endpoints is removed: eight are enough for what is in flight on one.
#[tokio::test(start_paused = true)]
async fn what_is_in_flight_at_a_removed_endpoint_is_no_reason_to_connect() {
    let mut world = World::new(two_endpoints(Mode::Multiplex, 2, 32));
    let mut servers = vec![world.accept_at().await, world.accept_at().await];
    settle().await;
    let _calls: Vec<_> = (0..60).map(|n| world.call(&[n])).collect();
    settle().await;
    while let Ok(server) = timeout(SECOND, world.accept_at()).await {
        servers.push(server);
    }
    let before = servers.len();
    retune(&mut world, |settings| settings.endpoints = endpoints([2]));
    while let Ok(server) = timeout(SECOND, world.accept_at()).await {
        servers.push(server);
    }
    assert!(servers.len() <= before + 2, "{before}, then {}: {:?}", servers.len(), world.pool.figures());
}

/// One endpoint missed turns at the cap; then nobody asks any more.
#[tokio::test(start_paused = true)]
async fn a_pool_rests_after_its_endpoints_were_short() {
    let mut limits = two_endpoints(Mode::Exclusive, 2, 2);
    limits.balance.policy = Policy::RoundRobin;
    limits.connection.max_lifetime = 90_000 * SECOND;
    let mut world = World::new(limits);
    let servers = vec![world.accept_at().await.1, world.accept_at().await.1];
    settle().await;
    let _slow = world.call(b"slow");
    servers.into_iter().for_each(serve_slowly);
    settle().await;
    for n in 0..10 {
        world.call(&[n]).reply().await;
    }
    sleep(60 * SECOND).await;
    let before = crate::queue::LOOKS.with(std::cell::Cell::get);
    sleep(600 * SECOND).await;
    let looks = crate::queue::LOOKS.with(std::cell::Cell::get) - before;
    assert!(
        looks < 100,
        "{looks} looks in ten minutes without a request: {:?}",
        world.pool.core.queue.demand()
    );
}
