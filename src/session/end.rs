//! How a session ends: what still has to be done for its client, and how the socket is closed so that
//! nothing is lost and, where it can be, no TIME_WAIT is left.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::wait::poll_next_answer;
use super::{ClientClose, Session};
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
    /// The client goes on with a connection of its own.
    HandOver,
}

impl Session {
    /// Whether the end leaves something undone: see [`Session::finish`].
    pub(super) fn has_unfinished(&self) -> bool {
        self.upload.is_some() || self.download.is_some() || !self.outstanding.is_empty()
    }

    /// The client is gone or cut: its calls are abandoned, but a one-way request that was read whole is sent.
    pub(super) async fn finish(&mut self, end: End) -> End {
        let stopped = self.front.phase() == Phase::Stopped;
        if end == End::Gone && !stopped && self.upload.is_some() {
            self.events().request_truncated(&self.wire.peer(), 0);
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
        let mut alarm = pin!(Alarm::default());
        while !self.outstanding.is_empty() && self.front.phase() != Phase::Stopped {
            let now = Instant::now();
            let pool = &self.shared.pool;
            let look_again = self.outstanding.iter().filter_map(|(_, ticket)| pool.expire(ticket, now)).min();
            poll_fn(|cx| {
                let sent = poll_next_answer(&mut self.outstanding, cx).is_ready();
                let due = alarm.as_mut().poll_reached(cx, look_again).is_ready();
                let stopped = self.front.poll_reached(cx, Phase::Stopped).is_ready();
                if sent || due || stopped { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        end
    }

    /// Whether the close is to be prepared: see [`Session::linger`].
    pub(super) fn lingers(&self, end: End) -> bool {
        match end {
            End::CutOff => true,
            End::Served | End::Drained => !self.is_plain() && !self.wire.is_ready_to_close(),
            _ => false,
        }
    }

    /// Waits until what was written last is safe from the close.
    pub(super) async fn linger(&mut self, end: End) {
        match end {
            End::CutOff => self.wire.linger(LINGER).await,
            _ => self.wire.drained_within(self.shared.settings.client_write).await,
        }
    }

    fn is_plain(&self) -> bool {
        self.shared.settings.client_close == ClientClose::Fin
    }

    pub(super) fn close(self, end: End) {
        let plain = self.is_plain();
        match end {
            End::Gone | End::Cut => self.wire.reset(),
            // A reply cut short must not look like a shorter reply.
            End::Slow if !self.output.is_empty() => self.wire.reset(),
            End::LateFin if !plain => self.wire.reset(),
            End::Served | End::Drained if !plain => self.wire.close(Close::FinReset),
            End::Idle if self.shared.settings.client_close == ClientClose::Reset => self.wire.reset(),
            // It has had its time to read and to close.
            End::CutOff => drop(self.wire),
            _ => self.wire.close(Close::Fin),
        }
    }
}
