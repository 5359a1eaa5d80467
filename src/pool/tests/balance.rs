//! Endpoints that come and go, and who makes room for whom.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::two_endpoints;
use super::world::{Server, World, settings, settle};
use crate::events::CloseReason;
use crate::net::Address;
use crate::pool::Settings;
use crate::pool::balance::{Endpoint, Key, Policy};
use crate::protocol::Mode;
use crate::queue::rendezvous::hash;

const SECOND: Duration = Duration::from_secs(1);

fn endpoints(ports: impl IntoIterator<Item = u16>) -> Vec<Endpoint> {
    ports.into_iter().map(|port| Address::Tcp { host: "10.0.0.1".into(), port }.into()).collect()
}

fn shown(world: &World) -> Vec<String> {
    world.pool.endpoints().into_iter().map(|it| it.address).collect()
}

fn retune(world: &mut World, change: impl FnOnce(&mut Settings)) {
    let mut settings = world.pool.settings().clone();
    change(&mut settings);
    world.pool = world.pool.retune(settings);
}

/// Answers whatever comes, each after some time, until the connection ends.
fn serve(mut server: Server, time: Duration) {
    tokio::spawn(async move {
        while let Some((_, id, payload)) = server.try_receive().await {
            sleep(time).await;
            server.send(0, id, &payload).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn who_is_removed_finishes_what_it_has_and_closes() {
    let mut world = World::new(two_endpoints(Mode::Multiplex, 2, 4));
    let (mut servers, mut calls) = (vec![world.accept_at().await, world.accept_at().await], Vec::new());
    servers.sort_by_key(|(endpoint, _)| *endpoint);
    for n in 0..2 {
        calls.push(world.call(&[n]));
    }
    settle().await;
    retune(&mut world, |settings| settings.endpoints = endpoints([2, 3]));
    settle().await;
    assert_eq!(shown(&world), ["10.0.0.1:2", "10.0.0.1:3"]);
    let (_, mut gone) = servers.remove(0);
    let payload = gone.echo().await;
    assert_eq!(calls[usize::from(payload[0])].reply().await, payload);
    gone.end().await.unwrap();
    assert_eq!(world.events.closed.of(CloseReason::Removed).get(), 1);
    // Its place is free, but nobody who speaks to the new endpoint speaks to the old one.
    let (place, mut new) = world.accept_at().await;
    assert_eq!(place, 2, "the old one was in use still");
    let mut more: Vec<_> = (2..4).map(|n| world.call(&[n])).collect();
    settle().await;
    let payload = new.echo().await;
    assert_eq!(more[usize::from(payload[0]) - 2].reply().await, payload);
    retune(&mut world, |settings| settings.endpoints = endpoints([2, 3, 4]));
    world.call(b"x");
    assert_eq!(world.accept_at().await.0, 0, "a free place is used again");
}

#[tokio::test(start_paused = true)]
async fn other_numbers_hold_for_what_comes() {
    let mut world = World::new(settings(Mode::Exclusive, 1, 4));
    let mut calls: Vec<_> = (0..4).map(|n| world.call(&[n])).collect();
    let mut servers = Vec::new();
    for _ in 0..4 {
        servers.push(world.accept().await);
    }
    for server in &mut servers {
        server.echo().await;
    }
    for (n, call) in (0..).zip(&mut calls) {
        assert_eq!(call.reply().await, [n]);
    }
    let old = world.pool.clone();
    retune(&mut world, |settings| (settings.max_connections, settings.request_timeout) = (2, 2 * SECOND));
    settle().await;
    assert_eq!(world.events.closed.of(CloseReason::Retuned).get(), 2);
    assert_eq!(world.pool.figures().idle, 2);
    let start = Instant::now();
    let mut call = world.call(b"slow");
    call.answer().await.unwrap_err();
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(old.settings().request_timeout, 15 * SECOND, "sessions from before keep theirs");
    retune(&mut world, |settings| settings.min_connections = 2);
    settle().await;
    assert!(world.pool.figures().idle + world.pool.figures().connecting >= 1);
}

#[tokio::test(start_paused = true)]
async fn who_is_superseded_only_serves_whom_it_still_has() {
    let mut world = World::new(settings(Mode::Exclusive, 2, 4));
    let mut busy = world.accept().await;
    let mut other = world.accept().await;
    let mut call = world.call(b"a");
    settle().await;
    if busy.is_quiet().await {
        std::mem::swap(&mut busy, &mut other);
    }
    world.pool.supersede();
    other.end().await.unwrap();
    busy.echo().await;
    assert_eq!(call.reply().await, b"a");
    busy.end().await.unwrap();
    assert!(world.nobody_connects(10 * SECOND).await, "no floor, no probes");
    let mut call = world.call(b"b");
    world.accept().await.echo().await;
    assert_eq!(call.reply().await, b"b");
    world.back.drain();
    (&mut world.keeper).await.unwrap();
    world.assert_conserved();
}

/// All connections went to one endpoint while the other one was away.
#[tokio::test(start_paused = true)]
async fn at_the_cap_an_endpoint_that_is_back_gets_its_connections_again() {
    let mut limits = two_endpoints(Mode::Exclusive, 1, 8);
    limits.balance.slow_start = 2 * SECOND;
    let mut world = World::new(limits);
    world.refuse(1, true);
    let pool = world.pool.clone();
    let calling = |world: &World| {
        for n in 0..16u8 {
            let mut call = world.call(&[n]);
            tokio::spawn(async move { call.answer().await.map(drop) });
        }
    };
    let start = Instant::now();
    let mut opened = [0; 2];
    let mut refusing = true;
    while start.elapsed() < 30 * SECOND {
        calling(&world);
        let round = Instant::now() + Duration::from_millis(100);
        while let Ok((endpoint, server)) = tokio::time::timeout_at(round, world.accept_at()).await {
            opened[endpoint] += 1;
            serve(server, Duration::from_millis(20));
        }
        if refusing && start.elapsed() > 5 * SECOND {
            refusing = false;
            assert_eq!(opened[1], 0);
            world.refuse(1, false);
        }
    }
    let figures = pool.figures();
    assert_eq!(figures.idle + figures.busy, 8);
    let moved = world.events.closed.of(CloseReason::Balance).get();
    // One was given up for an attempt while the endpoint was away still.
    assert!(opened[1] == 4 && (4..=5).contains(&moved), "{opened:?}, {moved} moved");
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_a_hot_key_takes_an_idle_connection() {
    let mut limits = two_endpoints(Mode::Exclusive, 2, 3);
    limits.balance.policy = Policy::Hash(Key::Bytes { offset: 4, size: 1 });
    let mut world = World::new(limits);
    let warm = [world.accept_at().await, world.accept_at().await];
    assert_eq!(warm[0].0 + warm[1].0, 1, "one to each");
    let mut keys = [Vec::new(), Vec::new()];
    for key in 0..64u8 {
        let lead = world.pool.core.queue.lead(hash(&[key])).unwrap();
        keys[lead].push(key);
    }
    let hot: Vec<_> = (0..2).map(|n| world.call(&[keys[0][n]])).collect();
    let third = world.accept_at().await;
    assert_eq!(third.0, 0, "two at a time need two");
    // The other endpoint has one connection, and that is its last.
    let more = world.call(&[keys[0][2]]);
    assert!(world.nobody_connects(SECOND).await, "the cap is hard");
    drop((warm, hot, third, more));
}
