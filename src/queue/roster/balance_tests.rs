//! How endpoints share what is given out, by plain data.

use std::time::Duration;

use tokio::time::advance;

use super::tests::exchange;
use super::*;
use crate::queue::rendezvous::hash;
use crate::queue::{Retry, TURN};

const SECOND: Duration = Duration::from_secs(1);

fn settings(rule: Rule) -> Settings {
    Settings {
        rule,
        slow_start: Duration::ZERO,
        max_waiting: 8,
        room: 1,
        grow_at: 1,
        max_uploads: 1,
        max_connections: 16,
        min_connections: 0,
        eject_after: 5,
        retry: Retry { attempts: 2, per_thousand: 200 },
    }
}

fn share(place: usize, weight: u32) -> Share {
    Share { weight, backup: false, seed: hash(&place.to_be_bytes()) }
}

/// Endpoints of these weights, each with so many connections.
fn roster(settings: &Settings, weights: &[u32], connections: usize) -> Roster {
    let mut roster = Roster::new(settings);
    for (place, weight) in weights.iter().enumerate() {
        roster.set_endpoint(place, share(place, *weight));
    }
    for place in (0..weights.len()).flat_map(|place| vec![place; connections]) {
        roster.join(place);
    }
    roster
}

/// The endpoints that so many exchanges go to, one after the other.
fn given(r: &mut Roster, count: usize) -> Vec<usize> {
    let mut given = vec![0; r.endpoints.len()];
    for _ in 0..count {
        let key = r.choose(None, false, None).unwrap();
        given[r.members[key].endpoint] += 1;
        r.give(key, exchange());
        r.members[key].inbox.clear();
        r.done(key, Verdict::Replied);
    }
    given
}

#[tokio::test]
async fn turns_and_ties_go_by_the_weights() {
    for rule in [Rule::RoundRobin, Rule::LeastInFlight] {
        let mut r = roster(&settings(rule), &[1, 2, 3], 1);
        assert_eq!(given(&mut r, 600), [100, 200, 300], "{rule:?}");
        r.set_endpoint(2, share(2, 1));
        assert_eq!(given(&mut r, 400), [100, 200, 100], "{rule:?}");
        let mut r = roster(&settings(rule), &[1000, 1], 1);
        assert_eq!(given(&mut r, 1001), [1000, 1], "{rule:?}");
    }
}

#[tokio::test]
async fn the_fewest_in_flight_are_those_for_its_weight() {
    let limits = Settings { room: 64, grow_at: 64, ..settings(Rule::LeastInFlight) };
    let mut r = roster(&limits, &[1, 3], 1);
    for _ in 0..40 {
        let key = r.choose(None, false, None).unwrap();
        r.give(key, exchange());
    }
    assert_eq!([r.endpoints[0].in_flight, r.endpoints[1].in_flight], [10, 30]);
}

#[tokio::test]
async fn turns_that_came_when_there_was_no_room_are_made_up_for() {
    let mut r = roster(&settings(Rule::RoundRobin), &[1, 1], 1);
    let busy = r.choose(None, false, None).unwrap();
    r.give(busy, exchange());
    let others = given(&mut r, 10);
    assert_eq!(others[r.members[busy].endpoint], 0);
    r.done(busy, Verdict::Replied);
    let mut after = given(&mut r, 9);
    after.sort_unstable();
    assert_eq!(after, [0, 9], "it is behind by nine");
    assert_eq!(given(&mut r, 10), [5, 5]);
    // By the other rule what others got meanwhile is not held against them.
    let mut r = roster(&settings(Rule::LeastInFlight), &[1, 1], 1);
    let busy = r.choose(None, false, None).unwrap();
    r.give(busy, exchange());
    given(&mut r, 10);
    r.done(busy, Verdict::Replied);
    let after = given(&mut r, 100);
    assert!(after[0].abs_diff(after[1]) <= 2, "{after:?}");
}

#[tokio::test]
async fn an_endpoint_without_room_at_its_turn_needs_another_connection() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1, 1], 1);
    let extra = r.join(0);
    let taken: Vec<_> =
        (0..2).filter_map(|_| r.choose(None, false, None).map(|key| r.give(key, exchange()))).collect();
    assert_eq!(taken, [false, false], "both have one");
    assert!(r.members[extra].in_flight <= 1);
    let third = r.choose(None, false, None).unwrap();
    assert!(!r.give(third, exchange()), "the first of the two is fuller");
    r.done(third, Verdict::Replied);
    // As many in flight as the other, whose turn it is by now.
    let again = r.choose(None, false, None).unwrap();
    assert!(r.give(again, exchange()));
    assert_eq!([r.endpoints[0].short, r.endpoints[1].short], [false, true]);
    r.join(1);
    assert!(!r.endpoints[1].short);
}

