//! When a connection must act although nothing happens: idleness, age, and replies that do not come.
//!
//! Timeouts tear nothing that others use: a connection that owes replies to nobody goes on as long as it
//! has room for others, and makes place once it has none.

use std::time::Duration;

use tokio::time::Instant;

use super::Connection;
use crate::events::CloseReason;
use crate::lifecycle::{Phase, earliest};
use crate::protocol::Mode;

/// How long a connection waits for a late reply when everything it owes is owed to nobody.
const GRACE: Duration = Duration::from_secs(1);

impl Connection {
    pub(super) fn keep_time(&mut self, now: Instant) -> Result<(), CloseReason> {
        if self.stray_until.is_some_and(|until| now >= until) {
            return Err(self.desync(&"an unasked message that does not end"));
        }
        match self.back.look() {
            Phase::Running if now >= self.retire_at => self.retire(CloseReason::Lifetime),
            Phase::Running => {}
            Phase::Draining => {
                self.in_flight.give_up_probes();
                self.retire(CloseReason::Shutdown);
            }
            Phase::Stopped => return Err(CloseReason::Shutdown),
        }
        if self.unread_at().is_some_and(|at| at <= now) {
            return Err(CloseReason::Stalled);
        }
        if self.in_flight.owed() > 0 {
            self.keep_owed(now)?;
        } else if self.in_flight.is_empty() {
            self.keep_idle(now)?;
        }
        match self.retiring {
            Some(CloseReason::Early) if self.in_flight.is_empty() => Err(CloseReason::Early),
            Some(reason) if self.in_flight.owes_nobody() && self.output.is_empty() => Err(reason),
            Some(CloseReason::Stalled) if self.in_flight.owes_nobody() => Err(CloseReason::Stalled),
            _ => Ok(()),
        }
    }

    /// Timeouts tear nothing that others use: see the table of modes in the README.
    fn keep_owed(&mut self, now: Instant) -> Result<(), CloseReason> {
        for _ in 0..self.in_flight.expire(now, self.is_held_up()) {
            self.seat.failed();
        }
        self.cut_download_if_ended();
        if self.upload.is_some() {
            // Nothing is due before the request is whole.
            return Ok(());
        }
        let stall = self.shared.settings.stall;
        let since = self.in_flight.oldest().map_or(now, |e| e.since);
        if since + stall <= now {
            // As soon as it costs nobody anything.
            if self.shared.mode != Mode::Multiplex || self.in_flight.owes_nobody() {
                return Err(CloseReason::Stalled);
            }
            // What it owes is one's trouble; that too few take anything would be everybody's.
            if self.spared_until.is_none_or(|until| until <= now) {
                if self.seat.is_spare() || self.in_flight.late() > self.shared.room / 2 {
                    self.retire(CloseReason::Stalled);
                }
                self.spared_until = Some(now + GRACE);
            }
        }
        if self.quiet_since() + stall <= now && self.may_read() {
            return Err(CloseReason::Stalled);
        }
        if self.stuck_until.is_none() && self.stuck_at().is_some_and(|at| at <= now) {
            self.stuck_until = Some(now + GRACE);
            self.seat.set_stuck(true);
        }
        match self.stuck_until {
            Some(until) if until <= now || self.seat.gives_way() => Err(CloseReason::Stalled),
            _ => Ok(()),
        }
    }

    /// When the server has left what was written unread for too long.
    fn unread_at(&self) -> Option<Instant> {
        self.writing_since.map(|since| since + self.shared.settings.stall)
    }

    /// Since when no byte has come although something is owed.
    fn quiet_since(&self) -> Instant {
        self.last_read.max(self.owing_since)
    }

    /// When everything there is room for will be owed to nobody.
    fn stuck_at(&self) -> Option<Instant> {
        (self.in_flight.owed() >= self.shared.room).then(|| self.in_flight.last_deadline()).flatten()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let settings = &self.shared.settings;
        let retire = self.retiring.is_none().then_some(self.retire_at);
        let rest = if let Some(oldest) = self.in_flight.oldest().filter(|_| self.upload.is_none()) {
            let stalled =
                match self.retiring {
                    None => Some(self.spared_until.map_or(oldest.since + settings.stall, |until| {
                        until.max(oldest.since + settings.stall)
                    })),
                    Some(_) => self.in_flight.last_open_deadline(),
                };
            let stuck = self.stuck_until.or_else(|| self.stuck_at());
            // While we wait for memory or a client, silence is our own.
            let quiet = self.may_read().then(|| self.quiet_since() + settings.stall);
            earliest([quiet, stalled, stuck, self.in_flight.next_late()])
        } else {
            self.idle_deadline()
        };
        earliest([rest, retire, self.stray_until, self.unread_at(), self.held_up_until()])
    }
}
