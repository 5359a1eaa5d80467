//! Two pools under one cap, as after a reload: neither starves, nobody is cut, and the cap is never exceeded.

use std::sync::Arc;

use tokio::time::Instant;

use super::world::{Server, World, protocol, settings, settle};
use super::{CloseReason, SECOND};
use crate::pool::{Cap, Settings};
use crate::protocol::{Mode, Refusal};
use crate::queue::{Queue, TURN};
use crate::wire::Budget;

fn under(cap: &Arc<Cap>, settings: Settings) -> World {
    World::under(cap, settings, protocol(), Budget::new(1 << 20))
}

/// Two pools with a floor of one and room for one socket, which the first one has.
async fn pair() -> (World, Server, World) {
    let cap = Cap::new(1, 1);
    let mut first = under(&cap, settings(Mode::Exclusive, 1, 1));
    let server = first.accept().await;
    settle().await;
    (first, server, under(&cap, settings(Mode::Exclusive, 1, 1)))
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_gives_way_to_another_pool_that_has_work() {
    let (first, mut server, mut second) = pair().await;
    let mut call = second.call(b"x");
    server.end().await.unwrap();
    assert_eq!(first.events.closed.of(CloseReason::Balance).get(), 1);
    second.accept().await.echo().await;
    assert_eq!(call.reply().await, b"x");
}

#[tokio::test(start_paused = true)]
async fn a_busy_one_finishes_what_it_has_before_it_gives_way() {
    let (first, mut server, mut second) = pair().await;
    let mut old = first.call(b"old");
    settle().await;
    let mut new = second.call(b"new");
    assert!(second.nobody_connects(SECOND).await, "the cap is exceeded");
    server.echo().await;
    assert_eq!(old.reply().await, b"old");
    server.end().await.unwrap();
    second.accept().await.echo().await;
    assert_eq!(new.reply().await, b"new");
}

#[tokio::test(start_paused = true)]
async fn two_pools_with_work_take_turns() {
    let (mut first, mut server, mut second) = pair().await;
    for _ in 0..10 {
        for world in [&mut second, &mut first] {
            let mut call = world.call(b"x");
            server.end().await.unwrap();
            server = world.accept().await;
            server.echo().await;
            assert_eq!(call.reply().await, b"x");
        }
    }
}

/// Each request costs a connect otherwise, and who is further from the clock gets none.
#[tokio::test(start_paused = true)]
async fn a_turn_is_for_many_requests() {
    let (mut first, mut server, mut second) = pair().await;
    let mut opened = 0;
    for _ in 0..10 {
        for world in [&mut second, &mut first] {
            let mut calls: Vec<_> = (0..20).map(|n| world.call(&[n])).collect();
            let serving = async {
                loop {
                    while let Some((_, id, payload)) = server.try_receive().await {
                        tokio::time::sleep(SECOND / 1000).await;
                        server.send(0, id, &payload).await;
                    }
                    server = world.accept().await;
                    opened += 1;
                }
            };
            let answered = async {
                for call in &mut calls {
                    call.reply().await;
                }
            };
            tokio::select! { () = answered => {}, () = serving => unreachable!() }
        }
    }
    assert_eq!(opened, 20);
    // Both at once.
    let before = first.events.closed.of(CloseReason::Balance).get()
        + second.events.closed.of(CloseReason::Balance).get();
    let mut calls: Vec<_> = (0..200u8).flat_map(|n| [first.call(&[n]), second.call(&[n])]).collect();
    let serving = async {
        loop {
            while let Some((_, id, payload)) = server.try_receive().await {
                tokio::time::sleep(SECOND / 1000).await;
                server.send(0, id, &payload).await;
            }
            server = tokio::select! {
                server = first.accept() => server,
                server = second.accept() => server,
            };
        }
    };
    let answered = async {
        for call in &mut calls {
            call.reply().await;
        }
    };
    tokio::select! { () = answered => {}, () = serving => unreachable!() }
    let after = first.events.closed.of(CloseReason::Balance).get()
        + second.events.closed.of(CloseReason::Balance).get();
    assert!(after - before < 20, "{} turns for 400 requests", after - before);
}

#[tokio::test(start_paused = true)]
async fn who_has_fewer_gets_one_although_all_are_busy() {
    let cap = Cap::new(4, 1);
    let mut first = under(&cap, settings(Mode::Exclusive, 3, 4));
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(first.accept().await);
    }
    let mut second = under(&cap, settings(Mode::Exclusive, 1, 4));
    let mut slow = second.accept().await;
    let _long = second.call(b"long");
    slow.receive().await;
    let _more: Vec<_> = (0..30).map(|n| first.call(&[n])).collect();
    let mut call = second.call(b"x");
    let _others: Vec<_> = (0..30).map(|n| second.call(&[n])).collect();
    settle().await;
    for server in &mut servers {
        server.echo().await;
    }
    let mut new = tokio::time::timeout(SECOND, second.accept()).await.unwrap();
    new.echo().await;
    assert_eq!(call.reply().await, b"x");
    // Two have as many as two: it stays at that.
    assert!(second.nobody_connects(SECOND / 2).await && first.nobody_connects(SECOND / 2).await);
}

