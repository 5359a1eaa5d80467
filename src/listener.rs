//! Takes clients in: permit first, then accept, then a session. Placeholder of the contract.

use crate::net::{Access, Address};

/// What a listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; `localhost` stands for both families.
    pub addresses: Vec<Address>,
    /// For unix addresses.
    pub access: Access,
    /// `TCP_NODELAY` of accepted connections.
    pub nodelay: bool,
    /// Clients of this upstream at a time.
    pub max_clients: usize,
}
