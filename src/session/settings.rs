//! What a session is told by the configuration. Built by `config`.

use std::time::Duration;

/// How client connections are closed; the details are in the README under "Closing".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientClose {
    /// FIN+RST where the exchange is over, RST after a late FIN, else FIN.
    Auto,
    /// Never an RST.
    Fin,
    /// As `Auto`, and clients closed for idleness are reset.
    Reset,
}

/// What a session needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Clients send one request per connection: warmline closes first.
    pub one_shot: bool,
    /// How to close.
    pub client_close: ClientClose,
    /// For a first byte, and for a whole request or the head of one in parts.
    pub client_read: Duration,
    /// For a client to go on with a request in parts.
    pub client_progress: Duration,
    /// Between requests.
    pub client_idle: Duration,
    /// For the client to take its reply.
    pub client_write: Duration,
    /// Requests outstanding at a time; 1 unless the pool multiplexes.
    pub max_per_client: usize,
    /// Larger requests travel in parts where the protocol can, in bytes.
    pub max_buffered: usize,
    /// Reply bytes that may wait for the client although it takes none; `None` where no connection is shared.
    pub max_reply_buffered: Option<usize>,
}