#[tokio::test]
async fn a_backup_gets_something_only_while_nobody_else_can() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1, 1], 1);
    r.set_endpoint(1, Share { backup: true, ..share(1, 1) });
    assert_eq!(given(&mut r, 10), [10, 0]);
    let key = r.choose(None, false, None).unwrap();
    r.give(key, exchange());
    assert_eq!(r.choose(None, false, None), None, "the other one is busy, not gone");
    r.members[key].inbox.clear();
    r.done(key, Verdict::Replied);
    let left_out = |r: &Roster| r.demands(&[]).iter().map(|it| it.left_out).collect::<Vec<_>>();
    assert_eq!(left_out(&r), [false, true]);
    // Its last connection ends: it may come back, as far as is known.
    r.leave(key);
    assert_eq!(r.choose(None, false, None), None);
    r.endpoints[0].unreachable = true;
    assert_eq!(left_out(&r), [false, false]);
    assert_eq!(given(&mut r, 10), [0, 10]);
    r.join(0);
    assert_eq!(given(&mut r, 10), [10, 0]);
    r.endpoints[0].healthy = false;
    assert_eq!(given(&mut r, 10), [0, 10]);
}

#[tokio::test]
async fn a_lone_endpoint_that_fails_is_ejected_where_a_backup_can_stand_in() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1], 1);
    r.set_endpoint(1, Share { backup: true, ..share(1, 1) });
    for _ in 0..5 {
        r.fail(0);
    }
    assert!(r.endpoints[0].ejected);
    r.join(1);
    assert_eq!(given(&mut r, 10), [0, 10]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_gets_its_share_bit_by_bit() {
    for rule in [Rule::RoundRobin, Rule::LeastInFlight] {
        let mut r = roster(&Settings { slow_start: 10 * SECOND, ..settings(rule) }, &[1, 1], 1);
        assert_eq!(given(&mut r, 10), [5, 5], "at the start nobody comes back");
        let lost = r.members.iter().find(|(_, m)| m.endpoint == 1).map(|(key, _)| key).unwrap();
        r.leave(lost);
        r.endpoints[1].unreachable = true;
        given(&mut r, 100);
        r.join(1);
        let shares =
            [(0, 90), (5, 330), (4, 470), (1, 500)].map(|(seconds, least)| (seconds * SECOND, least));
        for (time, least) in shares {
            advance(time).await;
            let got = given(&mut r, 1000)[1];
            assert!((least..=least + 25).contains(&got), "{rule:?}: {got} instead of {least}");
        }
        assert_eq!(r.warm_at, None);
    }
}

#[tokio::test]
async fn who_returns_is_not_owed_the_turns_it_was_away_for() {
    let mut r = roster(&settings(Rule::RoundRobin), &[1, 1], 1);
    r.endpoints[1].ejected = true;
    assert_eq!(given(&mut r, 50), [50, 0]);
    r.endpoints[1].ejected = false;
    r.come_back(1);
    assert_eq!(given(&mut r, 10), [5, 5]);
}

#[tokio::test]
async fn a_key_leads_to_one_endpoint_as_long_as_it_can_serve() {
    let mut r = roster(&settings(Rule::Hash), &[1, 2, 3], 1);
    let leads = |r: &Roster| {
        (0..3000u64).map(|key| r.lead(hash(&key.to_be_bytes()), None).unwrap()).collect::<Vec<_>>()
    };
    let count = |leads: &[usize], endpoint| leads.iter().filter(|lead| **lead == endpoint).count();
    let before = leads(&r);
    for (endpoint, due) in [500usize, 1000, 1500].into_iter().enumerate() {
        assert!(count(&before, endpoint).abs_diff(due) < 100, "{}", count(&before, endpoint));
    }
    r.endpoints[1].ejected = true;
    let without = leads(&r);
    assert_eq!(count(&without, 1), 0);
    assert!(before.iter().zip(&without).all(|(before, after)| *before == 1 || before == after));
    r.endpoints[1].ejected = false;
    assert_eq!(leads(&r), before);
    // A key that was tried in vain is not led there again, if it need not be.
    assert!((0..100u64).all(|key| r.lead(key, r.lead(key, None)) != r.lead(key, None)));
    r.remove_endpoint(0);
    r.remove_endpoint(1);
    assert_eq!(r.lead(7, Some(2)), Some(2));
}

#[tokio::test]
async fn connections_move_to_who_has_too_few_for_its_weight() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1, 1], 1);
    let spare: Vec<_> = (0..5).map(|_| r.join(0)).collect();
    let called_off = |r: &Roster| r.members.iter().filter(|(_, m)| m.standing == Standing::Retiring).count();
    for _ in 0..2 {
        r.make_room(1, false);
        assert_eq!(called_off(&r), 1);
        r.make_room(1, false);
        assert_eq!(called_off(&r), 1, "one at a time");
        let key =
            r.members.iter().find(|(_, m)| m.standing == Standing::Retiring).map(|(key, _)| key).unwrap();
        assert_eq!(r.members[key].endpoint, 0);
        r.leave(key);
        r.join(1);
    }
    r.make_room(1, false);
    assert_eq!(called_off(&r), 0, "four and three are as even as can be");
    r.make_room(0, false);
    assert_eq!(called_off(&r), 0);
    assert!(spare.len() > 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_led_somewhere_takes_idle_connections_of_others() {
    let mut r = roster(&settings(Rule::Hash), &[1, 1, 1], 2);
    let retiring = |r: &Roster| {
        let it = r.members.iter().find(|(_, m)| m.standing == Standing::Retiring);
        it.map(|(key, m)| (key, m.endpoint))
    };
    let keys: Vec<_> = r.members.iter().map(|(key, m)| (key, m.endpoint)).collect();
    for (key, _) in keys.iter().filter(|(_, endpoint)| *endpoint != 1) {
        r.give(*key, exchange());
    }
    r.make_room(0, false);
    assert_eq!(retiring(&r), None, "their own requests may come at any moment");
    advance(TURN).await;
    r.make_room(0, false);
    let (key, endpoint) = retiring(&r).unwrap();
    assert_eq!((endpoint, r.members[key].in_flight), (1, 0));
    r.leave(key);
    r.make_room(0, false);
    assert_eq!(retiring(&r), None, "the last one, and busy ones, stay");
}

/// Endpoints where things are led, one with three busy connections and one with a single one.
#[tokio::test]
async fn what_is_led_somewhere_takes_a_busy_connection_of_who_has_more() {
    let mut r = roster(&settings(Rule::Hash), &[1, 1], 1);
    r.join(0);
    r.join(0);
    let keys: Vec<_> = r.members.iter().map(|(key, _)| key).collect();
    for key in keys {
        r.give(key, exchange());
    }
    r.make_room(1, false);
    assert_eq!((r.endpoints[0].open, r.endpoints[1].open), (2, 1));
    r.make_room(0, false);
    assert_eq!((r.endpoints[0].open, r.endpoints[1].open), (2, 1), "it has no more than its share");
}

/// Two pools with pauses between their requests would hand connections to each other without end.
#[tokio::test(start_paused = true)]
async fn what_was_just_used_is_for_who_has_fewer() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1], 1);
    r.has_rivals = true;
    advance(TURN).await;
    given(&mut r, 1);
    assert!(r.give_way(true, 1).is_none());
    advance(TURN).await;
    assert!(r.give_way(true, 1).is_some());
    let mut r = roster(&settings(Rule::LeastInFlight), &[1], 3);
    assert!(r.give_way(true, 1).is_some(), "they have fewer also after that");
}

