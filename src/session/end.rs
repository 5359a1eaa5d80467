//! How a session ends: what still has to be done for its client, and how the socket is closed so that
//! nothing is lost and, where it can be, no TIME_WAIT is left.

use std::time::Duration;

use tokio::time::Instant;

use super::{ClientClose, Session, next_answer};
use crate::lifecycle::{Alarm, Phase};
use crate::wire::Close;

/// How long a client that was told why it is cut off may take to close.
const LINGER: Duration = Duration::from_secs(1);

/// Why a session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A one-shot client has its reply.
    Served,
    /// The client closed after it had everything.
    LateFin,
    /// The client closed its half before it had everything.
    EarlyFin,
    /// The client was idle for too long, or gives way to another one.
    Idle,
    /// The client was told why it is cut off, and may still be sending.
    CutOff,
    /// The protocol has no words for what the client must be told.
    NoWords,
    /// Shutting down, nothing is outstanding.
    Drained,
    /// The socket failed, or shutdown is at once.
    Gone,
    /// The client does not read or write fast enough.
    Slow,
    /// The rest of its reply will not come.
    Cut,
}

impl Session {
    /// The client is gone or cut: its calls are abandoned, but a one-way request that was read whole is sent.
    pub(super) async fn outlive_oneways(&mut self, end: End) -> End {
        let stopped = self.front.phase() == Phase::Stopped;
        if end == End::Gone && !stopped && self.upload.is_some() {
            self.events.request_truncated(&self.wire.peer(), 0);
        }
        self.cut_upload();
        let mut end = end;
        if let Some(download) = self.download.take() {
            self.shared.pool.abandon(&download.ticket);
            end = End::Cut;
        }
        for (_, ticket) in &self.outstanding {
            if stopped || !ticket.is_oneway() {
                self.shared.pool.abandon(ticket);
            }
        }
        self.outstanding.retain(|(_, ticket)| ticket.is_oneway());
        while !self.outstanding.is_empty() && self.front.phase() != Phase::Stopped {
            let now = Instant::now();
            let pool = &self.shared.pool;
            let look_again = self.outstanding.iter().filter_map(|(_, ticket)| pool.expire(ticket, now)).min();
            let mut alarm = Alarm::default();
            // Cancel-safe: as in `wait`.
            tokio::select! {
                biased;
                (index, _) = next_answer(&mut self.outstanding) => { self.outstanding.remove(index); }
                () = alarm.reached(look_again) => {}
                () = self.front.reached(Phase::Stopped) => {}
            }
        }
        end
    }

    pub(super) async fn close(self, end: End) {
        let style = self.shared.settings.client_close;
        let plain = style == ClientClose::Fin;
        match end {
            End::Gone | End::Cut => self.wire.reset(),
            // A reply cut short must not look like a shorter reply.
            End::Slow if !self.output.is_empty() => self.wire.reset(),
            End::CutOff => self.wire.linger(LINGER).await,
            End::LateFin if !plain => self.wire.reset(),
            End::Served | End::Drained if !plain => {
                self.wire.drained_within(self.shared.settings.client_write).await;
                self.wire.close(Close::FinReset);
            }
            End::Idle if style == ClientClose::Reset => self.wire.reset(),
            _ => self.wire.close(Close::Fin),
        }
    }
}
