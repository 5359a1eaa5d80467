//! Messages in parts: a request is passed on as its client sends it, a reply is written as its server sends
//! it. A reply cut short ends the session with a reset: it must never look like a shorter reply.

use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::time::Instant;

use super::{End, Session};
use crate::exchange::Ticket;
use crate::protocol::{Id, Request};
use crate::wire::parts::{self, CAPACITY, Poured, Sender};
use crate::wire::{CHUNK, Output, Parts};

/// Bytes that a client must send for `client_progress` to start anew: a trickle does not count as progress.
const PROGRESS: usize = CHUNK;

/// What of a request in parts may have to be held besides its head, in bytes.
pub(super) const WINDOW: usize = parts::window(CAPACITY);

/// A request on its way from the client.
#[derive(Debug)]
pub(super) struct Upload {
    /// Unwanted once the request was refused or answered early: the rest is swallowed.
    sender: Sender,
    /// Since when its client owes us something.
    pub(super) since: Instant,
    /// The session has found it full, and not yet that it takes parts again.
    pub(super) full: bool,
    received: usize,
}

impl Upload {
    pub(super) fn has_room(&self) -> bool {
        self.sender.has_room()
    }

    /// Completes when it takes parts.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.sender.poll_room(cx)
    }

    /// Whether somebody still takes it.
    pub(super) fn is_wanted(&self) -> bool {
        !self.sender.is_unwanted()
    }

    pub(super) fn note_progress(&mut self, read: usize) {
        self.received += read;
        if self.received >= PROGRESS {
            self.received = 0;
            self.since = Instant::now();
        }
    }
}

/// A reply on its way to the client.
#[derive(Debug)]
pub(super) struct Download {
    pub(super) rest: Parts,
    pub(super) ticket: Ticket,
    /// Words of our own that wait for its end.
    pub(super) aside: Output,
}

impl Download {
    pub(super) fn new(rest: Parts, ticket: Ticket) -> Self {
        Self { rest, ticket, aside: Output::new() }
    }

    /// Bytes that wait for the client.
    pub(super) fn held(&self) -> usize {
        self.rest.held()
    }
}

impl Session {
    /// Takes in a request of which only the head is there.
    pub(super) fn admit_head(&mut self, id: Id, mut request: Request, rest: usize) {
        request.charge = self.input.take_head(rest);
        let (sender, rest) = parts::pipe(CAPACITY, request.charge.clone());
        request.rest = Some(rest);
        self.admit(id, request);
        self.upload = Some(Upload { sender, since: Instant::now(), full: false, received: 0 });
    }

    /// Passes the next part of the request on.
    pub(super) fn pass_on(&mut self, bytes: Bytes, last: bool) {
        let Some(upload) = &self.upload else { return };
        self.input.take_part(bytes.len());
        if !last {
            return upload.sender.send(bytes);
        }
        // First the deadline, and then the last part and the end as one: with the last part on its way the reply
        // may be here at once.
        if let Some(ticket) = self.incomplete() {
            self.shared.pool.request_is_whole(ticket);
        }
        if let Some(upload) = self.upload.take() {
            upload.sender.finish(bytes);
        }
        self.input.take_charge();
        self.reading_since = Instant::now();
        self.expiry = None;
    }

    /// The exchange whose request is not whole; there is none if it has been answered already.
    fn incomplete(&self) -> Option<&Ticket> {
        let download = self.download.as_ref().map(|download| &download.ticket);
        let mut tickets = self.outstanding.iter().map(|(_, ticket)| ticket).chain(download);
        tickets.find(|ticket| ticket.deadline().is_none())
    }

    /// Notes whether the upload takes parts. If it does again: what did not come meanwhile was not the client's
    /// fault.
    pub(super) fn look_at_upload(&mut self) {
        let Some(upload) = &mut self.upload else { return };
        if upload.full && upload.has_room() {
            (upload.since, upload.full) = (Instant::now(), false);
        } else {
            upload.full |= !upload.has_room();
        }
    }

    /// The rest of the request that is being read will not come. If it has been answered all the same, that
    /// answer is still the client's.
    pub(super) fn cut_upload(&mut self) {
        if self.upload.take().is_none() {
            return;
        }
        let pool = &self.shared.pool;
        self.outstanding.retain(|&mut (_, ref ticket)| {
            ticket.deadline().is_some() || ticket.has_answer() || !pool.abandon(ticket)
        });
        // An answer that has begun must end in time.
        if let Some(ticket) = self.incomplete() {
            pool.request_is_whole(ticket);
        }
        self.expiry = None;
    }

    /// Moves parts of the reply to the output. True if there may be more at once.
    pub(super) fn take_parts(&mut self) -> Result<bool, End> {
        let Some(download) = &self.download else { return Ok(false) };
        match download.rest.pour(&mut self.output) {
            Poured::Enough => Ok(true),
            Poured::Nothing => Ok(false),
            Poured::Cut => Err(End::Cut),
            Poured::Whole => {
                if let Some(mut download) = self.download.take() {
                    self.output.append(&mut download.aside);
                }
                self.reading_since = Instant::now();
                if self.outstanding.is_empty() {
                    self.ask_for_fin();
                }
                Ok(false)
            }
        }
    }
}
