//! The queue by itself, its sessions and connections played by the test; and against a model.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::events::CloseReason;
use crate::protocol::Request;
use crate::wire::{Charge, parts};
use crate::{events, exchange};

pub(super) fn settings(room: usize, max_waiting: usize) -> Settings {
    let (grow_at, max_uploads, min_connections, eject_after) = (1, 1, 1, 5);
    let retry = Retry { attempts: 2, per_thousand: 200 };
    let (rule, slow_start) = (Rule::LeastInFlight, Duration::ZERO);
    Settings {
        rule,
        slow_start,
        max_waiting,
        room,
        grow_at,
        max_uploads,
        max_connections: 16,
        min_connections,
        eject_after,
        retry,
    }
}

pub(super) fn share(place: usize, weight: u32) -> Share {
    Share { weight, backup: false, seed: rendezvous::hash(&place.to_be_bytes()) }
}

/// A queue and everything around it, under a name for each exchange.
pub(super) struct Rig {
    pub(super) queue: Arc<Queue>,
    events: Arc<events::Upstream>,
    pub(super) tickets: BTreeMap<u64, Ticket>,
    pub(super) seats: Vec<(Seat, Vec<Exchange>, bool)>,
    next: u64,
}

impl Rig {
    pub(super) fn new(room: usize, max_waiting: usize) -> Self {
        Self::of(settings(room, max_waiting))
    }

    pub(super) fn of(settings: Settings) -> Self {
        let queue = Queue::new(settings);
        (0..2).for_each(|place| queue.set_endpoint(place, share(place, 1)));
        let events = Arc::new(events::Upstream::new("u"));
        Self { queue, events, tickets: BTreeMap::new(), seats: Vec::new(), next: 0 }
    }

    pub(super) fn push(&mut self) -> u64 {
        self.push_as(false)
    }

    fn push_as(&mut self, in_parts: bool) -> u64 {
        self.push_one(in_parts, 0, None)
    }

    /// With a key.
    pub(super) fn push_with(&mut self, key: u64) -> u64 {
        self.push_one(false, 0, Some(key))
    }

    /// Of a client that has these outstanding.
    pub(super) fn push_behind(&mut self, others: &[u64]) -> u64 {
        let rounds = others.iter().filter_map(|name| self.tickets[name].round());
        self.push_one(false, rounds.max().map_or(0, |round| round + 1), None)
    }

    /// So many of one client.
    pub(super) fn push_many(&mut self, count: usize) -> Vec<u64> {
        let mut names = Vec::new();
        for _ in 0..count {
            names.push(self.push_behind(&names));
        }
        names
    }

    fn push_one(&mut self, in_parts: bool, not_before: u64, key: Option<u64>) -> u64 {
        let now = Instant::now();
        let bytes = Bytes::copy_from_slice(&self.next.to_be_bytes());
        let mut request = Request::new(bytes, false);
        request.rest = in_parts.then(|| parts::pipe(parts::CAPACITY, Charge::none()).1);
        let (mut exchange, ticket) =
            exchange::open(request, false, now, Some(now + Duration::from_secs(9)), &self.events);
        (exchange.not_before, exchange.key) = (not_before, key);
        self.queue.push(exchange);
        self.tickets.insert(self.next, ticket);
        self.next += 1;
        self.next - 1
    }

    pub(super) fn join(&mut self, endpoint: usize) {
        self.seats.push((self.queue.connecting(endpoint).join(), Vec::new(), false));
    }

    pub(super) fn take(&mut self, seat: usize) -> Option<u64> {
        let (seat, taken, _) = &mut self.seats[seat];
        let exchange = seat.take()?;
        let name = name(&exchange);
        taken.push(exchange);
        Some(name)
    }

    pub(super) fn finish(&mut self, seat: usize) -> Option<u64> {
        let (seat, taken, _) = &mut self.seats[seat];
        if taken.is_empty() {
            return None;
        }
        let exchange = taken.remove(0);
        let _ = exchange.slot.sent();
        seat.done(Verdict::Replied);
        Some(name(&exchange))
    }

    pub(super) fn answer(&mut self, name: u64) -> Option<exchange::Answer> {
        let ticket = self.tickets.get_mut(&name)?;
        match ticket.poll_answer(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
            std::task::Poll::Ready(answer) => Some(answer),
            std::task::Poll::Pending => None,
        }
    }
}

