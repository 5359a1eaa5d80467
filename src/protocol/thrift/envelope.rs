//! What stands before the arguments of a message: its kind, its name and its seqid, in each encoding.
//!
//! Invariant: an envelope is read, and rebuilt only to make an old one strict or back; else a change is made in place, so
//! what a client wrote is what it gets back. Specification: `thrift-binary-protocol.md`, `thrift-compact-protocol.md`; JSON as its libraries write it.

use std::ops::Range;

use smallvec::SmallVec;

use super::json;
use super::settings::Encoding;
use super::walk::{VARINT, VARINT_32, VARINT_64};
use crate::frame;
use crate::protocol::Malformed;

/// The longest name in bytes.
pub(super) const MAX_NAME: usize = 1024;
/// No envelope is longer: a name and, at most, numbers and the white space of JSON.
pub(super) const MAX_ENVELOPE: usize = MAX_NAME + 256;

/// The kinds of message.
pub(super) const CALL: u8 = 1;
pub(super) const REPLY: u8 = 2;
pub(super) const EXCEPTION: u8 = 3;
pub(super) const ONEWAY: u8 = 4;

/// The first two bytes of a strict binary message.
pub(super) const STRICT: u32 = 0x8001;
/// The first byte of a compact message.
pub(super) const COMPACT: u8 = 0x82;
/// The version of compact messages, and the bits it takes; the kind is above.
const COMPACT_VERSION: u8 = 1;
const VERSION_BITS: u32 = 5;

/// An envelope. Places are bytes from the front of the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Envelope {
    pub(super) kind: u8,
    /// Where the kind stands: one byte.
    pub(super) kind_at: usize,
    pub(super) name: Range<usize>,
    /// Where the seqid stands.
    pub(super) seqid: Range<usize>,
    pub(super) number: i32,
    /// As binary messages were written before there were strict ones.
    pub(super) is_old: bool,
    /// Where the arguments begin.
    pub(super) end: usize,
}

/// Why there is no envelope.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// Not all of it is there.
    Short,
    Bad(&'static str),
}

impl Envelope {
    /// The envelope at the front of `message`; `None` if its end is not there yet.
    pub(super) fn read(encoding: Encoding, message: &[u8]) -> Result<Option<Self>, Malformed> {
        let read = match encoding {
            Encoding::Binary => binary(message),
            Encoding::Compact => compact(message),
            Encoding::Json => json::envelope(message),
        };
        match read {
            Ok(envelope) => Ok(Some(envelope)),
            Err(Stop::Short) if message.len() <= MAX_ENVELOPE => Ok(None),
            Err(Stop::Short) => Err(Malformed::Invalid(LONG)),
            Err(Stop::Bad(what)) => Err(Malformed::Invalid(what)),
        }
    }
}

/// Why a name is none.
pub(super) const LONG: &str = "name of a method over 1024 bytes";

/// A position in bytes of which there may be too few.
#[derive(Debug)]
pub(super) struct Cursor<'b> {
    bytes: &'b [u8],
    pub(super) at: usize,
}

impl<'b> Cursor<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'b [u8], Stop> {
        let taken = self.bytes.get(self.at..self.at.saturating_add(count)).ok_or(Stop::Short)?;
        self.at += count;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        Ok(self.take(1)?[0])
    }

    pub(super) fn peek(&self) -> Result<u8, Stop> {
        self.bytes.get(self.at).copied().ok_or(Stop::Short)
    }

    fn be32(&mut self) -> Result<u32, Stop> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A varint of at most `most` bytes.
    pub(super) fn varint(&mut self, most: u8) -> Result<u64, Stop> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let most = usize::from(most);
        let (rest, is_cut) = (&rest[..rest.len().min(most)], rest.len() >= most);
        let short = if is_cut { Stop::Bad(VARINT) } else { Stop::Short };
        let (number, size) = frame::varint(rest).map_err(|_| Stop::Bad(VARINT))?.ok_or(short)?;
        self.at += size;
        Ok(number)
    }

    /// The place of a name of `size` bytes.
    fn name(&mut self, size: u64) -> Result<Range<usize>, Stop> {
        let size = usize::try_from(size).ok().filter(|size| *size <= MAX_NAME).ok_or(Stop::Bad(LONG))?;
        let start = self.at;
        self.take(size)?;
        Ok(start..self.at)
    }
}

