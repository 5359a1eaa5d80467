//! Servers that close idle connections, and what a pool makes of it.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::world::{Server, World, settings, settle};
use crate::events::{CloseReason, Outcome};
use crate::protocol::Mode;

const SECOND: Duration = Duration::from_secs(1);
const LIMIT: Duration = Duration::from_secs(2);
const NEVER: Duration = Duration::from_secs(1_000_000);

/// A pool of servers of which each echoes and closes what idles for `limit`.
struct Story {
    world: World,
    limit: Duration,
    /// When connections to them ended, and when each had begun to idle.
    ends: JoinSet<(Instant, Instant)>,
}

async fn serve(mut server: Server, limit: Duration) -> (Instant, Instant) {
    let mut since = Instant::now();
    let mut head = [0; 4];
    while let Ok(Ok(_)) = timeout(limit, server.wire.read_exact(&mut head)).await {
        let mut payload = vec![0; usize::from(head[0]) - 4];
        server.wire.read_exact(&mut payload).await.unwrap();
        server.send(0, u16::from_be_bytes([head[2], head[3]]), &payload).await;
        since = Instant::now();
    }
    (since, Instant::now())
}

impl Story {
    fn new(min: usize, max: usize) -> Self {
        Self { world: World::new(settings(Mode::Exclusive, min, max)), limit: LIMIT, ends: JoinSet::new() }
    }

    /// Lets the servers work for so long.
    async fn pass(&mut self, time: Duration) {
        let _ = timeout(time, async {
            loop {
                let server = self.world.accept().await;
                self.ends.spawn(serve(server, self.limit));
            }
        })
        .await;
    }

    /// A request that is served at once.
    async fn call(&mut self) {
        let (start, mut call) = (Instant::now(), self.world.call(b"x"));
        let (reply, ()) = tokio::join!(call.reply(), self.pass(SECOND / 1000));
        assert_eq!(reply, b"x");
        assert!(start.elapsed() <= SECOND / 1000);
    }

    /// Requests, and nothing for `time` after each.
    async fn call_every(&mut self, time: Duration, calls: usize) {
        for _ in 0..calls {
            self.call().await;
            self.pass(time).await;
        }
    }

    /// Goes on until the servers have closed two connections one after the other, and the pool has gone cold.
    async fn learn(&mut self) {
        self.pass(5 * SECOND).await;
        assert_eq!(self.learned(), Some(LIMIT));
        assert_eq!(self.open(), 0, "cold");
        self.ends.detach_all();
    }

    /// Goes on until a connection waits as a scout.
    async fn scout(&mut self) {
        for _ in 0..100 {
            self.call().await;
            self.pass(LIMIT * 81 / 100).await;
            if self.world.pool.figures().retiring == 1 {
                return;
            }
            self.pass(LIMIT).await;
        }
        panic!("no scout");
    }

    fn learned(&self) -> Option<Duration> {
        self.world.pool.endpoints()[0].idle_limit
    }

    fn open(&self) -> usize {
        let figures = self.world.pool.figures();
        figures.idle + figures.busy
    }

    fn closed(&self, reason: CloseReason) -> u64 {
        self.world.events.closed.of(reason).get()
    }

    /// The instants at which so many connections end.
    async fn next_ends(&mut self, count: usize) -> Vec<(Instant, Instant)> {
        let mut ends = Vec::new();
        while ends.len() < count {
            self.pass(SECOND / 1000).await;
            while let Some(end) = self.ends.try_join_next() {
                ends.push(end.unwrap());
            }
        }
        ends
    }
}

fn all_apart(ends: &[(Instant, Instant)], least: Duration) -> bool {
    let mut at: Vec<_> = ends.iter().map(|(_, end)| *end).collect();
    at.sort();
    at.windows(2).all(|pair| pair[1] - pair[0] >= least)
}

