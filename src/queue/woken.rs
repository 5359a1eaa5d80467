//! Those to wake once the queue's lock is released.

use std::task::Waker;

/// Whom to wake after the lock: mostly one.
#[derive(Debug, Default)]
pub(super) struct Woken {
    first: Option<Waker>,
    others: Vec<Waker>,
}

impl Woken {
    pub(super) fn add(&mut self, waker: Option<Waker>) {
        if self.first.is_none() {
            self.first = waker;
        } else {
            self.others.extend(waker);
        }
    }

    pub(super) fn wake(self) {
        if let Some(first) = self.first {
            first.wake();
        }
        self.others.into_iter().for_each(Waker::wake);
    }
}
