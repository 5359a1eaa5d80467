//! Clients that wait between two requests, the longest idle first: who is closed when the cap is reached.
//! A client that has not sent anything yet is never among them, so no request on its way is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// The idle clients of one upstream. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct IdleClients(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// A client's place in the list, held while it is idle.
#[derive(Debug)]
pub(super) struct IdlePlace {
    list: IdleClients,
    key: u64,
    evicted: Arc<Notify>,
}

impl IdleClients {
    fn list(&self) -> MutexGuard<'_, List> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) -> IdlePlace {
        let evicted = Arc::new(Notify::new());
        let mut list = self.list();
        let key = list.next;
        list.next += 1;
        list.by_age.insert(key, evicted.clone());
        IdlePlace { list: self.clone(), key, evicted }
    }

    /// Tells the longest idle client to close. False if none is idle.
    pub fn evict_oldest(&self) -> bool {
        match self.list().by_age.pop_first() {
            Some((_, evicted)) => {
                evicted.notify_one();
                true
            }
            None => false,
        }
    }
}

impl IdlePlace {
    /// Completes when the client is to be closed. Cancel-safe.
    pub(super) async fn evicted(&self) {
        self.evicted.notified().await;
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.list.list().by_age.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_goes_first_and_only_once() {
        let idle = IdleClients::default();
        let (first, second) = (idle.enter(), idle.enter());
        assert!(idle.evict_oldest());
        first.evicted().await;
        drop(first);
        let third = idle.enter();
        assert!(idle.evict_oldest());
        second.evicted().await;
        assert!(idle.evict_oldest());
        third.evicted().await;
        assert!(!idle.evict_oldest());
    }

    #[test]
    fn who_is_busy_again_is_not_in_the_list() {
        let idle = IdleClients::default();
        drop(idle.enter());
        assert!(!idle.evict_oldest());
    }
}