#[tokio::test]
async fn who_is_an_endpoint_no_longer_finishes_what_it_has() {
    let mut r = roster(&settings(Rule::LeastInFlight), &[1, 1], 2);
    let busy = r.choose(None, false, None).unwrap();
    r.give(busy, exchange());
    let taken = r.members[busy].inbox.pop_front();
    let endpoint = r.members[busy].endpoint;
    assert!(r.remove_endpoint(endpoint).is_empty());
    assert_eq!(r.members[busy].hold, Hold::CalledOff(CloseReason::Removed));
    assert_eq!((r.members[busy].in_flight, r.endpoints[endpoint].open), (1, 0));
    assert_eq!(given(&mut r, 10)[endpoint], 0);
    let late = r.join(endpoint);
    assert_eq!(r.members[late].standing, Standing::Retiring, "it was being connected to");
    drop(taken);
    // Nobody else is there: it stays without.
    r.remove_endpoint(1 - endpoint);
    assert_eq!(r.choose(None, false, None), None);
}
/// Weights of SRV records times a configured weight.
#[tokio::test]
async fn large_weights_lead_by_their_ratio() {
    let r = roster(&settings(Rule::Hash), &[65_535 * 100, 65_535 * 50], 1);
    let to_first = (0..30_000u64).filter(|n| r.lead(hash(&n.to_le_bytes()), None) == Some(0)).count();
    assert!((19_000..21_000).contains(&to_first), "{to_first} of 30000, 20000 due");
}
/// An endpoint that flaps while it warms up.
#[tokio::test(start_paused = true)]
async fn slow_start_begins_anew_for_who_came_back_again() {
    let mut r = roster(&Settings { slow_start: 10 * SECOND, ..settings(Rule::RoundRobin) }, &[1, 1], 0);
    r.join(0);
    r.endpoints[1].unreachable = true;
    let key = r.join(1);
    assert!(r.endpoints[1].warming.is_some());
    advance(9 * SECOND).await;
    r.leave(key);
    r.endpoints[1].unreachable = true;
    advance(SECOND).await;
    r.join(1);
    let given = given(&mut r, 100);
    assert!(given[1] < 30, "{given:?}: it has just come back");
}