fn name(exchange: &Exchange) -> u64 {
    exchange.request.bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[tokio::test]
async fn beyond_max_waiting_a_push_is_refused_at_once() {
    let mut rig = Rig::new(1, 2);
    rig.push();
    rig.push();
    let third = rig.push();
    assert!(matches!(rig.answer(third), Some(Err(Refusal::QueueFull))));
    assert_eq!(rig.queue.figures().waiting, 2);
}

#[tokio::test]
async fn what_ends_while_it_waits_leaves_at_once() {
    let mut rig = Rig::new(1, 9);
    let first = rig.push();
    let second = rig.push();
    rig.tickets[&first].abandon().unwrap();
    rig.queue.withdraw(&rig.tickets[&first]);
    assert_eq!(rig.queue.figures().waiting, 1);
    rig.join(0);
    assert_eq!(rig.take(0), Some(second));
    assert_eq!(rig.take(0), None);
}

#[tokio::test]
async fn what_a_lost_connection_had_not_begun_is_next_again_in_order() {
    let mut rig = Rig::new(3, 9);
    rig.join(0);
    for _ in 0..5 {
        rig.push();
    }
    assert_eq!(rig.take(0), Some(0));
    let (seat, taken, _) = rig.seats.remove(0);
    drop(seat);
    rig.join(1);
    assert_eq!([rig.take(0), rig.take(0), rig.take(0)], [Some(1), Some(2), Some(3)]);
    drop(taken);
    assert!(matches!(rig.answer(0), Some(Err(Refusal::Lost))));
}

#[tokio::test]
async fn a_pool_that_is_down_refuses_until_a_connection_joins() {
    let mut rig = Rig::new(1, 9);
    let waiting = rig.push();
    rig.queue.set_down("no route");
    assert!(rig.answer(waiting).is_none(), "it may be tried once more");
    rig.queue.set_down("connection refused");
    let down = Refusal::Down("connection refused".into());
    assert_eq!(rig.answer(waiting).unwrap().unwrap_err(), down);
    let later = rig.push();
    assert_eq!(rig.answer(later).unwrap().unwrap_err(), down);
    rig.join(0);
    let served = rig.push();
    assert_eq!(rig.take(0), Some(served));
    rig.queue.set_down("too late");
    let queued = rig.push();
    assert!(rig.answer(queued).is_none(), "one connection is open: wait for it");
}

#[tokio::test]
async fn a_stuck_connection_gives_way_only_if_others_wait() {
    let mut rig = Rig::new(1, 9);
    rig.join(0);
    rig.push();
    rig.take(0);
    rig.seats[0].0.set_stuck(true);
    assert!(!rig.seats[0].0.gives_way());
    rig.push();
    assert!(rig.seats[0].0.gives_way());
    rig.seats[0].0.set_stuck(false);
    assert!(!rig.seats[0].0.gives_way());
}

#[tokio::test]
async fn a_stuck_connection_hears_that_it_was_called_off() {
    let mut rig = Rig::new(1, 9);
    rig.join(0);
    rig.queue.remove_endpoint(0);
    rig.seats[0].0.set_stuck(true);
    assert_eq!(rig.seats[0].0.look().leave, Some(CloseReason::Removed));
}

#[tokio::test]
async fn the_floor_does_not_idle_out() {
    let mut rig = Rig::new(1, 9);
    rig.join(0);
    rig.join(0);
    assert!(rig.seats[1].0.retire_if_spare());
    assert!(!rig.seats[0].0.retire_if_spare());
}

#[tokio::test]
async fn demand_counts_what_more_connections_would_carry() {
    let mut rig = Rig::new(4, 9);
    let queue = rig.queue.clone();
    let connecting = queue.connecting(1);
    rig.join(0);
    for _ in 0..6 {
        rig.push();
    }
    let demand = rig.queue.demand();
    assert_eq!(demand.wanting, 2 + 3, "two wait, three are above grow_at");
    let at = |open, connecting| EndpointDemand {
        open,
        connecting,
        weight: demand.endpoints[0].weight,
        waiting: 0,
        short: false,
        failing: false,
        ejected: false,
        left_out: false,
    };
    assert_eq!(demand.endpoints[..], [at(1, 0), at(0, 1)]);
    assert_eq!((demand.open, demand.connecting, demand.touched), (1, 1, true));
    drop(connecting);
    assert_eq!(rig.queue.demand().connecting, 0);
}

#[tokio::test]
async fn a_request_in_parts_has_its_connection_to_itself() {
    let mut rig = Rig::new(4, 9);
    rig.join(0);
    let small = rig.push();
    let large = rig.push_as(true);
    let next = rig.push();
    assert_eq!([rig.take(0), rig.take(0)], [Some(small), None], "kept free for the one in parts");
    rig.finish(0);
    assert_eq!([rig.take(0), rig.take(0)], [Some(large), None]);
    rig.seats[0].0.uploaded();
    assert_eq!(rig.take(0), Some(next), "the reply is awaited beside others");
}

#[tokio::test]
async fn requests_in_parts_leave_connections_to_the_others() {
    let mut rig = Rig::new(1, 9);
    rig.join(0);
    rig.join(1);
    let large = [rig.push_as(true), rig.push_as(true)];
    let small = rig.push();
    let taken = [rig.take(0), rig.take(1)];
    assert!(taken.contains(&Some(large[0])) && taken.contains(&Some(small)), "{taken:?}");
    assert_eq!(rig.queue.demand().wanting, 0, "another connection would not help");
    let uploading = usize::from(taken[1] == Some(large[0]));
    rig.seats[uploading].0.uploaded();
    rig.finish(1 - uploading);
    assert_eq!(rig.take(1 - uploading), Some(large[1]));
}

#[tokio::test]
async fn who_waited_in_vain_for_a_connection_of_its_own_keeps_none_free() {
    let mut rig = Rig::new(4, 9);
    rig.join(0);
    rig.push();
    let large = rig.push_as(true);
    let small = rig.push();
    rig.tickets[&large].abandon().unwrap();
    rig.queue.withdraw(&rig.tickets[&large]);
    rig.take(0);
    assert_eq!(rig.take(0), Some(small));
}

#[derive(Clone, Debug)]
enum Step {
    Push,
    PushInParts,
    Uploaded(usize),
    Join(usize),
    Take(usize),
    Finish(usize),
    Retire(usize),
    Leave(usize),
    Abandon(u64),
    Rest(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Push),
        3 => Just(Step::PushInParts),
        3 => (0usize..6).prop_map(Step::Uploaded),
        2 => (0usize..2).prop_map(Step::Join),
        6 => (0usize..6).prop_map(Step::Take),
        6 => (0usize..6).prop_map(Step::Finish),
        1 => (0usize..6).prop_map(Step::Retire),
        1 => (0usize..6).prop_map(Step::Leave),
        2 => (0u64..200).prop_map(Step::Abandon),
        1 => (0usize..6, any::<bool>()).prop_map(|(s, r)| Step::Rest(s, r)),
    ]
}

