//! What travels: messages as bytes, and requests that prove whose they are.
//!
//! A request names its client, sequence, nonce, length and hash in words that fit both protocols. Used by
//! the rig's server and load, and by the tests that speak for themselves.

use std::fmt::Write as _;

/// The flags byte of a frame.
pub(crate) mod flags {
    /// No reply will come.
    pub(crate) const ONEWAY: u8 = 0x01;
    /// Answer with `HEARTBEAT | ANSWER` and the same id.
    pub(crate) const HEARTBEAT: u8 = 0x02;
    /// The sender is about to close.
    pub(crate) const CLOSING: u8 = 0x04;
    /// There is no reply.
    pub(crate) const ERROR: u8 = 0x08;
    /// With `HEARTBEAT`: the answer to one.
    pub(crate) const ANSWER: u8 = 0x10;
}

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
}

/// The longest payload the rig takes, in bytes.
const MAX_PAYLOAD: u64 = 64 << 20;

/// One message in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) flags: u8,
    pub(crate) id: u64,
    pub(crate) payload: Vec<u8>,
}

impl Wire {
    /// Bytes of header, where the length is not part of.
    pub(crate) fn header(self) -> usize {
        match self {
            Self::Tagged => 16,
            Self::Plain => 8,
            Self::Wide => 24,
            Self::Line => 0,
        }
    }

    fn length_size(self) -> usize {
        if self == Self::Wide { 8 } else { 4 }
    }

    /// Whether a reply names its request.
    pub(crate) fn has_id(self) -> bool {
        matches!(self, Self::Tagged | Self::Wide)
    }

    /// A header that declares `length` bytes of payload, true or not.
    pub(crate) fn head(self, length: u64, flags: u8, id: u64) -> Vec<u8> {
        let mut head = vec![0; self.header()];
        let size = self.length_size();
        head[..size].copy_from_slice(&length.to_be_bytes()[8 - size..]);
        head[size] = flags;
        if self.has_id() {
            let at = self.header() - 8;
            head[at..].copy_from_slice(&id.to_be_bytes());
        }
        head
    }

    /// The message as bytes.
    pub(crate) fn encode(self, message: &Message) -> Vec<u8> {
        if self == Self::Line {
            return [&message.payload[..], b"\n"].concat();
        }
        let mut bytes = self.head(message.payload.len() as u64, message.flags, message.id);
        bytes.extend_from_slice(&message.payload);
        bytes
    }

    /// Takes one message off the front of `input`; `None` if it is not whole yet.
    pub(crate) fn decode(self, input: &mut Vec<u8>) -> Result<Option<Message>, String> {
        if self == Self::Line {
            let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
            let payload = input.drain(..=end).take(end).collect::<Vec<u8>>();
            let flags = if payload.starts_with(b"ERR ") { flags::ERROR } else { 0 };
            return Ok(Some(Message { flags, id: 0, payload }));
        }
        let header = self.header();
        if input.len() < header {
            return Ok(None);
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let length = number(&input[..self.length_size()]);
        if length > MAX_PAYLOAD {
            return Err(format!("length {length} in header {:02x?}", &input[..header]));
        }
        let Ok(length) = usize::try_from(length) else { return Err(format!("length {length}")) };
        if input.len() < header + length {
            return Ok(None);
        }
        let message = Message {
            flags: input[self.length_size()],
            id: if self.has_id() { number(&input[header - 8..header]) } else { 0 },
            payload: input[header..header + length].to_vec(),
        };
        input.drain(..header + length);
        Ok(Some(message))
    }
}

/// Who asks, and what for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) verb: String,
    pub(crate) client: u32,
    pub(crate) sequence: u32,
    pub(crate) nonce: u128,
    /// Bytes of the whole payload, as it says itself.
    pub(crate) length: usize,
}

impl Request {
    /// A request nobody made before.
    pub(crate) fn new(verb: &str, client: u32, sequence: u32) -> Self {
        Self { verb: verb.into(), client, sequence, nonce: fastrand::u128(..), length: 0 }
    }

    /// Its payload, filled up to `length` bytes; with `binary`, by bytes of any value.
    pub(crate) fn payload(&mut self, length: usize, binary: bool) -> Vec<u8> {
        let Self { verb, client, sequence, nonce, .. } = self;
        let mut words = format!("{verb} {client} {sequence} {nonce:032x} ");
        self.length = length.max(words.len() + WORDS_AFTER_NONCE);
        let _ = write!(words, "{:08} ", self.length);
        let body = filler(self.nonce, self.length - words.len() - HASH_WORD, binary);
        let hash = fnv(fnv(FNV_START, words.as_bytes()), &body);
        let _ = write!(words, "{hash:016x} ");
        let mut payload = words.into_bytes();
        payload.extend_from_slice(&body);
        payload
    }

    /// Reads the words; the payload may be cut after them.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let mut words = payload.splitn(7, |byte| *byte == b' ').map(|w| std::str::from_utf8(w).ok());
        let mut word = || words.next().flatten();
        Some(Self {
            verb: word()?.into(),
            client: word()?.parse().ok()?,
            sequence: word()?.parse().ok()?,
            nonce: u128::from_str_radix(word()?, 16).ok()?,
            length: word()?.parse().ok()?,
        })
    }

    /// Reads a whole payload and checks its length and hash.
    pub(crate) fn verify(payload: &[u8]) -> Result<Self, String> {
        let shown = || payload[..payload.len().min(80)].escape_ascii().to_string();
        let request = Self::parse(payload).ok_or_else(|| format!("not a request: {}", shown()))?;
        if request.length != payload.len() {
            return Err(format!("{} bytes instead of {}: {}", payload.len(), request.length, shown()));
        }
        let hash_at = request.words() - HASH_WORD;
        let hash = fnv(fnv(FNV_START, &payload[..hash_at]), &payload[request.words()..]);
        if payload[hash_at..request.words() - 1] != *format!("{hash:016x}").as_bytes() {
            return Err(format!("hash does not match: {}", shown()));
        }
        Ok(request)
    }

    /// Bytes of all words, each with its space.
    fn words(&self) -> usize {
        format!("{} {} {} ", self.verb, self.client, self.sequence).len() + 33 + WORDS_AFTER_NONCE
    }

    /// The right reply: the payload itself, but for the verbs that say how long it is.
    pub(crate) fn reply(&self, payload: &[u8]) -> Vec<u8> {
        let size = match self.verb.split_once(':') {
            Some(("big", size)) => size.parse().unwrap_or(0),
            Some(("early", _)) => 0,
            _ => return payload.to_vec(),
        };
        let mut reply = payload[..payload.len().min(self.words() - HASH_WORD)].to_vec();
        reply.extend(filler(self.nonce, size, false));
        reply
    }
}

/// `LENGTH` and `HASH`, each with its space.
const WORDS_AFTER_NONCE: usize = 9 + HASH_WORD;
const HASH_WORD: usize = 17;

/// Bytes that only this nonce has.
fn filler(nonce: u128, size: usize, binary: bool) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(fnv(FNV_START, &nonce.to_be_bytes()));
    let mut bytes = vec![0; size];
    random.fill(&mut bytes);
    if !binary {
        for byte in &mut bytes {
            *byte = b'a' + *byte % 26;
        }
    }
    bytes
}

const FNV_START: u64 = 0xcbf2_9ce4_8422_2325;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
