//! Clients that wait between two requests, the longest idle first: who is closed when a cap is reached.
//! A client that has not sent anything yet is never among them, so no request on its way is lost.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Not idle.
const BUSY: u64 = 0;
/// Told to close.
const EVICTED: u64 = u64::MAX;
/// So many of the longest idle are looked for at a time: looking means going through all clients.
const AT_A_TIME: usize = 64;

/// A list of clients that have been idle: those of one upstream, or those of all. Clones are the same list.
#[derive(Clone, Debug, Default)]
pub struct IdleClients {
    list: Arc<List>,
    /// The list of all.
    all: Option<Arc<List>>,
}

#[derive(Debug, Default)]
struct List {
    /// Counts up each time that somebody becomes idle; used in the list of all.
    clock: AtomicU64,
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    places: Slab<Arc<Place>>,
    /// The longest idle when they were last looked for, the longest last. Some may be busy again.
    oldest: Vec<(u64, Arc<Place>)>,
}

#[derive(Debug)]
struct Place {
    /// Since when it is idle, by the clock of all; or [`BUSY`] or [`EVICTED`].
    since: AtomicU64,
    session: Mutex<Option<Waker>>,
}

/// A client's place in the lists, from the first time that it is idle to its end. So a client that goes on pays
/// for one number, and who makes room for another pays for the search.
#[derive(Debug)]
pub(super) struct IdlePlace {
    place: Arc<Place>,
    clients: IdleClients,
    /// Where it is in the list of its upstream, and in that of all.
    keys: (usize, Option<usize>),
}

impl IdleClients {
    /// A list whose clients are also in `all`.
    pub fn within(all: &IdleClients) -> Self {
        Self { list: Arc::default(), all: Some(all.list.clone()) }
    }

    /// A place for a client that is idle from now on.
    pub(super) fn enter(&self) -> IdlePlace {
        let place = Arc::new(Place { since: AtomicU64::new(BUSY), session: Mutex::default() });
        let enter = |list: &Arc<List>| list.clients().places.insert(place.clone());
        let keys = (enter(&self.list), self.all.as_ref().map(enter));
        let place = IdlePlace { place, clients: self.clone(), keys };
        place.set_idle();
        place
    }

    /// Tells the longest idle client to close. False if none is idle.
    pub fn evict_oldest(&self) -> bool {
        let oldest = self.list.clients().evict_oldest();
        let Some(place) = oldest else { return false };
        let session = place.session().take();
        if let Some(session) = session {
            session.wake();
        }
        true
    }
}

impl List {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clients {
    fn evict_oldest(&mut self) -> Option<Arc<Place>> {
        for fresh in [false, true] {
            if fresh {
                self.look_for_oldest();
            }
            while let Some((since, place)) = self.oldest.pop() {
                if place.since.compare_exchange(since, EVICTED, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                    return Some(place);
                }
            }
        }
        None
    }

    fn look_for_oldest(&mut self) {
        let idle = self.places.iter().map(|(_, place)| (place.since.load(Ordering::Acquire), place));
        let mut idle: Vec<_> = idle.filter(|(since, _)| ![BUSY, EVICTED].contains(since)).collect();
        if idle.len() > AT_A_TIME {
            idle.select_nth_unstable_by_key(AT_A_TIME, |(since, _)| *since);
            idle.truncate(AT_A_TIME);
        }
        idle.sort_unstable_by_key(|(since, _)| std::cmp::Reverse(*since));
        self.oldest = idle.into_iter().map(|(since, place)| (since, place.clone())).collect();
    }
}

impl Place {
    fn session(&self) -> MutexGuard<'_, Option<Waker>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IdlePlace {
    /// The client waits from now on.
    pub(super) fn set_idle(&self) {
        let clock = &self.clients.all.as_ref().unwrap_or(&self.clients.list).clock;
        self.place.since.store(clock.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Release);
    }

    /// The client has sent something: whatever it was told before, it is not idle.
    pub(super) fn set_busy(&self) {
        self.place.since.store(BUSY, Ordering::Release);
    }

    /// Whether the client is idle, or was when it was told to close.
    pub(super) fn is_idle(&self) -> bool {
        self.place.since.load(Ordering::Acquire) != BUSY
    }

    /// Completes when the client is to be closed.
    pub(super) fn poll_evicted(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut session = self.place.session();
        if session.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *session = Some(cx.waker().clone());
        }
        drop(session);
        if self.place.since.load(Ordering::Acquire) == EVICTED { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for IdlePlace {
    fn drop(&mut self) {
        self.set_busy();
        // The place may be among the oldest for a while; the task need not be.
        drop(self.place.session().take());
        self.clients.list.clients().places.remove(self.keys.0);
        if let (Some(all), Some(key)) = (&self.clients.all, self.keys.1) {
            all.clients().places.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn evicted(place: &IdlePlace) {
        poll_fn(|cx| place.poll_evicted(cx)).await;
    }

    #[tokio::test]
    async fn the_longest_idle_goes_first_and_only_once() {
        let idle = IdleClients::default();
        let (first, second) = (idle.enter(), idle.enter());
        assert!(idle.evict_oldest());
        evicted(&first).await;
        drop(first);
        let third = idle.enter();
        assert!(idle.evict_oldest());
        evicted(&second).await;
        assert!(idle.evict_oldest());
        evicted(&third).await;
        assert!(!idle.evict_oldest());
    }

    #[tokio::test]
    async fn the_list_of_all_has_the_clients_of_each() {
        let all = IdleClients::default();
        let (one, two) = (IdleClients::within(&all), IdleClients::within(&all));
        let (first, _second) = (one.enter(), two.enter());
        assert!(all.evict_oldest());
        evicted(&first).await;
        drop(first);
        assert!(!one.evict_oldest());
        assert!(two.evict_oldest());
    }

    #[test]
    fn who_is_busy_again_or_gone_is_not_in_the_list() {
        let all = IdleClients::default();
        let idle = IdleClients::within(&all);
        let place = idle.enter();
        place.set_busy();
        assert!(!idle.evict_oldest() && !all.evict_oldest());
        place.set_idle();
        drop(place);
        assert!(!idle.evict_oldest() && !all.evict_oldest());
    }

    #[test]
    fn among_many_the_longest_idle_go_first_whatever_happens_meanwhile() {
        let idle = IdleClients::default();
        let places: Vec<_> = (0..3 * AT_A_TIME).map(|_| idle.enter()).collect();
        places[0].set_busy();
        places[0].set_idle();
        assert!(idle.evict_oldest());
        // Known to be among the oldest by now.
        places[2].set_busy();
        places[2].set_idle();
        let evicted = |place: &IdlePlace| place.place.since.load(Ordering::Relaxed) == EVICTED;
        for index in (3..places.len()).chain([0, 2]) {
            assert!(!evicted(&places[index]));
            assert!(idle.evict_oldest() && evicted(&places[index]), "{index}");
        }
        assert!(evicted(&places[1]) && !idle.evict_oldest());
    }
}
