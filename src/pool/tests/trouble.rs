//! Stories that once went wrong.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::two_endpoints;
use super::world::{ANYBODY, CLOSING, HEARTBEAT, ONEWAY, World, means, message, settings, settle};
use crate::connection::{Network, Preamble};
use crate::events::{self, Outcome};
use crate::frame::Endian;
use crate::lifecycle::Switch;
use crate::net::Address;
use crate::pool::Pool;
use crate::protocol::frame::{Condition, Frame, Heartbeat, Length, Size};
use crate::protocol::{Mode, Protocol, Request, frame, line};
use crate::wire::{Budget, Purpose};

const SECOND: Duration = Duration::from_secs(1);

/// Runs a story in paused time; false if it spins.
fn comes_to_an_end<F: Future<Output = ()>>(story: impl FnOnce() -> F + Send + 'static) -> bool {
    let (done, over) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(story());
        done.send(()).unwrap();
    });
    over.recv_timeout(Duration::from_secs(5)).is_ok()
}

fn big_oneway(world: &World) -> crate::exchange::Ticket {
    let bytes = Bytes::from([message(ONEWAY, 7, b"head"), vec![0; 8000]].concat());
    world.pool.admit(Request::new(bytes, true), ANYBODY, Instant::now())
}

/// As the frames of the tests, without an id.
fn no_id() -> Arc<dyn Protocol> {
    let mut settings =
        frame::Settings::new(Length { offset: 0, size: Size::Bytes(1), endian: Endian::Big, adjust: 0 });
    let conditions = vec![Condition { offset: 1, mask: HEARTBEAT, equals: HEARTBEAT }];
    settings.heartbeat = Some(Heartbeat { conditions, reply: None, is_request: false });
    Arc::new(Frame::new(settings).unwrap())
}

fn lines(max_message: usize) -> Arc<dyn Protocol> {
    Arc::new(line::Line::new(&line::Settings { max_message, ..line::Settings::default() }).unwrap())
}

fn request(bytes: &'static [u8]) -> Request {
    Request::new(Bytes::from_static(bytes), false)
}

#[tokio::test(start_paused = true)]
async fn a_request_in_parts_is_looked_at_as_long_as_it_has_no_deadline() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let _server = world.accept().await;
    settle().await;
    let (_sender, rest) = crate::wire::parts::pipe(1, crate::wire::Charge::none());
    let mut head = request(b"\x04\0\0\x07");
    head.rest = Some(rest);
    let ticket = world.pool.admit(head, ANYBODY, Instant::now());
    settle().await;
    for _ in 0..3 {
        tokio::time::sleep(10 * SECOND).await;
        let look_again = world.pool.expire(&ticket, Instant::now());
        assert!(look_again.is_some_and(|at| at > Instant::now()), "it would wait for ever if it came back");
    }
}

#[test]
fn a_oneway_that_the_server_does_not_read_is_no_spin() {
    assert!(comes_to_an_end(async || {
        let mut world = World::new(settings(Mode::Exclusive, 1, 1));
        let _server = world.accept().await;
        settle().await;
        let _ticket = big_oneway(&world);
        tokio::time::sleep(100 * SECOND).await;
    }));
}

#[tokio::test(start_paused = true)]
async fn a_oneway_that_the_server_does_not_read_does_not_hold_its_connection_for_ever() {
    let mut limits = settings(Mode::Exclusive, 1, 1);
    limits.connection.idle_timeout = 10_000 * SECOND;
    limits.connection.max_lifetime = 100 * SECOND;
    let mut world = World::new(limits);
    let _server = world.accept().await;
    settle().await;
    let _ticket = big_oneway(&world);
    tokio::time::sleep(40 * SECOND).await;
    let mut call = world.call(b"x");
    let mut next = timeout(20 * SECOND, world.accept()).await.expect("another connection");
    next.echo().await;
    assert_eq!(call.reply().await, b"x");
}

#[tokio::test(start_paused = true)]
async fn the_pool_grows_although_an_endpoint_on_probation_has_room() {
    let mut limits = two_endpoints(Mode::Multiplex, 2, 8);
    limits.max_in_flight = 2;
    let mut world = World::new(limits);
    let (first, server) = world.accept_at().await;
    let (_, other) = world.accept_at().await;
    let (mut bad, mut good) = if first == 0 { (server, other) } else { (other, server) };
    for _ in 0..3 {
        tokio::time::sleep(2 * SECOND).await;
        let _calls = [world.call(b"a"), world.call(b"b")];
        good.echo().await;
        bad.receive().await;
        bad.wire.reset();
        let (endpoint, server) = world.accept_at().await;
        assert_eq!(endpoint, 0);
        bad = server;
    }
    settle().await;
    let _calls = [world.call(b"1"), world.call(b"2"), world.call(b"3")];
    settle().await;
    assert_eq!(world.pool.figures().waiting, 0);
    let _waits = world.call(b"4");
    assert!(!world.nobody_connects(2 * SECOND).await, "2 of 8 connections, and one waits");
}

