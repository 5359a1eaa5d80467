//! The byte budget of all buffers (`limits.memory`).
//!
//! A buffer above [`FREE`] bytes takes its whole size from the budget before it grows, and a message
//! carries that [`Charge`] until its last byte is written. Requests draw on the main share; replies may
//! also draw on a reserve, so sessions waiting for memory can never stop the replies that would free it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A buffer up to this many bytes is not counted: it is part of what a client costs anyway.
pub const FREE: usize = 4096;
/// One permit of the semaphores, in bytes.
const UNIT: u64 = 1024;
/// The reserve of replies is the whole divided by this.
const RESERVE: u64 = 4;

/// Memory taken from a [`Budget`]; given back with the last clone.
#[derive(Clone, Debug, Default)]
pub struct Charge {
    permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Charge {
    /// Nothing.
    pub fn none() -> Self {
        Self { permit: None }
    }

    /// Whether it is nothing.
    pub fn is_none(&self) -> bool {
        self.permit.is_none()
    }
}

/// Who asks for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A session, for a request it is reading.
    Request,
    /// A connection, for a reply it is reading.
    Reply,
}

/// The budget itself. Clones are the same budget.
#[derive(Clone, Debug)]
pub struct Budget {
    main: Arc<Semaphore>,
    reserve: Arc<Semaphore>,
    /// Replies that wait for memory.
    starved: Arc<AtomicUsize>,
    total: u64,
}

/// A reply that waits for memory, counted as long as it does.
struct Starved(Arc<AtomicUsize>);

impl Starved {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A [`Charge`] being waited for. Waiters of one share are served in order.
pub struct Charging(Pin<Box<dyn Future<Output = Charge> + Send>>);

impl Budget {
    /// A budget of `bytes`, a quarter of it reserved for replies.
    pub fn new(bytes: u64) -> Self {
        let reserve = bytes / RESERVE;
        let semaphore = |bytes: u64| {
            let units = usize::try_from(bytes / UNIT).unwrap_or(usize::MAX);
            Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))
        };
        let starved = Arc::default();
        Self { main: semaphore(bytes - reserve), reserve: semaphore(reserve), starved, total: bytes }
    }

    /// The smallest budget, in bytes, in which a message of `max_message` bytes fits in either
    /// direction.
    pub fn floor(max_message: u64) -> u64 {
        max_message.next_multiple_of(UNIT) * RESERVE
    }

    /// The whole budget in bytes.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        let free = (self.main.available_permits() + self.reserve.available_permits()) as u64 * UNIT;
        self.total.saturating_sub(free)
    }

    /// Whether a reply waits for memory: who holds some and does not use it stands in the way of all.
    pub fn is_starved(&self) -> bool {
        self.starved.load(Ordering::Relaxed) > 0
    }

    /// Memory for a buffer of `bytes`, if there is enough now and nobody waits for it already.
    pub fn try_charge(&self, bytes: usize, purpose: Purpose) -> Option<Charge> {
        if bytes <= FREE {
            return Some(Charge::none());
        }
        let take = |share: &Arc<Semaphore>| share.clone().try_acquire_many_owned(units(bytes)).ok();
        let permit = match purpose {
            Purpose::Request => take(&self.main),
            Purpose::Reply => take(&self.main).or_else(|| take(&self.reserve)),
        }?;
        Some(Charge { permit: Some(Arc::new(permit)) })
    }

    /// Memory for a buffer of `bytes`, as soon as there is enough. `bytes` beyond the share would wait
    /// for ever: `config` refuses a `max_message` over what [`Budget::floor`] allows.
    pub fn charge(&self, bytes: usize, purpose: Purpose) -> Charging {
        let (main, reserve, units) = (self.main.clone(), self.reserve.clone(), units(bytes));
        let starved = (purpose == Purpose::Reply).then(|| Starved::new(&self.starved));
        Charging(Box::pin(async move {
            let _starved = starved;
            // The semaphores are never closed, so an error cannot happen.
            let permit = match purpose {
                Purpose::Request => main.acquire_many_owned(units).await,
                // Whichever share has room first, the reserve last. Cancel-safe: a permit that is not taken
                // goes back.
                Purpose::Reply => tokio::select! {
                    biased;
                    permit = main.acquire_many_owned(units) => permit,
                    permit = reserve.acquire_many_owned(units) => permit,
                },
            };
            Charge { permit: permit.ok().map(Arc::new) }
        }))
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from((bytes as u64).div_ceil(UNIT)).unwrap_or(u32::MAX)
}

impl Future for Charging {
    type Output = Charge;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Charge> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for Charging {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Charging")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_buffers_are_free() {
        let budget = Budget::new(0);
        assert!(budget.try_charge(FREE, Purpose::Request).is_some());
        assert!(budget.try_charge(FREE + 1, Purpose::Request).is_none());
    }

    #[test]
    fn replies_have_a_reserve_that_requests_cannot_take() {
        let budget = Budget::new(64 * 1024);
        let requests = budget.try_charge(48 * 1024, Purpose::Request);
        assert!(requests.is_some());
        assert!(budget.try_charge(5000, Purpose::Request).is_none());
        let reply = budget.try_charge(16 * 1024, Purpose::Reply);
        assert!(reply.is_some());
        assert!(budget.try_charge(5000, Purpose::Reply).is_none());
        assert_eq!(budget.taken(), 64 * 1024);
        drop((requests, reply));
        assert_eq!(budget.taken(), 0);
    }

    #[test]
    fn a_charge_lives_as_long_as_its_last_clone() {
        let budget = Budget::new(64 * 1024);
        let charge = budget.try_charge(8192, Purpose::Request);
        let clone = charge.clone();
        drop(charge);
        assert_eq!(budget.taken(), 8192);
        drop(clone);
        assert_eq!(budget.taken(), 0);
    }

    #[tokio::test]
    async fn a_waiter_is_served_when_memory_comes_back() {
        let budget = Budget::new(64 * 1024);
        let held = budget.try_charge(48 * 1024, Purpose::Request);
        let waiting = tokio::spawn(budget.charge(10_000, Purpose::Request));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn a_reply_that_waits_takes_what_requests_give_back() {
        let budget = Budget::new(64 * 1024);
        let main = budget.try_charge(48 * 1024, Purpose::Request);
        let _slow_reader = budget.try_charge(16 * 1024, Purpose::Reply);
        let waiting = tokio::spawn(budget.charge(10_000, Purpose::Reply));
        tokio::task::yield_now().await;
        drop(main);
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(waiting.is_finished(), "three quarters of the memory are free");
    }

    #[test]
    fn the_floor_fits_one_message_each_way() {
        for max in [1, 4097, 16 << 20, (16 << 20) + 1] {
            let budget = Budget::new(Budget::floor(max));
            let max = usize::try_from(max).unwrap();
            assert!(budget.try_charge(max, Purpose::Request).is_some());
            assert!(budget.try_charge(max, Purpose::Reply).is_some());
        }
    }
}
