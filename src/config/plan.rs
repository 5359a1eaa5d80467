//! What a configuration means: each component's own settings, checked. Placeholder of the contract.

use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Protocol;
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
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// For people.
    Pretty,
    /// For machines.
    Json,
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
    /// Its listeners.
    pub listener: listener::Settings,
    /// Its sessions.
    pub session: session::Settings,
    /// Its pool.
    pub pool: pool::Settings,
}
