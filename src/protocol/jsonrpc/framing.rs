//! Cuts a stream into JSON values, and writes values into one.
//!
//! Invariant: what is cut out is one value in UTF-8, its end found without looking at a byte twice; where a header
//! says how long a message is, it is believed only within bounds. Used by both halves.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem::Finder;

use super::scan::{Rules, Scan, Seen, is_space};
use super::settings::Framing;
use crate::frame::DelimiterScan;
use crate::protocol::{Malformed, Need};
use crate::wire::{Charge, Output};

/// The longest header in bytes, its empty line included.
pub(super) const MAX_HEADER: usize = 1024;

/// Ends a header.
static EMPTY_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// Cuts one stream.
#[derive(Debug)]
pub(super) struct Cutter {
    framing: Framing,
    rules: Rules,
    max_message: usize,
    scan: Scan,
    /// Bytes that were scanned.
    scanned: usize,
    header: DelimiterScan,
    /// Where the body is, once its header was read.
    body: Option<Range<usize>>,
}

/// What is at the front of a stream.
#[derive(Debug)]
pub(super) enum Cut {
    /// A value. To be followed by [`Cutter::drop_front`] of its `end`.
    Value {
        /// Where it is.
        json: Range<usize>,
        /// What it has in it.
        seen: Seen,
        /// Where what belongs to it ends.
        end: usize,
    },
    /// What should be a value and is none, although what follows `end` can be understood.
    Broken {
        /// What is wrong with it.
        reason: &'static str,
        /// Where it ends.
        end: usize,
    },
    /// Not a whole message yet.
    More(Need),
}

impl Cutter {
    pub(super) fn new(framing: Framing, max_message: usize, rules: Rules) -> Self {
        let (scan, header) = (Scan::new(rules), DelimiterScan::default());
        Self { framing, rules, max_message, scan, scanned: 0, header, body: None }
    }

    /// What is at the front of `input`.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Cut, Malformed> {
        match self.framing {
            Framing::Line => self.next_value(input),
            Framing::ContentLength => self.next_body(input),
        }
    }

    /// Takes the message that was at the front off `input`, and the white space that ends it.
    pub(super) fn drop_front(&mut self, input: &mut BytesMut, end: usize) {
        input.advance(self.whole(input, end));
    }

    /// The length of the message at the front of `input`, which ends there or with the white space behind.
    pub(super) fn whole(&self, input: &[u8], end: usize) -> usize {
        let end = end.min(input.len());
        if self.framing == Framing::Line { end + spaces(&input[end..]) } else { end }
    }

    fn next_value(&mut self, input: &mut BytesMut) -> Result<Cut, Malformed> {
        if self.scanned == 0 {
            drop_space(input);
        }
        let front = &input[..input.len().min(self.max_message)];
        let Some(more) = self.scan.feed(&front[self.scanned..]).map_err(Malformed::Invalid)? else {
            if front.len() == self.max_message {
                return Err(Malformed::TooLarge(front.len() as u64 + 1));
            }
            self.scanned = front.len();
            return Ok(Cut::More(Need::Unknown));
        };
        let end = self.scanned + more;
        let seen = self.scan.seen();
        (self.scan, self.scanned) = (Scan::new(self.rules), 0);
        Ok(self.value(front, 0..end, seen, end))
    }

    fn next_body(&mut self, input: &[u8]) -> Result<Cut, Malformed> {
        if self.body.is_none() {
            self.body = self.read_header(input)?;
        }
        let Some(Range { start, end }) = self.body else { return Ok(Cut::More(Need::Unknown)) };
        let Some(body) = input.get(start..end) else { return Ok(Cut::More(Need::Total(end))) };
        self.body = None;
        let start = start + spaces(body);
        let mut scan = Scan::new(self.rules);
        // A number ends only where something else begins.
        let found = scan.feed(&input[start..end]).and_then(|found| match found {
            None => scan.feed(b" ").map(|over| over.map(|_| end - start)),
            found => Ok(found),
        });
        Ok(match found {
            Ok(Some(length)) if start + length + spaces(&input[start + length..end]) == end => {
                self.value(input, start..start + length, scan.seen(), end)
            }
            Ok(_) => Cut::Broken { reason: NOT_ONE, end },
            Err(reason) => Cut::Broken { reason, end },
        })
    }

    fn value(&self, input: &[u8], json: Range<usize>, seen: Seen, end: usize) -> Cut {
        if self.rules.strict && std::str::from_utf8(&input[json.clone()]).is_err() {
            return Cut::Broken { reason: NOT_UTF8, end };
        }
        Cut::Value { json, seen, end }
    }

    /// Where the body is; `None` if the header is not there yet.
    fn read_header(&mut self, input: &[u8]) -> Result<Option<Range<usize>>, Malformed> {
        let front = &input[..input.len().min(MAX_HEADER)];
        if matches!(front, [b'{' | b'[', ..]) {
            return Err(Malformed::Invalid(NO_HEADER));
        }
        let Some(start) = self.header.end(&EMPTY_LINE, front) else {
            let too_long = front.len() == MAX_HEADER;
            return if too_long { Err(Malformed::Invalid(LONG_HEADER)) } else { Ok(None) };
        };
        let length =
            content_length(&front[..start - EMPTY_LINE.needle().len()]).map_err(Malformed::Invalid)?;
        let end = length.saturating_add(start as u64);
        match usize::try_from(end).ok().filter(|end| *end <= self.max_message) {
            Some(end) => Ok(Some(start..end)),
            None => Err(Malformed::TooLarge(end)),
        }
    }
}

