//! Finds the end of the arguments of a message by walking through them; nothing is built.
//!
//! Invariant: each byte is looked at once, in whatever pieces it comes; the work is bounded by the bytes there are,
//! the memory by how deep it may be. What is declared longer than the message may be is refused where it is declared.

use smallvec::SmallVec;

use super::json;
use super::settings::Encoding;
use crate::protocol::Malformed;

/// How deep values may be within each other in a request, from its arguments down to a number or text. The libraries
/// skip no deeper, and what a server stops at would end the connection for all who share it.
pub(super) const MAX_DEPTH: usize = 64;
/// The same in a reply: its client reads it, and may do so as deep as its types go.
pub(super) const MAX_REPLY_DEPTH: usize = 1000;

/// Why a message is refused that is deeper.
pub(super) const DEEP: &str = "values too deep within each other";
const TYPE: &str = "type that Thrift does not have";
const LENGTH: &str = "length below 0 or above 2^31 - 1";
pub(super) const VARINT: &str = "varint longer than its type takes";

/// The most bytes of varints of 16, 32 and 64 bits. Of longer ones libraries read as many, and stop.
const VARINT_16: u8 = 3;
pub(super) const VARINT_32: u8 = 5;
pub(super) const VARINT_64: u8 = 10;

/// A value yet to be walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// So many bytes; none where the type says it all.
    Fixed(u8),
    /// Of so many bytes at most.
    Varint(u8),
    Text,
    Struct,
    List,
    Map,
}

/// What is open around the present place.
#[derive(Clone, Copy, Debug)]
enum Level {
    Struct,
    /// So many values are left of a collection. Those of a map alternate: its keys come at even numbers.
    Values {
        key: Value,
        value: Value,
        left: u64,
    },
}

/// What the next bytes are.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next value of the innermost level, or its end.
    Next,
    /// A field, or the end of a struct.
    Field,
    /// The long form of a compact field's id.
    FieldId(Value),
    /// A varint of so many bytes at most, of which only the end matters.
    Number(u8),
    Value(Value),
    TextLength,
    ListHead,
    ListCount(u8),
    MapHead,
    /// The count of a binary map with these types.
    MapCount(u8, u8),
    /// The types of a compact map of so many.
    MapTypes(u64),
}

/// How a number is written.
#[derive(Clone, Copy, Debug)]
enum Width {
    Big(u8),
    /// Of so many bytes at most.
    Varint(u8),
}

/// The walk through one message.
#[derive(Debug)]
pub(super) struct Walk {
    way: Way,
    /// Bytes that it may still have.
    left: u64,
    /// What it is if it has more.
    over: Malformed,
}

#[derive(Debug)]
enum Way {
    Fields(Fields),
    Json(json::Scan),
}

impl Walk {
    /// Of a message at most `max_depth` deep and with at most `left` bytes behind its envelope; one that has more is
    /// `over`.
    pub(super) fn new(encoding: Encoding, max_depth: usize, left: u64, over: Malformed) -> Self {
        let way = match encoding {
            Encoding::Binary => Way::Fields(Fields::new(false, max_depth)),
            Encoding::Compact => Way::Fields(Fields::new(true, max_depth)),
            Encoding::Json => Way::Json(json::Scan::new(max_depth)),
        };
        Self { way, left, over }
    }

    /// Goes on with `bytes`: after how many of them the message ends, if it does.
    ///
    /// # Errors
    /// If it cannot be a message, or has more bytes than it may.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        let allowed = usize::try_from(self.left).map_or(bytes, |left| &bytes[..bytes.len().min(left)]);
        let end = match &mut self.way {
            Way::Json(scan) => scan.feed(allowed)?,
            Way::Fields(fields) => fields.feed(allowed, self.left, self.over)?,
        };
        self.left -= end.unwrap_or(allowed.len()) as u64;
        if end.is_none() && self.left == 0 { Err(self.over) } else { Ok(end) }
    }
}

/// The walk through binary or compact fields.
#[derive(Debug)]
struct Fields {
    compact: bool,
    max_depth: usize,
    stack: SmallVec<[Level; 8]>,
    step: Step,
    /// Bytes without a meaning here.
    skip: u64,
    /// What the last number declares: so many bytes follow it at least.
    declared: u64,
    /// The number that is being read, and how many of its bytes were there.
    number: u64,
    digits: u8,
}