proptest! {
    /// Whatever happens, in whatever order: nothing overtakes, nothing is lost, no bound is passed, and
    /// nobody waits while there is room.
    #[test]
    fn the_queue_keeps_its_promises(
        steps in prop::collection::vec(step(), 1..200),
        room in 1usize..4,
        max_waiting in 0usize..8,
        max_uploads in 1usize..3,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let _guard = runtime.enter();
        let mut rig = Rig::of(Settings { max_uploads, ..settings(room, max_waiting) });
        let mut begun = std::collections::BTreeSet::new();
        let mut resting = Vec::new();
        for step in steps {
            let there = |seat: usize| seat < rig.seats.len();
            match step {
                Step::Push => { rig.push(); }
                Step::PushInParts => { rig.push_as(true); }
                Step::Uploaded(seat) if there(seat) => { rig.seats[seat].0.uploaded(); }
                Step::Join(endpoint) if rig.seats.len() < 6 => { rig.join(endpoint); resting.push(false); }
                Step::Take(seat) if there(seat) => {
                    if let Some(name) = rig.take(seat) {
                        prop_assert!(begun.insert(name), "{name} was given twice");
                    }
                }
                Step::Finish(seat) if there(seat) => { rig.finish(seat); }
                Step::Retire(seat) if there(seat) => { rig.seats[seat].0.retire(); rig.seats[seat].2 = true; }
                Step::Leave(seat) if there(seat) => { rig.seats.remove(seat); resting.remove(seat); }
                Step::Abandon(name) => if let Some(ticket) = rig.tickets.get(&name) {
                    let _ = ticket.abandon();
                    rig.queue.withdraw(ticket);
                }
                Step::Rest(seat, rest) if there(seat) => { rig.seats[seat].0.rest(rest); resting[seat] = rest; }
                _ => {}
            }
            let inner = rig.queue.inner.lock().unwrap();
            let mut in_flight = [0; 2];
            for (_, member) in &inner.roster.members {
                prop_assert!(member.in_flight <= room);
                in_flight[member.endpoint] += member.in_flight;
            }
            for (endpoint, expected) in in_flight.into_iter().enumerate() {
                prop_assert_eq!(inner.roster.endpoints[endpoint].in_flight, expected);
            }
            for in_parts in [false, true] {
                let order: Vec<u64> = inner.waiting.exchanges(in_parts).map(name).collect();
                prop_assert!(order.windows(2).all(|w| w[0] < w[1]), "out of order: {order:?}");
                prop_assert!(order.is_empty() || inner.roster.choose(None, in_parts, None).is_none(), "waits beside room");
                prop_assert!(inner.waiting.exchanges(in_parts).all(|e| !e.slot.is_ended()));
            }
            let uploads = inner.roster.uploads();
            prop_assert!(uploads.iter().all(|in_flight| *in_flight <= 1), "beside a request in parts: {uploads:?}");
            prop_assert_eq!(uploads.len() + inner.roster.uploads_left(), max_uploads);
            drop(inner);
        }
        rig.seats.clear();
        let waiting = rig.queue.figures().waiting as u64;
        prop_assert_eq!(rig.events.accepted.get(), rig.events.outcomes.sum() + waiting);
    }
}
