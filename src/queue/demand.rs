//! What a queue tells of itself: to the keeper, which decides on connections, and to people.

use std::fmt;
use std::time::Duration;

use smallvec::SmallVec;

/// What the keeper needs to know to decide on the next connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demand {
    /// Some wait, and for long none of them was given to a connection.
    pub stands_still: bool,
    /// Exchanges that no connection has and any endpoint will do for, or that are above `grow_at` on their connection.
    pub wanting: usize,
    /// The endpoints by index.
    pub endpoints: EndpointDemands,
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Something was pushed since the last look.
    pub touched: bool,
    /// Nothing is open, and pushes are refused.
    pub down: bool,
}

/// What the keeper needs to know of each endpoint, by index: mostly there are few.
pub type EndpointDemands = SmallVec<[EndpointDemand; 4]>;

/// What the keeper needs to know of one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is known on its own")]
pub struct EndpointDemand {
    /// Connections that take new exchanges.
    pub open: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// What it is to get beside the others.
    pub weight: u64,
    /// Exchanges that wait for it and for no other.
    pub waiting: usize,
    /// It was its turn, and it had no room.
    pub short: bool,
    /// Its last replies all failed.
    pub failing: bool,
    /// It failed too often in a row.
    pub ejected: bool,
    /// It gets nothing, because another one is better or it is one no longer.
    pub left_out: bool,
}

impl EndpointDemand {
    /// Neither a connection nor one in the making.
    pub fn is_untouched(&self) -> bool {
        self.open + self.connecting == 0
    }

    /// How many connections it has for its weight, or soon will have.
    pub fn fill(&self) -> u64 {
        (((self.open + self.connecting) as u64) << 44) / self.weight.max(1)
    }
}

impl Demand {
    /// Whether any exchange has no connection.
    pub fn has_waiting(&self) -> bool {
        self.wanting > 0 || self.endpoints.iter().any(|endpoint| endpoint.waiting > 0)
    }
}

/// Figures for metrics and the pool table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Exchanges waiting.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest_wait: Duration,
    /// Connections with nothing in flight.
    pub idle: usize,
    /// Connections with something in flight.
    pub busy: usize,
    /// Sockets being opened.
    pub connecting: usize,
    /// Connections that take nothing new any more.
    pub retiring: usize,
    /// Connections that one client has for itself.
    pub dedicated: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { waiting, oldest_wait, idle, busy, connecting, retiring, dedicated } = self;
        write!(f, "{idle} idle, {busy} busy, {connecting} connecting, {retiring} retiring, ")?;
        write!(f, "{dedicated} dedicated; ")?;
        write!(f, "{waiting} waiting, the oldest for {oldest_wait:?}")
    }
}
