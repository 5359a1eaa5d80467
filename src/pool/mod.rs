//! A pool: a queue and the connections that take from it. Placeholder of the contract.

use std::time::Duration;

use crate::connection;
use crate::net::Address;
use crate::protocol::Mode;

/// What a pool needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The addresses of the upstream.
    pub endpoints: Vec<Address>,
    /// How connections are shared.
    pub mode: Mode,
    /// Connections kept warm.
    pub min_connections: usize,
    /// Connections at a time, connecting ones included.
    pub max_connections: usize,
    /// Connections being opened at a time.
    pub max_connecting: usize,
    /// Requests outstanding on one connection; 1 where `mode` is exclusive.
    pub max_in_flight: usize,
    /// Exchanges waiting for a connection.
    pub max_waiting: usize,
    /// Longest wait for a connection.
    pub acquire_timeout: Duration,
    /// From the whole request read to the whole reply read.
    pub request_timeout: Duration,
    /// What each connection needs to know.
    pub connection: connection::Settings,
}
