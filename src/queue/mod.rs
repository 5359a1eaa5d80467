//! The queue of one upstream: bounded, first come first served, and it decides which connection gets what.
//!
//! A session pushes; a connection holds a [`Seat`] and takes what lands in its inbox. An exchange that ends
//! while it waits is withdrawn by its session, so nothing here has expired: one that has ended is not let in.
//! Under the lock the lock of an exchange may be taken, never the other way round; nobody is woken under it and
//! no exchange dropped, which wakes a session: on another thread it would run into the lock.

mod cap;
mod demand;
mod endpoint;
mod order;
pub mod rendezvous;
mod retry;
mod roster;
mod seat;
mod waiting;
mod woken;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::events::Rung;
use crate::exchange::{Exchange, Ticket};
use crate::protocol::Refusal;
pub use cap::TURN;
pub use demand::{Demand, EndpointDemand, EndpointDemands, Figures};
use endpoint::Endpoint;
pub use endpoint::{Share, Verdict};
use retry::Retries;
pub use retry::Retry;
pub use roster::{Fitness, Rule};
use roster::{Roster, Standing};
pub use seat::{Call, Connecting, Seat};
use waiting::{Kind, Waiting};
use woken::Woken;

#[cfg(test)]
thread_local! {
    /// How often a keeper of this thread has looked.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who gets the next exchange.
    pub rule: Rule,
    /// How long an endpoint that came back takes to have its whole share again.
    pub slow_start: Duration,
    /// Exchanges waiting at a time.
    pub max_waiting: usize,
    /// Exchanges in flight on one connection.
    pub room: usize,
    /// In flight on every connection when it is time for another one.
    pub grow_at: usize,
    /// Connections that are sending a request in parts at a time; at least 1.
    pub max_uploads: usize,
    /// The cap.
    pub max_connections: usize,
    /// Connections that an idle one may not leave behind fewer than.
    pub min_connections: usize,
    /// Failures in a row until an endpoint is ejected; at least 1.
    pub eject_after: u32,
    /// How often requests are tried.
    pub retry: Retry,
}

/// The queue.
#[derive(Debug)]
pub struct Queue {
    inner: Mutex<Inner>,
    /// Told whenever another connection may be wanted.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    settings: Settings,
    roster: Roster,
    waiting: Waiting,
    retries: Retries,
    arrivals: u64,
    /// In a round as many are served as had their turn in it when it began.
    round: u64,
    left_of_round: usize,
    /// Since when some wait and none of them was given to a connection.
    still_since: Option<Instant>,
    /// Why the last attempt to connect failed, if nothing is open.
    down: Option<String>,
    /// Something was pushed since the keeper last looked.
    touched: bool,
    /// What ends without a reply, after the lock.
    refused: Vec<(Exchange, Refusal)>,
}

