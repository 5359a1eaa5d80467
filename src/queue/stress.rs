//! Queue and exchanges between real threads: sessions that push, wait and leave, connections that take, answer,
//! rest and go. A wake-up that is lost shows as a thread that waits for ever, which a bound turns into a failure.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread::{self, ScopedJoinHandle};

use bytes::Bytes;
use fastrand::Rng;
use tokio::time::timeout;

use super::*;
use crate::lifecycle::{Phase, Switch, Watch};
use crate::protocol::{Reply, Request};
use crate::{events, exchange};

/// Sessions, and connections.
const THREADS: usize = 3;
const ROUNDS: u64 = 10_000;
/// A bound for broken code, far above what working code takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn queue() -> Arc<Queue> {
    // Room for all that can be outstanding: nothing is refused.
    let (max_waiting, room, grow_at) = (64, 2, 1);
    let (max_uploads, min_connections, eject_after) = (1, 1, 5);
    let retry = Retry { attempts: 2, per_thousand: 200 };
    let queue = Queue::new(Settings {
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
    (0..2)
        .for_each(|place| queue.set_endpoint(place, Share { weight: 1, backup: false, seed: place as u64 }));
    queue
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(PATIENCE, future).await.expect("a wake-up was lost") })
}

/// Asks for up to three things at a time; takes some of them back, wherever they are by then.
async fn session(queue: &Queue, events: &Arc<events::Upstream>, mut rng: Rng) -> usize {
    let mut answered = 0;
    for round in 0..ROUNDS {
        let mut tickets = Vec::new();
        for number in 0..rng.u64(1..=3) {
            let name = (round << 8 | number).to_be_bytes();
            let now = Instant::now();
            let request = Request::new(Bytes::copy_from_slice(&name), false);
            let (exchange, ticket) = exchange::open(request, false, now, Some(now + PATIENCE), events);
            queue.push(exchange);
            tickets.push((name, ticket));
        }
        for (name, mut ticket) in tickets {
            match rng.u8(..8) {
                0 => {
                    let _ = ticket.abandon();
                    queue.withdraw(&ticket);
                }
                1 if let Some(waiting) = queue.withdraw(&ticket) => {
                    waiting.slot.refuse(Refusal::AcquireTimeout).expect("nobody else had it");
                }
                _ => {
                    let answer = poll_fn(|cx| ticket.poll_answer(cx)).await;
                    let reply = answer.expect("nothing is refused").expect("a reply");
                    assert_eq!(reply.bytes, name[..], "the reply to another request");
                    answered += 1;
                }
            }
        }
    }
    answered
}

/// Takes seats and leaves them again, until the sessions are done.
async fn connection(queue: &Arc<Queue>, mut front: Watch, mut rng: Rng) -> usize {
    let mut replies = 0;
    while front.phase() == Phase::Running {
        let seat = queue.connecting(rng.usize(..2)).join();
        for _ in 0..rng.u8(1..=12) {
            // Cancel-safe: waiting changes nothing.
            tokio::select! {
                () = poll_fn(|cx| seat.poll_work(cx)) => {}
                () = front.reached(Phase::Draining) => break,
            }
            match rng.u8(..8) {
                // Whatever is in the inbox goes back.
                0 => {
                    seat.rest(true);
                    seat.rest(false);
                }
                1 => {
                    seat.retire();
                    break;
                }
                _ => {}
            }
            while let Some(exchange) = seat.take() {
                let bytes = exchange.request.bytes.clone();
                replies += usize::from(exchange.slot.finish(Reply::new(bytes)).is_ok());
                seat.done(Verdict::Replied);
                if rng.u8(..4) == 0 {
                    break;
                }
            }
            if rng.u8(..8) == 0 {
                break;
            }
        }
    }
    replies
}

#[test]
fn nothing_is_lost_between_threads_and_nothing_left_behind() {
    let (queue, events, front) = (queue(), Arc::new(events::Upstream::new("u")), Switch::new());
    let (left, seed) = (AtomicUsize::new(THREADS), fastrand::u64(..));
    let (answered, replies) = thread::scope(|scope| {
        let rng = |number: usize| Rng::with_seed(seed.wrapping_add(number as u64));
        let connections = [0, 1, 2].map(|number| {
            let (queue, watch) = (&queue, front.watch());
            scope.spawn(move || block_on(connection(queue, watch, rng(number))))
        });
        let sessions = [3, 4, 5].map(|number| {
            let (queue, events, front, left) = (&queue, &events, &front, &left);
            scope.spawn(move || {
                let answered = block_on(session(queue, events, rng(number)));
                if left.fetch_sub(1, SeqCst) == 1 {
                    front.drain();
                }
                answered
            })
        });
        let sum = |threads: [ScopedJoinHandle<'_, usize>; THREADS]| -> usize {
            threads.into_iter().map(|thread| thread.join().expect("no thread has panicked")).sum()
        };
        (sum(sessions), sum(connections))
    });
    let figures = queue.figures();
    assert_eq!(figures, Figures::default(), "seed {seed}: something was left behind");
    assert_eq!(events.accepted.get(), events.outcomes.sum(), "seed {seed}");
    assert!(answered <= replies, "seed {seed}: {answered} answers of {replies} replies");
}
