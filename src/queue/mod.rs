//! The queue of one upstream: bounded, first come first served, and it decides which connection gets what.
//!
//! A session pushes; a connection holds a [`Seat`] and takes what lands in its inbox. An exchange that ends
//! while it waits is withdrawn by its session, so nothing here has expired: one that has ended is not let in.
//! Under the lock the lock of an exchange may be taken, never the other way round; nobody is woken under it and
//! no exchange dropped, which wakes a session: on another thread it would run into the lock.

mod endpoint;
pub mod rendezvous;
mod retry;
mod roster;
mod seat;
mod waiting;
mod woken;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::events::Rung;
use crate::exchange::{Exchange, Ticket};
use crate::protocol::Refusal;
use endpoint::Endpoint;
pub use endpoint::Verdict;
use retry::Retries;
pub use retry::Retry;
use roster::{Roster, Standing};
pub use seat::{Call, Connecting, Seat};
use waiting::Waiting;
use woken::Woken;

/// The bounds of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Endpoints of the upstream; at least 1.
    pub endpoints: usize,
    /// Exchanges waiting at a time.
    pub max_waiting: usize,
    /// Exchanges in flight on one connection.
    pub room: usize,
    /// In flight on every connection when it is time for another one.
    pub grow_at: usize,
    /// Connections that are sending a request in parts at a time; at least 1.
    pub max_uploads: usize,
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
    settings: Settings,
    inner: Mutex<Inner>,
    /// Told whenever another connection may be wanted.
    changed: Notify,
}

#[derive(Debug)]
struct Inner {
    roster: Roster,
    waiting: Waiting,
    retries: Retries,
    next_turn: u64,
    /// Why the last attempt to connect failed, if nothing is open.
    down: Option<String>,
    /// Something was pushed since the keeper last looked.
    touched: bool,
    /// What ends without a reply, after the lock.
    refused: Vec<(Exchange, Refusal)>,
}

/// What the keeper needs to know to decide on the next connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Exchanges that no connection has, or that are above `grow_at` on theirs.
    pub wanting: usize,
    /// The endpoints by index.
    pub endpoints: EndpointDemands,
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Something was pushed since the last look.
    pub touched: bool,
    /// Nothing is open, and pushes are refused.
    pub down: bool,
}

/// What the keeper needs to know of each endpoint, by index: mostly there are few.
pub type EndpointDemands = SmallVec<[EndpointDemand; 4]>;

/// What the keeper needs to know of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointDemand {
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Its last replies all failed.
    pub failing: bool,
    /// It failed too often in a row.
    pub ejected: bool,
    /// It gets nothing, because another one is better.
    pub left_out: bool,
}

impl EndpointDemand {
    fn of(endpoint: &Endpoint, has_better: bool) -> Self {
        Self {
            open: endpoint.open,
            connecting: endpoint.connecting,
            failing: endpoint.is_failing(),
            ejected: endpoint.ejected,
            left_out: has_better && endpoint.is_left_out(),
        }
    }

    /// Neither a connection nor one in the making.
    pub fn is_untouched(&self) -> bool {
        self.open + self.connecting == 0
    }
}

/// Figures for metrics and the pool table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Exchanges waiting.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest_wait: Duration,
    /// Connections with nothing in flight.
    pub idle: usize,
    /// Connections with something in flight.
    pub busy: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Connections that take nothing new any more.
    pub retiring: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiting, oldest_wait, idle, busy, connecting, retiring } = self;
        write!(f, "{idle} idle, {busy} busy, {connecting} connecting, {retiring} retiring; ")?;
        write!(f, "{waiting} waiting, the oldest for {oldest_wait:?}")
    }
}