impl Queue {
    /// An empty queue without endpoints.
    pub fn new(settings: Settings) -> Arc<Self> {
        let inner = Inner {
            settings,
            roster: Roster::new(&settings),
            waiting: Waiting::default(),
            retries: Retries::new(settings.retry),
            arrivals: 0,
            round: 0,
            left_of_round: 0,
            still_since: None,
            down: None,
            touched: false,
            refused: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), changed: Notify::new() })
    }

    /// For what wakes nobody and ends nothing.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does `work` under the lock, and after it what that leads to.
    fn locked<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.inner();
        let result = work(&mut inner);
        let (woken, refused) = (std::mem::take(&mut inner.roster.woken), std::mem::take(&mut inner.refused));
        drop(inner);
        woken.wake();
        for (exchange, refusal) in refused {
            exchange.refuse(refusal);
        }
        result
    }

    /// Gives `exchange` to a connection, or lets it wait for one; refuses it if too many wait or the
    /// upstream is down.
    pub fn push(&self, exchange: Exchange) {
        let wants_more = self.locked(|inner| {
            let first = !std::mem::replace(&mut inner.touched, true);
            let is_down = inner.down.is_some();
            inner.retries.note_request(exchange.slot.admitted());
            let given = inner.place(exchange);
            (first && is_down)
                || given.is_some_and(|(key, missed)| missed || inner.roster.is_crowded(key))
                || !inner.waiting.is_empty()
                || (!inner.roster.full && inner.roster.endpoints.iter().any(Endpoint::is_untried))
        });
        if wants_more {
            self.changed.notify_one();
        }
    }

    /// Gives `exchange` to a connection of the one endpoint it is for. False if none has room: it is dropped.
    pub fn push_at(&self, endpoint: usize, mut exchange: Exchange) -> bool {
        exchange.bound = true;
        self.locked(|inner| {
            let key = inner.roster.choose_at(endpoint);
            match key {
                Some(key) => {
                    exchange.slot.mark_given_at_once();
                    inner.roster.give(key, exchange);
                }
                None => inner.refused.push((exchange, Refusal::Lost)),
            }
            key.is_some()
        })
    }

    /// The round of who is served now: a client has at most one turn in each.
    pub fn round(&self) -> u64 {
        self.inner().round
    }

    /// Takes an exchange out, if it still waits: meanwhile a connection may have been given it.
    pub fn withdraw(&self, ticket: &Ticket) -> Option<Exchange> {
        let turn = ticket.waiting()?;
        self.locked(|inner| {
            let withdrawn = inner.waiting.remove(turn);
            // A connection may have been kept free for it.
            inner.dispatch();
            withdrawn
        })
    }

    /// The same queue under other settings.
    pub fn retune(&self, settings: Settings) {
        self.locked(|inner| {
            inner.settings = settings;
            inner.roster.retune(&settings);
            inner.retries.retune(settings.retry);
            // Where things are led may be another matter now.
            let led = inner.waiting.misled(|_| false);
            inner.put_back(led);
        });
        self.changed.notify_one();
    }

    /// There is an endpoint at this place, with this share; places without a gap.
    pub fn set_endpoint(&self, place: usize, share: Share) {
        self.locked(|inner| {
            inner.roster.set_endpoint(place, share);
            inner.dispatch();
        });
    }

    /// The endpoint at this place is one no longer: its connections finish what they have. The place may be given to
    /// another one when nothing is connecting or connected there any more.
    pub fn remove_endpoint(&self, place: usize) {
        self.locked(|inner| {
            let inbox = inner.roster.remove_endpoint(place);
            inner.put_back(inbox);
        });
    }

    /// A place for a connection to `endpoint` that is being opened.
    pub fn connecting(self: &Arc<Self>, endpoint: usize) -> Connecting {
        self.locked(|inner| inner.roster.endpoints[endpoint].connecting += 1);
        Connecting::new(self.clone(), endpoint)
    }

    /// An attempt to connect failed.
    pub fn dial_failed(&self, endpoint: usize) {
        self.locked(|inner| {
            let it = &mut inner.roster.endpoints[endpoint];
            (it.unreachable, it.paused, it.short) = (true, true, false);
            inner.dispatch();
        });
    }

    /// An endpoint that could not be connected to may be tried again, if there is a reason.
    pub fn end_pause(&self, endpoint: usize) {
        self.inner().roster.endpoints[endpoint].paused = false;
    }

    /// What waits for a connection waits for the next attempt, which comes at once or later.
    pub fn dial_again(&self) {
        self.locked(|inner| {
            if let Some(first) = inner.waiting.first() {
                first.slot.mark_retried(Rung::Connect, Instant::now());
            }
        });
    }

    /// Nothing is open, and all endpoints failed, the last one with `error`: what comes is refused until a
    /// connection joins, and what waits if it must not be tried again.
    pub fn set_down(&self, error: &str) {
        self.locked(|inner| {
            if inner.roster.open() > 0 {
                return;
            }
            inner.down = Some(error.into());
            for exchange in inner.waiting.drain() {
                inner.try_again(exchange, Rung::Connect, &Refusal::Down(error.into()));
            }
        });
    }

    /// An ejected endpoint may show what it can do.
    pub fn readmit(&self, endpoint: usize) {
        self.locked(|inner| {
            inner.roster.endpoints[endpoint].ejected = false;
            inner.roster.come_back(endpoint);
            inner.dispatch();
        });
    }

    /// What probes say of an endpoint.
    pub fn set_healthy(&self, endpoint: usize, healthy: bool) {
        self.locked(|inner| {
            inner.roster.endpoints[endpoint].healthy = healthy;
            if healthy {
                inner.roster.come_back(endpoint);
            }
            inner.dispatch();
        });
    }

    /// What the keeper needs to know now.
    pub fn demand(&self) -> Demand {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        let is_long = |since: Instant| since + TURN <= Instant::now();
        self.locked(|Inner { roster, waiting, still_since, down, touched, .. }| Demand {
            stands_still: !waiting.is_empty() && still_since.is_some_and(is_long),
            wanting: waiting.count(None, false)
                + waiting.count(None, true).min(roster.uploads_left())
                + roster.overload(),
            endpoints: roster.demands(&waiting.led(roster.endpoints.len(), roster.uploads_left())),
            open: roster.open(),
            connecting: roster.connecting(),
            down: down.is_some(),
            touched: std::mem::take(touched),
        })
    }

    /// Where a key leads now.
    #[cfg(test)]
    pub fn lead(&self, key: u64) -> Option<usize> {
        self.inner().roster.lead(key, None)
    }

    /// What the keeper needs to know of the endpoints.
    pub fn endpoints(&self) -> EndpointDemands {
        let inner = self.inner();
        inner.roster.demands(&inner.waiting.led(inner.roster.endpoints.len(), inner.roster.uploads_left()))
    }

    /// Completes when [`Queue::demand`] may have changed. Cancel-safe; for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        self.locked(|Inner { roster, waiting, .. }| {
            let mut figures = Figures {
                waiting: waiting.len(),
                oldest_wait: waiting.oldest_wait(Instant::now()),
                connecting: roster.connecting(),
                ..Figures::default()
            };
            for (_, member) in &roster.members {
                match (member.standing, member.in_flight) {
                    (Standing::Retiring, _) => figures.retiring += 1,
                    (Standing::Open | Standing::Resting, 0) => figures.idle += 1,
                    (Standing::Open | Standing::Resting, _) => figures.busy += 1,
                }
            }
            figures
        })
    }

    /// How fit each endpoint is to be connected to; more is better.
    pub fn fitness(&self) -> Vec<Fitness> {
        self.inner().roster.fitness()
    }

    /// Whether each endpoint was reached by the last attempt, and is not left out.
    pub fn endpoints_up(&self) -> Vec<bool> {
        self.inner().roster.endpoints.iter().map(|e| !e.unreachable && !e.is_left_out()).collect()
    }
}

