//! How messages travel: each protocol of the tests as its clients and servers write it, and what a proxy may say in it
//! where there is no reply.
//!
//! A protocol joins by its variants here. Whoever writes says which side it is on; a reader can tell. Used by the
//! rig's server and load, and by the tests that speak for themselves.

mod frame;
mod json;
mod preset;
mod thrift;

use super::message::{Message, flags};

/// How messages are told apart on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wire {
    /// 16 bytes of header: length (4, of what follows the header), flags (1), zeros (3), id (8).
    Tagged,
    /// 8 bytes of header: as `Tagged`, without an id.
    Plain,
    /// 24 bytes of header: length (8), flags (1), zeros (7), id (8).
    Wide,
    /// Text up to a newline; an error starts with `ERR `.
    Line,
    /// Dubbo 2, whose body is the payload.
    Dubbo,
    /// SOFA Bolt 1, whose content is the payload.
    Bolt,
    /// Thrift's strict binary protocol in frames: a method with the payload for argument and result.
    ThriftBinary,
    /// Its compact protocol in frames.
    ThriftCompact,
    /// Its strict binary protocol without frames.
    ThriftBuffered,
    /// JSON-RPC 2.0, a line each: a method with the payload for argument and result. Written without the newline, which
    /// a message does not need, so that one byte less is never a whole one; read with it, as warmline writes it.
    JsonLine,
    /// The same, each with a header.
    JsonHeader,
}

/// Who writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// The longest payload the rig takes, in bytes.
const MAX_PAYLOAD: u64 = 64 << 20;

/// The method that everybody calls.
const METHOD: &str = "call";

/// Why there is no message.
enum Stop {
    /// It is not whole yet.
    Short,
    Bad(String),
}

impl Wire {
    /// Those that this rig has made up.
    pub(crate) fn is_own(self) -> bool {
        matches!(self, Self::Tagged | Self::Plain | Self::Wide | Self::Line)
    }

    /// Whether a reply names its request.
    pub(crate) fn has_id(self) -> bool {
        !matches!(self, Self::Plain | Self::Line)
    }

    /// Whether a payload may have any bytes.
    pub(crate) fn is_binary(self) -> bool {
        !matches!(self, Self::Line | Self::JsonLine | Self::JsonHeader)
    }

    /// Whether a server can say that it will close.
    pub(crate) fn has_closing(self) -> bool {
        matches!(self, Self::Tagged | Self::Plain | Self::Wide | Self::Dubbo)
    }

    /// The message of a client as bytes.
    pub(crate) fn request(self, message: &Message) -> Vec<u8> {
        self.encode(Side::Client, message)
    }

    /// The message of a server as bytes.
    pub(crate) fn reply(self, message: &Message) -> Vec<u8> {
        self.encode(Side::Server, message)
    }

    fn encode(self, side: Side, message: &Message) -> Vec<u8> {
        match self {
            Self::Line => [&message.payload[..], b"\n"].concat(),
            Self::Tagged | Self::Plain | Self::Wide => frame::encode(self, message),
            Self::Dubbo => preset::dubbo(side, message),
            Self::Bolt => preset::bolt(side, message),
            Self::ThriftBinary | Self::ThriftCompact | Self::ThriftBuffered => {
                thrift::encode(self, side, message)
            }
            Self::JsonLine | Self::JsonHeader => json::encode(self, side, message),
        }
    }

    /// Takes one message off the front of `input`; `None` if it is not whole yet.
    pub(crate) fn decode(self, input: &mut Vec<u8>) -> Result<Option<Message>, String> {
        let read = match self {
            Self::Line => read_line(input),
            Self::Tagged | Self::Plain | Self::Wide => frame::read(self, input),
            Self::Dubbo => preset::read_dubbo(input),
            Self::Bolt => preset::read_bolt(input),
            Self::ThriftBinary | Self::ThriftCompact | Self::ThriftBuffered => thrift::read(self, input),
            Self::JsonLine | Self::JsonHeader => json::read(self, input),
        };
        match read {
            Ok((message, size)) => {
                input.drain(..size);
                Ok(Some(message))
            }
            Err(Stop::Short) => Ok(None),
            Err(Stop::Bad(text)) => Err(text),
        }
    }

