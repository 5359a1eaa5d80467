//! Endpoints that are probed, ejected and taken back.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::two_endpoints;
use super::world::{Server, World, message, settings, settle};
use crate::events::{CloseReason, ProbeResult};
use crate::pool::Settings;
use crate::pool::health::Probe;
use crate::protocol::Mode;

const SECOND: Duration = Duration::from_secs(1);

/// A connection to each of two endpoints.
async fn two(limits: Settings) -> (World, Server, Server) {
    let mut world = World::new(limits);
    let (first, mut a) = world.accept_at().await;
    settle().await;
    // The first request is the reason to connect to the other one, too.
    let mut call = world.call(b"first");
    a.echo().await;
    call.reply().await;
    let (second, b) = world.accept_at().await;
    assert_eq!([first, second], [0, 1]);
    settle().await;
    (world, a, b)
}

fn up(world: &World) -> Vec<bool> {
    world.pool.endpoints().into_iter().map(|it| it.up).collect()
}

/// The first endpoint does not answer five requests in a row.
async fn fail_five(world: &mut World, b: &mut Server) {
    let calls: Vec<_> = (0..10).map(|n| world.call(&[n])).collect();
    for _ in 0..5 {
        b.echo().await;
    }
    settle().await;
    drop(calls);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_in_a_row_is_left_out_for_a_while() {
    let mut limits = two_endpoints(Mode::Multiplex, 1, 4);
    limits.connection.max_lifetime = 900 * SECOND;
    let (mut world, a, mut b) = two(limits).await;
    fail_five(&mut world, &mut b).await;
    drop(a);
    settle().await;
    assert_eq!(world.events.ejections.get(), 1);
    assert_eq!(up(&world), [false, true]);
    // Everything goes to the other one meanwhile, and nobody is connected to the ejected one.
    for n in 0..20 {
        let mut call = world.call(&[n]);
        assert_eq!(b.echo().await, [n]);
        call.reply().await;
    }
    assert!(world.nobody_connects(Duration::from_millis(700)).await);
    // Then a real request may show that it is well again.
    let (endpoint, mut a) = world.accept_at().await;
    assert_eq!(endpoint, 0);
    settle().await;
    let mut calls: Vec<_> = (0..6).map(|n| world.call(&[n])).collect();
    settle().await;
    let at_a = a.receive().await;
    assert!(a.is_quiet().await, "one at a time");
    a.send(0, at_a.1, &at_a.2).await;
    for _ in 0..5 {
        b.echo().await;
    }
    for call in &mut calls {
        call.reply().await;
    }
    assert_eq!(up(&world), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn an_ejection_lasts_twice_as_long_each_time() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 2);
    limits.health.eject_after = 1;
    let (mut world, a, mut b) = two(limits).await;
    let mut first = Some(a);
    let mut spells = Vec::new();
    for _ in 0..8 {
        let mut a = if let Some(a) = first.take() {
            a
        } else {
            let (endpoint, a) = world.accept_at().await;
            assert_eq!(endpoint, 0);
            a
        };
        settle().await;
        // One to each, in whatever order.
        let mut calls = [world.call(b"1"), world.call(b"2")];
        a.receive().await;
        b.echo().await;
        drop(a);
        settle().await;
        for call in &mut calls {
            let _ = call.answer().await;
        }
        assert_eq!(up(&world), [false, true]);
        let start = Instant::now();
        while !up(&world)[0] {
            let mut call = world.call(b"3");
            b.echo().await;
            call.reply().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        spells.push(start.elapsed().as_secs_f64());
    }
    let bounds = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0];
    for (spell, bound) in spells.iter().zip(bounds) {
        assert!(bound * 0.74 <= *spell && *spell <= bound + 0.1, "{spells:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_endpoint_is_never_ejected() {
    let mut world = World::new(settings(Mode::Multiplex, 1, 1));
    for _ in 0..3 {
        let mut server = world.accept().await;
        settle().await;
        let mut calls: Vec<_> = (0..6).map(|n| world.call(&[n])).collect();
        server.receive().await;
        drop(server);
        for call in &mut calls {
            let _ = call.answer().await;
        }
    }
    assert_eq!((world.events.ejections.get(), up(&world)), (0, vec![true]));
}

#[tokio::test(start_paused = true)]
async fn an_ejected_endpoint_is_used_again_at_once_if_the_other_one_goes() {
    let (mut world, a, mut b) = two(two_endpoints(Mode::Multiplex, 1, 4)).await;
    fail_five(&mut world, &mut b).await;
    drop(a);
    settle().await;
    assert_eq!(up(&world), [false, true]);
    world.refuse(1, true);
    drop(b);
    let start = Instant::now();
    let mut call = world.call(b"x");
    let (endpoint, mut a) = world.accept_at().await;
    assert_eq!((endpoint, start.elapsed()), (0, Duration::ZERO));
    assert_eq!(a.echo().await, b"x");
    assert_eq!(call.reply().await, b"x");
}

#[tokio::test(start_paused = true)]
async fn idle_connections_of_an_ejected_endpoint_are_closed() {
    let mut limits = two_endpoints(Mode::Exclusive, 4, 4);
    limits.health.eject_after = 1;
    let mut world = World::new(limits);
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(world.accept_at().await);
    }
    settle().await;
    let mut calls = [world.call(b"1"), world.call(b"2")];
    settle().await;
    let (mut a, mut b): (Vec<_>, Vec<_>) = servers.into_iter().partition(|(endpoint, _)| *endpoint == 0);
    let mut idle = Vec::new();
    for (_, mut server) in a.drain(..) {
        match tokio::time::timeout(Duration::from_millis(1), server.receive()).await {
            Ok(_) => drop(server),
            Err(_) => idle.push(server),
        }
    }
    for (_, server) in &mut b {
        let _ = tokio::time::timeout(Duration::from_millis(1), server.echo()).await;
    }
    for call in &mut calls {
        let _ = call.answer().await;
    }
    assert_eq!(idle.len(), 1);
    idle[0].end().await.unwrap();
    assert_eq!(world.events.closed.of(CloseReason::Ejected).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn replies_that_do_not_come_in_time_are_failures() {
    let mut limits = two_endpoints(Mode::Multiplex, 1, 4);
    limits.request_timeout = SECOND;
    let (mut world, _a, mut b) = two(limits).await;
    fail_five(&mut world, &mut b).await;
    assert_eq!(world.events.ejections.get(), 0);
    tokio::time::sleep(SECOND).await;
    settle().await;
    assert_eq!(world.events.ejections.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_connection_satisfies_a_probe_and_one_that_is_dialled_joins() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 4);
    limits.health.interval = Some(5 * SECOND);
    let mut world = World::new(limits);
    let mut servers = vec![world.accept_at().await, world.accept_at().await];
    assert_eq!(servers[0].0 + servers[1].0, 1, "each endpoint has one");
    tokio::time::sleep(21 * SECOND).await;
    assert!(world.nobody_connects(Duration::from_millis(1)).await);
    assert!(world.events.probes.of(ProbeResult::Ok).get() >= 6);
    // A request goes out on what the probe has opened.
    let mut calls = [world.call(b"1"), world.call(b"2")];
    for (_, server) in &mut servers {
        server.echo().await;
    }
    for call in &mut calls {
        call.reply().await;
    }
    assert_eq!(world.events.connects.sum(), 2);
    assert_eq!(world.events.accepted.get(), 2);
}

#[tokio::test(start_paused = true)]
async fn probes_stay_within_the_cap() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 1);
    limits.health.interval = Some(SECOND);
    let mut world = World::new(limits);
    let _server = world.accept().await;
    assert!(world.nobody_connects(20 * SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cannot_be_reached_is_unhealthy_until_it_can() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 4);
    limits.health.interval = Some(SECOND);
    let mut world = World::new(limits);
    world.refuse(1, true);
    let _a = world.accept().await;
    tokio::time::sleep(20 * SECOND).await;
    assert_eq!(up(&world), [true, false]);
    assert!(world.events.probes.of(ProbeResult::Failed).get() >= 3);
    world.refuse(1, false);
    let (endpoint, _b) = world.accept_at().await;
    settle().await;
    assert_eq!((endpoint, up(&world)), (1, vec![true, true]));
}

fn asking(expect: &'static [u8]) -> Settings {
    let mut limits = two_endpoints(Mode::Multiplex, 1, 4);
    limits.health.interval = Some(5 * SECOND);
    limits.health.eject_after = 1000;
    limits.connection.stall = 120 * SECOND;
    limits.health.probe =
        Probe::Ask { request: Bytes::from(message(0, 0x0707, b"ping")), expect: Bytes::from_static(expect) };
    limits
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_probes_gets_nothing_until_it_does() {
    let (world, mut a, mut b) = two(asking(b"\x08\0\x07\x07ping")).await;
    let other = tokio::spawn(async move {
        loop {
            b.echo().await;
        }
    });
    tokio::time::sleep(25 * SECOND).await;
    assert_eq!(up(&world), [false, true]);
    let mut calls: Vec<_> = (0..20).map(|n| world.call(&[n])).collect();
    for call in &mut calls {
        call.reply().await;
    }
    // It answers again, the old probes first.
    while !up(&world)[0] {
        a.echo().await;
    }
    assert_eq!(world.events.accepted.get(), 21, "probes are no requests");
    world.assert_conserved();
    other.abort();
}

#[tokio::test(start_paused = true)]
async fn another_answer_than_the_expected_one_is_none() {
    let (world, mut a, mut b) = two(asking(b"\x08\0\x07\x07pong")).await;
    let mut alternate = Vec::new();
    for _ in 0..3 {
        alternate.push((a.echo().await, b.echo().await));
    }
    settle().await;
    assert_eq!(up(&world), [false, false]);
    assert_eq!(world.events.probes.of(ProbeResult::Ok).get(), 0);
    // With nobody better about, both are used.
    let mut call = world.call(b"x");
    settle().await;
    tokio::select! { payload = a.echo() => assert_eq!(payload, b"x"), payload = b.echo() => assert_eq!(payload, b"x") }
    assert_eq!(call.reply().await, b"x");
}
