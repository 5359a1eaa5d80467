//! Stories of health, retries and idle limits that a review went through. Long because it is a list.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::two_endpoints;
use super::world::{ANYBODY, ONEWAY, Server, World, message, protocol, settings, settle};
use crate::connection::Idempotent;
use crate::events::{CloseReason, Outcome, ProbeResult, Rung};
use crate::frame::Endian;
use crate::pool::Settings;
use crate::pool::health::Probe;
use crate::protocol::frame::{Field, Frame, Length, Size};
use crate::protocol::{Mode, Protocol, Refusal, Request, frame};
use crate::wire::{Budget, Purpose};

const SECOND: Duration = Duration::from_secs(1);

fn echoing(mut server: Server) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            server.echo().await;
        }
    })
}

/// A server that answers probes with `answer`, and closes at a request that is none.
fn only_probes(mut server: Server, answer: &'static [u8]) {
    tokio::spawn(async move {
        loop {
            let (_, id, payload) = server.receive().await;
            if payload != b"ping" {
                return;
            }
            server.send(0, id, answer).await;
        }
    });
}

fn up(world: &World) -> Vec<bool> {
    world.pool.endpoints().into_iter().map(|it| it.up).collect()
}

fn asking(limits: &mut Settings) {
    limits.health.interval = Some(5 * SECOND);
    limits.health.probe = Probe::Ask {
        request: Bytes::from(message(0, 0x0707, b"ping")),
        expect: Bytes::from(message(0, 0x0707, b"ping")),
    };
}

