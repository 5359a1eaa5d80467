//! How requests are shared out among endpoints, as the configuration has it.

use std::fmt;
use std::time::Duration;

use crate::net::Address;
use crate::protocol::{Id, Protocol};
use crate::queue::rendezvous::hash;
use crate::queue::{Rule, Share};

/// One endpoint of an upstream: an address, or a name that stands for some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub address: Address,
    /// Its share of the requests, beside those of the others; at least 1. Every address of a name has it.
    pub weight: u32,
    /// Used only while no other endpoint can be.
    pub backup: bool,
}

impl Endpoint {
    pub(super) fn share(&self) -> Share {
        let seed = hash(self.address.to_string().as_bytes());
        Share { weight: self.weight, backup: self.backup, seed }
    }
}

impl From<Address> for Endpoint {
    fn from(address: Address) -> Self {
        Self { address, weight: 1, backup: false }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, weight, backup } = self;
        write!(f, "{address}")?;
        match (weight, backup) {
            (1, false) => Ok(()),
            (1, true) => f.write_str(" (backup)"),
            (_, false) => write!(f, " (weight {weight})"),
            (_, true) => write!(f, " (weight {weight}, backup)"),
        }
    }
}

/// How an upstream's endpoints share its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who gets the next request.
    pub policy: Policy,
    /// Endpoints that this host uses, of those that are no backup, and of those that are; 0 = all.
    pub subset: usize,
    /// How long an endpoint that has come back takes to get its whole share again; zero = it has it at once.
    pub slow_start: Duration,
    /// Between two look-ups of a name.
    pub resolve: Duration,
}

/// Who gets the next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The endpoint with the fewest in flight, for its weight.
    LeastInFlight,
    /// Each endpoint in turn, as often as its weight says.
    RoundRobin,
    /// The endpoint that a part of the request always leads to.
    Hash(Key),
}

impl Policy {
    pub(super) fn rule(self) -> Rule {
        match self {
            Self::LeastInFlight => Rule::LeastInFlight,
            Self::RoundRobin => Rule::RoundRobin,
            Self::Hash(_) => Rule::Hash,
        }
    }

    /// What leads `request`, whole or its head, to its endpoint; `None` where nothing does, or it lacks that.
    pub(super) fn key(self, request: &[u8], id: &Id, protocol: &dyn Protocol) -> Option<u64> {
        let Self::Hash(key) = self else { return None };
        match (key, id) {
            (Key::Method, _) => protocol.method(request).map(hash),
            (Key::Id, id) => match protocol.shown(id.clone()) {
                Id::Bits(id) => Some(hash(&id.to_be_bytes())),
                Id::Bytes(id) => Some(hash(&id)),
                Id::None => None,
            },
            (Key::Bytes { offset, size }, _) => request.get(offset..offset.checked_add(size)?).map(hash),
        }
    }
}

/// The part of a request that leads to its endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// What it calls.
    Method,
    /// The client's id.
    Id,
    /// Some of its bytes.
    Bytes {
        /// From the front of the message.
        offset: usize,
        /// How many; at least 1.
        size: usize,
    },
}

impl Policy {
    /// The word used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LeastInFlight => "least_in_flight",
            Self::RoundRobin => "round_robin",
            Self::Hash(_) => "hash",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Self::LeastInFlight | Self::RoundRobin => Ok(()),
            Self::Hash(key) => write!(f, " of {key}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("method"),
            Self::Id => f.write_str("id"),
            Self::Bytes { offset, size } => write!(f, "bytes {offset} to {}", offset + size - 1),
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: Policy::LeastInFlight,
            subset: 0,
            slow_start: Duration::from_secs(10),
            resolve: Duration::from_secs(30),
        }
    }
}
