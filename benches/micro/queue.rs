//! The way of an exchange through the queue: pushed, given to a connection, taken, finished, its room freed.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use divan::Bencher;
use warmline::events;
use warmline::exchange::{Exchange, Ticket};
use warmline::queue::{Queue, Retry, Rule, Seat, Settings, Share, Verdict};

use crate::exchange::{answer, open};

#[derive(Clone, Copy, Debug)]
struct Case {
    connections: usize,
    endpoints: usize,
    waiting: usize,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { connections, endpoints, waiting } = self;
        write!(f, "{connections} connections, {endpoints} endpoints, {waiting} waiting")
    }
}

const fn case(connections: usize, endpoints: usize, waiting: usize) -> Case {
    Case { connections, endpoints, waiting }
}

/// Tells which connection was given something.
#[derive(Debug)]
struct Told {
    seat: usize,
    last: Arc<AtomicUsize>,
}

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.last.store(self.seat, Relaxed);
    }
}

/// A queue with its connections, each with room for one exchange.
#[derive(Debug)]
struct World {
    queue: Arc<Queue>,
    events: Arc<events::Upstream>,
    seats: Vec<(Seat, Waker)>,
    /// Of those that have something to take.
    last: Arc<AtomicUsize>,
}

impl World {
    fn new(case: Case) -> Self {
        let Case { connections, endpoints, waiting } = case;
        let queue = Queue::new(Settings {
            rule: Rule::LeastInFlight,
            slow_start: Duration::ZERO,
            max_waiting: waiting + 1,
            room: 1,
            grow_at: 1,
            max_uploads: 1,
            max_connections: 64,
            min_connections: 1,
            eject_after: 5,
            retry: Retry { attempts: 2, per_thousand: 200 },
        });
        for place in 0..endpoints {
            queue.set_endpoint(place, Share { weight: 1, backup: false, seed: 0 });
        }
        let last = Arc::new(AtomicUsize::new(0));
        let seat = |seat| {
            let waker = Waker::from(Arc::new(Told { seat, last: last.clone() }));
            (queue.connecting(seat % endpoints).join(), waker)
        };
        let seats = (0..connections).map(seat).collect();
        Self { queue: queue.clone(), events: Arc::new(events::Upstream::new("x")), seats, last }
    }

    /// Every connection idle and waiting for work.
    fn listen(&self) {
        for (seat, waker) in &self.seats {
            assert!(seat.poll_work(&mut Context::from_waker(waker)).is_pending());
        }
    }

    /// Pushes so many; their clients stay until the tickets are dropped.
    fn fill(&self, count: usize) -> Vec<Ticket> {
        let push = |_| {
            let (exchange, ticket) = self.open();
            self.queue.push(exchange);
            ticket
        };
        (0..count).map(push).collect()
    }

    fn open(&self) -> (Exchange, Ticket) {
        open(&self.events)
    }
}

fn finish(seat: &Seat, exchange: &Exchange) {
    assert_eq!(exchange.slot.finish(answer()), Ok(()));
    seat.done(Verdict::Replied);
}

/// A connection is idle: what is pushed is given to it at once.
#[divan::bench(args = [case(1, 1, 0), case(64, 1, 0), case(8, 8, 0), case(64, 8, 0)])]
fn push_take_finish(bencher: Bencher<'_, '_>, case: Case) {
    let world = World::new(case);
    world.listen();
    bencher.with_inputs(|| world.open()).bench_local_values(|(exchange, ticket)| {
        world.queue.push(exchange);
        let (seat, waker) = &world.seats[world.last.load(Relaxed)];
        let exchange = seat.take().expect("what was pushed");
        finish(seat, &exchange);
        assert!(seat.poll_work(&mut Context::from_waker(waker)).is_pending());
        (exchange, ticket)
    });
}

/// Every connection is busy and others wait: one more is pushed, the next reply comes, and who waits longest is taken.
#[divan::bench(args = [case(1, 1, 1000), case(64, 1, 1000), case(64, 8, 1000)])]
fn finish_take_push(bencher: Bencher<'_, '_>, case: Case) {
    let world = World::new(case);
    let tickets = world.fill(case.connections + case.waiting);
    let mut busy: Vec<_> =
        world.seats.iter().map(|(seat, _)| seat.take().expect("something to do")).collect();
    let mut turns = (0..case.connections).cycle();
    bencher.with_inputs(|| world.open()).bench_local_values(|(exchange, ticket)| {
        world.queue.push(exchange);
        let turn = turns.next().unwrap_or_default();
        let (seat, _) = &world.seats[turn];
        finish(seat, &busy[turn]);
        let next = seat.take().expect("one of those that wait");
        (std::mem::replace(&mut busy[turn], next), ticket)
    });
    drop(tickets);
}

/// One more waits, and ends before a connection took it.
#[divan::bench(args = [case(1, 1, 1), case(64, 8, 1000)])]
fn push_withdraw(bencher: Bencher<'_, '_>, case: Case) {
    let world = World::new(case);
    let tickets = world.fill(case.connections + case.waiting);
    bencher.with_inputs(|| world.open()).bench_local_values(|(exchange, ticket)| {
        world.queue.push(exchange);
        assert_eq!(ticket.abandon(), Ok(()));
        world.queue.withdraw(&ticket);
        ticket
    });
    drop(tickets);
}