fn binary(message: &[u8]) -> Result<Envelope, Stop> {
    let mut cursor = Cursor::new(message);
    let first = cursor.be32()?;
    let (name, kind_at) = if first >> 16 == STRICT {
        let size = cursor.be32()?;
        (cursor.name(size.into())?, 3)
    } else if first >> 31 == 1 {
        return Err(Stop::Bad("version of a binary message is not 1"));
    } else {
        let name = cursor.name(first.into())?;
        cursor.take(1)?;
        (name, cursor.at - 1)
    };
    let start = cursor.at;
    let number = cursor.be32()?.cast_signed();
    let end = cursor.at;
    let is_old = first >> 16 != STRICT;
    Ok(Envelope { kind: message[kind_at], kind_at, name, seqid: start..end, number, is_old, end })
}

fn compact(message: &[u8]) -> Result<Envelope, Stop> {
    let mut cursor = Cursor::new(message);
    if cursor.byte()? != COMPACT {
        return Err(Stop::Bad("no compact message begins like this"));
    }
    let second = cursor.byte()?;
    if second & ((1 << VERSION_BITS) - 1) != COMPACT_VERSION {
        return Err(Stop::Bad("version of a compact message is not 1"));
    }
    let start = cursor.at;
    // Some libraries write negative numbers as ones of 64 bits.
    #[expect(clippy::cast_possible_truncation, reason = "the low 32 bits are the number")]
    let number = (cursor.varint(VARINT_64)? as u32).cast_signed();
    let seqid = start..cursor.at;
    let size = cursor.varint(VARINT_32)?;
    let name = cursor.name(size)?;
    let (kind, end) = (second >> VERSION_BITS, cursor.at);
    Ok(Envelope { kind, kind_at: 1, name, seqid, number, is_old: false, end })
}

/// Bytes of a seqid.
pub(super) type Seqid = SmallVec<[u8; 11]>;

/// `number` as a seqid.
pub(super) fn seqid(encoding: Encoding, number: i32) -> Seqid {
    match encoding {
        Encoding::Binary => number.to_be_bytes().as_slice().into(),
        Encoding::Compact => {
            let mut bytes = Seqid::new();
            put_varint(number.cast_unsigned(), |byte| bytes.push(byte));
            bytes
        }
        Encoding::Json => number.to_string().as_bytes().into(),
    }
}

/// The byte at `kind_at` that says `kind`.
pub(super) fn kind_byte(encoding: Encoding, kind: u8) -> u8 {
    match encoding {
        Encoding::Binary => kind,
        Encoding::Compact => kind << VERSION_BITS | COMPACT_VERSION,
        Encoding::Json => b'0' + kind,
    }
}

/// Writes `number` as a varint.
pub(super) fn put_varint(mut number: u32, mut put: impl FnMut(u8)) {
    while number > 0x7f {
        put(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    put(number.to_le_bytes()[0]);
}

/// What stands before the seqid of a binary message.
pub(super) fn binary_front(is_old: bool, kind: u8, name: &[u8]) -> Vec<u8> {
    let size = u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes();
    if is_old {
        return [&size[..], name, &[kind]].concat();
    }
    [&(STRICT << 16 | u32::from(kind)).to_be_bytes()[..], &size, name].concat()
}

/// A whole envelope, strict where that makes a difference.
pub(super) fn write(encoding: Encoding, kind: u8, name: &[u8], number: i32) -> Vec<u8> {
    match encoding {
        Encoding::Binary => [&binary_front(false, kind, name)[..], &number.to_be_bytes()].concat(),
        Encoding::Compact => {
            let mut bytes = vec![COMPACT, kind_byte(encoding, kind)];
            bytes.extend_from_slice(&seqid(encoding, number));
            put_varint(u32::try_from(name.len()).unwrap_or(u32::MAX), |byte| bytes.push(byte));
            bytes.extend_from_slice(name);
            bytes
        }
        Encoding::Json => {
            [b"[1,\"", name, b"\",", &[kind_byte(encoding, kind), b','], &seqid(encoding, number), b","]
                .concat()
        }
    }
}
