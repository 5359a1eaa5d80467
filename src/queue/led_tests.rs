//! What was led somewhere, when the rule changes.

use super::tests::Rig;
use super::*;

fn hashing(max_waiting: usize) -> Rig {
    Rig::of(Settings { rule: Rule::Hash, ..super::tests::settings(1, max_waiting) })
}

fn key_to(rig: &Rig, endpoint: usize) -> u64 {
    (0..10_000).find(|key| rig.queue.inner().roster.lead(*key, None) == Some(endpoint)).unwrap()
}

/// A reload that takes `hash` away and an endpoint with it leaves what was led there waiting for nobody.
#[tokio::test]
async fn what_was_led_is_led_nowhere_once_the_rule_is_another() {
    let mut rig = hashing(100);
    let to_first = key_to(&rig, 0);
    rig.join(0);
    rig.join(1);
    let given = rig.push_with(to_first);
    let waiting = rig.push_with(to_first);
    rig.queue.retune(super::tests::settings(1, 100));
    rig.queue.remove_endpoint(0);
    let mut got = Vec::new();
    while let Some(name) = rig.take(1) {
        rig.finish(1);
        got.push(name);
    }
    got.sort_unstable();
    assert_eq!(
        got,
        [given, waiting],
        "{} still wait for an endpoint that is gone",
        rig.queue.figures().waiting
    );
}

/// The same without a removal: the endpoint dies after the reload.
#[tokio::test]
async fn what_was_led_goes_elsewhere_if_its_endpoint_dies_under_another_rule() {
    let mut rig = hashing(100);
    let to_first = key_to(&rig, 0);
    rig.join(1);
    let waiting = rig.push_with(to_first);
    rig.queue.retune(super::tests::settings(1, 100));
    rig.queue.dial_failed(0);
    assert_eq!(rig.take(0), Some(waiting));
}

/// A round is as long as what waits when it begins, not as what waited when the request came.
#[tokio::test]
async fn a_burst_that_is_over_holds_up_a_client_with_many_no_longer() {
    let mut rig = Rig::new(1, 2000);
    for _ in 0..1000 {
        rig.push();
    }
    let greedy = *rig.push_many(32).last().unwrap();
    rig.push();
    rig.push();
    rig.join(0);
    for _ in 0..1000 {
        rig.take(0).unwrap();
        rig.finish(0);
    }
    // From here on the pool keeps up: one comes, one is served, two wait.
    let mut served = 0;
    loop {
        rig.push();
        let name = rig.take(0).unwrap();
        rig.finish(0);
        if name == greedy || served > 50_000 {
            break;
        }
        served += 1;
    }
    assert!(
        served < 32 * 33,
        "{served} that came later went first, with {} waiting",
        rig.queue.figures().waiting
    );
}

/// One endpoint that answers nothing has the whole queue, and the other one's requests are refused.
#[tokio::test]
async fn a_line_that_does_not_move_leaves_room_for_the_others() {
    let mut rig = hashing(100);
    let (slow, fast) = (key_to(&rig, 0), key_to(&rig, 1));
    rig.join(0);
    rig.join(1);
    for _ in 0..101 {
        rig.push_with(slow);
    }
    let served = rig.push_with(fast);
    let next = rig.push_with(fast);
    assert_eq!(rig.take(1), Some(served));
    rig.finish(1);
    assert!(rig.answer(next).is_none(), "refused: its endpoint has nobody waiting");
}
