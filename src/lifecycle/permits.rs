//! So many of something at a time: permits whose number may change while they are taken.

use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::futures::Notified;
use tokio::sync::{Notify, Semaphore};

/// The permits. There are never more than their number, but for those that were taken when it was larger.
#[derive(Debug)]
pub struct Permits {
    free: Semaphore,
    state: Mutex<State>,
    returned: Notify,
}

#[derive(Debug)]
struct State {
    size: usize,
    /// Taken beyond the size: so many are not free when they come back.
    excess: usize,
}

/// One of them. Dropped, it is free again.
#[derive(Debug)]
pub struct Permit(Arc<Permits>);

impl Permits {
    /// So many.
    pub fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            free: Semaphore::new(size),
            state: Mutex::new(State { size, excess: 0 }),
            returned: Notify::new(),
        })
    }

    /// One, if one is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Permit> {
        self.free.try_acquire().ok()?.forget();
        Some(Permit(self.clone()))
    }

    /// One, as soon as one is free. Cancel-safe.
    pub async fn take(self: &Arc<Self>) -> Permit {
        match self.free.acquire().await {
            Ok(permit) => permit.forget(),
            // It is never closed.
            Err(_) => pending().await,
        }
        Permit(self.clone())
    }

    /// Changes how many there are. What was taken beyond that stays taken.
    pub fn resize(&self, size: usize) {
        let mut state = self.state();
        if size < state.size {
            let less = state.size - size;
            state.excess += less - self.free.forget_permits(less);
        } else {
            let more = size - state.size;
            let settled = more.min(state.excess);
            state.excess -= settled;
            self.free.add_permits(more - settled);
        }
        state.size = size;
        drop(state);
        self.look_again();
    }

    /// How many are taken beyond their number.
    pub fn excess(&self) -> usize {
        self.state().excess
    }

    /// Waits until none is taken. Cancel-safe; not to be used while the number changes.
    pub async fn all_returned(&self) {
        let size = u32::try_from(self.state().size).unwrap_or(u32::MAX);
        let _ = self.free.acquire_many(size).await;
    }

    /// Has those look again who wait for one to come back.
    pub fn look_again(&self) {
        self.returned.notify_waiters();
    }

    /// Completes when one has come back, or there are others, since this was called.
    pub fn returned(&self) -> Notified<'_> {
        self.returned.notified()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.0.state();
        if state.excess > 0 {
            state.excess -= 1;
        } else {
            // Under the lock, or a change of the size would count on one that is on its way.
            self.0.free.add_permits(1);
        }
        drop(state);
        self.0.look_again();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_is_free_again() {
        let permits = Permits::new(1);
        let first = permits.try_take();
        assert!(first.is_some() && permits.try_take().is_none());
        drop(first);
        assert!(permits.try_take().is_some());
    }

    #[test]
    fn fewer_are_as_many_as_before_until_enough_have_come_back() {
        let permits = Permits::new(4);
        let mut taken: Vec<_> = (0..3).map_while(|_| permits.try_take()).collect();
        permits.resize(1);
        assert_eq!((taken.len(), permits.excess()), (3, 2));
        for excess in [1, 0] {
            taken.pop();
            assert!(permits.try_take().is_none());
            assert_eq!(permits.excess(), excess);
        }
        taken.pop();
        assert!(permits.try_take().is_some_and(|_one| permits.try_take().is_none()));
    }

    #[test]
    fn more_are_free_at_once_but_for_the_excess() {
        let permits = Permits::new(3);
        let taken: Vec<_> = (0..3).map_while(|_| permits.try_take()).collect();
        permits.resize(1);
        permits.resize(4);
        let more: Vec<_> = (0..5).map_while(|_| permits.try_take()).collect();
        assert_eq!((taken.len(), more.len(), permits.excess()), (3, 1, 0));
        drop((taken, more));
        assert_eq!((0..5).map_while(|_| permits.try_take()).collect::<Vec<_>>().len(), 4);
    }

    #[tokio::test]
    async fn who_waits_gets_what_comes_back_or_is_new() {
        let permits = Permits::new(1);
        let first = permits.take().await;
        let waits = |permits: &Arc<Permits>| {
            let permits = permits.clone();
            tokio::spawn(async move { permits.take().await })
        };
        let (second, third) = (waits(&permits), waits(&permits));
        tokio::task::yield_now().await;
        permits.resize(2);
        let second = second.await.unwrap();
        assert!(!third.is_finished());
        drop(first);
        drop((second, third.await.unwrap()));
        permits.all_returned().await;
    }

    #[tokio::test]
    async fn a_return_between_the_look_and_the_wait_is_not_missed() {
        let permits = Permits::new(1);
        let taken = permits.try_take();
        let returned = permits.returned();
        assert!(permits.try_take().is_none());
        drop(taken);
        returned.await;
    }
}
