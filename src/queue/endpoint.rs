//! What is known of one endpoint: how busy it is, and how well.
//!
//! Plain data: the roster counts in it, and asks it.

use tokio::time::Instant;

/// Failures in a row after which an endpoint gets one exchange at a time, as long as others are better. Where it is
/// ejected sooner, that is as many.
pub(super) const PROBATION_AFTER: u32 = 3;

/// How an exchange left a connection, as far as the endpoint's reputation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The endpoint replied.
    Replied,
    /// It did not, and should have.
    Failed,
    /// Says nothing about the endpoint.
    Neutral,
}

/// An endpoint's part in sharing out the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Its share beside those of the others; at least 1.
    pub weight: u32,
    /// It gets nothing while another endpoint that is no backup can serve.
    pub backup: bool,
    /// The hash of its address: the same on every host.
    pub seed: u64,
}

/// What is known of one endpoint.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is known on its own")]
pub(super) struct Endpoint {
    pub(super) share: Share,
    /// It is one no longer: its connections finish what they have.
    pub(super) removed: bool,
    /// When it came back, as long as it has not its whole share again.
    pub(super) warming: Option<Instant>,
    /// Its place in the order of turns; the larger its weight, the less each turn adds.
    pub(super) pass: u64,
    /// It was its turn, and it had no room.
    pub(super) short: bool,
    pub(super) in_flight: usize,
    /// Connections that take new exchanges.
    pub(super) open: usize,
    pub(super) connecting: usize,
    /// The last attempt to connect failed.
    pub(super) unreachable: bool,
    /// It could not be connected to, and is not to be tried again yet.
    pub(super) paused: bool,
    /// Probes find it well.
    pub(super) healthy: bool,
    /// It failed too often in a row.
    pub(super) ejected: bool,
    failures_in_a_row: u32,
    pub(super) eject_after: u32,
}

impl Endpoint {
    pub(super) fn new(share: Share, eject_after: u32) -> Self {
        Self {
            share,
            removed: false,
            warming: None,
            pass: 0,
            short: false,
            in_flight: 0,
            open: 0,
            connecting: 0,
            unreachable: false,
            paused: false,
            healthy: true,
            ejected: false,
            failures_in_a_row: 0,
            eject_after,
        }
    }

    /// It replied: it is there, whatever the last attempt to connect came to.
    pub(super) fn replied(&mut self) {
        (self.failures_in_a_row, self.unreachable) = (0, false);
    }

    /// It did not, and should have. True if that is one failure too many.
    pub(super) fn failed(&mut self) -> bool {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.failures_in_a_row >= self.eject_after && !self.ejected
    }

    /// Whether its last replies all failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failures_in_a_row >= PROBATION_AFTER.min(self.eject_after)
    }

    /// Whether it gets nothing while another one is better.
    pub(super) fn is_left_out(&self) -> bool {
        self.removed || self.ejected || !self.healthy
    }

    /// Whether it can be asked, as far as is known: at once, or once it is connected to.
    pub(super) fn may_serve(&self) -> bool {
        !self.is_left_out() && (self.open > 0 || !self.unreachable)
    }

    /// Whether it has no connection, and the next request is a reason to try it.
    pub(super) fn is_untried(&self) -> bool {
        self.open == 0 && !self.paused && !self.is_left_out()
    }

    pub(super) fn is_good(&self) -> bool {
        self.open > 0 && !self.is_failing() && !self.is_left_out()
    }
}
