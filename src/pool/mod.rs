//! A pool: a queue, the connections that take from it, and the keeper that opens them.
//!
//! Sessions come here with requests and leave with a ticket each. Whatever the pool cannot do, it says
//! through that ticket.

mod backoff;
pub mod balance;
mod cap;
pub mod health;
mod keeper;
#[cfg_attr(not(test), expect(dead_code, reason = "the keeper does not ask yet"))]
pub mod names;
mod probe;
#[cfg_attr(not(test), expect(dead_code, reason = "the keeper does not choose yet"))]
mod subset;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{self, Connector, IdleLimit, Spread};
use crate::events;
use crate::exchange::{self, Ticket};
use crate::lifecycle::{Phase, Watch};
use crate::protocol::{Mode, Protocol, Refusal, Request};
use crate::queue::{self, Figures, Queue, Retry};
use crate::wire::Budget;
pub use cap::Cap;
pub use keeper::Keeper;

/// In flight on every connection when a multiplexing pool opens another one.
const GROW_AT_MULTIPLEX: usize = 16;

/// What a pool needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where the upstream is.
    pub endpoints: Vec<balance::Endpoint>,
    /// How they share the requests.
    pub balance: balance::Settings,
    /// How connections are shared.
    pub mode: Mode,
    /// Connections kept warm.
    pub min_connections: usize,
    /// Connections at a time, connecting ones included.
    pub max_connections: usize,
    /// Connections being opened at a time.
    pub max_connecting: usize,
    /// Requests outstanding on one connection; 1 where `mode` is exclusive.
    pub max_in_flight: usize,
    /// Exchanges waiting for a connection.
    pub max_waiting: usize,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// From the whole request read to the whole reply read.
    pub request_timeout: Duration,
    /// How endpoints are watched.
    pub health: health::Settings,
    /// How often requests are tried.
    pub retry: Retry,
    /// What each connection needs to know.
    pub connection: connection::Settings,
}

/// What is known of one endpoint, for metrics and the pool table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointFigures {
    /// As in the settings.
    pub address: String,
    /// Whether it is to be trusted: reached last time, not unhealthy, not ejected.
    pub up: bool,
    /// The idle age at which it was seen to close connections, if it was.
    pub idle_limit: Option<Duration>,
}

impl fmt::Display for EndpointFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, up, idle_limit } = self;
        write!(f, "{address} {}", if *up { "up" } else { "down" })?;
        match idle_limit {
            Some(limit) => write!(f, " (idle limit {limit:?})"),
            None => Ok(()),
        }
    }
}

/// The pool of one upstream.
#[derive(Debug)]
pub struct Pool {
    settings: Settings,
    queue: Arc<Queue>,
    events: Arc<events::Upstream>,
    back: Watch,
    floor: watch::Sender<bool>,
    idle_limits: Arc<[Arc<IdleLimit>]>,
}

impl Pool {
    /// A pool and its keeper, which must run for the pool to have connections.
    pub fn new(
        settings: Settings,
        protocol: Arc<dyn Protocol>,
        events: Arc<events::Upstream>,
        budget: Budget,
        back: Watch,
        connector: Arc<dyn Connector>,
        cap: Arc<Cap>,
    ) -> (Arc<Self>, Keeper) {
        let room = match settings.mode {
            Mode::Exclusive => 1,
            Mode::Pipeline | Mode::Multiplex => settings.max_in_flight,
        };
        let grow_at = if settings.mode == Mode::Multiplex { GROW_AT_MULTIPLEX.min(room) } else { 1 };
        let queue = Queue::new(queue::Settings {
            endpoints: settings.endpoints.len(),
            max_waiting: settings.max_waiting,
            room,
            grow_at,
            max_uploads: (settings.max_connections / 2).max(1),
            min_connections: settings.min_connections,
            eject_after: settings.health.eject_after,
            retry: settings.retry,
        });
        let shared = Arc::new(connection::Shared {
            settings: settings.connection.clone(),
            mode: settings.mode,
            room,
            protocol,
            events: events.clone(),
            budget,
            back: back.clone(),
            idle_limits: settings.endpoints.iter().map(|_| Arc::default()).collect(),
            spread: Spread::default(),
        });
        let idle_limits = shared.idle_limits.clone();
        let floor = watch::Sender::new(false);
        let pool = Arc::new(Self { settings, queue, events, back, floor, idle_limits });
        let keeper = Keeper::new(pool.clone(), shared, connector, cap);
        (pool, keeper)
    }

