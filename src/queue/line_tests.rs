//! Who waits where, and whose turn it is: clients with many requests, keys, and the figures of it.

use std::time::Duration;

use tokio::time::advance;

use super::tests::{Rig, share};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn hashing(max_waiting: usize) -> Rig {
    Rig::of(Settings { rule: Rule::Hash, ..super::tests::settings(1, max_waiting) })
}

/// Two keys, of which each leads to the endpoint of its place.
fn keys(rig: &Rig) -> [u64; 2] {
    [0, 1].map(|endpoint| {
        (0..1000).find(|key| rig.queue.inner().roster.lead(*key, None) == Some(endpoint)).unwrap()
    })
}

/// Takes and ends everything on one connection, as it comes.
fn served(rig: &mut Rig, seat: usize, count: usize) -> Vec<u64> {
    let take = |_| {
        let name = rig.take(seat)?;
        rig.finish(seat);
        Some(name)
    };
    (0..count).filter_map(take).collect()
}

#[tokio::test]
async fn a_client_with_many_has_one_in_each_round() {
    let mut rig = Rig::new(1, 100);
    let greedy = rig.push_many(20);
    let polite: Vec<_> = (0..10).map(|_| rig.push()).collect();
    rig.join(0);
    let order = served(&mut rig, 0, 30);
    let place = |name: &u64| order.iter().position(|other| other == name).unwrap();
    let last_polite = polite.iter().map(place).max().unwrap();
    let before = greedy.iter().filter(|name| place(name) < last_polite).count();
    assert!(before <= 6, "{before} of the greedy client's before the last of the others: {order:?}");
    assert!(greedy.windows(2).all(|pair| place(&pair[0]) < place(&pair[1])), "its own order stays");
}

#[tokio::test]
async fn newcomers_do_not_keep_a_client_with_many_waiting_for_ever() {
    let mut rig = Rig::new(1, 100);
    let greedy = rig.push_many(4);
    rig.join(0);
    let mut order = Vec::new();
    for _ in 0..40 {
        rig.push();
        order.extend(served(&mut rig, 0, 1));
    }
    assert!(greedy.iter().all(|name| order.contains(name)), "{order:?}");
}

/// Clients with one request at a time, each of which asks again as soon as it is served.
#[tokio::test]
async fn a_client_with_many_has_its_share_beside_those_that_ask_again_and_again() {
    const OTHERS: usize = 10;
    let mut rig = Rig::new(1, 1000);
    let greedy = rig.push_many(500);
    for _ in 0..OTHERS {
        rig.push();
    }
    rig.join(0);
    let mut theirs = 0;
    for _ in 0..50 * (OTHERS + 1) {
        let name = rig.take(0).unwrap();
        rig.finish(0);
        if greedy.contains(&name) {
            theirs += 1;
        } else {
            rig.push();
        }
    }
    // The one that is being served has no turn yet in the round that begins.
    assert!((50..=55).contains(&theirs), "{theirs} of 50");
}

#[tokio::test]
async fn of_a_full_queue_the_last_in_turn_is_refused() {
    let mut rig = Rig::new(1, 8);
    let greedy = rig.push_many(8);
    let polite: Vec<_> = (0..4).map(|_| rig.push()).collect();
    let refused = |rig: &mut Rig, name: &u64| matches!(rig.answer(*name), Some(Err(Refusal::QueueFull)));
    assert!(polite.iter().all(|name| !refused(&mut rig, name)));
    let theirs: Vec<_> = greedy.iter().map(|name| refused(&mut rig, name)).collect();
    assert_eq!(theirs, [false, false, false, false, true, true, true, true]);
    // However often it asks meanwhile.
    for _ in 0..1000 {
        let more = rig.push_behind(&greedy);
        assert!(refused(&mut rig, &more));
    }
    let late = rig.push();
    assert!(!refused(&mut rig, &late));
    // With one request each, who comes last is refused.
    let mut rig = Rig::new(1, 2);
    let names = [rig.push(), rig.push(), rig.push()];
    assert_eq!(names.map(|name| refused(&mut rig, &name)), [false, false, true]);
}

