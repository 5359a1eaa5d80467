//! The hard cap on the sockets of an upstream.
//!
//! Invariant: it outlives the upstream's pools, and what all of them have is never more, but for sockets that were
//! there before it was lowered.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::futures::Notified;

use crate::lifecycle::{Permit, Permits};
use crate::queue::Queue;

/// The cap of one upstream.
#[derive(Debug)]
pub struct Cap {
    sockets: Arc<Permits>,
    /// Of the pools under it, the oldest first.
    queues: Mutex<Vec<Weak<Queue>>>,
}

impl Cap {
    /// At most `sockets` at a time.
    pub fn new(sockets: usize) -> Arc<Self> {
        Arc::new(Self { sockets: Permits::new(sockets), queues: Mutex::default() })
    }

    /// The connections of another queue are under it.
    pub(super) fn enter(&self, queue: &Arc<Queue>) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Arc::downgrade(queue));
    }

    /// What waits in `queue` has no connection at all, for the cap is reached: another pool gives one up.
    pub(super) fn make_room(&self, queue: &Arc<Queue>) {
        let queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut others = queues.iter().filter_map(Weak::upgrade).filter(|other| !Arc::ptr_eq(other, queue));
        let _ = others.any(|other| other.give_way());
    }

    /// At most `sockets` at a time from now on. Those that are too many must be closed: see [`Cap::excess`].
    pub fn resize(&self, sockets: usize) {
        self.sockets.resize(sockets);
    }

    /// Sockets that are too many since the cap was lowered.
    pub fn excess(&self) -> usize {
        self.sockets.excess()
    }

    /// The right to have one more socket, to be kept until that is closed; `None` at the cap.
    pub(super) fn try_take(&self) -> Option<Permit> {
        self.sockets.try_take()
    }

    /// Completes when a socket of any pool has closed, or the cap has changed, since this was called.
    pub(super) fn changed(&self) -> Notified<'_> {
        self.sockets.returned()
    }
}
