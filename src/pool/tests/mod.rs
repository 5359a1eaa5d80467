//! The pool in paused time, its queue, keeper and connections together.
//! Long because it is a list: one story after another, none needing the next.

mod at_cap;
mod balance;
mod generations;
mod health;
mod idle_limit;
mod retries;
mod review;
mod trouble;
pub(crate) mod world;

use std::time::Duration;

use tokio::time::Instant;

use crate::events::{CloseReason, Outcome};
use crate::net::Address;
use crate::protocol::{Mode, Refusal};
use world::{ANYBODY, CLOSING, HEARTBEAT, ONEWAY, World, settings, settle};

const SECOND: Duration = Duration::from_secs(1);

fn two_endpoints(mode: Mode, min: usize, max: usize) -> super::Settings {
    let endpoint = |port| Address::Tcp { host: "10.0.0.1".into(), port };
    super::Settings { endpoints: vec![endpoint(1).into(), endpoint(2).into()], ..settings(mode, min, max) }
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_warm_before_anyone_asks_and_spread_over_endpoints() {
    let mut world = World::new(two_endpoints(Mode::Exclusive, 4, 8));
    assert!(!world.pool.has_stood());
    let mut at = [0; 2];
    let mut servers = Vec::new();
    for _ in 0..4 {
        let (endpoint, server) = world.accept_at().await;
        at[endpoint] += 1;
        servers.push(server);
    }
    world.pool.stood().await;
    assert_eq!(at, [2, 2]);
    assert!(world.nobody_connects(10 * SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_told_with_what_is_known_of_them() {
    let world = World::new(two_endpoints(Mode::Exclusive, 0, 2));
    let mut endpoints = world.pool.endpoints();
    endpoints[0].idle_limit = Some(2 * SECOND);
    endpoints[1].up = false;
    let told: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["10.0.0.1:1 up (idle limit 2s)", "10.0.0.1:2 down"]);
}

#[tokio::test(start_paused = true)]
async fn an_exclusive_pool_grows_to_its_cap_and_then_queues() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 3));
    let mut calls: Vec<_> = (0..5).map(|n| world.call(&[n])).collect();
    let mut servers = vec![world.accept().await, world.accept().await, world.accept().await];
    assert!(world.nobody_connects(SECOND).await, "the cap is hard");
    assert_eq!(world.pool.figures().waiting, 2);
    for server in &mut servers {
        server.echo().await;
    }
    settle().await;
    assert_eq!(world.pool.figures().waiting, 0);
    for server in servers {
        tokio::spawn(async move {
            let mut server = server;
            loop {
                server.echo().await;
            }
        });
    }
    for (n, call) in (0..).zip(&mut calls) {
        assert_eq!(call.reply().await, [n]);
    }
    assert_eq!(world.outcomes(Outcome::Ok), 5);
}

#[tokio::test(start_paused = true)]
async fn sockets_being_opened_are_bounded() {
    let mut limits = settings(Mode::Exclusive, 0, 32);
    limits.max_connecting = 2;
    limits.connection.preamble =
        Some(crate::connection::Preamble { expect: b"hi".as_slice().into(), send: bytes::Bytes::new() });
    let mut world = World::new(limits);
    let _calls: Vec<_> = (0..10).map(|n| world.call(&[n])).collect();
    let _silent = [world.accept().await, world.accept().await];
    assert!(world.nobody_connects(SECOND / 2).await);
    assert_eq!(world.pool.figures().connecting, 2);
}

#[tokio::test(start_paused = true)]
async fn one_connection_multiplexes_until_it_is_time_to_grow() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 4));
    let mut first = world.accept().await;
    settle().await;
    let _calls: Vec<_> = (0..16).map(|n| world.call(&[n])).collect();
    for _ in 0..16 {
        first.receive().await;
    }
    assert!(world.nobody_connects(SECOND).await);
    let _more = world.call(b"17");
    world.accept().await;
}

