//! What a configuration means: the settings of each component, checked.

use std::sync::Arc;
use std::time::Duration;

use super::addresses::sockets;
use super::words;
use crate::events::log::Format;
use crate::protocol::Protocol;
use crate::wire::budget::FREE;
use crate::{admin, listener, pool, session};

/// Everything the daemon is to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How to log.
    pub log: Log,
    /// The admin endpoint, if there is to be one.
    pub admin: Option<admin::Settings>,
    /// Longest time for a graceful shutdown.
    pub drain_timeout: Duration,
    /// Bounds of the whole process.
    pub limits: Limits,
    /// The upstreams, in the order of their names.
    pub upstreams: Vec<Upstream>,
}

/// How to log.
#[derive(Clone, Debug)]
pub struct Log {
    /// An env-filter directive.
    pub level: String,
    /// How lines look.
    pub format: Format,
}

/// Bounds of the whole process.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Clients over all listeners.
    pub max_clients: usize,
    /// Whether the file says so, or it is the default (which may be lowered to fit the fd limit).
    pub max_clients_is_explicit: bool,
    /// Bytes of all buffers.
    pub memory: u64,
    /// Threads; at least 1.
    pub workers: usize,
}

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// NAME.
    pub name: String,
    /// Its protocol with options.
    pub protocol: Arc<dyn Protocol>,
    /// Readiness waits for it.
    pub required: bool,
    /// The least `limits.memory` in which its messages fit, in bytes.
    pub memory_floor: u64,
    /// Its listeners.
    pub listener: listener::Settings,
    /// Its sessions.
    pub session: session::Settings,
    /// Its pool.
    pub pool: pool::Settings,
}

/// Descriptors kept for the admin endpoint: its listeners and its connections.
const ADMIN_FDS: usize = 32;
/// Descriptors of a worker beside the first one: its reactor.
const WORKER_FDS: usize = 4;
/// Descriptors for everything else: standard streams, the runtime, names being looked up.
const OTHER_FDS: usize = 32;
/// What a message costs that is small enough not to be charged, in bytes: as much as it may hold, and half
/// as much again, since buffers grow in steps.
const SMALL_BYTES: u64 = 3 * FREE as u64 / 2;
/// What a client costs beside its outstanding requests, in bytes: input, output, and its state.
const CLIENT_BYTES: u64 = 3 * SMALL_BYTES + 4096;
/// What an upstream connection costs beside the requests in flight on it, in bytes.
const CONNECTION_BYTES: u64 = 64 * 1024;
/// What an exchange costs while it waits, in bytes, beside its message.
const WAITING_BYTES: u64 = 1024;
/// What a worker costs beside the first one, in bytes: its stack, and memory that its allocator keeps.
const WORKER_BYTES: u64 = 4 << 20;
/// What the process costs before its first client, in bytes.
const BASE_BYTES: u64 = 16 << 20;

impl Plan {
    /// The upstream called `name`.
    ///
    /// # Errors
    /// What to say where there is none.
    pub fn upstream(&self, name: &str) -> Result<&Upstream, String> {
        let there_is_none = || {
            let names: Vec<&str> = self.upstreams.iter().map(|it| it.name.as_str()).collect();
            let short: String = name.chars().take(60).collect();
            match words::nearest(&short, &names) {
                Some(best) => format!("there is no upstream {short:?}, did you mean {best:?}?"),
                None => format!("there is no upstream {short:?}; known here: {}", names.join(", ")),
            }
        };
        self.upstreams.iter().find(|it| it.name == name).ok_or_else(there_is_none)
    }

    /// The most descriptors it can need at a time.
    pub fn fd_budget(&self) -> usize {
        let listeners: usize = self.upstreams.iter().map(|it| sockets(&it.listener.addresses)).sum();
        let workers = self.other_workers() * WORKER_FDS;
        self.limits.max_clients + self.max_connections() + listeners + workers + ADMIN_FDS + OTHER_FDS
    }

    /// Workers beside the first one.
    fn other_workers(&self) -> usize {
        self.limits.workers - 1
    }

    /// The most upstream connections it can have at a time.
    pub fn max_connections(&self) -> usize {
        self.upstreams.iter().map(|it| it.pool.max_connections).sum()
    }

    /// The most memory it can need, in bytes: the budget of the buffers, and what is not counted in it.
    /// Buffers in the kernel are not in this figure.
    pub fn memory_bound(&self) -> u64 {
        let sum = |of: &dyn Fn(&Upstream) -> usize| self.upstreams.iter().map(of).sum::<usize>() as u64;
        let waiting = sum(&|it| it.pool.max_waiting);
        let in_flight = sum(&|it| it.pool.max_connections * it.pool.max_in_flight);
        let growing = sum(&Upstream::growing_replies);
        // A small request or its reply, whichever is there.
        let outstanding = self.upstreams.iter().map(|it| it.session.max_per_client as u64).max().unwrap_or(0);
        BASE_BYTES
            + self.limits.memory
            + self.other_workers() as u64 * WORKER_BYTES
            + self.limits.max_clients as u64 * (CLIENT_BYTES + outstanding * SMALL_BYTES)
            + self.max_connections() as u64 * CONNECTION_BYTES
            + in_flight * SMALL_BYTES
            + waiting * WAITING_BYTES
            + growing
            + self.limits.workers as u64 * self.copied()
    }

    /// The longest message that is written anew, in bytes: a worker does that with one at a time.
    fn copied(&self) -> u64 {
        let rewriting = self.upstreams.iter().filter(|it| it.protocol.rewrites());
        rewriting.map(|it| it.protocol.max_message() as u64).max().unwrap_or(0)
    }
}

impl Upstream {
    /// What replies may hold, in bytes, that is not counted in the budget while they wait for more of it. Where
    /// messages cannot travel in parts, their length may not be known before their end, and they double.
    fn growing_replies(&self) -> usize {
        if self.protocol.has_parts() {
            0
        } else {
            self.pool.max_connections * (self.protocol.max_message() / 2)
        }
    }
}