    /// What is known of the request at the front of `input` as soon as its payload begins, and where that is.
    pub(crate) fn front(self, input: &[u8]) -> Option<(Message, usize)> {
        match self {
            Self::Line => Some((Message::default(), 0)),
            Self::Tagged | Self::Plain | Self::Wide => frame::front(self, input),
            Self::Dubbo | Self::Bolt => preset::front(self, input),
            Self::ThriftBinary | Self::ThriftCompact | Self::ThriftBuffered => thrift::front(self, input),
            Self::JsonLine | Self::JsonHeader => json::front(input),
        }
    }

    /// Whether `bytes` can be the front of what a client with this id is told where there is no reply.
    pub(crate) fn begins_refusal(self, bytes: &[u8], id: u64) -> bool {
        let (fronts, goes_on) = match self {
            Self::Line => (vec![known(b"ERR ")], true),
            Self::Tagged | Self::Plain | Self::Wide => (vec![known(&self.head(0, flags::ERROR, id))], false),
            Self::Dubbo => (vec![known(&preset::dubbo_refusal(id))], false),
            Self::Bolt => (vec![known(&preset::bolt_refusal(id))], false),
            Self::ThriftBinary | Self::ThriftCompact | Self::ThriftBuffered => {
                (vec![thrift::refusal(self, id)], true)
            }
            Self::JsonLine | Self::JsonHeader => (json::refusals(self), true),
        };
        fronts.iter().any(|front| {
            let same = |(byte, known): (&u8, &Option<u8>)| known.is_none_or(|known| known == *byte);
            (goes_on || bytes.len() <= front.len()) && bytes.iter().zip(front).all(same)
        })
    }

    /// Whether `message` is what a client with this id is told where there is no reply.
    pub(crate) fn is_refusal(self, message: &Message, id: u64) -> bool {
        let has_text = self == Self::Line || !self.is_own();
        let same_id = message.id == id || !self.has_id();
        message.flags == flags::ERROR && same_id && (has_text || message.payload.is_empty())
    }

    /// Bytes of header, where the length is not part of; only of this rig's own frames.
    pub(crate) fn header(self) -> usize {
        frame::header(self)
    }

    /// A header that declares `length` bytes of payload, true or not; only of this rig's own frames.
    pub(crate) fn head(self, length: u64, flags: u8, id: u64) -> Vec<u8> {
        frame::head(self, length, flags, id)
    }
}

fn read_line(input: &[u8]) -> Result<(Message, usize), Stop> {
    let end = memchr::memchr(b'\n', input).ok_or(Stop::Short)?;
    let payload = input[..end].to_vec();
    let flags = if payload.starts_with(b"ERR ") { flags::ERROR } else { 0 };
    Ok((Message { flags, id: 0, payload }, end + 1))
}

/// Bytes of which each is known.
fn known(bytes: &[u8]) -> Vec<Option<u8>> {
    bytes.iter().copied().map(Some).collect()
}

fn bad<T>(what: &str, bytes: &[u8]) -> Result<T, Stop> {
    Err(Stop::Bad(format!("{what}: {}", bytes[..bytes.len().min(80)].escape_ascii())))
}

/// A position in bytes of which some may be missing.
struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Reader<'b> {
    fn new(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn take(&mut self, size: u64) -> Result<&'b [u8], Stop> {
        if size > MAX_PAYLOAD {
            return bad(&format!("{size} bytes declared"), self.bytes);
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let taken = self.bytes.get(self.at..self.at + size).ok_or(Stop::Short)?;
        self.at += size;
        Ok(taken)
    }

    /// A number of so many bytes, most significant first.
    fn number(&mut self, size: u64) -> Result<u64, Stop> {
        Ok(self.take(size)?.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
    }

    /// Takes `expected`, or says what is there.
    fn expect(&mut self, expected: &[u8]) -> Result<(), Stop> {
        let found = self.take(expected.len() as u64)?;
        if found == expected { Ok(()) } else { bad(&format!("not {}", expected.escape_ascii()), self.bytes) }
    }
}
