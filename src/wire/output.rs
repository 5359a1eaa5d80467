//! Bytes on their way to a socket: small pieces are gathered, large ones are referenced.
//!
//! Invariant: what comes out is what was put in, in order; positions count from the first byte ever
//! put, so that "has the kernel all of it" is a comparison.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::Charge;

/// Pieces below this many bytes are copied together; above, a reference costs less than the copy.
const COPY_BELOW: usize = 4096;
/// Pieces handed to one vectored write; the kernel's own limit is 1024.
const SLICES: usize = 32;
/// Small pieces are gathered in buffers of so many bytes: one buffer for all would double as it grows.
const GATHER: usize = 4096;
/// Such buffers that a thread keeps for the next output, empty ones.
const SPARE: usize = 64;

thread_local! {
    static SPARES: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer of [`GATHER`] bytes.
fn spare() -> BytesMut {
    SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| BytesMut::with_capacity(GATHER))
}

/// Keeps `buffer` for the next output, if it is one of [`spare`]'s and nobody holds bytes of it.
fn give_back(mut buffer: BytesMut) {
    buffer.clear();
    SPARES.with_borrow_mut(|spares| {
        if spares.len() < SPARE && buffer.try_reclaim(GATHER) && buffer.capacity() <= GATHER {
            spares.push(buffer);
        }
    });
}

/// An outgoing byte stream.
#[derive(Debug, Default)]
pub struct Output {
    /// Closed pieces, oldest first.
    pieces: VecDeque<Piece>,
    /// The piece that small puts are appended to; it comes after all of `pieces`.
    tail: BytesMut,
    put: u64,
    written: u64,
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    /// Held until the kernel has the bytes.
    _charge: Charge,
}

impl Output {
    /// An empty stream; it allocates with the first byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a copy of `bytes`.
    pub fn put(&mut self, bytes: &[u8]) {
        self.put += bytes.len() as u64;
        if self.tail.capacity() == 0 && !bytes.is_empty() {
            self.tail = spare();
        }
        let room = self.tail.capacity() - self.tail.len();
        if self.tail.len() + bytes.len() <= GATHER {
            return self.tail.extend_from_slice(bytes);
        }
        let (here, rest) = bytes.split_at(room.min(bytes.len()));
        self.tail.extend_from_slice(here);
        if !rest.is_empty() {
            self.close_tail();
            self.tail = BytesMut::with_capacity(rest.len().max(GATHER));
            self.tail.extend_from_slice(rest);
        }
    }

    /// Appends `bytes` without copying them where that is cheaper. `charge` is held until they are
    /// written.
    pub fn put_bytes(&mut self, bytes: Bytes, charge: Charge) {
        if bytes.len() < COPY_BELOW {
            return self.put(&bytes);
        }
        self.close_tail();
        self.put += bytes.len() as u64;
        self.pieces.push_back(Piece { bytes, _charge: charge });
    }

    /// As [`Output::put_bytes`], for what is `from` some place on in `bytes`. They are shared only if they are not
    /// copied: the first time it costs an allocation.
    pub fn put_shared(&mut self, bytes: &Bytes, from: usize, charge: &Charge) {
        let rest = &bytes[from..];
        if rest.len() < COPY_BELOW {
            return self.put(rest);
        }
        self.put_bytes(bytes.slice(from..), charge.clone());
    }

    /// Appends what `other` has left.
    pub fn append(&mut self, other: &mut Self) {
        other.close_tail();
        for Piece { bytes, _charge: charge } in std::mem::take(other).pieces {
            self.put_bytes(bytes, charge);
        }
    }

    /// Bytes put and not yet written.
    pub fn len(&self) -> usize {
        usize::try_from(self.put - self.written).unwrap_or(usize::MAX)
    }

    /// Whether the kernel has everything.
    pub fn is_empty(&self) -> bool {
        self.put == self.written
    }

    /// The position after the last byte put.
    pub fn end(&self) -> u64 {
        self.put
    }

    /// The position after the last byte the kernel took.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Offers what is left to `write`, once, and drops what it took.
    ///
    /// # Errors
    /// Those of `write`; nothing is dropped then.
    pub fn write_once<E>(
        &mut self,
        write: impl FnOnce(&[IoSlice<'_>]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let taken = if self.pieces.is_empty() {
            write(&[IoSlice::new(&self.tail)])?
        } else {
            self.close_tail();
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
                *slice = IoSlice::new(&piece.bytes);
                count += 1;
            }
            write(&slices[..count])?
        };
        self.drop_front(taken);
        Ok(taken)
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let bytes = self.tail.split().freeze();
            self.pieces.push_back(Piece { bytes, _charge: Charge::none() });
        }
    }

    fn drop_front(&mut self, mut count: usize) {
        self.written += count as u64;
        while let Some(front) = self.pieces.front_mut() {
            if count < front.bytes.len() {
                return front.bytes.advance(count);
            }
            count -= front.bytes.len();
            self.pieces.pop_front();
        }
        self.tail.advance(count);
        if self.tail.is_empty() {
            give_back(std::mem::take(&mut self.tail));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    fn drain(out: &mut Output, step: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while !out.is_empty() {
            let wrote = out.write_once(|slices| {
                let flat: Vec<u8> = slices.iter().flat_map(|s| s.iter().copied()).collect();
                let n = flat.len().min(step);
                all.extend_from_slice(&flat[..n]);
                Ok::<_, Infallible>(n)
            });
            assert_ne!(wrote, Ok(0), "nothing offered although {} bytes are left", out.len());
        }
        all
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            sizes in prop::collection::vec((prop_oneof![0usize..50, 4000usize..9000], any::<bool>()), 0..20),
            step in 50usize..20_000,
        ) {
            let mut out = Output::new();
            let mut expected = Vec::new();
            for (n, (size, owned)) in sizes.into_iter().enumerate() {
                let piece: Vec<u8> = (0..size).map(|i| ((i * 31 + n) % 251).try_into().unwrap_or(0)).collect();
                expected.extend_from_slice(&piece);
                if owned { out.put_bytes(piece.into(), Charge::none()) } else { out.put(&piece) }
                prop_assert_eq!(out.end(), expected.len() as u64);
            }
            prop_assert_eq!(out.len(), expected.len());
            prop_assert_eq!(drain(&mut out, step), expected);
            prop_assert_eq!(out.written(), out.end());
        }
    }

    #[test]
    fn what_another_has_left_is_appended() {
        let (mut out, mut other) = (Output::new(), Output::new());
        out.put(b"a");
        other.put(b"gone,");
        assert_eq!(other.write_once(|_| Ok::<_, Infallible>(5)), Ok(5));
        other.put(b"b");
        other.put_bytes(vec![b'c'; COPY_BELOW].into(), Charge::none());
        out.append(&mut other);
        assert!(other.is_empty());
        assert_eq!(drain(&mut out, 100), [&b"ab"[..], &[b'c'; COPY_BELOW]].concat());
    }

    #[test]
    fn a_failed_write_drops_nothing() {
        let mut out = Output::new();
        out.put(b"abc");
        assert_eq!(out.write_once(|_| Err("no")), Err("no"));
        assert_eq!(drain(&mut out, 1), b"abc");
    }

    #[test]
    fn what_is_kept_for_the_next_output_is_of_one_size() {
        let mut out = Output::new();
        out.put(&vec![0; 1 << 20]);
        drain(&mut out, 1 << 21);
        let kept = SPARES.with_borrow(|spares| spares.iter().map(BytesMut::capacity).max());
        assert!(kept.is_none_or(|kept| kept <= GATHER), "{kept:?} bytes");
    }
}
