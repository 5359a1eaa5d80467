//! What happens to the process as a whole rather than to one upstream.

use std::fmt;
use std::time::Duration;

use tracing::{debug, error, info, warn};

use super::label::ReloadResult;
use super::limit::Limit;
use super::meter::Family;

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

/// A signal asked for a reload, and there is no file to read again.
pub fn reload_without_file() {
    warn!("SIGHUP ignored: there is no configuration file to read again");
}

/// A signal asked for a reload during a drain.
pub fn reload_too_late() {
    warn!("SIGHUP ignored: draining");
}

/// What a reload did to the upstreams, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Those that go on with other settings.
    pub retuned: Vec<String>,
    /// Those with new connections; who came before goes on with the old ones.
    pub replaced: Vec<String>,
    /// New ones.
    pub added: Vec<String>,
    /// Those that drain.
    pub removed: Vec<String>,
    /// Those that are as before.
    pub kept: usize,
}

/// The reloads of the configuration.
#[derive(Debug, Default)]
pub struct Reloads {
    /// How they ended.
    pub results: Family<ReloadResult>,
}

impl Reloads {
    /// What the file says runs now.
    pub fn done(&self, changes: &Changes) {
        self.results.of(ReloadResult::Ok).add_one();
        let Changes { retuned, replaced, added, removed, kept } = changes;
        let [retuned, replaced, added, removed] = [retuned, replaced, added, removed].map(|it| it.join(", "));
        info!(retuned, replaced, added, removed, kept, "configuration reloaded");
    }

    /// The file is wrong, for these reasons; what ran goes on.
    pub fn refused(&self, faults: &[impl fmt::Display]) {
        self.results.of(ReloadResult::Invalid).add_one();
        for fault in faults {
            error!("configuration refused, the old one stays: {fault}");
        }
    }

    /// The host does not allow what the file says; what ran goes on.
    pub fn failed(&self, fault: &dyn fmt::Display) {
        self.results.of(ReloadResult::Failed).add_one();
        error!("reload failed, the old configuration stays: {fault}");
    }
}

/// These keys have changed, and hold from the next start on.
pub fn restart_needed(keys: &str) {
    warn!(keys, "a restart is needed for some of the new configuration");
}

/// An option of a listening socket could not be changed.
pub fn options_not_set(address: &dyn fmt::Display, fault: &dyn fmt::Display) {
    warn!(%address, "socket options not changed: {fault}");
}

/// A listening socket is closed.
pub fn closing(upstream: &str, address: &dyn fmt::Display) {
    info!(upstream, %address, "listens no longer");
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
