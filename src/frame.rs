//! Helpers shared by protocols: numbers in a header, where a delimiter ends, a message off the front.
//!
//! Invariant: nothing here panics on foreign bytes or looks at a byte twice (a delimiter's own length apart).
//! Called by the files of `protocol`.

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

/// Takes `count` bytes off the front of `input`, which has as many. A message that fills its buffer, as most do,
/// takes it along: to share it would cost an allocation.
pub fn take(input: &mut BytesMut, count: usize) -> Bytes {
    if count == input.capacity() { std::mem::take(input).freeze() } else { input.split_to(count).freeze() }
}

/// The longest varint: 64 bits, 7 to a byte.
pub const MAX_VARINT: usize = 10;

/// The order of the bytes of a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Endian {
    /// The most significant byte first, as most protocols have it.
    #[default]
    Big,
    /// The least significant byte first.
    Little,
}

impl Endian {
    /// The unsigned number in `field`, of which only the low 64 bits are kept.
    pub fn read(self, field: &[u8]) -> u64 {
        let add = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        match self {
            Self::Big => field.iter().fold(0, add),
            Self::Little => field.iter().rev().fold(0, add),
        }
    }

    /// Fills `field` with the low bytes of `number`.
    pub fn write(self, number: u64, field: &mut [u8]) {
        let bytes = number.to_le_bytes().into_iter().chain(std::iter::repeat(0));
        match self {
            Self::Big => field.iter_mut().rev().zip(bytes).for_each(|(to, byte)| *to = byte),
            Self::Little => field.iter_mut().zip(bytes).for_each(|(to, byte)| *to = byte),
        }
    }
}

/// A varint of more than 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlong;

/// The unsigned varint (LEB128, as in protobuf) at the front of `bytes`, and how many bytes it takes;
/// `None` if its end is not there yet.
pub fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Overlong> {
    let mut number = 0;
    for (index, byte) in bytes.iter().take(MAX_VARINT).enumerate() {
        // The tenth byte has room for one bit, and there is no eleventh.
        if index == MAX_VARINT - 1 && *byte > 1 {
            return Err(Overlong);
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((number, index + 1)));
        }
    }
    Ok(None)
}

/// The search for a delimiter in bytes that come piece by piece.
#[derive(Clone, Debug, Default)]
pub struct DelimiterScan {
    /// Bytes at the front in which no delimiter ends.
    clean: usize,
}

impl DelimiterScan {
    /// Where the first delimiter in `bytes` ends. Until one is found, `bytes` may only grow at its end;
    /// after that the next search starts at the front.
    pub fn end(&mut self, delimiter: &Finder<'_>, bytes: &[u8]) -> Option<usize> {
        let width = delimiter.needle().len();
        // A delimiter may have begun in the last bytes of what is clean.
        let start = self.clean.saturating_sub(width.saturating_sub(1)).min(bytes.len());
        let found = delimiter.find(&bytes[start..]).map(|at| start + at + width);
        self.clean = if found.is_some() { 0 } else { bytes.len() };
        found
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_of_every_width() {
        assert_eq!(Endian::Big.read(&[1, 2, 3]), 0x01_02_03);
        assert_eq!(Endian::Little.read(&[1, 2, 3]), 0x03_02_01);
        assert_eq!(Endian::Big.read(&[0xff; 8]), u64::MAX);
        let mut field = [9; 3];
        Endian::Big.write(0x0a0b_0c0d, &mut field);
        assert_eq!(field, [0x0b, 0x0c, 0x0d]);
        Endian::Little.write(0x0a0b_0c0d, &mut field);
        assert_eq!(field, [0x0d, 0x0c, 0x0b]);
    }

    #[test]
    fn varints() {
        let max = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
        assert_eq!(varint(&[]), Ok(None));
        assert_eq!(varint(&[0]), Ok(Some((0, 1))));
        assert_eq!(varint(&[0xac, 0x02, 0xff]), Ok(Some((300, 2))));
        assert_eq!(varint(&[0x80, 0x00]), Ok(Some((0, 2))));
        assert_eq!(varint(&max), Ok(Some((u64::MAX, 10))));
        assert_eq!(varint(&max[..9]), Ok(None));
        assert_eq!(varint(&[0xff; 11]), Err(Overlong));
        assert_eq!(varint(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02]), Err(Overlong));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(number: u64, width in 1usize..=8, big: bool) {
            let endian = if big { Endian::Big } else { Endian::Little };
            let mut field = [0; 8];
            endian.write(number, &mut field[..width]);
            prop_assert_eq!(endian.read(&field[..width]), number & (u64::MAX >> (64 - 8 * width)));
        }

        #[test]
        fn a_delimiter_is_found_however_the_bytes_come(
            bytes in prop::collection::vec(0u8..3, 0..60),
            needle in prop::collection::vec(0u8..3, 1..5),
            step in 1usize..8,
        ) {
            let expected = bytes.windows(needle.len()).position(|w| w == needle).map(|at| at + needle.len());
            let (finder, mut scan) = (Finder::new(&needle), DelimiterScan::default());
            let mut cuts = (0..bytes.len()).step_by(step).chain([bytes.len()]);
            prop_assert_eq!(cuts.find_map(|to| scan.end(&finder, &bytes[..to])), expected);
        }
    }
}
