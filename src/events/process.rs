//! What happens to the process as a whole rather than to one upstream.

use std::fmt;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::limit::Limit;

/// The service manager could not be told something. It will notice by itself, if it is there at all.
pub fn notify_failed(fault: &dyn fmt::Display) {
    debug!("service manager not told: {fault}");
}

/// A socket listens.
pub fn listening(upstream: &str, address: &dyn fmt::Display) {
    info!(upstream, %address, "listening");
}

/// Start-up is over.
pub fn ready() {
    info!("ready");
}

/// A graceful shutdown has begun.
pub fn draining(timeout: Duration) {
    info!(?timeout, "draining");
}

/// The daemon ends.
pub fn ended(clean: bool) {
    if clean {
        info!("drained");
    } else {
        warn!("requests were cut");
    }
}

/// The default number of clients does not fit the limit of descriptors.
pub fn clients_lowered(from: u64, to: u64, max_fds: u64) {
    warn!(from, to, max_fds, "max_clients lowered to fit the limit of file descriptors");
}

/// A signal asked for a reload, which this version does not do.
pub fn reload_unsupported() {
    warn!("SIGHUP ignored: this version does not reload its configuration");
}

/// The state of one pool, asked for by a signal.
pub fn pool_table(upstream: &str, connections: &dyn fmt::Display, endpoints: &dyn fmt::Display) {
    info!(upstream, %connections, %endpoints, "pool");
}

/// What is known of the admin endpoint.
#[derive(Debug, Default)]
pub struct Admin {
    accept: Limit,
}

impl Admin {
    /// An accept failed.
    pub fn accept_failed(&self, fault: &dyn fmt::Display) {
        if let Some(suppressed) = self.accept.pass() {
            warn!(suppressed, "admin endpoint: accept failed: {fault}");
        }
    }
}
