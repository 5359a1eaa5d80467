//! Clients that wait between two requests, the longest idle first: who is closed when a cap is reached.
//! A client that has not sent anything yet is never among them, so no request on its way is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// A list of idle clients: those of one upstream, or those of all. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct IdleClients {
    list: Arc<Mutex<List>>,
    /// The list of all.
    all: Option<Box<IdleClients>>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    by_age: BTreeMap<u64, Arc<Notify>>,
}

/// A client's place in the lists, held while it is idle.
#[derive(Debug)]
pub(super) struct IdlePlace {
    /// Where it is in each list.
    places: Vec<(IdleClients, u64)>,
    evicted: Arc<Notify>,
}

impl IdleClients {
    /// A list whose clients are also in `all`.
    pub fn within(all: &IdleClients) -> Self {
        Self { list: Arc::default(), all: Some(Box::new(all.clone())) }
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enter(&self) -> IdlePlace {
        let mut place = IdlePlace { places: Vec::with_capacity(2), evicted: Arc::new(Notify::new()) };
        let mut next = Some(self);
        while let Some(clients) = next {
            let mut list = clients.list();
            let key = list.next;
            list.next += 1;
            list.by_age.insert(key, place.evicted.clone());
            drop(list);
            place.places.push((clients.clone(), key));
            next = clients.all.as_deref();
        }
        place
    }

    /// Tells the longest idle client to close. False if none is idle.
    pub fn evict_oldest(&self) -> bool {
        let oldest = self.list().by_age.pop_first();
        oldest.inspect(|(_, evicted)| evicted.notify_one()).is_some()
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
        for (clients, key) in &self.places {
            clients.list().by_age.remove(key);
        }
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

    #[tokio::test]
    async fn the_list_of_all_has_the_clients_of_each() {
        let all = IdleClients::default();
        let (one, two) = (IdleClients::within(&all), IdleClients::within(&all));
        let (first, _second) = (one.enter(), two.enter());
        assert!(all.evict_oldest());
        first.evicted().await;
        drop(first);
        assert!(!one.evict_oldest());
        assert!(two.evict_oldest());
    }

    #[test]
    fn who_is_busy_again_is_not_in_the_list() {
        let all = IdleClients::default();
        let idle = IdleClients::within(&all);
        drop(idle.enter());
        assert!(!idle.evict_oldest() && !all.evict_oldest());
    }
}
