//! When a session must act although nothing happens: clients that do not send, do not read, or are idle,
//! and exchanges whose time is up.

use std::time::Duration;

use tokio::time::Instant;

use super::{End, Session};
use crate::events::ClientTimeout;
use crate::lifecycle::{Phase, earliest};
use crate::wire::CHUNK;

/// At a drain, how long a client that has just connected may take to send its first byte.
const DRAIN_FIRST_BYTE: Duration = Duration::from_secs(1);

/// For how long a one-shot client that waits for its reply is not watched: most replies are there sooner, and
/// watching costs two system calls.
const UNWATCHED: Duration = Duration::from_millis(100);

/// How often a client is looked at that others may have to wait for.
const LOOK: Duration = Duration::from_millis(250);
/// What it must have taken since the last time to count as reading, in bytes.
const TAKEN: u64 = 16 * 1024;
/// How long more than its share may wait for a client that takes nothing.
const BACKLOG: Duration = Duration::from_secs(1);

impl Session {
    pub(super) fn keep_time(&mut self, now: Instant) -> Result<(), End> {
        if self.front.look() == Phase::Stopped {
            return Err(End::Gone);
        }
        if self.expiry.is_none_or(|at| at <= now) {
            self.expire(now)?;
        }
        self.look_at_backlog(now)?;
        if self.write_deadline().is_some_and(|at| at <= now) {
            return Err(self.timed_out(ClientTimeout::Write, End::Slow));
        }
        if self.read_deadline().is_some_and(|at| at <= now) {
            if self.upload.is_some() {
                return Err(self.timed_out(ClientTimeout::Progress, End::Slow));
            }
            let between = self.is_between_requests();
            return Err(match between {
                true if self.front.phase() == Phase::Running => {
                    self.timed_out(ClientTimeout::Idle, End::Idle)
                }
                true => End::Drained,
                false => self.timed_out(ClientTimeout::Read, End::Slow),
            });
        }
        Ok(())
    }

    fn timed_out(&self, kind: ClientTimeout, end: End) -> End {
        self.events().client_timed_out(kind, &self.wire.peer());
        end
    }

    fn expire(&mut self, now: Instant) -> Result<(), End> {
        let pool = &self.shared.pool;
        let expiries = self.outstanding.iter().filter_map(|(_, ticket)| pool.expire(ticket, now));
        self.expiry = expiries.min();
        if let Some(ticket) = self.download.as_ref().map(|download| &download.ticket) {
            match ticket.deadline().filter(|_| !ticket.is_ended()) {
                // Only if it is this look that ends it: it may have just ended well, all of it in the pipe.
                Some(at) if at <= now && pool.time_out(ticket) => return Err(End::Cut),
                Some(at) if at <= now => {}
                deadline => self.expiry = earliest([self.expiry, deadline]),
            }
        }
        Ok(())
    }

    /// A client that takes nothing must not keep more than its share of memory: on a shared connection what
    /// it may buffer, and no more than what is free of charge where replies wait for memory.
    fn look_at_backlog(&mut self, now: Instant) -> Result<(), End> {
        let Some((since, _)) = self.writing_since else {
            self.next_look = None;
            return Ok(());
        };
        let look_at = *self.next_look.get_or_insert(since + LOOK);
        if look_at > now {
            return Ok(());
        }
        self.see_what_is_taken(now);
        let held = self.output.len()
            + self.download.as_ref().map_or(0, |download| download.held())
            + self.outstanding.iter().map(|(_, ticket)| ticket.held()).sum::<usize>();
        let limit = match self.shared.settings.max_reply_buffered {
            _ if self.shared.budget.is_starved() => CHUNK,
            limit => limit.unwrap_or(usize::MAX),
        };
        // Thousands may be slow within their share: they are looked at less often.
        let matters = self.download.is_some() || held > limit;
        self.next_look = Some(now + if matters { LOOK } else { BACKLOG });
        if since.max(self.taken.0) + BACKLOG <= now && held > limit {
            return Err(self.timed_out(ClientTimeout::NotTaken, End::Slow));
        }
        Ok(())
    }

    /// A socket becomes writable in steps that a slow reader takes seconds for: what counts is what it has
    /// taken from the kernel. While it does, the connections of its replies may wait.
    fn see_what_is_taken(&mut self, now: Instant) {
        let taken = self.output.written().saturating_sub(self.wire.untaken() as u64);
        if taken < self.taken.1 + TAKEN {
            return;
        }
        self.taken = (now, taken);
        if let Some(download) = &self.download {
            download.rest.note_progress();
            self.outstanding.iter().for_each(|(_, ticket)| ticket.note_progress());
        }
    }

    pub(super) fn write_deadline(&self) -> Option<Instant> {
        self.writing_since.map(|(since, _)| since + self.shared.settings.client_write)
    }

    /// While nothing is outstanding the client owes us something: its first byte, the rest of a request, or,
    /// between requests, a sign of life.
    pub(super) fn read_deadline(&self) -> Option<Instant> {
        if let Some(upload) = &self.upload {
            let waits = upload.full || !self.wants_input();
            return (!waits).then(|| upload.since + self.shared.settings.client_progress);
        }
        if self.fin.is_some() {
            return None;
        }
        let draining = self.front.phase() != Phase::Running;
        // Memory is waited for as long as it takes, but not at the expense of others, and not in a drain.
        let waits = self.input.is_waiting() && !self.input.is_charged() && !draining;
        if !self.outstanding.is_empty() || !self.output.is_empty() || self.download.is_some() || waits {
            return None;
        }
        let settings = &self.shared.settings;
        let patience = match (self.is_between_requests(), self.input.bytes.is_empty()) {
            (true, _) if draining => Duration::ZERO,
            (true, _) => settings.client_idle,
            (false, true) if draining => settings.client_read.min(DRAIN_FIRST_BYTE),
            (false, _) => settings.client_read,
        };
        Some(self.reading_since + patience)
    }

    /// Until when a further request or the end of a one-shot client may stay unnoticed.
    pub(super) fn unwatched_until(&self) -> Option<Instant> {
        let waits = !self.outstanding.is_empty() && self.output.is_empty() && !self.input.is_waiting();
        let whole = self.upload.is_none() && self.download.is_none();
        (self.shared.settings.one_shot && waits && whole).then(|| self.reading_since + UNWATCHED)
    }

    pub(super) fn is_between_requests(&self) -> bool {
        (self.requests > 0 || self.unanswered) && self.upload.is_none() && self.input.bytes.is_empty()
    }
}
