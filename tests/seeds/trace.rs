//! What happened in the run of one seed, as its peers saw it: the same seed must give the same lines.

use std::fmt::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// Whose event it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// The simulation's own doing.
    World,
    /// A client, in the order of the plan.
    Client(usize),
    /// A server's side of a connection, in the order of connecting.
    Server(usize),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::World => write!(f, "world"),
            Self::Client(n) => write!(f, "client {n}"),
            Self::Server(n) => write!(f, "server {n}"),
        }
    }
}

/// A log in memory. Clones are the same log.
#[derive(Clone, Debug)]
pub(crate) struct Trace {
    start: Instant,
    text: Arc<Mutex<String>>,
}

impl Trace {
    /// An empty one; time counts from now.
    pub(crate) fn new() -> Self {
        Self { start: Instant::now(), text: Arc::default() }
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(crate) fn note(&self, who: Who, what: fmt::Arguments<'_>) {
        let at = self.elapsed().as_secs_f64();
        writeln!(self.text.lock().unwrap(), "{at:10.3} {who}: {what}").unwrap();
    }

    /// All lines.
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }
}

/// A short name for `bytes` (FNV-1a).
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
