//! A connection with nothing in flight: when it leaves, and what it finds out about the server's idle limit.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Connection;
use super::idle_limit::{IdleLimit, Scout};
use crate::events::CloseReason;
use crate::lifecycle::earliest;

/// The shares of the limit between which idle connections leave.
const SHARES: (f64, f64) = (0.72, 0.8);

/// The idleness of one connection.
#[derive(Debug)]
pub(super) struct Idle {
    /// Since when nothing is in flight, if so.
    pub(super) since: Instant,
    /// When it was last found to be needed all the same.
    kept: Instant,
    limit: Arc<IdleLimit>,
    /// The share of the limit at which this one leaves.
    share: f64,
    scout: Option<Scout>,
}

impl Idle {
    /// Idle since `now`; `spread` is a fraction that differs from those of the connections opened with it.
    pub(super) fn new(now: Instant, limit: Arc<IdleLimit>, spread: f64) -> Self {
        let share = SHARES.1 - (SHARES.1 - SHARES.0) * spread;
        Self { since: now, kept: now, limit, share, scout: None }
    }

    /// When it must be gone, lest the server closes it.
    fn leave_at(&self) -> Option<Instant> {
        self.limit.learned().map(|limit| self.since + limit.mul_f64(self.share))
    }

    /// When it leaves if it is not needed.
    fn spare_at(&self, timeout: Duration) -> Instant {
        self.since.max(self.kept) + timeout
    }
}

impl Connection {
    /// The server has closed or reset the connection.
    pub(super) fn ended_by_server(&self) -> CloseReason {
        if self.in_flight.is_empty()
            && let Some(limit) = self.idle.limit.closed(self.idle.since, self.now)
        {
            self.shared.events.idle_limit_learned(&self.endpoint, limit);
            self.seat.wake_endpoint();
        }
        self.lost()
    }

    /// As far as the kernel knows, the server has not.
    pub(super) fn note_alive(&self) {
        let Some(doubt) = self.idle.limit.doubt() else { return };
        let age = self.now - self.idle.since;
        if age >= doubt
            && self.in_flight.is_empty()
            && let Some(limit) = self.idle.limit.outlived(age)
        {
            self.shared.events.idle_limit_unlearned(&self.endpoint, limit, age);
            self.seat.wake_endpoint();
        }
    }

    /// Leaves when its time has come.
    pub(super) fn keep_idle(&mut self, now: Instant) -> Result<(), CloseReason> {
        self.note_alive();
        if self.idle.scout.is_some() {
            let over = self.seat.gives_way() || self.idle.limit.learned().is_none();
            return if over { Err(CloseReason::IdleLimit) } else { Ok(()) };
        }
        if self.retiring.is_some() {
            return Ok(());
        }
        if self.idle.leave_at().is_some_and(|at| at <= now) {
            self.leave_before_limit(now);
        } else if self.idle.spare_at(self.shared.settings.idle_timeout) <= now {
            self.idle.kept = now;
            if self.seat.retire_if_spare() {
                self.retiring = Some(CloseReason::Idle);
            }
        }
        Ok(())
    }

    /// As a scout it waits for the server, out of the way of everybody.
    fn leave_before_limit(&mut self, now: Instant) {
        if !self.seat.retire_if_idle() {
            return;
        }
        self.idle.scout = self.idle.limit.scout(now);
        if self.idle.scout.is_some() {
            self.seat.set_stuck(true);
        } else {
            self.retiring = Some(CloseReason::IdleLimit);
        }
    }

    /// When it must act although nothing happens.
    pub(super) fn idle_deadline(&self) -> Option<Instant> {
        if self.retiring.is_some() || !self.in_flight.is_empty() {
            return None;
        }
        if self.idle.scout.is_some() {
            return self.idle.limit.doubt().map(|age| self.idle.since + age);
        }
        let spare = self.idle.spare_at(self.shared.settings.idle_timeout);
        earliest([Some(spare), self.idle.leave_at()])
    }
}
