//! The hard cap on the sockets of an upstream.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The cap of one upstream; it outlives its pools.
#[derive(Debug)]
pub struct Cap {
    sockets: Arc<Semaphore>,
}

/// The right to have one socket. It is kept until that is closed.
pub(super) type Permit = OwnedSemaphorePermit;

impl Cap {
    /// At most `sockets` at a time.
    pub fn new(sockets: usize) -> Arc<Self> {
        Arc::new(Self { sockets: Arc::new(Semaphore::new(sockets)) })
    }

    /// The right to one more, if it is below the cap.
    pub(super) fn try_take(&self) -> Option<Permit> {
        self.sockets.clone().try_acquire_owned().ok()
    }
}
