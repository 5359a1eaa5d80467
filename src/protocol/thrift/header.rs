//! `THeaderTransport`: frames with a header of their own. Specification: `HeaderFormat.md`.
//!
//! Invariant: the header is read whole and within its bounds before its frame goes anywhere. Transforms are refused:
//! a message that is compressed cannot be told from others.

use std::ops::Range;

use super::envelope::{Cursor, Stop};
use super::settings::Encoding;
use super::walk::VARINT_32;

/// What follows the length of a frame with a header.
pub(super) const MAGIC: [u8; 2] = [0x0f, 0xff];
/// Length, magic, flags, seqid and size: what each header has.
pub(super) const FIXED: usize = 14;
/// Where the seqid stands.
pub(super) const SEQID: Range<usize> = 8..12;
/// The size of the rest is counted in words.
const WORD: usize = 4;
/// The longest rest in bytes.
const MAX_REST: usize = 16 * 1024;

/// Key-value pairs for this message alone. Others would be for those that follow on the same connection.
const PAIRS: u64 = 1;

/// What a header says. It is at the front of its frame, length included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) encoding: Encoding,
    /// Where the message begins.
    pub(super) end: usize,
    /// Carries nothing but the message.
    pub(super) is_plain: bool,
    /// The message is compressed or otherwise changed.
    pub(super) is_transformed: bool,
}

impl Header {
    /// The header at the front of `frame`.
    pub(super) fn read(frame: &[u8]) -> Result<Self, Stop> {
        let fixed = frame.get(..FIXED).ok_or(Stop::Short)?;
        if fixed[4..6] != MAGIC {
            return Err(Stop::Bad("frame without the magic of THeader"));
        }
        let size = usize::from(u16::from_be_bytes([fixed[12], fixed[13]])) * WORD;
        if size > MAX_REST {
            return Err(Stop::Bad("THeader of more than 16 KiB"));
        }
        let end = FIXED + size;
        let mut rest = Cursor::new(frame.get(FIXED..end).ok_or(Stop::Short)?);
        let header = Self::rest(&mut rest, size, end);
        header.map_err(|stop| match stop {
            Stop::Short => Stop::Bad("THeader that ends before its values do"),
            bad @ Stop::Bad(_) => bad,
        })
    }

    fn rest(rest: &mut Cursor<'_>, size: usize, end: usize) -> Result<Self, Stop> {
        let encoding = match rest.varint(VARINT_32)? {
            0 => Encoding::Binary,
            2 => Encoding::Compact,
            _ => return Err(Stop::Bad("THeader with a protocol that is neither binary nor compact")),
        };
        let is_transformed = rest.varint(VARINT_32)? > 0;
        let mut header = Self { encoding, end, is_plain: true, is_transformed };
        if is_transformed {
            return Ok(header);
        }
        while rest.at < size {
            match rest.varint(VARINT_32)? {
                // Padding up to the next word.
                0 => break,
                PAIRS => {
                    header.is_plain = false;
                    for _ in 0..rest.varint(VARINT_32)? {
                        text(rest)?;
                        text(rest)?;
                    }
                }
                _ => return Err(Stop::Bad("THeader with values that are no pairs for this message alone")),
            }
        }
        Ok(header)
    }
}

fn text(rest: &mut Cursor<'_>) -> Result<(), Stop> {
    let size = rest.varint(VARINT_32)?;
    rest.take(usize::try_from(size).unwrap_or(usize::MAX))?;
    Ok(())
}

/// The header of a message with nothing else in it, from the magic on.
pub(super) fn plain(encoding: Encoding, seqid: [u8; 4]) -> [u8; FIXED - 4 + WORD] {
    let protocol = if encoding == Encoding::Compact { 2 } else { 0 };
    let [a, b, c, d] = seqid;
    [MAGIC[0], MAGIC[1], 0, 0, a, b, c, d, 0, 1, protocol, 0, 0, 0]
}
