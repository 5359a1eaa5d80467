//! A pool: a queue, the connections that take from it, and the keeper that opens them.
//!
//! Sessions come here with requests and leave with a ticket each. Whatever the pool cannot do, it says
//! through that ticket.

mod backoff;
pub mod balance;
mod cap;
mod dedicated;
pub mod health;
mod keeper;
pub mod names;
mod probe;
mod subset;

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::connection::{self, Connector, IdleLimit};
use crate::events;
use crate::exchange::{self, Ticket};
use crate::lifecycle::{Phase, Watch};
use crate::net::Address;
use crate::protocol::{Id, Mode, Protocol, Refusal, Request};
use crate::queue::{self, Figures, Queue, Retry};
use crate::wire::Budget;
pub use cap::Cap;
pub use keeper::Keeper;
pub use names::Resolver;

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
    /// Connections that one session has for itself, of those.
    pub max_dedicated: usize,
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

/// What a pool has its connections from.
#[derive(Clone, Debug)]
pub struct Means {
    /// Opens them.
    pub connector: Arc<dyn Connector>,
    /// Looks names up.
    pub resolver: Arc<dyn Resolver>,
    /// How many there may be.
    pub cap: Arc<Cap>,
}

/// What is known of the client that sends a request.
#[derive(Clone, Copy, Debug)]
pub struct Sender<'i> {
    /// It has sent none before.
    pub first: bool,
    /// What it calls the request.
    pub id: &'i Id,
    /// The round before which it has no turn: see [`Pool::round`].
    pub not_before: u64,
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

/// The pool of one upstream, under some settings. Others may be the same pool under other settings.
#[derive(Debug)]
pub struct Pool {
    settings: Arc<Settings>,
    protocol: Arc<dyn Protocol>,
    core: Arc<Core>,
}

/// What stays of a pool, whatever its settings.
#[derive(Debug)]
struct Core {
    queue: Arc<Queue>,
    events: Arc<events::Upstream>,
    back: Watch,
    means: Means,
    /// Connections that sessions have for themselves.
    dedicated: Arc<AtomicUsize>,
    floor: watch::Sender<bool>,
    /// What the keeper goes by.
    orders: watch::Sender<Orders>,
    /// The endpoints that there are now.
    endpoints: Mutex<Vec<Known>>,
}

/// What a keeper goes by.
#[derive(Clone, Debug)]
struct Orders {
    settings: Arc<Settings>,
    /// Another pool has taken over: this one only serves the sessions it still has.
    superseded: bool,
}

/// One endpoint that there is.
#[derive(Clone, Debug)]
struct Known {
    /// Its place in the queue.
    place: usize,
    address: Address,
    /// The address, for people.
    name: Arc<str>,
    weight: u32,
    /// Connections to it that sessions have for themselves.
    dedicated: Arc<AtomicUsize>,
    idle_limit: Arc<IdleLimit>,
}

impl Settings {
    /// Exchanges in flight on one connection.
    fn room(&self) -> usize {
        match self.mode {
            Mode::Exclusive => 1,
            Mode::Pipeline | Mode::Multiplex => self.max_in_flight,
        }
    }

    fn of_queue(&self) -> queue::Settings {
        let room = self.room();
        queue::Settings {
            rule: self.balance.policy.rule(),
            slow_start: self.balance.slow_start,
            max_waiting: self.max_waiting,
            room,
            grow_at: if self.mode == Mode::Multiplex { GROW_AT_MULTIPLEX.min(room) } else { 1 },
            max_uploads: (self.max_connections / 2).max(1),
            max_connections: self.max_connections,
            min_connections: self.min_connections,
            eject_after: self.health.eject_after,
            retry: self.retry,
        }
    }
}

impl Pool {
    /// A pool and its keeper, which must run for the pool to have connections.
    pub fn new(
        settings: Settings,
        protocol: Arc<dyn Protocol>,
        events: Arc<events::Upstream>,
        budget: Budget,
        back: Watch,
        means: Means,
    ) -> (Arc<Self>, Keeper) {
        let settings = Arc::new(settings);
        let shared = Arc::new(connection::Shared {
            settings: settings.connection.clone(),
            mode: settings.mode,
            room: settings.room(),
            protocol: protocol.clone(),
            events: events.clone(),
            budget,
            back: back.clone(),
            spread: Arc::default(),
        });
        let orders = Orders { settings: settings.clone(), superseded: false };
        let core = Arc::new(Core {
            queue: Queue::new(settings.of_queue()),
            events,
            back,
            means: means.clone(),
            dedicated: Arc::default(),
            floor: watch::Sender::new(false),
            orders: watch::Sender::new(orders),
            endpoints: Mutex::default(),
        });
        means.cap.enter(&core.queue);
        let keeper = Keeper::new(core.clone(), shared, means);
        (Arc::new(Self { settings, protocol, core }), keeper)
    }

