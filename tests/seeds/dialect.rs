//! The protocols of the simulation, as clients and servers speak them: written anew here, so that the
//! codecs of the proxy are not judged by themselves.
//!
//! Frames are: length of the whole (2 bytes), flags (1), id (0, 1, 2 or 4), body. The body of a request or
//! reply is its kind, nonce, length of the filling, and a filling that follows from the nonce, all printable.

use std::sync::Arc;

use bytes::Bytes;
use warmline::frame::Endian;
use warmline::protocol::frame::{Condition, Field, Frame, Heartbeat, Length, Size, Template};
use warmline::protocol::{Protocol, frame, line};

/// The longest message of the proxy, in bytes.
pub(crate) const MAX_MESSAGE: usize = 12 * 1024;
/// The bytes of a body before its filling.
pub(crate) const PREFIX: usize = 21;

pub(crate) const ONEWAY: u8 = 1;
pub(crate) const HEARTBEAT: u8 = 2;
pub(crate) const CLOSING: u8 = 4;
/// The answer to a heartbeat.
pub(crate) const PONG: u8 = 0x40;
/// What the proxy says where there is no reply.
pub(crate) const ERROR: u8 = 0x80;

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Frames whose id takes so many bytes; 0 = without one.
    Frame { id: usize },
    /// Lines; an error begins with `ERR `.
    Line,
}

/// A message taken apart.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) flags: u8,
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

impl Dialect {
    /// The proxy's protocol; without `words` it can tell a client only by closing.
    pub(crate) fn protocol(self, words: bool) -> Arc<dyn Protocol> {
        let Self::Frame { id } = self else {
            let error = words.then(|| Bytes::from_static(b"ERR {reason}\n"));
            let settings =
                line::Settings { error, max_message: MAX_MESSAGE, delimiter: Bytes::from_static(b"\n") };
            return Arc::new(line::Line::new(&settings).unwrap());
        };
        let length = Length { offset: 0, size: Size::Bytes(2), endian: Endian::Big, adjust: 0 };
        let bit = |flag| vec![Condition { offset: 2, mask: flag, equals: flag }];
        let own = |flag: u8| {
            let hole = if id > 0 { "{id}" } else { "" };
            Some(Template::parse(&format!("00 {:02x} {flag:02x} {hole} 21", 4 + id)).unwrap())
        };
        let mut settings = frame::Settings::new(length);
        if id > 0 {
            settings.id = Some(Field { offset: 3, size: id, endian: Endian::Big, avoid: vec![] });
        }
        settings.oneway = bit(ONEWAY);
        settings.closing = bit(CLOSING);
        settings.heartbeat =
            Some(Heartbeat { conditions: bit(HEARTBEAT), reply: own(PONG), is_request: false });
        settings.error = words.then(|| own(ERROR)).flatten();
        settings.max_message = MAX_MESSAGE;
        Arc::new(Frame::new(settings).unwrap())
    }

    /// The bytes of an id.
    fn width(self) -> usize {
        match self {
            Self::Frame { id } => id,
            Self::Line => 0,
        }
    }

    /// Whether messages carry an id.
    pub(crate) fn has_id(self) -> bool {
        self.width() > 0
    }

    /// The largest id.
    pub(crate) fn last_id(self) -> u64 {
        (1 << (8 * self.width())) - 1
    }

    /// Bytes before the body.
    pub(crate) fn header(self) -> usize {
        match self {
            Self::Frame { id } => 3 + id,
            Self::Line => 0,
        }
    }

    pub(crate) fn encode(self, flags: u8, id: u64, body: &[u8]) -> Vec<u8> {
        match self {
            Self::Line => [body, b"\n"].concat(),
            Self::Frame { id: width } => {
                let length = u16::try_from(3 + width + body.len()).unwrap();
                [&length.to_be_bytes()[..], &[flags], &id.to_be_bytes()[8 - width..], body].concat()
            }
        }
    }

    /// Takes a message off the front of `input`, if it is there whole.
    pub(crate) fn cut(self, input: &mut Vec<u8>) -> Result<Option<Message>, String> {
        let Self::Frame { id: width } = self else {
            let Some(end) = input.iter().position(|b| *b == b'\n') else { return Ok(None) };
            let mut body: Vec<u8> = input.drain(..=end).collect();
            body.pop();
            let flags = if body.starts_with(b"ERR ") { ERROR } else { 0 };
            return Ok(Some(Message { flags, id: 0, body }));
        };
        let Some(length) = input.first_chunk().map(|l| usize::from(u16::from_be_bytes(*l))) else {
            return Ok(None);
        };
        if length < 3 + width || length > MAX_MESSAGE {
            return Err(format!("a frame of {length} bytes"));
        }
        if input.len() < length {
            return Ok(None);
        }
        let frame: Vec<u8> = input.drain(..length).collect();
        let id = frame[3..3 + width].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
        Ok(Some(Message { flags: frame[2], id, body: frame[3 + width..].to_vec() }))
    }

    /// The id and nonce of the request that `input` begins with, as soon as they can be seen.
    pub(crate) fn peek(self, input: &[u8]) -> Option<(u64, u64)> {
        let header = self.header();
        let (kind, digits) = (input.get(header)?, input.get(header + 1..header + 17)?);
        let nonce = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        let id = input.get(3..header).unwrap_or_default().iter().fold(0, |id, b| id << 8 | u64::from(*b));
        (*kind == b'Q').then_some((id, nonce))
    }

    /// Bytes that are no message, whatever they are taken for.
    pub(crate) fn nonsense(self) -> Vec<u8> {
        match self {
            Self::Line => vec![b'x'; MAX_MESSAGE + 1],
            Self::Frame { .. } => vec![0; 8],
        }
    }

    /// The front of a message that is too large, enough to know its id.
    pub(crate) fn too_large(self, id: u64) -> Vec<u8> {
        match self {
            Self::Line => vec![b'x'; MAX_MESSAGE + 1],
            Self::Frame { id: width } => [&[0xff, 0xff, 0], &id.to_be_bytes()[8 - width..]].concat(),
        }
    }
}

/// The body of the request (`Q`), reply (`R`) or stray message (`U`) called `nonce`.
pub(crate) fn body(kind: u8, nonce: u64, filling: usize) -> Vec<u8> {
    let mut body = format!("{}{nonce:016x}{filling:04x}", char::from(kind)).into_bytes();
    body.extend((0..filling as u64).map(|at| letter(nonce, at)));
    body
}

fn letter(nonce: u64, at: u64) -> u8 {
    b'a' + u8::try_from((nonce ^ at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 26).unwrap()
}

/// The kind and nonce of a body, if every byte of it is as it must be.
pub(crate) fn read_body(found: &[u8]) -> Result<(u8, u64), String> {
    let broken = || format!("a broken body: \"{}\"", found[..found.len().min(40)].escape_ascii());
    let text = std::str::from_utf8(found.get(1..PREFIX).ok_or_else(broken)?).map_err(|_| broken())?;
    let nonce = u64::from_str_radix(&text[..16], 16).map_err(|_| broken())?;
    let filling = usize::from_str_radix(&text[16..], 16).map_err(|_| broken())?;
    if body(found[0], nonce, filling) == found { Ok((found[0], nonce)) } else { Err(broken()) }
}
