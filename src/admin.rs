//! The read-only admin endpoint. Placeholder of the contract.

use crate::net::Address;

/// What the endpoint needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen: unix sockets or loopback.
    pub addresses: Vec<Address>,
}
