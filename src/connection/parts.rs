//! Messages in parts: a request is sent as its client sends it, a reply is passed on as its client takes it.
//!
//! Invariant: while a request is sent in parts nothing else is in flight, and one that its client does not
//! finish ends the connection. A client that takes nothing of its reply holds a shared connection up for at
//! most [`HELD_UP`]; then the rest is swallowed.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Connection;
use crate::events::CloseReason;
use crate::protocol::{Refusal, Reply, Tag};
use crate::wire::Parts;
use crate::wire::parts::{self, CAPACITY, Poured, Sender};

/// How long a client may hold up a shared connection without taking anything.
const HELD_UP: Duration = Duration::from_secs(1);

/// A request on its way to the server.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) rest: Parts,
}

/// A reply on its way to its client.
#[derive(Debug)]
pub(super) struct Download {
    /// `None` if nobody wants it any more: it is swallowed.
    sender: Option<Sender>,
    /// Since when its client has let the connection wait.
    held_up: Option<Instant>,
    /// What the client had done by then.
    progress: u64,
}

impl Download {
    /// Completes when it was held up and its client takes parts again.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        match (&self.sender, self.held_up) {
            (Some(sender), Some(_)) => sender.poll_room(cx),
            _ => Poll::Pending,
        }
    }
}

impl Connection {
    /// Moves parts of the request to the output. True if there may be more at once.
    pub(super) fn send_parts(&mut self) -> Result<bool, CloseReason> {
        let Some(Upload { rest }) = &self.upload else { return Ok(false) };
        match rest.pour(&mut self.output) {
            Poured::Enough => Ok(true),
            Poured::Nothing => Ok(false),
            Poured::Cut => Err(CloseReason::Cut),
            Poured::Whole => {
                self.upload = None;
                let now = Instant::now();
                self.owing_since = now;
                self.in_flight.uploaded(self.output.end(), now);
                // The kernel may have all of it already.
                self.note_written();
                self.output.append(&mut self.aside);
                self.seat.uploaded();
                Ok(false)
            }
        }
    }

    /// A reply begins that comes in parts.
    pub(super) fn begin(
        &mut self,
        tag: Option<Tag>,
        mut head: Reply,
        rest: usize,
    ) -> Result<(), CloseReason> {
        let entry = self.answered(tag, &head)?;
        head.charge = self.input.take_head(rest);
        let Some(entry) = entry else {
            self.download = Some(Download { sender: None, held_up: None, progress: 0 });
            return Ok(());
        };
        let (sender, rest) = parts::pipe(self.pipe_capacity(), head.charge.clone());
        head.rest = Some(rest);
        let wanted = entry.exchange.slot.begin(head).is_ok();
        if !wanted {
            self.shared.events.late_reply(&self.endpoint);
        }
        self.download = Some(Download { sender: wanted.then_some(sender), held_up: None, progress: 0 });
        self.in_flight.begin(entry);
        Ok(())
    }

    /// What may wait for the client: on a connection of its own it may as well wait at the server.
    fn pipe_capacity(&self) -> usize {
        if self.shared.room == 1 { CAPACITY } else { self.shared.settings.max_reply_buffered }
    }

    /// What of a reply in parts may have to be held besides its head, in bytes.
    pub(super) fn window(&self) -> usize {
        parts::window(self.pipe_capacity())
    }

    /// Passes the next part of the reply on.
    pub(super) fn pass_on(&mut self, bytes: Bytes, last: bool) {
        let Some(download) = &mut self.download else { return };
        self.input.take_part(bytes.len());
        if last {
            let sender = self.download.take().and_then(|download| download.sender);
            self.input.take_charge();
            let begun = self.in_flight.end_begun();
            if let Some(entry) = &begun {
                let _ = entry.exchange.slot.finish_begun();
            }
            if let Some(sender) = sender {
                sender.finish(bytes);
            }
            // Else it answered a one-way request, which has ended long ago.
            if let Some(entry) = begun {
                self.replied(entry.is_telling());
            }
            return;
        }
        let Some(sender) = &download.sender else { return };
        sender.send(bytes);
        if !sender.has_room() {
            (download.held_up, download.progress) = (Some(Instant::now()), sender.progress());
            if self.shared.room > 1 {
                self.seat.rest(true);
            }
        }
    }

    /// Whether nothing is read because a client does not take its reply.
    pub(super) fn is_held_up(&self) -> bool {
        self.download.as_ref().is_some_and(|download| download.held_up.is_some())
    }

    /// The client takes parts again, or nobody does.
    pub(super) fn resume(&mut self) {
        let Some(download) = &mut self.download else { return };
        if download.held_up.take().is_none() {
            return;
        }
        // The silence was not the server's.
        self.last_read = Instant::now();
        if self.shared.room > 1 {
            self.seat.rest(false);
        }
    }

    /// When a client has held a shared connection up for too long.
    pub(super) fn held_up_until(&self) -> Option<Instant> {
        let held_up = self.download.as_ref()?.held_up?;
        (self.shared.room > 1).then(|| held_up + HELD_UP)
    }

    /// Cuts a client that has held the others up for too long.
    pub(super) fn look_after_download(&mut self) {
        let now = Instant::now();
        if self.held_up_until().is_none_or(|at| at > now) {
            return;
        }
        if let Some(download) = &mut self.download
            && let Some(progress) = download.sender.as_ref().map(Sender::progress)
            && progress != download.progress
        {
            // It reads slowly, or another reply first that came from another connection.
            (download.held_up, download.progress) = (Some(now), progress);
            return;
        }
        if let Some(entry) = self.in_flight.begun()
            && entry.exchange.slot.refuse(Refusal::NotTaken).is_ok()
        {
            self.shared.events.reply_not_taken(&self.endpoint);
        }
        self.cut_download_if_ended();
    }

    /// A reply whose exchange has ended, at its deadline or by its client, is swallowed from here on.
    pub(super) fn cut_download_if_ended(&mut self) {
        if let (Some(entry), Some(download)) = (self.in_flight.begun(), &mut self.download)
            && entry.exchange.slot.is_ended()
            && download.sender.take().is_some()
        {
            self.resume();
        }
    }
}
