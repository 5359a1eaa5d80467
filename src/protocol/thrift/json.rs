//! `TJSONProtocol`: `[1,"name",kind,seqid,{...}]`, its envelope and its end.
//!
//! Invariant: each byte is looked at once for the end of a message. Whether what is between the brackets is good
//! Thrift is left to the server: nobody shares its connection meanwhile.

use smallvec::SmallVec;

use super::envelope::{Cursor, Envelope, LONG, MAX_NAME, Stop};
use super::walk;
use crate::protocol::Malformed;

/// The envelope at the front of `message`.
pub(super) fn envelope(message: &[u8]) -> Result<Envelope, Stop> {
    let mut cursor = Cursor::new(message);
    expect(&mut cursor, b'[')?;
    expect(&mut cursor, b'1')?;
    expect(&mut cursor, b',')?;
    expect(&mut cursor, b'"')?;
    let start = cursor.at;
    loop {
        match cursor.byte()? {
            b'"' => break,
            b'\\' => drop(cursor.byte()?),
            _ => {}
        }
        if cursor.at - start > MAX_NAME + 1 {
            return Err(Stop::Bad(LONG));
        }
    }
    let name = start..cursor.at - 1;
    expect(&mut cursor, b',')?;
    skip_space(&mut cursor)?;
    let kind_at = cursor.at;
    let kind = cursor.byte()?.wrapping_sub(b'0');
    expect(&mut cursor, b',')?;
    skip_space(&mut cursor)?;
    let seqid = cursor.at;
    let number = number(&mut cursor)?;
    let seqid = seqid..cursor.at;
    expect(&mut cursor, b',')?;
    Ok(Envelope { kind, kind_at, name, seqid, number, is_old: false, end: cursor.at })
}

fn skip_space(cursor: &mut Cursor<'_>) -> Result<(), Stop> {
    while cursor.peek()?.is_ascii_whitespace() {
        cursor.byte()?;
    }
    Ok(())
}

fn expect(cursor: &mut Cursor<'_>, byte: u8) -> Result<(), Stop> {
    skip_space(cursor)?;
    if cursor.byte()? == byte { Ok(()) } else { Err(Stop::Bad("no JSON message of Thrift begins like this")) }
}

fn number(cursor: &mut Cursor<'_>) -> Result<i32, Stop> {
    let wrong = Stop::Bad("seqid of a JSON message is no number of 32 bits");
    let mut number: i64 = 0;
    let negative = cursor.peek()? == b'-';
    if negative {
        cursor.byte()?;
    }
    let start = cursor.at;
    while cursor.peek()?.is_ascii_digit() {
        number = number * 10 + i64::from(cursor.byte()? - b'0');
        if number > 1 << 31 {
            return Err(wrong);
        }
    }
    let signed = if negative { -number } else { number };
    i32::try_from(signed).ok().filter(|_| cursor.at > start).ok_or(wrong)
}

/// The search for the end of a message, from behind its envelope on.
#[derive(Debug)]
pub(super) struct Scan {
    /// Whether the bracket is a brace, for each that is open.
    open: SmallVec<[bool; 32]>,
    max_depth: usize,
    in_text: bool,
    escaped: bool,
}

impl Scan {
    /// Of a message whose first bracket is in its envelope, with so many structs and collections within each other.
    pub(super) fn new(max_depth: usize) -> Self {
        let open = SmallVec::from_slice(&[false]);
        // A struct has two brackets: its own and that of the field it is in.
        Self { open, max_depth: 2 * max_depth, in_text: false, escaped: false }
    }

    /// Goes on with `bytes`: after how many of them the message ends, if it does.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        for (index, byte) in bytes.iter().enumerate() {
            if self.in_text {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_text = false,
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => self.in_text = true,
                b'[' | b'{' => self.enter(*byte == b'{')?,
                b']' | b'}' => {
                    self.leave(*byte == b'}')?;
                    if self.open.is_empty() {
                        return Ok(Some(index + 1));
                    }
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn enter(&mut self, brace: bool) -> Result<(), Malformed> {
        if self.open.len() == self.max_depth {
            return Err(Malformed::Invalid(walk::DEEP));
        }
        self.open.push(brace);
        Ok(())
    }

    fn leave(&mut self, brace: bool) -> Result<(), Malformed> {
        if self.open.pop() == Some(brace) {
            Ok(())
        } else {
            Err(Malformed::Invalid("brackets of a JSON message do not match"))
        }
    }
}
