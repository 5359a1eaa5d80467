//! Bytes read and not yet decoded. Holds nothing while there is nothing, and never grows past what the
//! memory budget granted.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;

use super::parts::PART;
use super::{Budget, CHUNK, Charge, Charging, Purpose, Wire};

/// An incoming byte stream, cut into messages by a codec.
#[derive(Debug, Default)]
pub struct Input {
    /// What is there. A codec takes whole messages off the front.
    pub bytes: BytesMut,
    /// Reading stops here, counted from the front; at least [`CHUNK`].
    target: usize,
    charge: Charge,
    /// Bytes still to come of a message whose head is gone.
    rest: usize,
    /// The next target, and the memory for it that is being waited for.
    waiting: Option<(usize, Charging)>,
    /// Small messages are read into one buffer that is kept.
    keeps: bool,
}

thread_local! {
    /// Where bytes are read before it is known how many there are.
    static SCRATCH: RefCell<[u8; CHUNK]> = const { RefCell::new([0; CHUNK]) };
}

impl Input {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`Input::new`], for connections, of which there are few: a buffer of [`CHUNK`] bytes is kept for what
    /// comes next.
    pub fn keeping() -> Self {
        Self { keeps: true, ..Self::default() }
    }

    /// Whether another read is allowed.
    pub fn has_room(&self) -> bool {
        !self.is_waiting() && self.bytes.len() < self.limit()
    }

    /// Whether reading pauses until there is memory.
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// The bytes that the first message may grow to without asking for memory.
    pub fn limit(&self) -> usize {
        self.target.max(CHUNK)
    }

    /// Whether what is there takes from the memory budget already.
    pub fn is_charged(&self) -> bool {
        !self.charge.is_none()
    }

    /// Asks for the memory that the first message, or its head, needs to grow to `total` bytes, and for
    /// `window` bytes more that its parts may take elsewhere. False if there is not enough now: reading pauses
    /// until it is granted.
    pub fn ask(&mut self, total: usize, window: usize, budget: &Budget, purpose: Purpose) -> bool {
        if purpose == Purpose::Reply {
            // Growing replies must not wait for each other. What they hold uncounted meanwhile is in the figure
            // that `check` prints.
            self.charge = Charge::none();
        }
        if let Some(charge) = budget.try_charge(total + window, purpose) {
            self.grow(total, charge);
            return true;
        }
        self.waiting = Some((total, budget.charge(total + window, purpose)));
        false
    }

    /// Completes when the memory that was asked for is there; never, if none was.
    pub fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((total, charging)) = &mut self.waiting else { return Poll::Pending };
        let total = *total;
        let Poll::Ready(charge) = Pin::new(charging).poll(cx) else { return Poll::Pending };
        self.waiting = None;
        self.grow(total, charge);
        Poll::Ready(())
    }

    fn grow(&mut self, total: usize, charge: Charge) {
        self.target = total;
        self.charge = charge;
        self.make_room(total);
    }

    /// Makes room for `total` bytes in all, and for no more: a buffer that grows by itself doubles, and would
    /// be larger than what it was charged.
    fn make_room(&mut self, total: usize) {
        if self.bytes.capacity() < total {
            let mut larger = BytesMut::with_capacity(total);
            larger.extend_from_slice(&self.bytes);
            self.bytes = larger;
        }
    }

    /// The head of the first message was taken off the front: the `rest` bytes of its parts are read under the
    /// same charge, until [`Input::take_charge`], and nothing of what follows them, which is not charged.
    pub fn take_head(&mut self, rest: usize) -> Charge {
        self.rest = rest;
        self.target = PART.min(rest);
        self.charge.clone()
    }

    /// A part of `size` bytes was taken off the front.
    pub fn take_part(&mut self, size: usize) {
        self.rest = self.rest.saturating_sub(size);
        self.target = PART.min(self.rest);
    }

    /// The first message was taken off the front: its memory goes with it. What is left behind it shares that
    /// memory, unless it is little enough to move.
    pub fn take_charge(&mut self) -> Charge {
        (self.target, self.rest) = (0, 0);
        if self.charge.is_none() || self.bytes.len() > CHUNK {
            return self.charge.clone();
        }
        self.bytes = BytesMut::from(&self.bytes[..]);
        std::mem::take(&mut self.charge)
    }

    /// Reads once. 0 is the peer's end.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` if nothing is there.
    pub fn read(&mut self, wire: &mut Wire) -> io::Result<usize> {
        let room = self.limit().saturating_sub(self.bytes.len());
        if self.target > CHUNK || self.keeps {
            return wire.try_read_buf(&mut self.bytes, room);
        }
        // A buffer of its own only for what is really there: most connections are idle.
        SCRATCH.with_borrow_mut(|scratch| {
            let read = wire.try_read(&mut scratch[..room])?;
            if !self.bytes.is_empty() && self.bytes.capacity() < self.bytes.len() + read {
                self.make_room(CHUNK);
            }
            self.bytes.extend_from_slice(&scratch[..read]);
            Ok(read)
        })
    }

    /// Gives the buffer back if it is empty and no parts are to come.
    pub fn shrink(&mut self) {
        let is_kept = self.keeps && self.charge.is_none();
        if self.bytes.is_empty() && self.rest == 0 && !is_kept {
            self.clear();
        }
    }

    /// Throws away what is there.
    pub fn clear(&mut self) {
        *self = Self { keeps: self.keeps, ..Self::new() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Output, memory};

    #[tokio::test]
    async fn a_buffer_is_no_larger_than_what_it_may_hold() {
        let (near, far) = memory::pair(1 << 20);
        let (mut near, mut far) = (Wire::from(near), Wire::from(far));
        let (mut input, budget) = (Input::new(), Budget::new(1 << 20));
        let mut read = |input: &mut Input, size: usize| {
            let mut output = Output::new();
            output.put(&vec![7; size]);
            assert!(far.try_flush(&mut output).unwrap());
            assert_eq!(input.read(&mut near).unwrap(), size);
            input.bytes.capacity()
        };
        assert_eq!(read(&mut input, 10), 10, "most have little to say");
        assert_eq!(read(&mut input, CHUNK - 11), CHUNK);
        assert_eq!(read(&mut input, 1), CHUNK);
        assert!(input.ask(CHUNK + 2, 0, &budget, Purpose::Request));
        assert_eq!(read(&mut input, 2), CHUNK + 2);
    }
}