#[tokio::test(start_paused = true)]
async fn who_is_long_in_going_holds_up_nobody() {
    let cap = Cap::new(2, 1);
    let mut first = under(&cap, settings(Mode::Exclusive, 2, 2));
    let mut servers = [first.accept().await, first.accept().await];
    let mut second = under(&cap, settings(Mode::Exclusive, 1, 2));
    let _calls: Vec<_> = (0..30).map(|n| first.call(&[n])).collect();
    settle().await;
    let mut call = second.call(b"x");
    // The one that was given something last is asked first, and does not go.
    let mut given = Vec::new();
    for (at, server) in servers.iter_mut().enumerate() {
        given.push((server.receive().await, at));
    }
    given.sort();
    assert!(second.nobody_connects(2 * TURN).await);
    let ((_, id, payload), at) = given.remove(0);
    servers[at].send(0, id, &payload).await;
    tokio::time::timeout(SECOND, second.accept()).await.unwrap().echo().await;
    assert_eq!(call.reply().await, b"x");
}

/// What has a long request is of no use to those who wait: the pool is as one that has nothing.
#[tokio::test(start_paused = true)]
async fn who_stands_still_has_a_turn_like_who_has_none() {
    let cap = Cap::new(3, 1);
    let mut first = under(&cap, settings(Mode::Exclusive, 2, 3));
    let mut servers = [first.accept().await, first.accept().await];
    let mut second = under(&cap, settings(Mode::Exclusive, 1, 3));
    let mut slow = second.accept().await;
    let _long = second.call(b"long");
    slow.receive().await;
    let _more: Vec<_> = (0..60).map(|n| first.call(&[n])).collect();
    let mut call = second.call(b"x");
    for _ in 0..12 {
        tokio::time::sleep(TURN / 3).await;
        for server in &mut servers {
            if let Some((_, id, payload)) = server.try_receive().await {
                server.send(0, id, &payload).await;
            }
        }
    }
    tokio::time::timeout(SECOND / 10, second.accept()).await.unwrap().echo().await;
    assert_eq!(call.reply().await, b"x");
}

/// Nothing else may ever wake the keeper of a pool whose clients all wait.
#[tokio::test(start_paused = true)]
async fn who_gets_nothing_now_asks_again() {
    let cap = Cap::new(2, 1);
    let [one, other] = [(); 2].map(|()| Queue::new(settings(Mode::Exclusive, 1, 2).of_queue()));
    cap.enter(&one);
    assert_eq!(cap.claim(&one, 1), (false, None), "there is nobody else");
    cap.enter(&other);
    assert_eq!(cap.claim(&one, 1), (false, Some(Instant::now() + TURN)));
}

#[tokio::test(start_paused = true)]
async fn a_floor_is_no_reason_to_take_a_connection_from_another_pool() {
    let (first, mut server, mut second) = pair().await;
    assert!(second.nobody_connects(SECOND).await);
    let mut call = first.call(b"x");
    server.echo().await;
    assert_eq!(call.reply().await, b"x");
    assert!(!second.pool.has_stood());
    first.back.drain();
    server.end().await.unwrap();
    second.accept().await;
    second.pool.stood().await;
}

#[tokio::test(start_paused = true)]
async fn who_has_stopped_waiting_is_in_nobodys_way() {
    let (mut first, mut server, second) = pair().await;
    let _busy = first.call(b"busy");
    server.receive().await;
    let mut waits = second.call(b"x");
    assert!(matches!(waits.answer().await, Err(Refusal::AcquireTimeout)));
    drop(server);
    settle().await;
    // Whoever had it for its floor, it is for who has work.
    let mut call = first.call(b"y");
    let answered = async {
        let mut server = first.accept().await;
        while server.echo().await != b"y" {}
    };
    tokio::time::timeout(SECOND, answered).await.unwrap();
    assert_eq!(call.reply().await, b"y");
}

#[tokio::test(start_paused = true)]
async fn a_lower_cap_holds_as_soon_as_nobody_is_cut_by_it() {
    let cap = Cap::new(3, 1);
    let mut world = under(&cap, settings(Mode::Exclusive, 1, 3));
    let mut calls: Vec<_> = (0..3).map(|n| world.call(&[n])).collect();
    let mut servers = Vec::new();
    for _ in 0..3 {
        servers.push(world.accept().await);
    }
    settle().await;
    cap.resize(1, 1);
    let pool = world.pool.retune(settings(Mode::Exclusive, 1, 1));
    settle().await;
    assert_eq!((cap.excess(), pool.figures().busy + pool.figures().retiring), (2, 3));
    for (server, (call, n)) in servers.iter_mut().zip(calls.iter_mut().zip(0..)) {
        server.echo().await;
        assert_eq!(call.reply().await, [n]);
    }
    settle().await;
    assert_eq!((cap.excess(), pool.figures().idle), (0, 1));
    assert!(world.nobody_connects(SECOND).await);
}

#[tokio::test(start_paused = true)]
async fn below_a_lower_cap_the_connections_of_a_superseded_pool_go_first() {
    let cap = Cap::new(2, 1);
    let mut first = under(&cap, settings(Mode::Exclusive, 0, 2));
    let mut second = under(&cap, settings(Mode::Exclusive, 1, 2));
    let mut kept = second.accept().await;
    first.pool.supersede();
    let mut call = first.call(b"x");
    let mut server = first.accept().await;
    server.echo().await;
    assert_eq!(call.reply().await, b"x");
    settle().await;
    cap.resize(1, 1);
    let _second = second.pool.retune(settings(Mode::Exclusive, 1, 1));
    server.end().await.unwrap();
    assert_eq!(cap.excess(), 0);
    assert!(kept.is_quiet().await);
}