    /// Takes a request in: it waits for a connection, or is given to one, or is refused. `first` says that
    /// its client has sent none before. After the last part of one in parts, [`Pool::request_is_whole`] must follow.
    pub fn admit(&self, request: Request, first: bool, now: Instant) -> Ticket {
        let deadline = request.rest.is_none().then(|| now + self.settings.request_timeout);
        let (exchange, ticket) = exchange::open(request, first, now, deadline, &self.events);
        if self.back.phase() == Phase::Running {
            self.queue.push(exchange);
        } else {
            let _ = exchange.slot.refuse(Refusal::Draining);
        }
        ticket
    }

    /// The last part of the ticket's request was read: its time runs from now on.
    pub fn request_is_whole(&self, ticket: &Ticket) {
        ticket.set_deadline(Instant::now() + self.settings.request_timeout);
    }

    /// Ends the exchange if its time is up; returns when to look again, if ever.
    pub fn expire(&self, ticket: &Ticket, now: Instant) -> Option<Instant> {
        if ticket.is_ended() {
            return None;
        }
        let deadline = ticket.deadline();
        if deadline.is_some_and(|at| at <= now) {
            self.time_out(ticket);
            return None;
        }
        // An exchange that a connection has may come back to wait: it is looked at all the same.
        let patience = ticket.waits_since() + self.settings.acquire_timeout;
        if now < patience {
            return deadline.map_or(Some(patience), |at| Some(at.min(patience)));
        }
        // Only what no connection has is refused like this, and only if none had it: nobody is told so who may have been
        // served.
        if let Some(waiting) = self.queue.withdraw(ticket) {
            waiting.refuse(Refusal::AcquireTimeout);
            return None;
        }
        let again = now + self.settings.acquire_timeout;
        deadline.map_or(Some(again), |at| Some(at.min(again)))
    }

    /// Ends the exchange because its deadline has come. False if it had ended before.
    pub fn time_out(&self, ticket: &Ticket) -> bool {
        let timed_out = ticket.refuse(Refusal::Timeout).is_ok();
        self.queue.withdraw(ticket);
        timed_out
    }

    /// Ends the exchange because its client is gone. False if it had ended before.
    pub fn abandon(&self, ticket: &Ticket) -> bool {
        let abandoned = ticket.abandon().is_ok();
        self.queue.withdraw(ticket);
        abandoned
    }

    /// Whether the warm floor has stood once.
    pub fn has_stood(&self) -> bool {
        *self.floor.borrow()
    }

    /// Waits until the warm floor has stood once. Cancel-safe.
    pub async fn stood(&self) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.floor.subscribe().wait_for(|stood| *stood).await;
    }

    /// What the pool was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        self.queue.figures()
    }

    /// Figures of each endpoint, in the order of the settings.
    pub fn endpoints(&self) -> Vec<EndpointFigures> {
        let known = self.queue.endpoints_up().into_iter().zip(&*self.idle_limits);
        let figures = |(endpoint, (up, limit)): (&balance::Endpoint, (bool, &Arc<IdleLimit>))| {
            EndpointFigures { address: endpoint.address.to_string(), up, idle_limit: limit.learned() }
        };
        self.settings.endpoints.iter().zip(known).map(figures).collect()
    }

    /// Where this upstream counts and logs.
    pub fn events(&self) -> &Arc<events::Upstream> {
        &self.events
    }
}

#[cfg(test)]
pub(crate) mod tests;
