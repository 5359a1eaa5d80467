//! What is tried again when a connection dies, and what never is.

use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::two_endpoints;
use super::world::{ANYBODY, Call, ONEWAY, Server, World, message, settings, settle};
use crate::connection::Idempotent;
use crate::events::{Outcome, Rung};
use crate::pool::Settings;
use crate::protocol::{Mode, Refusal, Request};

const SECOND: Duration = Duration::from_secs(1);

/// One connection at a time, everything may be run twice.
fn twice(mode: Mode, attempts: u32) -> Settings {
    let mut settings = settings(mode, 1, 1);
    settings.connection.idempotent = Idempotent::All;
    settings.retry.attempts = attempts;
    settings
}

fn retries(world: &World, rung: Rung) -> u64 {
    world.events.retries.of(rung).get()
}

async fn begin(world: &mut World, payload: &[u8]) -> (Call, Server) {
    let mut server = world.accept().await;
    settle().await;
    let call = world.call(payload);
    let (_, _, received) = server.receive().await;
    assert_eq!(received, payload);
    (call, server)
}

#[tokio::test(start_paused = true)]
async fn what_may_be_run_twice_is_sent_again_on_another_connection() {
    for mode in [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex] {
        let mut world = World::new(twice(mode, 2));
        let (mut call, server) = begin(&mut world, b"a").await;
        drop(server);
        let mut next = world.accept().await;
        assert_eq!(next.echo().await, b"a");
        assert_eq!(call.reply().await, b"a");
        assert_eq!(retries(&world, Rung::Idempotent), 1, "{mode:?}");
        world.assert_conserved();
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_run_twice_is_lost_with_its_connection() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let (mut call, server) = begin(&mut world, b"a").await;
    drop(server);
    assert_eq!(call.answer().await.unwrap_err(), Refusal::Lost);
    let mut next = world.accept().await;
    assert!(next.is_quiet().await);
    assert_eq!(world.events.retries.sum(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_byte_of_the_reply_forbids_another_attempt() {
    for mode in [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex] {
        let mut world = World::new(twice(mode, 2));
        let (mut call, mut server) = begin(&mut world, b"a").await;
        server.wire.write_all(b"\x05").await.unwrap();
        settle().await;
        drop(server);
        assert_eq!(call.answer().await.unwrap_err(), Refusal::Lost, "{mode:?}");
        assert_eq!(world.events.retries.sum(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn in_order_the_front_of_a_reply_is_the_first_ones() {
    let mut world = World::new(twice(Mode::Pipeline, 2));
    let (mut first, mut server) = begin(&mut world, b"a").await;
    let mut second = world.call(b"b");
    server.receive().await;
    server.wire.write_all(b"\x05").await.unwrap();
    settle().await;
    drop(server);
    assert_eq!(first.answer().await.unwrap_err(), Refusal::Lost);
    assert_eq!(world.accept().await.echo().await, b"b");
    assert_eq!(second.reply().await, b"b");
}

#[tokio::test(start_paused = true)]
async fn attempts_come_to_an_end() {
    let mut world = World::new(twice(Mode::Exclusive, 3));
    let (mut call, server) = begin(&mut world, b"a").await;
    drop(server);
    for _ in 0..2 {
        let mut server = world.accept().await;
        assert_eq!(server.receive().await.2, b"a");
    }
    assert_eq!(call.answer().await.unwrap_err(), Refusal::Lost);
    assert_eq!(retries(&world, Rung::Idempotent), 2);
    assert!(world.accept().await.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn what_the_kernel_took_no_byte_of_is_sent_again_unasked() {
    let mut limits = settings(Mode::Multiplex, 1, 1);
    limits.retry.per_thousand = 1000;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    settle().await;
    // One-way requests that fill the way to a server that does not read.
    let _sent: Vec<_> = (0..60).map(|_| world.send(ONEWAY, &[b'x'; 200])).collect();
    settle().await;
    let mut call = world.call(b"a");
    let mut oneway = world.send(ONEWAY, b"b");
    settle().await;
    server.receive().await;
    drop(server);
    let mut next = world.accept().await;
    loop {
        let (flags, id, payload) = next.receive().await;
        if flags == 0 {
            next.send(0, id, &payload).await;
        } else if payload == b"b" {
            break;
        }
    }
    assert_eq!(call.reply().await, b"a");
    assert!(oneway.answer().await.unwrap().is_none());
    assert!(retries(&world, Rung::Unsent) >= 2);
    assert_eq!(retries(&world, Rung::Idempotent), 0);
}

#[tokio::test(start_paused = true)]
async fn a_oneway_is_never_sent_again_once_begun() {
    let mut world = World::new(twice(Mode::Exclusive, 4));
    let server = world.accept().await;
    settle().await;
    // More than the way to the server takes, and it does not read.
    let calls: Vec<_> = (0..30).map(|_| world.send(ONEWAY, &[b'x'; 250])).collect();
    settle().await;
    let sent = world.outcomes(Outcome::Sent);
    drop(server);
    let mut next = world.accept().await;
    let unsent = calls.len() as u64 - sent;
    let mut seen = 0;
    while seen < unsent - 1 {
        next.receive().await;
        seen += 1;
    }
    assert!(next.is_quiet().await);
    assert_eq!(world.outcomes(Outcome::Lost), 1, "the one that was half sent");
    assert_eq!(world.outcomes(Outcome::Sent), 29);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_parts_is_never_sent_again() {
    let mut limits = twice(Mode::Exclusive, 4);
    limits.connection.max_buffered = 4097;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    settle().await;
    let (sender, rest) = crate::wire::parts::pipe(crate::wire::parts::CAPACITY, crate::wire::Charge::none());
    let mut request = Request::new(Bytes::from(message(0, 7, b"head")), false);
    request.rest = Some(rest);
    let mut ticket = world.pool.admit(request, ANYBODY, Instant::now());
    assert_eq!(server.receive().await.2, b"head");
    sender.finish(Bytes::from_static(b"rest"));
    world.pool.request_is_whole(&ticket);
    settle().await;
    drop(server);
    let answer = std::future::poll_fn(|cx| ticket.poll_answer(cx)).await;
    assert_eq!(answer.unwrap_err(), Refusal::Lost);
    assert!(world.accept().await.is_quiet().await);
}

#[tokio::test(start_paused = true)]
async fn another_attempt_goes_to_another_endpoint() {
    let mut limits = two_endpoints(Mode::Multiplex, 2, 2);
    limits.connection.idempotent = Idempotent::All;
    let mut world = World::new(limits);
    let mut servers = [world.accept_at().await, world.accept_at().await];
    servers.sort_by_key(|(endpoint, _)| *endpoint);
    let [(_, mut a), (_, mut b)] = servers;
    settle().await;
    let mut calls = [world.call(b"1"), world.call(b"2")];
    a.receive().await;
    let (_, id, payload) = b.receive().await;
    drop(a);
    let (_, again, second) = b.receive().await;
    b.send(0, id, &payload).await;
    b.send(0, again, &second).await;
    for call in &mut calls {
        call.reply().await;
    }
    assert_eq!(retries(&world, Rung::Idempotent), 1);
}

#[tokio::test(start_paused = true)]
async fn retries_stay_within_their_budget() {
    let mut limits = twice(Mode::Multiplex, 5);
    limits.retry.per_thousand = 100;
    let mut world = World::new(limits);
    let mut server = world.accept().await;
    settle().await;
    let mut calls: Vec<_> = (0..100).map(|n| world.call(&[n])).collect();
    settle().await;
    server.receive().await;
    drop(server);
    let _next = world.accept().await;
    settle().await;
    let mut again = 0;
    for call in &mut calls {
        again += usize::from(call.is_open().await);
    }
    assert_eq!(again, 10, "a tenth of what was asked for, which here is the floor, too");
    assert_eq!(world.outcomes(Outcome::Lost), 90);
}

#[tokio::test(start_paused = true)]
async fn who_was_begun_is_not_told_that_it_was_refused() {
    let mut world = World::new(twice(Mode::Exclusive, 9));
    let (mut call, server) = begin(&mut world, b"a").await;
    world.refuse(0, true);
    drop(server);
    assert_eq!(call.answer().await.unwrap_err(), Refusal::Lost);
    assert!(retries(&world, Rung::Connect) > 0);
}

#[tokio::test(start_paused = true)]
async fn one_deadline_covers_all_attempts() {
    let mut world = World::new(twice(Mode::Exclusive, 9));
    let (mut call, server) = begin(&mut world, b"a").await;
    let start = Instant::now();
    tokio::time::sleep(10 * SECOND).await;
    drop(server);
    let mut next = world.accept().await;
    next.receive().await;
    assert_eq!(call.answer().await.unwrap_err(), Refusal::Timeout);
    assert_eq!(start.elapsed().as_secs(), 15);
}

#[tokio::test(start_paused = true)]
async fn the_other_endpoint_is_tried_at_once_when_the_last_connection_is_gone() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 2);
    limits.connection.idempotent = Idempotent::All;
    limits.retry.attempts = 5;
    let mut world = World::new(limits);
    world.refuse(1, true);
    let (_, mut a) = world.accept_at().await;
    settle().await;
    let mut call = world.call(b"1");
    a.echo().await;
    call.reply().await;
    // It fails for a while, and so is not tried often any more; then the endpoints change places.
    for _ in 0..20 {
        let mut call = world.call(b"2");
        a.echo().await;
        call.reply().await;
        tokio::time::sleep(SECOND).await;
    }
    world.refuse(1, false);
    world.refuse(0, true);
    let mut call = world.call(b"3");
    a.receive().await;
    drop(a);
    let start = Instant::now();
    let (endpoint, mut b) = world.accept_at().await;
    assert_eq!((endpoint, start.elapsed()), (1, Duration::ZERO));
    assert_eq!(b.echo().await, b"3");
    assert_eq!(call.reply().await, b"3");
    assert_eq!(world.outcomes(Outcome::Refused), 0);
}

#[tokio::test(start_paused = true)]
async fn an_unused_connection_that_goes_last_does_not_hide_that_others_served() {
    let mut limits = two_endpoints(Mode::Exclusive, 2, 3);
    limits.connection.idempotent = Idempotent::All;
    limits.retry.attempts = 5;
    let mut world = World::new(limits);
    world.refuse(0, true);
    let (_, mut used) = world.accept_at().await;
    let (_, unused) = world.accept_at().await;
    settle().await;
    let mut call = world.call(b"1");
    let mut unused = Some(unused);
    if tokio::time::timeout(Duration::from_millis(1), used.echo()).await.is_err() {
        std::mem::swap(&mut used, unused.as_mut().unwrap());
        used.echo().await;
    }
    call.reply().await;
    assert!(world.events.connects.sum() > 2, "the other endpoint was tried in vain");
    world.refuse(0, false);
    world.refuse(1, true);
    let mut call = world.call(b"2");
    used.receive().await;
    let start = Instant::now();
    drop(used);
    settle().await;
    drop(unused);
    let (endpoint, mut other) = world.accept_at().await;
    assert_eq!((endpoint, start.elapsed()), (0, Duration::ZERO));
    assert_eq!(other.echo().await, b"2");
    assert_eq!(call.reply().await, b"2");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_the_pauses_of_a_pool_without_requests() {
    for _ in 0..20 {
        let mut limits = twice(Mode::Exclusive, 20);
        (limits.acquire_timeout, limits.request_timeout) = (120 * SECOND, 120 * SECOND);
        let world = World::new(limits);
        world.refuse(0, true);
        let mut call = world.call(b"a");
        let (mut attempts, mut last, mut longest) = (0, Instant::now(), Duration::ZERO);
        let mut answer = std::pin::pin!(call.answer());
        while tokio::time::timeout(Duration::from_millis(5), &mut answer).await.is_err() {
            if attempts != world.events.connects.sum() {
                attempts = world.events.connects.sum();
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
        }
        assert!(attempts >= 19, "{attempts} attempts");
        assert!(longest < SECOND + SECOND / 20, "a request waited {longest:?} between two attempts");
    }
}