const NOT_ONE: &str = "not JSON, or not one value";
const NOT_UTF8: &str = "not UTF-8";
const NO_HEADER: &str = "JSON without a header";
const LONG_HEADER: &str = "a header without an end";

/// What the header says of the length of the body (Language Server Protocol, "Header Part").
fn content_length(header: &[u8]) -> Result<u64, &'static str> {
    let mut length = None;
    let header = std::str::from_utf8(header)
        .ok()
        .filter(|header| header.is_ascii())
        .ok_or("a header that is not ASCII")?;
    for field in header.split("\r\n") {
        let (name, value) = field.split_once(':').ok_or("a header line without a colon")?;
        let value = value.trim_matches([' ', '\t']);
        if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
            let number = value.parse().ok().filter(|_| digits).ok_or("a Content-Length that is no number")?;
            if length.replace(number).is_some() {
                return Err("two Content-Lengths");
            }
        } else if name.eq_ignore_ascii_case("content-type") && !is_utf8(value) {
            return Err("a Content-Type with another charset than UTF-8");
        }
    }
    length.ok_or("a header without Content-Length")
}

/// Whether the media type `value` leaves the charset out or has the only one there is, however it is spelled.
fn is_utf8(value: &str) -> bool {
    let charset = |it: &str| {
        let (name, value) = it.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("charset")
            .then(|| value.trim().trim_matches('"').to_ascii_lowercase())
    };
    value.split(';').filter_map(charset).all(|charset| matches!(&*charset, "utf-8" | "utf8"))
}

/// Writes one message: the pieces of `front`, then what is `from` some place on in `rest`, which is shared where
/// that is cheaper and holds `charge` until it is written.
pub(super) fn put(
    framing: Framing,
    front: &[&[u8]],
    (rest, from): (&Bytes, usize),
    charge: &Charge,
    out: &mut Output,
) {
    let front_length: usize = front.iter().map(|piece| piece.len()).sum();
    let (before, after) = around(framing, front_length + rest.len() - from);
    out.put(before.as_bytes());
    for piece in front {
        out.put(piece);
    }
    out.put_shared(rest, from, charge);
    out.put(after);
}

/// `json` as one message.
pub(super) fn framed(framing: Framing, json: &[u8]) -> Bytes {
    let (before, after) = around(framing, json.len());
    [before.as_bytes(), json, after].concat().into()
}

/// What stands before and after JSON of `length` bytes.
fn around(framing: Framing, length: usize) -> (String, &'static [u8]) {
    match framing {
        Framing::Line => (String::new(), b"\n"),
        Framing::ContentLength => (format!("Content-Length: {length}\r\n\r\n"), b""),
    }
}

fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|byte| is_space(**byte)).count()
}

fn drop_space(input: &mut BytesMut) {
    input.advance(spaces(input));
}
