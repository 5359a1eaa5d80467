//! Bytes read and not yet decoded. Holds nothing while there is nothing, and never grows past what the
//! memory budget granted.

use std::io;

use bytes::BytesMut;

use super::{CHUNK, Charge, Wire};

/// An incoming byte stream, cut into messages by a codec.
#[derive(Debug, Default)]
pub struct Input {
    /// What is there. A codec takes whole messages off the front.
    pub bytes: BytesMut,
    /// Reading stops here, counted from the front; at least [`CHUNK`].
    target: usize,
    charge: Charge,
}

impl Input {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether another read is allowed.
    pub fn has_room(&self) -> bool {
        self.bytes.len() < self.limit()
    }

    /// The bytes that the first message may grow to without asking for memory.
    pub fn limit(&self) -> usize {
        self.target.max(CHUNK)
    }

    /// Lets the first message grow to `total` bytes; `charge` stands for them.
    pub fn grow(&mut self, total: usize, charge: Charge) {
        self.target = total;
        self.charge = charge;
        self.bytes.reserve(total.saturating_sub(self.bytes.len()));
    }

    /// The first message was taken off the front: its memory goes with it.
    pub fn take_charge(&mut self) -> Charge {
        self.target = 0;
        std::mem::take(&mut self.charge)
    }

    /// Reads once. 0 is the peer's end.
    ///
    /// # Errors
    /// Those of the socket; `WouldBlock` if nothing is there.
    pub fn read(&mut self, wire: &mut Wire) -> io::Result<usize> {
        let room = self.limit() - self.bytes.len();
        if self.target > CHUNK {
            return wire.try_read_buf(&mut self.bytes, room);
        }
        // A buffer of its own only for what is really there: most connections are idle.
        let mut scratch = [0; CHUNK];
        let read = wire.try_read(&mut scratch[..room])?;
        self.bytes.extend_from_slice(&scratch[..read]);
        Ok(read)
    }

    /// Gives the buffer back if it is empty.
    pub fn shrink(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = BytesMut::new();
        }
    }
}