impl Fields {
    fn new(compact: bool, max_depth: usize) -> Self {
        let stack = SmallVec::from_slice(&[Level::Struct]);
        Self { compact, max_depth, stack, step: Step::Field, skip: 0, declared: 0, number: 0, digits: 0 }
    }

    /// The least bytes that a value has.
    fn least(&self, value: Value) -> u64 {
        match value {
            Value::Fixed(size) => size.into(),
            Value::Text if !self.compact => 4,
            Value::List if !self.compact => 5,
            Value::Map if !self.compact => 6,
            _ => 1,
        }
    }

    /// Goes on with `bytes`, the first of `left` that there may be; what is declared longer is `over`.
    fn feed(&mut self, mut bytes: &[u8], left: u64, over: Malformed) -> Result<Option<usize>, Malformed> {
        let all = bytes.len();
        loop {
            let skipped = usize::try_from(self.skip).map_or(bytes.len(), |skip| skip.min(bytes.len()));
            self.skip -= skipped as u64;
            bytes = &bytes[skipped..];
            if self.skip > 0 {
                return Ok(None);
            }
            if matches!(self.step, Step::Next) {
                if self.stack.is_empty() {
                    return Ok(Some(all - bytes.len()));
                }
                self.next();
            } else if let Step::Value(value) = self.step {
                self.enter(value)?;
            } else {
                let Some(number) = self.read(&mut bytes)? else { return Ok(None) };
                self.step(number)?;
                if self.declared > left - (all - bytes.len()) as u64 {
                    return Err(over);
                }
            }
        }
    }

    /// The number that the present step begins with; `None` if its last byte is not there.
    fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<u64>, Malformed> {
        let width = self.width();
        while let Some((byte, rest)) = bytes.split_first() {
            *bytes = rest;
            let done = match width {
                Width::Big(size) => {
                    self.number = self.number << 8 | u64::from(*byte);
                    self.digits + 1 == size
                }
                Width::Varint(most) => {
                    let digits = self.digits + 1;
                    if (digits == most && *byte > 0x7f) || (digits == VARINT_64 && *byte > 1) {
                        return Err(Malformed::Invalid(VARINT));
                    }
                    self.number |= u64::from(byte & 0x7f) << (7 * self.digits);
                    byte & 0x80 == 0
                }
            };
            self.digits += 1;
            if done {
                self.digits = 0;
                return Ok(Some(std::mem::take(&mut self.number)));
            }
        }
        Ok(None)
    }

    fn width(&self) -> Width {
        match self.step {
            Step::TextLength | Step::ListCount(_) | Step::MapCount(..) if !self.compact => Width::Big(4),
            Step::MapHead if !self.compact => Width::Big(2),
            Step::TextLength | Step::ListCount(_) | Step::MapHead => Width::Varint(VARINT_32),
            Step::FieldId(_) => Width::Varint(VARINT_16),
            Step::Number(most) => Width::Varint(most),
            _ => Width::Big(1),
        }
    }

    /// The next value of what is innermost, or its end.
    fn next(&mut self) {
        self.step = match self.stack.last_mut() {
            Some(Level::Struct) => Step::Field,
            Some(Level::Values { key, value, left }) if *left > 0 => {
                *left -= 1;
                Step::Value(if *left % 2 == 1 { *key } else { *value })
            }
            Some(Level::Values { .. }) | None => {
                self.stack.pop();
                Step::Next
            }
        };
    }

    fn enter(&mut self, value: Value) -> Result<(), Malformed> {
        self.check_depth(0)?;
        self.step = match value {
            Value::Fixed(size) => {
                self.skip = size.into();
                Step::Next
            }
            Value::Varint(most) => Step::Number(most),
            Value::Text => Step::TextLength,
            Value::List => Step::ListHead,
            Value::Map => Step::MapHead,
            Value::Struct => {
                self.stack.push(Level::Struct);
                Step::Field
            }
        };
        Ok(())
    }

