//! What the admin endpoint tells, as the daemon knows it at one moment.
//!
//! Gauges are copied, counters are shared: [`super::metrics`] reads those itself, in the order that keeps
//! its sums right.

use std::sync::Arc;
use std::time::Duration;

use crate::events;

/// Who knows the state of the daemon. Asked at each request, so answers must be quick and never wait.
pub trait Source: Send + Sync + 'static {
    /// Whether work may be sent here: not before the warm floor of every required pool has stood once,
    /// not while draining. The error says why not, in one line.
    fn ready(&self) -> Result<(), String>;

    /// Everything there is to tell.
    fn snapshot(&self) -> Snapshot;
}

/// The daemon at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The byte budget of all buffers (`limits.memory`).
    pub memory_budget: u64,
    /// Bytes taken from it.
    pub memory_used: u64,
    /// File descriptors open.
    pub open_fds: u64,
    /// File descriptors allowed: the soft limit.
    pub max_fds: u64,
    /// The reloads of the configuration.
    pub reloads: Arc<events::process::Reloads>,
    /// Every upstream once.
    pub upstreams: Vec<Upstream>,
}

/// One upstream at one moment.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its counters.
    pub events: Arc<events::Upstream>,
    /// Exchanges waiting for a connection.
    pub waiting: usize,
    /// How long the oldest of them has waited; zero if there is none.
    pub oldest_wait: Duration,
    /// Its connections.
    pub connections: Connections,
    /// Every endpoint address once.
    pub endpoints: Vec<Endpoint>,
}

/// Upstream connections by state; together they are what `max_connections` bounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Being opened.
    pub connecting: usize,
    /// Open with nothing in flight.
    pub idle: usize,
    /// Open with something in flight.
    pub busy: usize,
    /// Open, and closing as soon as nothing is in flight.
    pub retiring: usize,
    /// Of one client alone, connecting ones included.
    pub dedicated: usize,
}

impl Connections {
    /// Every state with its count.
    pub(super) fn by_state(self) -> [(&'static str, usize); 5] {
        let Self { connecting, idle, busy, retiring, dedicated } = self;
        [
            ("connecting", connecting),
            ("idle", idle),
            ("busy", busy),
            ("retiring", retiring),
            ("dedicated", dedicated),
        ]
    }
}

/// One address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As in the configuration.
    pub address: String,
    /// Whether it is to be trusted: reached last time, not unhealthy, not ejected.
    pub up: bool,
    /// The idle age at which it was seen to close connections, if it was.
    pub idle_limit: Option<Duration>,
}