#[tokio::test]
async fn what_is_led_to_one_endpoint_holds_up_no_other() {
    let mut rig = hashing(100);
    let [to_first, to_second] = keys(&rig);
    rig.join(0);
    let hot: Vec<_> = (0..5).map(|_| rig.push_with(to_first)).collect();
    let other = rig.push_with(to_second);
    rig.join(1);
    assert_eq!([rig.take(0), rig.take(1)], [Some(hot[0]), Some(other)]);
    rig.finish(1);
    assert_eq!(rig.take(1), None, "it is not for this endpoint");
    let demand = rig.queue.demand();
    let waiting: Vec<_> = demand.endpoints.iter().map(|it| it.waiting).collect();
    assert_eq!((waiting, demand.wanting, demand.has_waiting()), (vec![4, 0], 0, true));
    rig.finish(0);
    assert_eq!(served(&mut rig, 0, 9), hot[1..]);
}

#[tokio::test]
async fn what_waits_for_an_endpoint_in_trouble_goes_on_to_the_next() {
    let mut rig = hashing(100);
    let [to_first, _] = keys(&rig);
    rig.join(1);
    let waiting = rig.push_with(to_first);
    assert_eq!(rig.take(0), None, "its endpoint may be connected to any moment");
    rig.queue.dial_failed(0);
    assert_eq!(rig.take(0), Some(waiting));
    rig.finish(0);
    let next = rig.push_with(to_first);
    assert_eq!(rig.take(0), Some(next));
    rig.finish(0);
    // There is no room for a connection to it.
    rig.queue.connecting(0).join();
    let waiting = rig.push_with(to_first);
    assert_eq!(rig.take(0), None);
    rig.queue.set_out_of_reach(0);
    assert_eq!(rig.take(0), Some(waiting));
    rig.finish(0);
    // Without a key, or with no endpoint to wait for, anybody will do.
    let keyless = rig.push();
    assert_eq!(rig.take(0), Some(keyless));
}

#[tokio::test]
async fn who_is_removed_gives_back_what_it_was_given() {
    let mut rig = hashing(100);
    let [to_first, _] = keys(&rig);
    rig.join(0);
    rig.join(1);
    let given = rig.push_with(to_first);
    let waiting = rig.push_with(to_first);
    rig.queue.remove_endpoint(0);
    assert_eq!(served(&mut rig, 1, 2), [given, waiting]);
    assert_eq!(rig.take(0), None);
    let leave = rig.seats[0].0.look().leave;
    assert_eq!(leave, Some(crate::events::CloseReason::Removed));
}

#[tokio::test(start_paused = true)]
async fn the_oldest_wait_is_that_of_the_oldest() {
    let mut rig = Rig::new(1, 100);
    let oldest = |rig: &Rig| rig.queue.figures().oldest_wait;
    // In turn after some that come later, as its client has more outstanding.
    let first = rig.push();
    let greedy = rig.push_behind(&[first]);
    advance(SECOND).await;
    let polite = rig.push();
    advance(SECOND).await;
    assert_eq!(oldest(&rig), 2 * SECOND);
    rig.join(0);
    assert_eq!(rig.take(0), Some(first));
    rig.finish(0);
    assert_eq!(rig.take(0), Some(polite));
    assert_eq!(oldest(&rig), 2 * SECOND, "the greedy client's");
    rig.tickets[&greedy].abandon().unwrap();
    rig.queue.withdraw(&rig.tickets[&greedy]);
    assert_eq!(oldest(&rig), Duration::ZERO);
    // One that a connection was given and did not take has waited all the time.
    rig.finish(0);
    rig.push();
    advance(SECOND).await;
    rig.seats[0].0.retire();
    advance(SECOND).await;
    assert_eq!(oldest(&rig), 2 * SECOND);
}

#[tokio::test]
async fn other_settings_hold_at_once() {
    let mut rig = Rig::new(1, 100);
    rig.queue.retune(Settings { max_waiting: 1, ..super::tests::settings(1, 100) });
    let names = [rig.push(), rig.push()];
    assert!(rig.answer(names[0]).is_none());
    assert!(matches!(rig.answer(names[1]), Some(Err(Refusal::QueueFull))));
    rig.queue.retune(Settings { rule: Rule::RoundRobin, ..super::tests::settings(1, 100) });
    rig.queue.set_endpoint(0, share(0, 3));
    let mut given = [0; 2];
    rig.join(0);
    rig.join(1);
    for seat in [0, 1] {
        served(&mut rig, seat, 1);
    }
    for _ in 0..40 {
        rig.push();
        let seat = usize::from(rig.seats[0].0.look().work.then_some(()).is_none());
        given[seat] += served(&mut rig, seat, 1).len();
    }
    assert_eq!(given, [30, 10]);
}
