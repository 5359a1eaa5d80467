//! The hard cap on the sockets of an upstream.
//!
//! Invariant: it outlives the upstream's pools, and what all of them have is never more, but for sockets that were
//! there before it was lowered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::futures::Notified;
use tokio::time::Instant;

use crate::lifecycle::{Permit, Permits};
use crate::queue::{Queue, TURN};

/// The cap of one upstream.
#[derive(Debug)]
pub struct Cap {
    sockets: Arc<Permits>,
    /// Those that sessions have for themselves.
    dedicated: Arc<Permits>,
    pools: Mutex<Pools>,
}

/// The pools under a cap, by their queues.
#[derive(Debug, Default)]
struct Pools {
    /// The oldest first.
    all: Vec<Weak<Queue>>,
    /// Those that need a socket more than the others, in the order in which they get the next ones.
    claims: Vec<Weak<Queue>>,
    /// Sessions that wait for a socket of their own. The next ones are for them: they are few.
    sessions: usize,
    /// Until when nobody takes from a pool what it uses: since somebody claimed it last.
    turn: Option<Instant>,
}

impl Cap {
    /// At most `sockets` at a time, `dedicated` of them for one session each.
    pub fn new(sockets: usize, dedicated: usize) -> Arc<Self> {
        let (sockets, dedicated) = (Permits::new(sockets), Permits::new(dedicated));
        Arc::new(Self { sockets, dedicated, pools: Mutex::default() })
    }

    /// At most so many at a time from now on. Those that are too many must be closed: see [`Cap::excess`].
    pub fn resize(&self, sockets: usize, dedicated: usize) {
        self.dedicated.resize(dedicated);
        self.sockets.resize(sockets);
    }

    /// Sockets that are too many since the cap was lowered.
    pub fn excess(&self) -> usize {
        self.sockets.excess()
    }

    /// The pool with this queue is under it.
    pub(super) fn enter(&self, queue: &Arc<Queue>) {
        self.pools().all.push(Arc::downgrade(queue));
    }

    /// The right to have one more socket, to be kept until that is closed. `None` at the cap, or if it is somebody
    /// else's turn.
    pub(super) fn try_take(&self, queue: &Arc<Queue>) -> Option<Permit> {
        let mut pools = self.pools();
        if pools.sessions > 0 || pools.claims.first().is_some_and(|first| !is(first, queue)) {
            return None;
        }
        let permit = self.sockets.try_take()?;
        if !pools.claims.is_empty() {
            pools.claims.remove(0);
            pools.turn = Some(Instant::now() + TURN);
        }
        Some(permit)
    }

    /// A pool at the cap has something to send, and `sockets`: others give up what they do not use, and, once it is its
    /// turn, one of more than it has. If it has none, or one is about to come, the next one is for it: then it is true.
    /// And when to claim again, if others may have some.
    pub(super) fn claim(&self, queue: &Arc<Queue>, sockets: usize) -> (bool, Option<Instant>) {
        let pools = self.pools();
        let others: Vec<_> = pools.all.iter().filter(|other| !is(other, queue)).cloned().collect();
        let now = Instant::now();
        let turn = pools.turn.filter(|turn| *turn > now);
        drop(pools);
        let others: Vec<_> = others.iter().filter_map(Weak::upgrade).collect();
        let gives = |idle: bool| others.iter().any(|other| other.give_way(idle, sockets));
        let again = (!others.is_empty()).then(|| turn.unwrap_or(now + TURN));
        let comes = gives(true) || (turn.is_none() && gives(false));
        let mut pools = self.pools();
        if !pools.claims.iter().any(|claim| is(claim, queue)) {
            if sockets > 0 && !comes {
                return (false, again);
            }
            pools.claims.push(Arc::downgrade(queue));
        }
        (true, again)
    }

    /// A pool wants nothing any more.
    pub(super) fn disclaim(&self, queue: &Arc<Queue>) {
        let mut pools = self.pools();
        let before = pools.claims.len();
        pools.claims.retain(|claim| !is(claim, queue));
        let was_in_the_way = pools.claims.len() < before;
        drop(pools);
        if was_in_the_way {
            self.sockets.look_again();
        }
    }

    /// The right to have one of the sockets for oneself, as soon as there are not too many. Cancel-safe.
    pub(super) async fn dedicate(&self) -> Permit {
        self.dedicated.take().await
    }

    /// A session needs a socket: the next ones are not for pools, until this is dropped.
    pub(super) fn take_turn(self: &Arc<Self>) -> Turn {
        self.pools().sessions += 1;
        Turn(self.clone())
    }

    /// A session needs a socket at the cap: a pool gives up one, a `busy` one only if so.
    pub(super) fn make_room(&self, busy: bool) {
        let all: Vec<_> = self.pools().all.iter().filter_map(Weak::upgrade).collect();
        let gives = |idle: bool| all.iter().any(|queue| queue.give_way(idle, 0));
        let _ = gives(true) || (busy && gives(false));
    }

    /// Completes when a socket of any pool has closed, or the cap has changed, since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.sockets.returned()
    }

    /// A leaf among the locks.
    fn pools(&self) -> MutexGuard<'_, Pools> {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let Pools { all, claims, .. } = &mut *pools;
        for list in [all, claims] {
            list.retain(|queue| queue.strong_count() > 0);
        }
        pools
    }
}

/// A session waits for a socket.
#[derive(Debug)]
pub(super) struct Turn(Arc<Cap>);

impl Turn {
    /// The right to have one more socket. `None` at the cap.
    pub(super) fn try_take(&self) -> Option<Permit> {
        self.0.sockets.try_take()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.pools().sessions -= 1;
        self.0.sockets.look_again();
    }
}

fn is(one: &Weak<Queue>, queue: &Arc<Queue>) -> bool {
    std::ptr::eq(one.as_ptr(), Arc::as_ptr(queue))
}