#[tokio::test(start_paused = true)]
async fn unused_connections_above_the_floor_close_cleanly() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 3));
    let calls: Vec<_> = (0..3).map(|n| world.call(&[n])).collect();
    let mut servers = Vec::new();
    for _ in 0..3 {
        let mut server = world.accept().await;
        server.echo().await;
        servers.push(server);
    }
    drop(calls);
    tokio::time::sleep(31 * SECOND).await;
    let mut ended = 0;
    for server in &mut servers {
        if !server.is_quiet().await {
            server.end().await.expect("FIN, not RST");
            ended += 1;
        }
    }
    assert_eq!(ended, 2);
    assert_eq!(world.events.closed.of(CloseReason::Idle).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn connections_retire_by_age_and_by_count_and_are_replaced() {
    let mut limits = settings(Mode::Exclusive, 1, 2);
    limits.connection.max_lifetime = 100 * SECOND;
    limits.connection.max_requests = 2;
    let mut world = World::new(limits);
    let start = Instant::now();
    let mut old = world.accept().await;
    let mut new = world.accept().await;
    let age = start.elapsed();
    assert!((90 * SECOND..=100 * SECOND).contains(&age), "{age:?}");
    old.end().await.unwrap();
    for n in 0..2 {
        let mut call = world.call(&[n]);
        new.echo().await;
        assert_eq!(call.reply().await, [n]);
    }
    new.end().await.unwrap();
    world.accept().await;
    assert_eq!(world.events.closed.of(CloseReason::Requests).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_without_connections_gets_one_when_there_is_work() {
    let mut world = World::new(two_endpoints(Mode::Multiplex, 1, 4));
    let (first, mut server) = world.accept_at().await;
    settle().await;
    let mut call = world.call(b"x");
    server.echo().await;
    call.reply().await;
    let (second, mut other) = world.accept_at().await;
    assert_ne!(first, second);
    settle().await;
    let (mut a, mut b) = (world.call(b"1"), world.call(b"2"));
    server.echo().await;
    other.echo().await;
    a.reply().await;
    b.reply().await;
}

#[tokio::test(start_paused = true)]
async fn replies_find_their_requests_in_any_order() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut calls: Vec<_> = (0..10).map(|n| world.call(&[n])).collect();
    let mut received = Vec::new();
    for _ in 0..10 {
        received.push(server.receive().await);
    }
    for (_, id, payload) in received.into_iter().rev() {
        server.send(0, id, &payload).await;
    }
    for (n, call) in (0..).zip(&mut calls) {
        assert_eq!(call.reply().await, [n]);
    }
}

#[tokio::test(start_paused = true)]
async fn stray_bytes_close_a_connection_and_reach_nobody() {
    for (mode, stray) in [
        (Mode::Exclusive, world::message(0, 1, b"whole")),
        (Mode::Multiplex, world::message(0, 1, b"whole")),
        (Mode::Multiplex, vec![9]),
        (Mode::Exclusive, vec![200; 12]),
    ] {
        let mut world = World::new(settings(mode, 1, 1));
        let mut server = world.accept().await;
        settle().await;
        let mut call = world.call(b"a");
        server.echo().await;
        call.reply().await;
        tokio::time::sleep(SECOND).await;
        tokio::io::AsyncWriteExt::write_all(&mut server.wire, &stray).await.unwrap();
        server.end().await.expect_err("RST");
        assert_eq!(world.events.desyncs.get(), 1);
        let mut call = world.call(b"b");
        let mut next = world.accept().await;
        next.echo().await;
        assert_eq!(call.reply().await, b"b");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unknown_or_repeated_tag_ends_everything_on_the_connection() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let (mut a, mut b) = (world.call(b"a"), world.call(b"b"));
    let (_, id, _) = server.receive().await;
    server.receive().await;
    server.send(0, id, b"A").await;
    server.send(0, id, b"A").await;
    assert_eq!(a.reply().await, b"A");
    assert_eq!(b.answer().await.unwrap_err(), Refusal::Desync);
    assert_eq!(world.outcomes(Outcome::Desync), 1);
    world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn in_order_a_reply_with_the_wrong_tag_is_never_passed_on() {
    let mut world = World::new(settings(Mode::Pipeline, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let (mut a, mut b) = (world.call(b"a"), world.call(b"b"));
    server.receive().await;
    let (_, second, _) = server.receive().await;
    server.send(0, second, b"B").await;
    assert_eq!(a.answer().await.unwrap_err(), Refusal::Desync);
    assert_eq!(b.answer().await.unwrap_err(), Refusal::Desync);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_answered_busy_and_idle_and_are_no_replies() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    server.send(HEARTBEAT, 99, b"").await;
    assert_eq!(server.receive().await, (0x40, 99, b"!".to_vec()));
    let mut call = world.call(b"a");
    let (_, id, _) = server.receive().await;
    server.send(HEARTBEAT, id, b"").await;
    assert_eq!(server.receive().await, (0x40, id, b"!".to_vec()));
    assert!(call.is_open().await);
    server.send(0, id, b"A").await;
    assert_eq!(call.reply().await, b"A");
    assert_eq!(world.events.desyncs.get(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_heartbeats_is_cut() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    let flood: Vec<u8> = (0..20_000u16).flat_map(|n| world::message(HEARTBEAT, n, b"")).collect();
    let cut = tokio::io::AsyncWriteExt::write_all(&mut server.wire, &flood).await;
    assert!(cut.is_err());
    assert_eq!(world.events.desyncs.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_it_closes_gets_nothing_new() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 2));
    let mut server = world.accept().await;
    settle().await;
    let mut first = world.call(b"a");
    let (_, id, _) = server.receive().await;
    server.send(CLOSING, 0, b"").await;
    settle().await;
    let mut second = world.call(b"b");
    let mut other = world.accept().await;
    other.echo().await;
    assert_eq!(second.reply().await, b"b");
    server.send(0, id, b"A").await;
    assert_eq!(first.reply().await, b"A");
    server.end().await.expect("a clean end");
}

#[tokio::test(start_paused = true)]
async fn a_oneway_request_is_over_when_it_is_sent() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut oneway = world.send(ONEWAY, b"fire");
    assert!(oneway.answer().await.unwrap().is_none());
    let mut call = world.call(b"next");
    assert_eq!(server.receive().await.2, b"fire");
    assert_eq!(server.echo().await, b"next");
    assert_eq!(call.reply().await, b"next");
    assert_eq!((world.outcomes(Outcome::Sent), world.outcomes(Outcome::Ok)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_late_reply_is_swallowed_and_the_connection_lives() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut slow = world.call(b"slow");
    let (_, id, _) = server.receive().await;
    assert_eq!(slow.answer().await.unwrap_err(), Refusal::Timeout);
    tokio::time::sleep(SECOND / 2).await;
    server.send(0, id, b"late").await;
    settle().await;
    assert_eq!(world.events.late_replies.get(), 1);
    let mut next = world.call(b"next");
    server.echo().await;
    assert_eq!(next.reply().await, b"next");
    assert_eq!(world.events.closed.sum(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_owes_nobody_is_given_up_after_a_second() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut slow = world.call(b"slow");
    server.receive().await;
    let _ = slow.answer().await;
    let start = Instant::now();
    server.end().await.expect_err("RST");
    assert_eq!(start.elapsed(), SECOND);
    world.accept().await;
}

#[tokio::test(start_paused = true)]
async fn every_call_of_a_pool_hangs_once_and_it_serves_at_once() {
    for (mode, max) in [(Mode::Exclusive, 4), (Mode::Multiplex, 1)] {
        let mut world = World::new(settings(mode, max, max));
        let mut servers = Vec::new();
        for _ in 0..max {
            servers.push(world.accept().await);
        }
        settle().await;
        let mut hung: Vec<_> = (0..4).map(|n| world.call(&[n])).collect();
        settle().await;
        tokio::time::sleep(14 * SECOND).await;
        let start = Instant::now();
        let mut next = world.call(b"next");
        let serve = async {
            if mode == Mode::Exclusive {
                // Every connection is full: a hung one gives way at its deadline.
                world.accept().await.echo().await;
                return;
            }
            for _ in 0..4 {
                servers[0].receive().await;
            }
            servers[0].echo().await;
        };
        let (reply, ()) = tokio::join!(next.reply(), serve);
        assert_eq!(reply, b"next");
        assert!(start.elapsed() <= SECOND, "{:?} in {mode:?}", start.elapsed());
        for call in &mut hung {
            assert_eq!(call.answer().await.unwrap_err(), Refusal::Timeout);
        }
        world.assert_conserved();
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_multiplexed_connection_takes_nothing_new_and_harms_nobody() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 2));
    let mut server = world.accept().await;
    settle().await;
    let mut hung = world.call(b"hung");
    server.receive().await;
    for _ in 0..29 {
        let mut call = world.call(b"x");
        server.echo().await;
        call.reply().await;
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(hung.answer().await.unwrap_err(), Refusal::Timeout);
    let mut neighbour = world.call(b"n");
    let (_, id, _) = server.receive().await;
    tokio::time::sleep(2 * SECOND).await;
    let mut fresh = world.call(b"f");
    let mut other = world.accept().await;
    other.echo().await;
    assert_eq!(fresh.reply().await, b"f");
    server.send(0, id, b"N").await;
    assert_eq!(neighbour.reply().await, b"N");
    server.end().await.expect_err("RST: it still owes one");
    assert_eq!(world.events.closed.of(CloseReason::Stalled).get(), 1);
}

/// Where the cap leaves no room for another one, to take nothing new would be everybody's trouble.
#[tokio::test(start_paused = true)]
async fn a_stalled_multiplexed_connection_goes_on_where_it_is_the_last() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut hung = world.call(b"hung");
    server.receive().await;
    let mut last = world.call(b"x");
    for _ in 0..100 {
        let next = world.call(b"x");
        server.echo().await;
        assert_eq!(last.reply().await, b"x");
        last = next;
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(hung.answer().await.unwrap_err(), Refusal::Timeout);
    assert_eq!(world.events.closed.of(CloseReason::Stalled).get(), 0);
    // Others have its room again as soon as that costs nobody anything.
    server.echo().await;
    assert_eq!(last.reply().await, b"x");
    settle().await;
    assert_eq!(world.events.closed.of(CloseReason::Stalled).get(), 1);
    world.accept().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_closes_at_stall() {
    for mode in [Mode::Pipeline, Mode::Multiplex] {
        let mut world = World::new(settings(mode, 1, 1));
        let mut server = world.accept().await;
        settle().await;
        let mut call = world.call(b"a");
        server.receive().await;
        let start = Instant::now();
        assert_eq!(call.answer().await.unwrap_err(), Refusal::Timeout);
        server.end().await.expect_err("RST");
        assert_eq!(start.elapsed(), 30 * SECOND);
        world.accept().await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_for_a_connection_is_refused() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut first = world.call(b"a");
    let mut second = world.call(b"b");
    let start = Instant::now();
    assert_eq!(second.answer().await.unwrap_err(), Refusal::AcquireTimeout);
    assert_eq!(start.elapsed(), 3 * SECOND);
    server.echo().await;
    first.reply().await;
    assert!(server.is_quiet().await, "an expired exchange is never sent");
    world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_call_keeps_its_connection_until_its_reply() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let gone = world.call(b"gone");
    let (_, id, _) = server.receive().await;
    gone.abandon();
    let mut next = world.call(b"next");
    assert!(next.is_open().await);
    assert!(server.is_quiet().await);
    server.send(0, id, b"GONE").await;
    server.echo().await;
    assert_eq!(next.reply().await, b"next");
    assert_eq!((world.events.abandoned.get(), world.events.late_replies.get()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_ends_what_it_owed_and_nothing_else() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let (mut a, mut b) = (world.call(b"a"), world.call(b"b"));
    server.receive().await;
    server.wire.reset();
    assert_eq!(a.answer().await.unwrap_err(), Refusal::Lost);
    let mut next = world.accept().await;
    next.echo().await;
    assert_eq!(b.reply().await, b"b");
}

#[tokio::test(start_paused = true)]
async fn a_reply_before_the_end_of_its_request_is_passed_on() {
    // The pipe is smaller than the request, and the server reads only the head.
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let bytes = bytes::Bytes::from([world::message(0, 7, b"head"), vec![0; 8000]].concat());
    let request = crate::protocol::Request::new(bytes, false);
    let mut ticket = world.pool.admit(request, ANYBODY, Instant::now());
    let (_, id, _) = server.receive().await;
    server.send(0, id, b"early").await;
    let answer = std::future::poll_fn(|cx| ticket.poll_answer(cx)).await;
    assert_eq!(answer.unwrap().unwrap().bytes[4..], b"early"[..]);
    world.accept().await;
    assert_eq!(world.events.closed.of(CloseReason::Early).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pool_that_is_down_refuses_at_once_and_tries_on() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 4));
    world.refuse(0, true);
    let mut waiting = world.call(b"a");
    assert!(matches!(waiting.answer().await.unwrap_err(), Refusal::Down(_)));
    let start = Instant::now();
    assert!(matches!(world.call(b"b").answer().await.unwrap_err(), Refusal::Down(_)));
    assert_eq!(start.elapsed(), Duration::ZERO);
    tokio::time::sleep(60 * SECOND).await;
    let attempts = world.events.connects.sum();
    assert!((8..200).contains(&attempts), "{attempts} attempts in a minute");
    world.refuse(0, false);
    let mut server = world.accept().await;
    settle().await;
    let mut call = world.call(b"c");
    server.echo().await;
    assert_eq!(call.reply().await, b"c");
    world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn one_endpoint_down_is_no_failure() {
    let mut world = World::new(two_endpoints(Mode::Exclusive, 2, 4));
    world.refuse(0, true);
    let mut servers = Vec::new();
    for n in 0..4 {
        let mut call = world.call(&[n]);
        let (endpoint, mut server) = world.accept_at().await;
        assert_eq!(endpoint, 1);
        if servers.is_empty() {
            server.echo().await;
            assert_eq!(call.reply().await, [n]);
        }
        servers.push(server);
        if servers.len() == 2 {
            break;
        }
    }
    assert_eq!(world.outcomes(Outcome::Refused), 0);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_at_once_is_not_hammered() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let start = Instant::now();
    let mut connects = 0;
    while start.elapsed() < 60 * SECOND {
        match tokio::time::timeout(10 * SECOND, world.accept()).await {
            Ok(server) => drop(server),
            Err(_) => break,
        }
        connects += 1;
    }
    assert_eq!(connects, 2, "twice unused: left cold until demand");
    let mut call = world.call(b"a");
    let mut server = world.accept().await;
    server.echo().await;
    assert_eq!(call.reply().await, b"a");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_speaks_first_is_backed_off() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    for _ in 0..2 {
        let mut server = world.accept().await;
        tokio::io::AsyncWriteExt::write_all(&mut server.wire, b"220 ready\r\n").await.unwrap();
        let _ = server.end().await;
    }
    assert!(world.nobody_connects(60 * SECOND).await);
    assert_eq!(world.events.desyncs.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_preamble_is_read_and_answered_before_the_first_request() {
    let mut limits = settings(Mode::Exclusive, 1, 1);
    limits.connection.preamble = Some(crate::connection::Preamble {
        expect: b"220 ready\n".as_slice().into(),
        send: b"\x04\x00\x00\x01".as_slice().into(),
    });
    let mut world = World::new(limits);
    let mut bad = world.accept().await;
    tokio::io::AsyncWriteExt::write_all(&mut bad.wire, b"500 go away\n").await.unwrap();
    let mut good = world.accept().await;
    tokio::io::AsyncWriteExt::write_all(&mut good.wire, b"220 ready\n").await.unwrap();
    assert_eq!(good.receive().await, (0, 1, vec![]), "what is sent after it");
    settle().await;
    let mut call = world.call(b"a");
    good.echo().await;
    assert_eq!(call.reply().await, b"a");
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_what_is_in_flight_finish_and_closes_cleanly() {
    let mut world = World::new(settings(Mode::Exclusive, 2, 2));
    let (mut idle, mut busy) = (world.accept().await, world.accept().await);
    settle().await;
    let mut call = world.call(b"a");
    let (_, id, _) = tokio::select! {
        request = busy.receive() => request,
        request = idle.receive() => { std::mem::swap(&mut idle, &mut busy); request }
    };
    world.back.drain();
    assert_eq!(world.call(b"late").answer().await.unwrap_err(), Refusal::Draining);
    idle.end().await.expect("FIN");
    busy.send(0, id, b"A").await;
    assert_eq!(call.reply().await, b"A");
    busy.end().await.expect("FIN");
    (&mut world.keeper).await.unwrap();
    world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_everything_at_once() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 1));
    let mut server = world.accept().await;
    settle().await;
    let mut call = world.call(b"a");
    server.receive().await;
    world.back.stop();
    assert_eq!(call.answer().await.unwrap_err(), Refusal::Lost);
    (&mut world.keeper).await.unwrap();
}
