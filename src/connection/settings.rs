//! What a connection is told by the configuration. Built by `config`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use crate::net::Tuning;

/// What a connection needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// To connect, the preamble included.
    pub connect_timeout: Duration,
    /// Longest time to owe a reply.
    pub stall: Duration,
    /// Unused connections above the floor close after this.
    pub idle_timeout: Duration,
    /// Age at which a connection retires, spread by 10 %.
    pub max_lifetime: Duration,
    /// Requests after which a connection retires; 0 = no limit.
    pub max_requests: u64,
    /// Larger replies travel in parts where the protocol can, in bytes.
    pub max_buffered: usize,
    /// What of a reply in parts may wait for its client on a shared connection, in bytes.
    pub max_reply_buffered: usize,
    /// Which requests may be run twice.
    pub idempotent: Idempotent,
    /// What a server that speaks first says, and what to answer.
    pub preamble: Option<Preamble>,
    /// Socket options.
    pub tuning: Tuning,
}

/// Requests that may be sent again although the server may have run them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Idempotent {
    /// None of them.
    None,
    /// Those that call one of these methods.
    Methods(BTreeSet<Bytes>),
    /// All of them.
    All,
}

/// The greeting of a server that speaks first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preamble {
    /// The bytes it sends, exactly; may be empty.
    pub expect: Bytes,
    /// The bytes to send after them; may be empty.
    pub send: Bytes,
}