#[tokio::test(start_paused = true)]
async fn a_floor_that_goes_down_once_together_is_not_left_cold() {
    let mut world = World::new(settings(Mode::Exclusive, 8, 8));
    let mut servers = Vec::new();
    for _ in 0..8 {
        servers.push(world.accept().await);
    }
    tokio::time::sleep(5 * SECOND).await;
    servers.clear();
    while let Ok(server) = timeout(60 * SECOND, world.accept()).await {
        servers.push(server);
    }
    assert_eq!(servers.len(), 8, "warm again");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_announces_its_close_at_once_is_not_hammered() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let start = Instant::now();
    let mut connects = 0;
    while start.elapsed() < 10 * SECOND && connects < 1000 {
        let Ok(mut server) = timeout(10 * SECOND, world.accept()).await else { break };
        server.send(CLOSING, 0, b"").await;
        let _ = server.end().await;
        connects += 1;
    }
    assert!(connects < 100, "{connects} connects in {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_front_of_a_stray_message_is_not_completed_into_a_reply() {
    let mut world = World::with(settings(Mode::Exclusive, 1, 1), no_id());
    let mut server = world.accept().await;
    settle().await;
    let stray = message(0, 1, b"stray");
    server.wire.write_all(&stray[..6]).await.unwrap();
    let mut call = world.call(b"mine");
    settle().await;
    let _ = server.wire.write_all(&stray[6..]).await;
    let answer = timeout(SECOND / 2, call.answer()).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_grows_is_not_its_own_obstacle() {
    let budget = Budget::new(Budget::floor(16 * 1024));
    let mut world = World::within(settings(Mode::Exclusive, 1, 1), lines(16 * 1024), budget.clone());
    let _requests = budget.try_charge(48 * 1024, Purpose::Request).unwrap();
    let mut server = world.accept().await;
    settle().await;
    let mut ticket = world.pool.admit(request(b"a\n"), ANYBODY, Instant::now());
    server.wire.read_exact(&mut [0; 2]).await.unwrap();
    let reply = [&[b'x'; 12_000][..], b"\n"].concat();
    let _sending = tokio::spawn(async move {
        let _ = server.wire.write_all(&reply).await;
        server
    });
    let answer = timeout(10 * SECOND, std::future::poll_fn(|cx| ticket.poll_answer(cx))).await;
    assert!(matches!(answer, Ok(Ok(Some(_)))), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_does_not_stand_for_one_that_does_not() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 8);
    limits.connection.preamble = Some(Preamble { expect: b"hi".as_slice().into(), send: Bytes::new() });
    limits.connection.idle_timeout = 1000 * SECOND;
    let mut world = World::new(limits);
    let mut hung = Vec::new();
    let mut good = loop {
        match world.accept_at().await {
            (1, server) => break server,
            (_, server) => hung.push(server),
        }
    };
    good.wire.write_all(b"hi").await.unwrap();
    tokio::time::sleep(30 * SECOND).await;
    // 1 has the one connection, and 0 has failed.
    let _busy = world.call(b"a");
    good.receive().await;
    let start = Instant::now();
    let _waits = world.call(b"b");
    loop {
        match world.accept_at().await {
            (1, _) => break,
            (_, server) => hung.push(server),
        }
    }
    assert!(start.elapsed() < SECOND / 2, "{:?}", start.elapsed());
}

fn real(mode: Mode, protocol: Arc<dyn Protocol>) -> (TcpListener, Arc<Pool>, Switch, Arc<events::Upstream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut limits = settings(mode, 1, 1);
    limits.endpoints = vec![Address::Tcp { host: "127.0.0.1".into(), port }.into()];
    let events = Arc::new(events::Upstream::new("u"));
    let back = Switch::new();
    let connector = Arc::new(Network::new(&limits.connection));
    let budget = Budget::new(1 << 20);
    let (pool, keeper) =
        Pool::new(limits, protocol, events.clone(), budget, back.watch(), means(connector, 1));
    tokio::spawn(keeper.run());
    (listener, pool, back, events)
}

#[tokio::test]
async fn stray_bytes_that_the_reactor_has_not_seen_are_no_reply() {
    let (listener, pool, _back, events) = real(Mode::Exclusive, no_id());
    pool.stood().await;
    let (mut server, _) = listener.accept().unwrap();
    tokio::time::sleep(SECOND / 10).await;
    server.write_all(&message(0, 1, b"stray")).unwrap();
    let bytes = Bytes::from(message(0, 7, b"mine"));
    let mut ticket = pool.admit(Request::new(bytes, false), ANYBODY, Instant::now());
    let answer = timeout(SECOND, std::future::poll_fn(|cx| ticket.poll_answer(cx))).await;
    assert!(!matches!(answer, Ok(Ok(_))), "{answer:?}");
    assert_eq!(events.outcomes.of(Outcome::Ok).get(), 0);
}

#[tokio::test]
async fn two_long_lines_in_a_row_are_two_replies() {
    let (listener, pool, _back, _events) = real(Mode::Pipeline, lines(1 << 16));
    pool.stood().await;
    let (mut server, _) = listener.accept().unwrap();
    tokio::time::sleep(SECOND / 10).await;
    let mut tickets = [
        pool.admit(request(b"a\n"), ANYBODY, Instant::now()),
        pool.admit(request(b"b\n"), ANYBODY, Instant::now()),
    ];
    tokio::time::sleep(SECOND / 10).await;
    server.read_exact(&mut [0; 4]).unwrap();
    server.write_all(&[&vec![b'x'; 17_000][..], b"\n", &vec![b'y'; 20_000][..], b"\n"].concat()).unwrap();
    for (ticket, length) in tickets.iter_mut().zip([17_001, 20_001]) {
        let answer = timeout(SECOND, std::future::poll_fn(|cx| ticket.poll_answer(cx))).await.unwrap();
        assert_eq!(answer.unwrap().unwrap().bytes.len(), length);
    }
}

#[tokio::test(start_paused = true)]
async fn answers_to_heartbeats_that_nobody_reads_do_not_hold_a_retiring_connection() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    for n in 0..1500 {
        server.send(HEARTBEAT, n, b"").await;
    }
    server.send(CLOSING, 0, b"").await;
    tokio::time::sleep(40 * SECOND).await;
    let mut call = world.call(b"x");
    let mut next = timeout(20 * SECOND, world.accept()).await.expect("another connection");
    next.echo().await;
    assert_eq!(call.reply().await, b"x");
}

#[tokio::test(start_paused = true)]
async fn who_is_put_back_waits_no_longer_than_others() {
    let mut limits = settings(Mode::Exclusive, 2, 2);
    limits.connection.preamble = Some(Preamble { expect: b"hi".as_slice().into(), send: Bytes::new() });
    let mut world = World::new(limits);
    let (mut idle, mut busy) = (world.accept().await, world.accept().await);
    idle.wire.write_all(b"hi").await.unwrap();
    busy.wire.write_all(b"hi").await.unwrap();
    settle().await;
    let _hangs = world.call(b"a");
    tokio::select! {
        _ = busy.receive() => {}
        _ = idle.receive() => std::mem::swap(&mut idle, &mut busy),
    }
    drop(idle);
    let start = Instant::now();
    let mut call = world.call(b"b");
    let answer = call.answer().await;
    assert!(start.elapsed() <= 4 * SECOND, "{answer:?} after {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_call_behind_oneways_is_not_late_already() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    // A backlog of one-way requests that the server takes slowly, but steadily.
    let payload = [b'x'; 200];
    let mut sent: Vec<_> = (0..60).map(|_| world.send(ONEWAY, &payload)).collect();
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for _ in 0..3 {
            server.receive().await;
            sent.push(world.send(ONEWAY, &payload));
        }
    }
    let mut call = world.call(b"call");
    let answer = timeout(Duration::from_secs(1), call.answer()).await;
    assert!(answer.is_err(), "{answer:?} at once, from a server that is neither slow nor silent");
}

#[tokio::test(start_paused = true)]
async fn a_oneway_that_was_sent_is_not_destroyed_by_the_close() {
    let mut limits = settings(Mode::Multiplex, 1, 1);
    limits.connection.max_requests = 2;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    settle().await;
    let call = world.call(b"call");
    settle().await;
    call.abandon();
    let _oneway = world.send(ONEWAY, b"fire");
    settle().await;
    assert_eq!(world.outcomes(Outcome::Sent), 1);
    assert_eq!(server.receive().await.2, b"call");
    assert_eq!(server.receive().await.2, b"fire");
}
