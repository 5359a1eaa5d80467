//! The rule of choice, by plain data.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::queue::Retry;
use crate::queue::endpoint::PROBATION_AFTER;
use crate::{events, exchange};

fn roster(endpoints: usize, room: usize, grow_at: usize) -> Roster {
    let (max_waiting, max_uploads, min_connections) = (8, 1, 0);
    let (eject_after, retry) = (5, Retry { attempts: 2, per_thousand: 200 });
    let mut roster = Roster::new(&Settings {
        rule: Rule::LeastInFlight,
        slow_start: Duration::ZERO,
        max_waiting,
        room,
        grow_at,
        max_uploads,
        max_connections: 16,
        min_connections,
        eject_after,
        retry,
    });
    (0..endpoints).for_each(|place| roster.set_endpoint(place, Share { weight: 1, backup: false, seed: 0 }));
    roster
}

pub(super) fn exchange() -> Exchange {
    let now = Instant::now();
    let request = exchange::tests::request(b"q");
    let events = Arc::new(events::Upstream::new("u"));
    exchange::open(request, false, now, Some(now + Duration::from_secs(1)), &events).0
}

fn give(roster: &mut Roster) -> Option<usize> {
    let key = roster.choose(None, false, None)?;
    roster.give(key, exchange());
    Some(key)
}

#[tokio::test]
async fn the_most_recently_used_connection_comes_first() {
    let mut r = roster(1, 1, 1);
    let (a, b) = (r.join(0), r.join(0));
    assert_eq!(give(&mut r), Some(b), "the newest");
    assert_eq!(give(&mut r), Some(a));
    assert_eq!(give(&mut r), None);
    r.done(a, Verdict::Replied);
    assert_eq!(give(&mut r), Some(a));
    r.done(a, Verdict::Replied);
    r.done(b, Verdict::Replied);
    assert_eq!(give(&mut r), Some(a), "used after b");
}

#[tokio::test]
async fn one_connection_fills_to_grow_at_and_then_the_least_loaded_wins() {
    let mut r = roster(1, 128, 16);
    let (a, b) = (r.join(0), r.join(0));
    let first: Vec<_> = (0..16).filter_map(|_| give(&mut r)).collect();
    assert_eq!(first, [b; 16]);
    let second: Vec<_> = (0..16).filter_map(|_| give(&mut r)).collect();
    assert_eq!(second, [a; 16]);
    assert!(!r.is_crowded(a) && !r.is_crowded(b));
    assert_eq!(r.overload(), 0);
    let third = (give(&mut r), give(&mut r));
    assert!(third == (Some(a), Some(b)) || third == (Some(b), Some(a)));
    assert_eq!(r.overload(), 2);
    assert!(r.is_crowded(a) && r.is_crowded(b));
}

#[tokio::test]
async fn endpoints_share_evenly_and_ties_rotate() {
    let mut r = roster(3, 8, 1);
    for endpoint in 0..3 {
        r.join(endpoint);
    }
    let keys: Vec<_> = (0..6).filter_map(|_| give(&mut r)).collect();
    let order: Vec<_> = keys.into_iter().map(|k| r.members[k].endpoint).collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2]);
    // One that keeps nothing in flight still does not get everything.
    let mut r = roster(2, 1, 1);
    r.join(0);
    r.join(1);
    let mut counts = [0; 2];
    for _ in 0..10 {
        let key = give(&mut r).unwrap();
        counts[r.members[key].endpoint] += 1;
        r.done(key, Verdict::Replied);
    }
    assert_eq!(counts, [5, 5]);
}

#[tokio::test]
async fn an_endpoint_that_only_fails_gets_one_at_a_time() {
    let mut r = roster(2, 8, 8);
    let (bad, good) = (r.join(0), r.join(1));
    for _ in 0..PROBATION_AFTER {
        r.give(bad, exchange());
        r.done(bad, Verdict::Failed);
    }
    let given: Vec<_> = (0..8).filter_map(|_| give(&mut r)).collect();
    assert_eq!(given.iter().filter(|k| **k == bad).count(), 1);
    assert_eq!(given.iter().filter(|k| **k == good).count(), 7);
    r.done(bad, Verdict::Replied);
    assert_eq!(give(&mut r), Some(bad), "trusted again after one reply");
    assert_eq!(give(&mut r), Some(bad));
}

#[tokio::test]
async fn the_last_endpoint_is_never_throttled() {
    let mut r = roster(1, 8, 8);
    let only = r.join(0);
    for _ in 0..9 {
        r.give(only, exchange());
        r.done(only, Verdict::Failed);
    }
    assert_eq!((0..8).filter_map(|_| give(&mut r)).count(), 8);
}

#[tokio::test]
async fn who_retires_hands_back_what_it_has_not_taken() {
    let mut r = roster(1, 4, 4);
    let a = r.join(0);
    give(&mut r);
    give(&mut r);
    let taken = r.members[a].inbox.pop_front();
    assert_eq!(r.retire(a).len(), 1);
    assert_eq!((r.members[a].in_flight, r.endpoints[0].in_flight, r.open()), (1, 1, 0));
    assert_eq!(r.choose(None, false, None), None);
    drop(taken);
    assert!(r.leave(a).is_empty());
    assert_eq!(r.endpoints[0].in_flight, 0);
}