impl Inner {
    /// Gives, queues or refuses; says whom it was given to. What waits longer comes first: nothing overtakes the
    /// queue, but for what waits only because it is in parts.
    fn place(&mut self, mut exchange: Exchange) -> Option<(usize, bool)> {
        self.line_up(&mut exchange);
        let kind = Kind::of(&exchange);
        let is_next = !(self.waiting.has(kind) || (kind.in_parts && self.waiting.has(kind.whole())));
        if is_next && let Some(key) = self.roster.choose(kind.endpoint, kind.in_parts, None) {
            exchange.slot.mark_given_at_once();
            return Some((key, self.roster.give(key, exchange)));
        }
        if let (Some(error), 0) = (&self.down, self.roster.open()) {
            self.refused.push((exchange, Refusal::Down(error.clone())));
        } else if self.waiting.len() < self.settings.max_waiting {
            self.put_back([exchange]);
        } else {
            self.take_the_place_of_the_last(exchange);
        }
        None
    }

    /// Exchanges that no connection has begun wait, each at its turn. What ended meanwhile has nobody to
    /// withdraw it any more.
    fn put_back(&mut self, exchanges: impl IntoIterator<Item = Exchange>) {
        for mut exchange in exchanges {
            self.lead(&mut exchange);
            if self.waiting.is_empty() {
                self.still_since = Some(Instant::now());
            }
            let over = if exchange.bound { Some(exchange) } else { self.waiting.insert(exchange) };
            self.refused.extend(over.map(|exchange| (exchange, Refusal::Lost)));
        }
        self.dispatch();
    }

    /// An attempt of `exchange` came to nothing: it waits again at its turn, or ends.
    fn try_again(&mut self, mut exchange: Exchange, rung: Rung, otherwise: &Refusal) {
        let now = Instant::now();
        if !exchange.bound && self.retries.allow(&mut exchange, now) {
            exchange.slot.mark_retried(rung, now);
            self.put_back([exchange]);
        } else {
            self.refused.push((exchange, otherwise.clone()));
            self.dispatch();
        }
    }

    /// Gives what waits to connections with room; if some still waits, stuck connections give way.
    fn dispatch(&mut self) {
        if self.settings.rule == Rule::Hash && !self.waiting.is_empty() {
            self.lead_elsewhere();
        }
        self.reserve();
        while let Some((key, exchange)) = self.next_pair() {
            self.note_served(exchange.turn.round);
            let now = Instant::now();
            self.still_since = Some(now);
            exchange.slot.mark_given(now);
            self.roster.give(key, exchange);
            self.reserve();
        }
        if !self.waiting.is_empty() {
            self.roster.evict_stuck(self.waiting.len());
        }
    }

    fn reserve(&mut self) {
        let first = self.waiting.first().filter(|first| first.is_in_parts());
        self.roster.reserve(first.map(Kind::of));
    }

    /// The next exchange and the connection for it. Those in different lines do not wait for each other.
    fn next_pair(&mut self) -> Option<(usize, Exchange)> {
        let pair = |first: &Exchange| {
            let Kind { endpoint, in_parts } = Kind::of(first);
            Some((self.roster.choose(endpoint, in_parts, first.tried.endpoint)?, first.turn))
        };
        let (key, turn) = self.waiting.firsts(|only| self.roster.may_have_room(only)).find_map(pair)?;
        Some((key, self.waiting.remove(turn)?))
    }
}

#[cfg(test)]
mod led_tests;
#[cfg(test)]
mod line_tests;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