#[tokio::test(start_paused = true)]
async fn it_is_learned_from_the_second_close_and_there_is_no_third() {
    let mut story = Story::new(1, 1);
    story.pass(LIMIT + SECOND).await;
    assert_eq!((story.closed(CloseReason::Peer), story.learned()), (1, None));
    story.pass(LIMIT).await;
    assert_eq!((story.closed(CloseReason::Peer), story.learned()), (2, Some(LIMIT)));
    story.ends.detach_all();
    story.call().await;
    for (since, end) in story.next_ends(3).await {
        assert!((LIMIT * 72 / 100..=LIMIT * 81 / 100).contains(&(end - since)), "{:?}", end - since);
    }
    assert_eq!((story.closed(CloseReason::Peer), story.closed(CloseReason::IdleLimit)), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn requests_meet_no_connection_that_the_server_may_close() {
    for floor in [0, 1, 4] {
        let mut story = Story::new(floor, 8);
        story.call_every(3 * SECOND, 300).await;
        assert_eq!(story.learned(), Some(LIMIT));
        assert_eq!(story.world.outcomes(Outcome::Ok), 300);
        // Those before it was known, and after that scouts, more and more rarely.
        let closed = story.closed(CloseReason::Peer);
        let scouts = closed.checked_sub(2 * floor.max(1) as u64).unwrap();
        assert!((4..=14).contains(&scouts), "{scouts} scouts of {floor}");
        assert!(story.closed(CloseReason::IdleLimit) >= 250);
    }
}

#[tokio::test(start_paused = true)]
async fn who_sleeps_when_it_is_learned_leaves_in_time_too() {
    let world = &mut World::new(settings(Mode::Exclusive, 0, 3));
    let mut calls = [world.call(b"a"), world.call(b"b")];
    let (mut one, mut two) = (world.accept().await, world.accept().await);
    one.echo().await;
    calls[0].reply().await;
    sleep(LIMIT).await;
    drop(one);
    two.echo().await;
    calls[1].reply().await;
    let mut calls = [world.call(b"c"), world.call(b"d")];
    let mut three = world.accept().await;
    three.echo().await;
    calls[1].reply().await;
    sleep(LIMIT / 2).await;
    two.echo().await;
    calls[0].reply().await;
    let start = Instant::now();
    sleep(LIMIT / 2).await;
    drop(three);
    settle().await;
    assert_eq!(world.pool.endpoints()[0].idle_limit, Some(LIMIT));
    two.end().await.expect("a clean end");
    let age = start.elapsed();
    assert!((LIMIT * 72 / 100..=LIMIT * 81 / 100).contains(&age), "{age:?}");
}

#[tokio::test(start_paused = true)]
async fn a_restart_shows_nothing() {
    let mut story = Story::new(4, 4);
    story.limit = NEVER;
    for age in [5, 60, 20] {
        story.call_every(3 * SECOND, 2).await;
        story.pass(age * SECOND).await;
        story.ends.abort_all();
        story.pass(SECOND).await;
    }
    assert_eq!((story.closed(CloseReason::Peer), story.learned()), (12, None));
}

#[tokio::test(start_paused = true)]
async fn closes_between_which_others_idle_longer_show_nothing() {
    for longer in [false, true] {
        let mut story = Story::new(0, 1);
        for age in if longer { [2, 3, 2] } else { [2, 2, 2] } {
            story.limit = NEVER;
            story.call().await;
            story.pass(age * SECOND).await;
            if age == 3 {
                story.call().await;
            } else {
                story.ends.abort_all();
                story.pass(SECOND / 10).await;
            }
        }
        assert_eq!(story.learned().is_some(), !longer, "{:?}", story.learned());
    }
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_kept_for_those_who_use_it_only() {
    let mut story = Story::new(3, 8);
    story.learn().await;
    let opened = story.world.events.connects.sum();
    assert!(story.world.nobody_connects(600 * SECOND).await);
    story.call().await;
    story.pass(SECOND).await;
    assert_eq!(story.open(), 3, "warm again");
    story.pass(600 * SECOND).await;
    let opened = story.world.events.connects.sum() - opened;
    assert_eq!(story.open(), 0, "cold again");
    assert!((6..=12).contains(&opened), "{opened} for one request");
}

#[tokio::test(start_paused = true)]
async fn a_scout_finds_it_confirmed_and_nobody_misses_it() {
    let mut story = Story::new(1, 2);
    story.learn().await;
    story.scout().await;
    assert_eq!(story.open(), 1, "another one has its place");
    let closed = story.closed(CloseReason::Peer);
    story.pass(LIMIT / 2).await;
    assert_eq!(story.closed(CloseReason::Peer), closed + 1);
    assert_eq!((story.learned(), story.world.pool.figures().retiring), (Some(LIMIT), 0));
}

#[tokio::test(start_paused = true)]
async fn a_scout_finds_it_wrong() {
    let mut story = Story::new(1, 2);
    story.learn().await;
    story.limit = NEVER;
    story.scout().await;
    let before = story.closed(CloseReason::IdleLimit);
    story.pass(LIMIT / 2).await;
    assert_eq!((story.learned(), story.world.pool.figures().retiring), (None, 0));
    assert_eq!(story.closed(CloseReason::IdleLimit), before + 1, "the scout's place was taken");
    story.pass(100 * SECOND).await;
    assert_eq!((story.open(), story.closed(CloseReason::IdleLimit)), (1, before + 1));
}

#[tokio::test(start_paused = true)]
async fn a_longer_and_a_shorter_limit_take_the_place_of_the_first() {
    for changed in [LIMIT * 5, LIMIT / 2] {
        let mut story = Story::new(1, 2);
        story.learn().await;
        story.limit = changed;
        story.call_every(6 * LIMIT, 60).await;
        assert_eq!(story.learned(), Some(changed));
        assert_eq!(story.world.outcomes(Outcome::Ok), 60);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_cap_a_scout_gives_way() {
    let mut story = Story::new(1, 1);
    story.learn().await;
    story.scout().await;
    assert_eq!(story.open(), 0, "there is room for one");
    let (peer, limit) = (story.closed(CloseReason::Peer), story.closed(CloseReason::IdleLimit));
    story.call().await;
    assert_eq!(story.closed(CloseReason::Peer), peer);
    assert_eq!(story.closed(CloseReason::IdleLimit), limit + 1);
    assert_eq!(story.learned(), Some(LIMIT));
}

#[tokio::test(start_paused = true)]
async fn a_pool_does_not_turn_over_at_once() {
    // By idleness, all used at the same time.
    let mut story = Story::new(4, 4);
    story.learn().await;
    story.call().await;
    let ends = story.next_ends(4).await;
    assert!(all_apart(&ends, LIMIT * 8 / 100 * 34 / 400), "{ends:?}");
    // By age, all opened at the same time.
    let mut limits = settings(Mode::Exclusive, 4, 4);
    limits.connection.max_lifetime = 10 * SECOND;
    let mut story = Story { world: World::new(limits), limit: NEVER, ends: JoinSet::new() };
    let ends = story.next_ends(4).await;
    assert!(all_apart(&ends, SECOND * 34 / 400), "{ends:?}");
    assert_eq!(story.closed(CloseReason::Lifetime), 4);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_above_the_floor_leave_at_the_sooner_of_both() {
    let mut limits = settings(Mode::Exclusive, 1, 2);
    limits.connection.idle_timeout = SECOND;
    let mut story = Story { world: World::new(limits), limit: LIMIT, ends: JoinSet::new() };
    story.learn().await;
    let before = story.closed(CloseReason::Idle);
    let mut calls = [story.world.call(b"a"), story.world.call(b"b")];
    story.pass(SECOND / 1000).await;
    let _ = (calls[0].reply().await, calls[1].reply().await);
    story.pass(SECOND * 11 / 10).await;
    assert_eq!((story.closed(CloseReason::Idle), story.open()), (before + 1, 1));
}
