//! What happens to the process as a whole rather than to one upstream.

use std::fmt;

use tracing::{debug, warn};

use super::limit::Limit;

/// The service manager could not be told something. It will notice by itself, if it is there at all.
pub fn notify_failed(fault: &dyn fmt::Display) {
    debug!("service manager not told: {fault}");
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
