//! The end of a connection, and what becomes of its requests: each is tried again, or its client is told.
//!
//! Invariant: a request of which a server may have anything goes out again only if it may be run twice and no byte
//! of its reply was seen.

use std::time::Duration;

use tokio::time::Instant;

use super::inflight::{Again, Left};
use super::{Connection, Idempotent, Shared};
use crate::events::{CloseReason, Rung};
use crate::lifecycle::Phase;
use crate::protocol::{Refusal, Request};
use crate::queue::Verdict;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: CloseReason,
    /// Requests it was given.
    pub carried: u64,
    /// Replies it got.
    pub replies: u64,
    /// How long it stood.
    pub lived: Duration,
}

impl Shared {
    /// When `request` may be sent again.
    pub(super) fn again(&self, request: &Request) -> Again {
        if request.rest.is_some() {
            return Again::Never;
        }
        let twice = match &self.settings.idempotent {
            Idempotent::None => false,
            Idempotent::All => true,
            Idempotent::Methods(known) => {
                self.protocol.method(&request.bytes).is_some_and(|method| known.contains(method))
            }
        };
        if twice && !request.oneway { Again::Unanswered } else { Again::Unsent }
    }
}

impl Connection {
    /// Leaves nothing behind that is in flight.
    pub(super) fn leave(&mut self, reason: CloseReason) {
        // What goes back must not come here again.
        self.seat.retire();
        let (written, seen) = (self.output.written(), self.input.bytes.len());
        for left in self.in_flight.drain(written, seen) {
            self.let_go(left, reason);
        }
    }

    fn let_go(&self, left: Left, reason: CloseReason) {
        let Left { exchange, rung, late } = left;
        // A request that nothing was sent of says nothing about the endpoint; what a probe finds is its own affair.
        let neutral = late || exchange.bound || reason == CloseReason::Cut || rung == Some(Rung::Unsent);
        let verdict = if neutral { Verdict::Neutral } else { Verdict::Failed };
        let is_due = exchange.slot.deadline().is_none_or(|at| at > Instant::now());
        let wanted = is_due && !exchange.slot.is_ended();
        if let Some(rung) = rung.filter(|rung| wanted && self.may_try_again(reason, *rung)) {
            return self.seat.try_again(exchange, rung, verdict);
        }
        let _ = exchange.slot.refuse(match reason {
            _ if !is_due => Refusal::Timeout,
            CloseReason::Desync => Refusal::Desync,
            _ => Refusal::Lost,
        });
        self.seat.done(verdict);
    }

    fn may_try_again(&self, reason: CloseReason, rung: Rung) -> bool {
        let may = match reason {
            CloseReason::Shutdown => false,
            // Whatever it said may have been meant as the reply.
            CloseReason::Desync => rung == Rung::Unsent,
            _ => true,
        };
        may && self.back.phase() == Phase::Running
    }
}