    /// Whether a value may be here, so many levels below the innermost that is open.
    fn check_depth(&self, below: usize) -> Result<(), Malformed> {
        if self.stack.len() + below < self.max_depth { Ok(()) } else { Err(Malformed::Invalid(DEEP)) }
    }

    /// The present step, which begins with `number`.
    fn step(&mut self, number: u64) -> Result<(), Malformed> {
        let low = number.to_le_bytes()[0];
        self.declared = 0;
        self.step = match self.step {
            Step::Field => return self.field(low),
            Step::FieldId(value) => Step::Value(value),
            Step::Number(_) => Step::Next,
            Step::TextLength => {
                self.skip = length(number)?;
                self.declared = self.skip;
                Step::Next
            }
            Step::ListHead if !self.compact => Step::ListCount(low),
            Step::ListHead if low >> 4 == 15 => Step::ListCount(low & 0x0f),
            Step::ListHead => return self.collection(low & 0x0f, low & 0x0f, u64::from(low >> 4), 1),
            Step::ListCount(kind) => return self.collection(kind, kind, length(number)?, 1),
            Step::MapHead if !self.compact => Step::MapCount(number.to_le_bytes()[1], low),
            Step::MapHead if number == 0 => Step::Next,
            Step::MapHead => Step::MapTypes(length(number)?),
            Step::MapCount(key, value) => return self.collection(key, value, length(number)?, 2),
            Step::MapTypes(count) => return self.collection(low >> 4, low & 0x0f, count, 2),
            step @ (Step::Next | Step::Value(_)) => step,
        };
        Ok(())
    }

    fn field(&mut self, head: u8) -> Result<(), Malformed> {
        // The libraries look at the type alone.
        let kind = if self.compact { head & 0x0f } else { head };
        if kind == 0 {
            self.stack.pop();
            self.step = Step::Next;
        } else if self.compact {
            // The type of a boolean field is its value.
            let value = if matches!(kind, 1 | 2) { Value::Fixed(0) } else { compact(kind)? };
            self.step = if head >> 4 == 0 { Step::FieldId(value) } else { Step::Value(value) };
        } else {
            self.step = Step::Value(binary(kind)?);
            self.skip = 2;
        }
        Ok(())
    }

    /// A collection of `count` times `each` values.
    fn collection(&mut self, key: u8, value: u8, count: u64, each: u64) -> Result<(), Malformed> {
        self.step = Step::Next;
        // The types of what is empty may be anything.
        if count == 0 {
            return Ok(());
        }
        let of = if self.compact { compact } else { binary };
        let (key, value) = (of(key)?, of(value)?);
        let least = self.least(value) + if each == 1 { 0 } else { self.least(key) };
        self.declared = count * least;
        if matches!((key, value), (Value::Fixed(_), Value::Fixed(_))) {
            self.skip = self.declared;
            return self.check_depth(1);
        }
        self.stack.push(Level::Values { key, value, left: count * each });
        Ok(())
    }
}

fn length(number: u64) -> Result<u64, Malformed> {
    if number > i32::MAX as u64 { Err(Malformed::Invalid(LENGTH)) } else { Ok(number) }
}

/// The value of a type of the binary protocol.
fn binary(kind: u8) -> Result<Value, Malformed> {
    Ok(match kind {
        2 | 3 => Value::Fixed(1),
        4 | 10 => Value::Fixed(8),
        6 => Value::Fixed(2),
        8 => Value::Fixed(4),
        11 => Value::Text,
        12 => Value::Struct,
        13 => Value::Map,
        14 | 15 => Value::List,
        16 => Value::Fixed(16),
        _ => return Err(Malformed::Invalid(TYPE)),
    })
}

/// The value of a type of the compact protocol, in a collection.
fn compact(kind: u8) -> Result<Value, Malformed> {
    Ok(match kind {
        1..=3 => Value::Fixed(1),
        4 => Value::Varint(VARINT_16),
        5 => Value::Varint(VARINT_32),
        6 => Value::Varint(VARINT_64),
        7 => Value::Fixed(8),
        8 => Value::Text,
        9 | 10 => Value::List,
        11 => Value::Map,
        12 => Value::Struct,
        13 => Value::Fixed(16),
        _ => return Err(Malformed::Invalid(TYPE)),
    })
}
