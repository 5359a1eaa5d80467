//! What travels: messages, and requests that prove whose they are.
//!
//! A request names its client, sequence, nonce, length and hash in words that fit every protocol. Used by
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

/// One message in either direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) flags: u8,
    pub(crate) id: u64,
    pub(crate) payload: Vec<u8>,
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
