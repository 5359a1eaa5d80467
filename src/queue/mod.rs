//! The queue of one upstream: bounded, first come first served, and it decides which connection gets what.
//!
//! A session pushes; a connection holds a [`Seat`] and takes what lands in its inbox. An exchange that ends
//! while it waits is withdrawn by its session, so nothing here has expired. The lock is never held across
//! an await, and no exchange is dropped under it: dropping one wakes a session.

mod roster;
mod seat;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::exchange::{Exchange, Ticket};
use crate::protocol::Refusal;
pub use roster::Verdict;
use roster::{Endpoint, Roster, Standing};
pub use seat::{Connecting, Seat};

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
    /// Connections that an idle one may not leave behind fewer than.
    pub min_connections: usize,
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
    /// By turn.
    waiting: BTreeMap<u64, Waiting>,
    next_turn: u64,
    /// Why the last attempt to connect failed, if nothing is open.
    down: Option<String>,
    /// Something was pushed since the keeper last looked.
    touched: bool,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    exchange: Exchange,
}

/// What the keeper needs to know to decide on the next connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Exchanges that no connection has, or that are above `grow_at` on theirs.
    pub wanting: usize,
    /// The endpoints by index.
    pub endpoints: Vec<EndpointDemand>,
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Something was pushed since the last look.
    pub touched: bool,
    /// Nothing is open, and pushes are refused.
    pub down: bool,
}

/// What the keeper needs to know of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointDemand {
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Its last replies all failed.
    pub failing: bool,
}

impl EndpointDemand {
    fn of(endpoint: &Endpoint) -> Self {
        Self { open: endpoint.open, connecting: endpoint.connecting, failing: endpoint.is_failing() }
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
            roster: Roster::new(settings.endpoints, settings.room, settings.grow_at),
            waiting: BTreeMap::new(),
            next_turn: 0,
            down: None,
            touched: false,
        };
        Arc::new(Self { settings, inner: Mutex::new(inner), changed: Notify::new() })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `exchange` to a connection, or lets it wait for one; refuses it if too many wait or the
    /// upstream is down.
    pub fn push(&self, exchange: Exchange) {
        let (refused, wants_more) = {
            let mut inner = self.inner();
            inner.touched = true;
            let refused = inner.place(exchange, self.settings.max_waiting);
            let wants_more = !inner.waiting.is_empty()
                || !inner.roster.has_slack()
                || inner.roster.endpoints.iter().any(|e| e.open == 0);
            (refused, wants_more)
        };
        if wants_more {
            self.changed.notify_one();
        }
        if let Some((exchange, refusal)) = refused {
            let _ = exchange.slot.refuse(refusal);
        }
    }

    /// Takes an ended exchange out, if it still waits.
    pub fn withdraw(&self, ticket: &Ticket) {
        if let Some(turn) = ticket.waiting() {
            let withdrawn = self.inner().waiting.remove(&turn);
            drop(withdrawn);
        }
    }

    /// A place for a connection to `endpoint` that is being opened.
    pub fn connecting(self: &Arc<Self>, endpoint: usize) -> Connecting {
        self.inner().roster.endpoints[endpoint].connecting += 1;
        Connecting::new(self.clone(), endpoint)
    }

    /// Nothing is open and connecting failed with `error`: what waits and what comes is refused, until a
    /// connection joins.
    pub fn set_down(&self, error: &str) {
        let waiting = {
            let mut inner = self.inner();
            if inner.roster.open() > 0 {
                return;
            }
            inner.down = Some(error.into());
            std::mem::take(&mut inner.waiting)
        };
        for (_, waiting) in waiting {
            let _ = waiting.exchange.slot.refuse(Refusal::Down(error.into()));
        }
    }

    /// What the keeper needs to know now.
    pub fn demand(&self) -> Demand {
        let mut inner = self.inner();
        let roster = &inner.roster;
        Demand {
            wanting: inner.waiting.len() + roster.overload(),
            endpoints: roster.endpoints.iter().map(EndpointDemand::of).collect(),
            open: roster.open(),
            connecting: roster.connecting(),
            down: inner.down.is_some(),
            touched: std::mem::take(&mut inner.touched),
        }
    }

    /// Completes when [`Queue::demand`] may have changed. Cancel-safe; for one waiter.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        let now = Instant::now();
        let inner = self.inner();
        let mut figures = Figures {
            waiting: inner.waiting.len(),
            oldest_wait: inner.waiting.values().next().map_or(Duration::ZERO, |w| now - w.since),
            connecting: inner.roster.connecting(),
            ..Figures::default()
        };
        for (_, member) in &inner.roster.members {
            match (member.standing, member.in_flight) {
                (Standing::Retiring, _) => figures.retiring += 1,
                (Standing::Open | Standing::Resting, 0) => figures.idle += 1,
                (Standing::Open | Standing::Resting, _) => figures.busy += 1,
            }
        }
        figures
    }

    /// Whether the last attempt to reach each endpoint succeeded.
    pub fn endpoints_up(&self) -> Vec<bool> {
        self.inner().roster.endpoints.iter().map(|e| !e.unreachable).collect()
    }

    /// The last attempt to reach `endpoint` failed.
    pub fn set_unreachable(&self, endpoint: usize) {
        self.inner().roster.endpoints[endpoint].unreachable = true;
    }
}

impl Inner {
    /// Gives, queues or refuses. What waits longer comes first: nothing overtakes the queue.
    fn place(&mut self, mut exchange: Exchange, max_waiting: usize) -> Option<(Exchange, Refusal)> {
        exchange.turn = self.next_turn;
        self.next_turn += 1;
        if self.waiting.is_empty()
            && let Some(key) = self.roster.choose()
        {
            self.roster.give(key, exchange);
            return None;
        }
        if let (Some(error), 0) = (&self.down, self.roster.open()) {
            return Some((exchange, Refusal::Down(error.clone())));
        }
        if self.waiting.len() >= max_waiting {
            return Some((exchange, Refusal::QueueFull));
        }
        self.wait(exchange);
        self.dispatch();
        None
    }

    /// Exchanges that a connection was given and has not begun wait again, each at its old turn. What ended
    /// meanwhile has nobody to withdraw it any more.
    fn put_back(&mut self, exchanges: VecDeque<Exchange>) {
        for exchange in exchanges.into_iter().filter(|e| !e.slot.is_ended()) {
            self.wait(exchange);
        }
        self.dispatch();
    }

    fn wait(&mut self, exchange: Exchange) {
        exchange.slot.set_waiting(Some(exchange.turn));
        self.waiting.insert(exchange.turn, Waiting { since: Instant::now(), exchange });
    }

    /// Gives what waits to connections with room; if some still waits, stuck connections give way.
    fn dispatch(&mut self) {
        while !self.waiting.is_empty() {
            let Some(key) = self.roster.choose() else { break };
            let Some((_, Waiting { exchange, .. })) = self.waiting.pop_first() else { break };
            exchange.slot.set_waiting(None);
            self.roster.give(key, exchange);
        }
        if !self.waiting.is_empty() {
            self.roster.evict_stuck(self.waiting.len());
        }
    }
}

#[cfg(test)]
mod tests;