/// One endpoint of two is down for a while, with a request every second, and probes are off.
async fn comes_back(unhealthy_after: u32) {
    let mut limits = two_endpoints(Mode::Multiplex, 1, 4);
    limits.health.unhealthy_after = unhealthy_after;
    let mut world = World::new(limits);
    let (first, mut a) = world.accept_at().await;
    settle().await;
    let mut call = world.call(b"first");
    a.echo().await;
    call.reply().await;
    let (_, b) = world.accept_at().await;
    settle().await;
    world.refuse(first, true);
    drop(a);
    let b = echoing(b);
    for _ in 0..20 {
        world.call(b"x").reply().await;
        sleep(SECOND).await;
    }
    world.refuse(first, false);
    let mut back = false;
    for _ in 0..60 {
        world.call(b"y").reply().await;
        back |= !world.nobody_connects(SECOND).await;
    }
    b.abort();
    assert!(back, "a minute later it was not even tried");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_could_not_be_reached_comes_back_without_probes() {
    comes_back(3).await;
}

#[tokio::test(start_paused = true)]
async fn few_requests_are_enough_to_try_an_endpoint_again() {
    comes_back(1000).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_to_connect_is_counted_once() {
    let mut world = World::new(settings(Mode::Exclusive, 0, 1));
    world.refuse(0, true);
    let mut call = world.call(b"a");
    assert!(matches!(call.answer().await, Err(Refusal::Down(_))));
    assert_eq!(world.events.connects.sum(), 2);
    assert_eq!(world.events.retries.of(Rung::Connect).get(), 1);
    assert!(world.nobody_connects(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn restarts_at_like_intervals_teach_no_idle_limit() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    for _ in 0..4 {
        let mut server = world.accept().await;
        settle().await;
        let mut call = world.call(b"x");
        server.echo().await;
        call.reply().await;
        sleep(2 * SECOND).await;
        // It is down for a moment, which no server is that only closes what is idle.
        world.refuse(0, true);
        drop(server);
        sleep(SECOND / 2).await;
        world.refuse(0, false);
        settle().await;
    }
    assert_eq!(world.pool.endpoints()[0].idle_limit, None);
}

#[tokio::test(start_paused = true)]
async fn an_answered_probe_is_no_answered_request() {
    let mut limits = two_endpoints(Mode::Multiplex, 1, 4);
    asking(&mut limits);
    let mut world = World::new(limits);
    let (pool, events) = (world.pool.clone(), world.events.clone());
    let accepting = async {
        loop {
            match world.accept_at().await {
                (0, server) => only_probes(server, b"ping"),
                (_, server) => drop(echoing(server)),
            }
        }
    };
    let calling = async {
        for _ in 0..60 {
            let calls = [1, 2].map(|n| {
                let request = Request::new(message(0, 7, &[n]).into(), false);
                pool.admit(request, ANYBODY, Instant::now())
            });
            for mut ticket in calls {
                let _ = std::future::poll_fn(|cx| ticket.poll_answer(cx)).await;
            }
            sleep(2 * SECOND).await;
        }
    };
    tokio::select! { () = calling => {}, () = accepting => {} }
    let lost = events.outcomes.of(Outcome::Lost).get();
    assert!(events.ejections.get() > 0, "{lost} requests of clients lost in a row");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_of_an_unhealthy_endpoint_leave_room_for_others() {
    let mut limits = two_endpoints(Mode::Exclusive, 4, 4);
    asking(&mut limits);
    let mut world = World::new(limits);
    let serve = |endpoint, mut server: Server| {
        tokio::spawn(async move {
            loop {
                let (_, id, payload) = server.receive().await;
                if payload != b"ping" {
                    sleep(2 * SECOND).await;
                }
                let answer: &[u8] = if endpoint == 0 { b"pong" } else { &payload };
                server.send(0, id, answer).await;
            }
        });
    };
    for _ in 0..4 {
        let (endpoint, server) = world.accept_at().await;
        serve(endpoint, server);
    }
    sleep(25 * SECOND).await;
    assert_eq!(up(&world), [false, true]);
    // As many as the cap allows are served at a time, so none of them waits for longer than two seconds.
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..8 {
        let mut call = world.call(&[n]);
        calls.spawn(async move { call.answer().await.is_err() });
    }
    let serving = async {
        loop {
            let (endpoint, server) = world.accept_at().await;
            serve(endpoint, server);
        }
    };
    let answering = async {
        let mut refused = 0;
        while let Some(is_refused) = calls.join_next().await {
            refused += usize::from(is_refused.unwrap());
        }
        refused
    };
    let refused = tokio::select! { refused = answering => refused, () = serving => unreachable!() };
    assert_eq!(refused, 0, "the cap is held by connections that nobody may use");
}

/// Frames: length (4, of the whole), id (4), payload.
fn large_frames() -> Arc<dyn Protocol> {
    let mut settings =
        frame::Settings::new(Length { offset: 0, size: Size::Bytes(4), endian: Endian::Big, adjust: 0 });
    settings.id = Some(Field { offset: 4, size: 4, endian: Endian::Big, avoid: vec![] });
    Arc::new(Frame::new(settings).unwrap())
}

fn large(id: [u8; 4], size: usize) -> Vec<u8> {
    let length = u32::try_from(8 + size).unwrap();
    [&length.to_be_bytes()[..], &id, &vec![b'x'; size]].concat()
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_its_reply_is_no_failure_of_the_endpoint() {
    let mut limits = two_endpoints(Mode::Exclusive, 2, 2);
    limits.health.eject_after = 1;
    limits.connection.max_buffered = 8 << 10;
    let mut world = World::within(limits, large_frames(), Budget::new(8 << 20));
    let mut servers = [world.accept().await, world.accept().await];
    settle().await;
    let request = Request::new(large([0; 4], 2).into(), false);
    let mut ticket = world.pool.admit(request, ANYBODY, Instant::now());
    let mut head = [0; 10];
    let server = tokio::select! {
        _ = servers[0].wire.read_exact(&mut head) => 0,
        () = sleep(SECOND) => 1,
    };
    if server == 1 {
        servers[1].wire.read_exact(&mut head).await.unwrap();
    }
    let reply = large(head[4..8].try_into().unwrap(), 1 << 20);
    let server = &mut servers[server];
    let sending = server.wire.write_all(&reply);
    let client = async {
        let head = std::future::poll_fn(|cx| ticket.poll_answer(cx)).await.unwrap().unwrap();
        // It takes nothing more, and its time passes.
        sleep(16 * SECOND).await;
        drop(head);
    };
    let (_, ()) = tokio::join!(timeout(20 * SECOND, sending), client);
    assert_eq!(world.events.ejections.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_any_more_keeps_no_memory() {
    for idempotent in [Idempotent::None, Idempotent::All] {
        let mut limits = settings(Mode::Multiplex, 1, 1);
        limits.connection.idempotent = idempotent;
        let budget = Budget::new(1 << 20);
        let mut world = World::within(limits, protocol(), budget.clone());
        let mut server = world.accept().await;
        settle().await;
        let mut request = Request::new(message(0, 7, b"a").into(), false);
        request.charge = budget.try_charge(100_000, Purpose::Request).unwrap();
        let ticket = world.pool.admit(request, ANYBODY, Instant::now());
        server.receive().await;
        world.pool.abandon(&ticket);
        sleep(20 * SECOND).await;
        let mut call = world.call(b"b");
        let (_, id, payload) = server.receive().await;
        server.send(0, id, &payload).await;
        call.reply().await;
        assert_eq!(budget.taken(), 0, "its time is up, and its client gone");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_a_connection_that_a_drain_forbids() {
    let mut limits = settings(Mode::Multiplex, 1, 1);
    limits.acquire_timeout = 10 * SECOND;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    settle().await;
    let mut first = world.call(b"first");
    let (_, id, _) = server.receive().await;
    let _sent: Vec<_> = (0..60).map(|_| world.send(ONEWAY, &[b'x'; 200])).collect();
    settle().await;
    let mut call = world.call(b"a");
    settle().await;
    world.back.drain();
    settle().await;
    server.send(0, id + 1000, b"nobody's").await;
    settle().await;
    assert!(first.answer().await.is_err());
    assert!(!call.is_open().await, "it waits for a connection that will never come");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_down_costs_the_others_few_connections() {
    for asks in [false, true] {
        let mut limits = two_endpoints(Mode::Exclusive, 1, 4);
        limits.health.interval = Some(5 * SECOND);
        if asks {
            asking(&mut limits);
        }
        let mut world = World::new(limits);
        world.refuse(1, true);
        let start = Instant::now();
        let mut calls = tokio::task::JoinSet::new();
        while start.elapsed() < 120 * SECOND {
            while let Ok((_, server)) = timeout(Duration::from_millis(1), world.accept_at()).await {
                echoing(server);
            }
            for _ in 0..8 {
                let mut call = world.call(b"x");
                calls.spawn(async move { call.answer().await.is_ok() });
            }
            sleep(Duration::from_millis(20)).await;
            while calls.try_join_next().is_some() {}
        }
        let idle = world.events.closed.of(CloseReason::Idle).get();
        let probes = world.events.probes.of(ProbeResult::Failed).get();
        assert!(idle <= 40, "asks: {asks}: {idle} connections closed to make room, {probes} probes failed");
        assert!(probes >= 3, "asks: {asks}: {probes} probes failed, {idle} connections closed");
    }
}

/// How often each request was seen whole.
type Ledger = Arc<std::sync::Mutex<std::collections::HashMap<Vec<u8>, u32>>>;

/// A server that does anything that servers do, good and bad.
async fn wild(mut server: Server, ledger: Ledger, mut rng: fastrand::Rng) {
    if rng.u8(..20) == 0 {
        return;
    }
    loop {
        let mut head = [0; 4];
        if server.wire.read_exact(&mut head).await.is_err() {
            return;
        }
        let mut payload = vec![0; usize::from(head[0]) - 4];
        if server.wire.read_exact(&mut payload).await.is_err() {
            return;
        }
        *ledger.lock().unwrap().entry(payload.clone()).or_default() += 1;
        let id = u16::from_be_bytes([head[2], head[3]]);
        let reply = message(0, id, &payload);
        match rng.u8(..40) {
            // Nothing, and FIN.
            0 => return,
            // Some of it.
            1 => {
                let _ = server.wire.write_all(&reply[..rng.usize(1..reply.len())]).await;
                return;
            }
            // Twice.
            2 => drop(server.wire.write_all(&[&reply[..], &reply].concat()).await),
            3 => return server.wire.reset(),
            4 => {
                sleep(Duration::from_millis(rng.u64(..30))).await;
                let _ = server.wire.write_all(&reply).await;
            }
            // Never.
            5 if rng.u8(..10) == 0 => {}
            _ => {
                if head[1] & ONEWAY == 0 && server.wire.write_all(&reply).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn answer_of(
    pool: &crate::pool::Pool,
    ticket: &mut crate::exchange::Ticket,
) -> crate::exchange::Answer {
    loop {
        let look_again = pool.expire(ticket, Instant::now());
        let answer = std::future::poll_fn(|cx| ticket.poll_answer(cx));
        let due = async {
            match look_again {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! { biased; answer = answer => return answer, () = due => {} }
    }
}

async fn ask_wildly(pool: Arc<crate::pool::Pool>, client: u8, requests: u32, mut rng: fastrand::Rng) -> u32 {
    let mut served = 0;
    for n in 0..requests {
        let payload = [&[client][..], &n.to_be_bytes()].concat();
        let flags = if rng.u8(..10) == 0 { ONEWAY } else { 0 };
        let request = Request::new(message(flags, 7, &payload).into(), flags != 0);
        let mut ticket = pool.admit(request, ANYBODY, Instant::now());
        if rng.u8(..10) == 0 {
            let patience = Duration::from_micros(rng.u64(..3000));
            if timeout(patience, answer_of(&pool, &mut ticket)).await.is_err() {
                pool.abandon(&ticket);
            }
        } else if let Ok(Some(reply)) = answer_of(&pool, &mut ticket).await {
            assert_eq!(reply.bytes[4..], payload, "another one's reply");
            served += 1;
        }
        if rng.u8(..4) == 0 {
            sleep(Duration::from_millis(rng.u64(..20))).await;
        }
    }
    served
}

async fn wild_story(mode: Mode, idempotent: Idempotent, probes: bool, requests: u32, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut limits = two_endpoints(mode, 1, 4);
    limits.connection.idempotent = idempotent.clone();
    limits.retry.attempts = 4;
    limits.retry.per_thousand = 1000;
    limits.request_timeout = SECOND;
    limits.connection.stall = 2 * SECOND;
    limits.health.eject_for = Duration::from_millis(200);
    if probes {
        asking(&mut limits);
        limits.health.interval = Some(Duration::from_millis(100));
        limits.health.timeout = Duration::from_millis(50);
    }
    let mut world = World::new(limits);
    let ledger = Ledger::default();
    let (pool, events) = (world.pool.clone(), world.events.clone());
    let journal = ledger.clone();
    let mut server_rng = rng.fork();
    let accepting = tokio::spawn(async move {
        let mut alive = Vec::new();
        loop {
            let refused = (server_rng.u8(..8) == 0).then(|| server_rng.usize(..2));
            if let Some(endpoint) = refused {
                world.refuse(endpoint, true);
            }
            if let Ok((_, server)) = timeout(Duration::from_millis(10), world.accept_at()).await {
                alive.push(tokio::spawn(wild(server, journal.clone(), server_rng.fork())));
            }
            if let Some(endpoint) = refused {
                world.refuse(endpoint, false);
            }
        }
    });
    let (counts, mut counted) = tokio::sync::mpsc::channel(12);
    for client in 0..12 {
        let (counts, client) = (counts.clone(), ask_wildly(pool.clone(), client, requests, rng.fork()));
        let client = async move { counts.send(client.await).await.unwrap() };
        if seed < 1000 {
            tokio::spawn(client);
        } else {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(client);
            });
        }
    }
    drop(counts);
    let mut served = 0;
    for _ in 0..12 {
        served += counted.recv().await.expect("a client failed");
    }
    assert!(served > 0);
    assert_eq!(pool.figures().waiting, 0, "seed {seed}");
    // Abandoned one-way requests are on their way for a moment more.
    sleep(3 * SECOND).await;
    assert_eq!(events.accepted.get(), events.outcomes.sum(), "seed {seed}");
    if idempotent == Idempotent::None {
        let twice: Vec<_> =
            ledger.lock().unwrap().iter().filter(|(_, n)| **n > 1).map(|(p, _)| p.clone()).collect();
        let twice: Vec<_> = twice.into_iter().filter(|payload| payload != b"ping").collect();
        assert!(twice.is_empty(), "seed {seed}: {twice:?}");
    }
    accepting.abort();
}

#[tokio::test(start_paused = true)]
async fn wild_servers_and_clients_break_no_promise() {
    for seed in 0..40 {
        let mode = [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex][usize::try_from(seed % 3).unwrap()];
        for idempotent in [Idempotent::None, Idempotent::All] {
            wild_story(mode, idempotent, seed % 2 == 0, 200, seed).await;
        }
    }
}

#[tokio::test]
async fn wild_servers_and_clients_break_no_promise_on_other_threads() {
    let mut stories = tokio::task::JoinSet::new();
    for seed in 0..12 {
        let mode = [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex][usize::try_from(seed % 3).unwrap()];
        let idempotent = if seed % 4 < 2 { Idempotent::None } else { Idempotent::All };
        let seed = 1000 + seed;
        stories.spawn(wild_story(mode, idempotent, seed % 2 == 0, 150, seed));
    }
    while let Some(story) = stories.join_next().await {
        story.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_again_keeps_its_order() {
    for mode in [Mode::Pipeline, Mode::Multiplex] {
        let mut limits = settings(mode, 1, 1);
        limits.connection.idempotent = Idempotent::All;
        limits.max_in_flight = 3;
        let mut world = World::new(limits);
        let mut server = world.accept().await;
        settle().await;
        let mut calls: Vec<_> = (0..5).map(|n| world.call(&[n])).collect();
        for n in 0..3 {
            assert_eq!(server.receive().await.2, [n]);
        }
        drop(server);
        let mut server = world.accept().await;
        for n in 0..5 {
            assert_eq!(server.echo().await, [n]);
        }
        for (n, call) in (0..).zip(&mut calls) {
            assert_eq!(call.reply().await, [n]);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_takes_no_more_connections_is_served_by_those_it_has() {
    let mut limits = two_endpoints(Mode::Exclusive, 2, 8);
    limits.health.interval = Some(60 * SECOND);
    let mut world = World::new(limits);
    let mut servers = Vec::new();
    for _ in 0..2 {
        let (endpoint, server) = world.accept_at().await;
        if endpoint == 0 {
            world.refuse(0, true);
        }
        servers.push((endpoint, server));
    }
    let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let serve = |endpoint, mut server: Server| {
        let count = count.clone();
        tokio::spawn(async move {
            loop {
                let (_, id, payload) = server.receive().await;
                sleep(Duration::from_millis(10)).await;
                count.fetch_add(u32::from(endpoint == 0), std::sync::atomic::Ordering::Relaxed);
                server.send(0, id, &payload).await;
            }
        });
    };
    for (endpoint, server) in servers {
        serve(endpoint, server);
    }
    let pool = world.pool.clone();
    let accepting = async {
        loop {
            let (endpoint, server) = world.accept_at().await;
            serve(endpoint, server);
        }
    };
    let served = || count.load(std::sync::atomic::Ordering::Relaxed);
    let calling = async {
        let start = Instant::now();
        let mut before = 0;
        while start.elapsed() < 20 * SECOND {
            let tickets = [1, 2, 3, 4, 5, 6].map(|n| {
                let request = Request::new(message(0, 7, &[n]).into(), false);
                pool.admit(request, ANYBODY, Instant::now())
            });
            for mut ticket in tickets {
                answer_of(&pool, &mut ticket).await.unwrap();
            }
            if start.elapsed() < 10 * SECOND {
                before = served();
            }
        }
        (before, served() - before)
    };
    let (before, after) = tokio::select! { counts = calling => counts, () = accepting => unreachable!() };
    assert!(after > 100, "{before} in the first ten seconds, {after} in the next");
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_probe() {
    let mut limits = settings(Mode::Multiplex, 1, 1);
    asking(&mut limits);
    limits.health.timeout = 5 * SECOND;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    assert_eq!(server.receive().await.2, b"ping");
    let start = Instant::now();
    world.back.drain();
    (&mut world.keeper).await.unwrap();
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}
