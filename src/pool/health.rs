//! Which endpoints are to be trusted: what probes find, and for how long one that fails in traffic is left out.

use std::time::Duration;

use bytes::Bytes;

/// How endpoints are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is tried.
    pub probe: Probe,
    /// Between two probes of an endpoint; `None` = there are none.
    pub interval: Option<Duration>,
    /// For the answer to a probe.
    pub timeout: Duration,
    /// Probes in a row that fail until the endpoint is left out; at least 1.
    pub unhealthy_after: u32,
    /// Probes in a row that succeed until it is taken back; at least 1.
    pub healthy_after: u32,
    /// Failures in a row seen in traffic until it is ejected; at least 1.
    pub eject_after: u32,
    /// For how long the first time.
    pub eject_for: Duration,
}

/// What shows that an endpoint is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It can be connected to.
    Connect,
    /// It answers a request.
    Ask {
        /// As a client would send it.
        request: Bytes,
        /// What its reply begins with, as a client would read it.
        expect: Bytes,
    },
}
