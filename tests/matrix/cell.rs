//! A cell: how a client leaves, and after which byte; and the clients of a cell, which judge what they get.
//!
//! Used by `block`.

use crate::common::{Asked, Client, Protocol};
use crate::fault::May;

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// A close.
    Fin,
    /// A reset.
    Rst,
    /// Sends no more, reads to the end.
    Half,
    /// Does nothing more; cut off by warmline if its request is not whole.
    Stall,
}

/// A client that sends so many bytes of its request, reads so many of the reply, and leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) leave: Leave,
    pub(crate) sent: usize,
    pub(crate) read: usize,
}

/// Every way to leave at every byte of a request and of its reply.
pub(crate) fn cells(request: usize, reply: usize) -> Vec<Cell> {
    let mut cells = Vec::new();
    for leave in [Leave::Fin, Leave::Rst, Leave::Half, Leave::Stall] {
        cells.extend((0..=request).map(|sent| Cell { leave, sent, read: 0 }));
    }
    for leave in [Leave::Fin, Leave::Rst] {
        cells.extend((1..=reply).map(|read| Cell { leave, sent: request, read }));
    }
    cells
}

/// What clients did and got.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cells: u64,
    pub(crate) clients: u64,
    pub(crate) replies: u64,
    pub(crate) refusals: u64,
    /// Clients that got no answer: they left, or their request was not whole.
    pub(crate) closes: u64,
    /// Requests that warmline has read whole, and those that it may not have seen because of a reset.
    pub(crate) whole: u64,
    pub(crate) reset: u64,
    /// Nonces of requests that were never whole, of those that got their reply or a refusal, and of those that
    /// stayed and asked for the fault.
    pub(crate) cut: Vec<u128>,
    pub(crate) replied: Vec<u128>,
    pub(crate) refused: Vec<u128>,
    pub(crate) asked: Vec<u128>,
    /// How many of these reached the server.
    pub(crate) met: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.cells += other.cells;
        self.clients += other.clients;
        self.replies += other.replies;
        self.refusals += other.refusals;
        self.closes += other.closes;
        self.met += other.met;
    }
}

/// A client that has sent what it will send.
#[derive(Debug)]
pub(crate) struct Guest {
    protocol: Protocol,
    client: Client,
    asked: Asked,
    may: May,
}

impl Guest {
    /// Connects and sends so many bytes of a request.
    fn arrive(protocol: Protocol, address: &str, asked: Asked, sent: usize, may: May) -> Self {
        let client = protocol.client(address);
        client.send(&asked.bytes[..sent]);
        Self { protocol, client, asked, may }
    }

    /// One that stays for its answer.
    pub(crate) fn stay(protocol: Protocol, address: &str, asked: Asked, may: May, tally: &mut Tally) -> Self {
        tally.clients += 1;
        tally.whole += 1;
        let all = asked.bytes.len();
        Self::arrive(protocol, address, asked, all, may)
    }

    /// Reads its answer and compares every byte; requires that nothing follows.
    #[track_caller]
    pub(crate) fn finish(mut self, tally: &mut Tally) {
        let answer = self.client.message();
        let verb = &self.asked.request.verb;
        let replied = answer.as_ref() == Some(&self.asked.reply);
        if replied {
            assert_ne!(self.may, May::Refusal, "a reply to {verb}");
            tally.replies += 1;
            tally.replied.push(self.asked.request.nonce);
        } else {
            let refused = match &answer {
                None => !self.protocol.has_words,
                Some(message) => self.protocol.is_refusal(message, self.asked.reply.id),
            };
            assert!(refused, "{verb} got {answer:?}\ninstead of {:?}", self.asked.reply);
            assert_ne!(self.may, May::Reply, "no reply to {verb}");
            tally.refusals += 1;
            tally.refused.push(self.asked.request.nonce);
        }
        // Already closed, if that was the answer or the client has closed its half before.
        let _ = self.client.stream.shutdown(std::net::Shutdown::Write);
        self.client.expect_end();
    }
}

impl Cell {
    /// Sends what it sends; gives the client if it still reads.
    pub(crate) fn begin(
        self,
        protocol: Protocol,
        address: &str,
        asked: Asked,
        may: May,
        tally: &mut Tally,
    ) -> Option<Guest> {
        tally.clients += 1;
        let (is_whole, nonce) = (self.sent == asked.bytes.len(), asked.request.nonce);
        let leaves_now = self.read == 0 && matches!(self.leave, Leave::Fin | Leave::Rst);
        match (is_whole, self.leave) {
            (false, _) => tally.cut.push(nonce),
            (true, Leave::Rst) if leaves_now => tally.reset += 1,
            (true, _) => tally.whole += 1,
        }
        let guest = Guest::arrive(protocol, address, asked, self.sent, may);
        if leaves_now {
            tally.closes += 1;
            self.leave(guest.client);
            return None;
        }
        if self.leave == Leave::Half {
            // Fails if warmline has answered and closed already.
            let _ = guest.client.stream.shutdown(std::net::Shutdown::Write);
        }
        Some(guest)
    }

    fn leave(self, client: Client) {
        if self.leave == Leave::Rst {
            client.stream.reset().unwrap();
        }
    }

    /// Reads what it reads, judges it, and leaves.
    #[track_caller]
    pub(crate) fn finish(self, guest: Guest, tally: &mut Tally) {
        if self.read > 0 {
            let bytes = guest.client.read_up_to(self.read);
            let reply = guest.protocol.wire.reply(&guest.asked.reply);
            let is_reply = guest.may != May::Refusal && reply.starts_with(&bytes);
            let is_refusal = guest.may != May::Reply
                && (bytes.is_empty() || guest.protocol.begins_refusal(&bytes, guest.asked.reply.id));
            assert!(is_reply || is_refusal, "{self:?} got {}", bytes.escape_ascii());
            assert!(
                bytes.len() == self.read || guest.may != May::Reply,
                "{self:?} got {} bytes",
                bytes.len()
            );
            tally.closes += 1;
            self.leave(guest.client);
        } else if self.sent == guest.asked.bytes.len() {
            guest.finish(tally);
        } else {
            guest.client.expect_end();
            tally.closes += 1;
        }
    }
}