    /// The same pool under other settings, which hold for what is taken in through the new value. Connections that
    /// stand keep theirs. Mode, room and what sockets are told must be the same.
    #[must_use]
    pub fn retune(&self, settings: Settings) -> Arc<Self> {
        let settings = Arc::new(settings);
        self.core.queue.retune(settings.of_queue());
        self.core.orders.send_modify(|orders| orders.settings = settings.clone());
        Arc::new(Self { settings, protocol: self.protocol.clone(), core: self.core.clone() })
    }

    /// Another pool has taken over: this one keeps no connections warm, probes nothing, and only serves the sessions
    /// that it still has.
    pub fn supersede(&self) {
        self.core.queue.retune(queue::Settings { min_connections: 0, ..self.settings.of_queue() });
        self.core.orders.send_modify(|orders| orders.superseded = true);
    }

    /// The round of who is served now. A client that has several requests waiting has one in each round.
    pub fn round(&self) -> u64 {
        self.core.queue.round()
    }

    /// Takes a request in: it waits for a connection, or is given to one, or is refused. After the last part of one
    /// in parts, [`Pool::request_is_whole`] must follow.
    pub fn admit(&self, request: Request, sender: Sender<'_>, now: Instant) -> Ticket {
        let deadline = request.rest.is_none().then(|| now + self.settings.request_timeout);
        let key = self.settings.balance.policy.key(&request.bytes, sender.id, &*self.protocol);
        let (mut exchange, ticket) = exchange::open(request, sender.first, now, deadline, &self.core.events);
        (exchange.key, exchange.not_before) = (key, sender.not_before);
        if self.core.back.phase() == Phase::Running {
            self.core.queue.push(exchange);
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
        if let Some(waiting) = self.core.queue.withdraw(ticket) {
            waiting.refuse(Refusal::AcquireTimeout);
            return None;
        }
        let again = now + self.settings.acquire_timeout;
        deadline.map_or(Some(again), |at| Some(at.min(again)))
    }

    /// Ends the exchange because its deadline has come. False if it had ended before.
    pub fn time_out(&self, ticket: &Ticket) -> bool {
        let timed_out = ticket.refuse(Refusal::Timeout).is_ok();
        self.core.queue.withdraw(ticket);
        timed_out
    }

    /// Ends the exchange because its client is gone. False if it had ended before.
    pub fn abandon(&self, ticket: &Ticket) -> bool {
        let abandoned = ticket.abandon().is_ok();
        self.core.queue.withdraw(ticket);
        abandoned
    }

    /// Whether the warm floor has stood once.
    pub fn has_stood(&self) -> bool {
        *self.core.floor.borrow()
    }

    /// Waits until the warm floor has stood once. Cancel-safe.
    pub async fn stood(&self) {
        // The sender lives in `self`, so it cannot be gone.
        let _ = self.core.floor.subscribe().wait_for(|stood| *stood).await;
    }

    /// What the pool was made from.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Figures for metrics.
    pub fn figures(&self) -> Figures {
        let dedicated = self.core.dedicated.load(Ordering::Relaxed);
        Figures { dedicated, ..self.core.queue.figures() }
    }

    /// Figures of each endpoint, in the order of the settings.
    pub fn endpoints(&self) -> Vec<EndpointFigures> {
        let up = self.core.queue.endpoints_up();
        let figures = |known: &Known| EndpointFigures {
            address: known.name.to_string(),
            up: up.get(known.place).is_some_and(|up| *up),
            idle_limit: known.idle_limit.learned(),
        };
        self.core.endpoints().iter().map(figures).collect()
    }

    /// Where this upstream counts and logs.
    pub fn events(&self) -> &Arc<events::Upstream> {
        &self.core.events
    }
}

impl Core {
    fn endpoints(&self) -> MutexGuard<'_, Vec<Known>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(crate) mod tests;