impl Queue {
    /// An empty queue without connections.
    pub fn new(settings: Settings) -> Arc<Self> {
        let inner = Inner {
            roster: Roster::new(&settings),
            waiting: Waiting::default(),
            retries: Retries::new(settings.retry),
            next_turn: 0,
            down: None,
            touched: false,
            refused: Vec::new(),
        };
        Arc::new(Self { settings, inner: Mutex::new(inner), changed: Notify::new() })
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
            let given = inner.place(exchange, self.settings.max_waiting);
            (first && is_down)
                || given.is_some_and(|key| inner.roster.is_crowded(key))
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

    /// A place for a connection to `endpoint` that is being opened.
    pub fn connecting(self: &Arc<Self>, endpoint: usize) -> Connecting {
        self.locked(|inner| inner.roster.endpoints[endpoint].connecting += 1);
        Connecting::new(self.clone(), endpoint)
    }

    /// An attempt to connect failed.
    pub fn dial_failed(&self, endpoint: usize) {
        let it = &mut self.inner().roster.endpoints[endpoint];
        (it.unreachable, it.paused) = (true, true);
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

    /// The cap is reached: until a socket closes, requests are no reason to look for endpoints to connect to.
    pub fn set_full(&self) {
        self.inner().roster.full = true;
    }

    /// An endpoint without a connection needs room under the cap, which is reached: a connection of another one
    /// leaves, if that has several.
    pub fn make_room(&self) {
        self.set_full();
        self.locked(|inner| {
            let inbox = inner.roster.make_room();
            inner.put_back(inbox);
        });
    }

    /// The cap keeps others from serving what waits: a connection leaves that nobody may use.
    pub fn make_use_of_cap(&self) {
        self.locked(|inner| inner.roster.call_off_left_out());
    }

    /// An ejected endpoint may show what it can do.
    pub fn readmit(&self, endpoint: usize) {
        self.locked(|inner| {
            inner.roster.endpoints[endpoint].ejected = false;
            inner.dispatch();
        });
    }

    /// What probes say of an endpoint.
    pub fn set_healthy(&self, endpoint: usize, healthy: bool) {
        self.locked(|inner| {
            inner.roster.endpoints[endpoint].healthy = healthy;
            inner.dispatch();
        });
    }

    /// What the keeper needs to know now.
    pub fn demand(&self) -> Demand {
        self.locked(|Inner { roster, waiting, down, touched, .. }| Demand {
            wanting: waiting.count(false)
                + waiting.count(true).min(roster.uploads_left())
                + roster.overload(),
            endpoints: roster.demands(),
            open: roster.open(),
            connecting: roster.connecting(),
            down: down.is_some(),
            touched: std::mem::take(touched),
        })
    }

    /// What the keeper needs to know of the endpoints.
    pub fn endpoints(&self) -> EndpointDemands {
        self.inner().roster.demands()
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

    /// Whether each endpoint was reached by the last attempt, and is not left out.
    pub fn endpoints_up(&self) -> Vec<bool> {
        self.inner().roster.endpoints.iter().map(|e| !e.unreachable && !e.is_left_out()).collect()
    }
}

impl Inner {
    /// Gives, queues or refuses; says whom it was given to. What waits longer comes first: nothing overtakes the
    /// queue, but for what waits only because it is in parts.
    fn place(&mut self, mut exchange: Exchange, max_waiting: usize) -> Option<usize> {
        exchange.turn = self.next_turn;
        self.next_turn += 1;
        let in_parts = exchange.is_in_parts();
        let is_next = if in_parts { self.waiting.is_empty() } else { self.waiting.count(false) == 0 };
        if is_next && let Some(key) = self.roster.choose(in_parts, None) {
            exchange.slot.mark_given_at_once();
            self.roster.give(key, exchange);
            return Some(key);
        }
        if let (Some(error), 0) = (&self.down, self.roster.open()) {
            self.refused.push((exchange, Refusal::Down(error.clone())));
        } else if self.waiting.len() >= max_waiting {
            self.refused.push((exchange, Refusal::QueueFull));
        } else {
            self.put_back([exchange]);
        }
        None
    }

    /// Exchanges that no connection has begun wait, each at its turn. What ended meanwhile has nobody to
    /// withdraw it any more.
    fn put_back(&mut self, exchanges: impl IntoIterator<Item = Exchange>) {
        for exchange in exchanges {
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
        self.roster.reserve(self.waiting.first_is_in_parts());
        while let Some((key, exchange)) = self.next_pair() {
            exchange.slot.mark_given(Instant::now());
            self.roster.give(key, exchange);
            self.roster.reserve(self.waiting.first_is_in_parts());
        }
        if !self.waiting.is_empty() {
            self.roster.evict_stuck(self.waiting.len());
        }
    }

    /// The next exchange and the connection for it. Those in parts and the others do not wait for each other.
    fn next_pair(&mut self) -> Option<(usize, Exchange)> {
        let first = self.waiting.first_is_in_parts();
        [first, !first].into_iter().find_map(|in_parts| {
            if self.waiting.count(in_parts) == 0 {
                return None;
            }
            let avoid = self.waiting.first_of(in_parts)?.tried.endpoint;
            let key = self.roster.choose(in_parts, avoid)?;
            Some((key, self.waiting.pop(in_parts)?))
        })
    }
}

#[cfg(test)]
mod stress;
#[cfg(test)]
mod tests;
