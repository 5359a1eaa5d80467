//! `line`: requests and replies that end with a delimiter; the delimiter is part of the message.
//!
//! Invariant: no delimiter lies inside a message, not even inside a refusal, whatever its reason says.
//! Built by `config`; `session` and `connection` hold the codec.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::memmem::{self, Finder};

use super::{
    Answered, BadRequest, Downstream, Id, MAX_MESSAGE, Malformed, Mode, Need, Protocol, Received, Refusal,
    Reply, Request, SettingsError, Tag, TagSpace, Upstream,
};
use crate::frame::{DelimiterScan, take};
use crate::wire::Output;

/// The longest delimiter in bytes.
pub const MAX_DELIMITER: usize = 16;

/// Where the text of the refusal goes in `error`.
const HOLE: &[u8] = b"{reason}";

/// The options of `line`. The fields have the names of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What ends a message: 1 to [`MAX_DELIMITER`] bytes.
    pub delimiter: Bytes,
    /// The reply of a request that gets none, delimiter included; `{reason}` stands for why. Absent, the
    /// client is told by a close.
    pub error: Option<Bytes>,
    /// The longest message in bytes, delimiter included.
    pub max_message: usize,
}

impl Default for Settings {
    /// Lines of text; no error.
    fn default() -> Self {
        Self { delimiter: Bytes::from_static(b"\n"), error: None, max_message: MAX_MESSAGE }
    }
}

/// The protocol, with its settings. Clones are the same.
#[derive(Clone, Debug)]
pub struct Line(Arc<Spec>);

/// What all codecs of one protocol share.
#[derive(Debug)]
struct Spec {
    delimiter: Finder<'static>,
    error: Option<ErrorText>,
    max_message: usize,
}

impl Line {
    /// A protocol of these settings, if they can be.
    pub fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let Settings { delimiter, error, max_message } = settings;
        if !(1..=MAX_DELIMITER).contains(&delimiter.len()) {
            let reason = format!("a delimiter of {} bytes", delimiter.len());
            return Err(wrong("delimiter", reason, format!("use 1 to {MAX_DELIMITER} bytes")));
        }
        if *max_message < delimiter.len() {
            let reason = format!("{max_message} bytes cannot hold the delimiter");
            return Err(wrong("max_message", reason, "raise it"));
        }
        let delimiter = Finder::new(delimiter).into_owned();
        let error = error.as_ref().map(|error| ErrorText::new(error, &delimiter)).transpose()?;
        Ok(Self(Arc::new(Spec { delimiter, error, max_message: *max_message })))
    }
}

fn wrong(key: &str, reason: impl Into<String>, remedy: impl Into<String>) -> SettingsError {
    SettingsError { key: key.into(), reason: reason.into(), remedy: remedy.into() }
}

impl Protocol for Line {
    fn name(&self) -> &'static str {
        "line"
    }

    fn modes(&self) -> &'static [Mode] {
        &[Mode::Exclusive, Mode::Pipeline]
    }

    fn tags(&self) -> Option<TagSpace> {
        None
    }

    fn max_message(&self) -> usize {
        self.0.max_message
    }

    /// The first word.
    fn method<'m>(&self, request: &'m [u8]) -> Option<&'m [u8]> {
        let text = request.strip_suffix(self.0.delimiter.needle()).unwrap_or(request);
        text.split(u8::is_ascii_whitespace).find(|word| !word.is_empty())
    }

    fn call(&self, method: &[u8]) -> Option<Bytes> {
        Some([method, self.0.delimiter.needle()].concat().into())
    }

    fn remedy(&self, _: Malformed) -> &'static str {
        "`delimiter` says where a message ends; if it is right, raise `max_message`"
    }

    fn downstream(&self, _: usize) -> Box<dyn Downstream> {
        Box::new(Codec { spec: self.0.clone(), scan: DelimiterScan::default() })
    }

    fn upstream(&self, _: usize) -> Box<dyn Upstream> {
        Box::new(Codec { spec: self.0.clone(), scan: DelimiterScan::default() })
    }
}

/// Either half: requests and replies look the same.
#[derive(Debug)]
struct Codec {
    spec: Arc<Spec>,
    scan: DelimiterScan,
}

impl Codec {
    /// Takes one message off the front of `input`; `None` if its end is not there yet.
    fn take(&mut self, input: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let max = self.spec.max_message;
        let front = &input[..input.len().min(max)];
        match self.scan.end(&self.spec.delimiter, front) {
            Some(end) => Ok(Some(take(input, end))),
            // The message has at least one byte more than these.
            None if front.len() == max => Err(Malformed::TooLarge(max as u64 + 1)),
            None => Ok(None),
        }
    }
}

impl Downstream for Codec {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Received, BadRequest> {
        match self.take(input) {
            Ok(Some(bytes)) => Ok(Received::Request { id: Id::None, request: Request::new(bytes, false) }),
            Ok(None) => Ok(Received::More(Need::Unknown)),
            Err(reason) => Err(BadRequest { id: Id::None, reason }),
        }
    }

    fn encode(&mut self, _: &Id, reply: Reply, out: &mut Output) {
        out.put_bytes(reply.bytes, reply.charge);
    }

    fn refuse(&mut self, _: &Id, refusal: &Refusal, out: &mut Output) -> bool {
        let Some(error) = &self.spec.error else { return false };
        out.put(&error.render(&refusal.to_string()));
        true
    }
}

impl Upstream for Codec {
    fn encode(&mut self, request: &Request, _: Tag, out: &mut Output) {
        out.put_shared(&request.bytes, 0, &request.charge);
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        Ok(match self.take(input)? {
            Some(bytes) => Answered::Reply { tag: None, reply: Reply::new(bytes) },
            None => Answered::More(Need::Unknown),
        })
    }
}

/// The message a refused client gets.
#[derive(Debug)]
struct ErrorText {
    /// The bytes before, between and after the places of the reason; never empty.
    chunks: Vec<Bytes>,
    delimiter: Vec<u8>,
    /// Stands for bytes of a reason that must not be in the message.
    filler: u8,
}

impl ErrorText {
    fn new(text: &Bytes, delimiter: &Finder<'_>) -> Result<Self, SettingsError> {
        let mut chunks = Vec::new();
        let mut start = 0;
        for at in memmem::find_iter(text, HOLE) {
            chunks.push(text.slice(start..at));
            start = at + HOLE.len();
        }
        chunks.push(text.slice(start..));
        let needle = delimiter.needle();
        // A delimiter is shorter than the alphabet: there always is one.
        let filler = b" _".iter().copied().chain(b'a'..=b'z').find(|byte| !needle.contains(byte));
        let this = Self { chunks, delimiter: needle.to_vec(), filler: filler.unwrap_or(b' ') };
        // No reason has bytes of the delimiter in it, so one reason stands for all.
        let message = this.render("x");
        match delimiter.find(&message).map(|at| at + needle.len()) {
            None => Err(wrong("error", "it does not end with the delimiter", "append the delimiter")),
            Some(end) if end < message.len() => {
                let remedy = "the delimiter may only be at its end";
                Err(wrong("error", "it is more than one message", remedy))
            }
            Some(_) => Ok(this),
        }
    }

    /// The message with `reason` in it, but for bytes that could end the message or a string in it.
    fn render(&self, reason: &str) -> Vec<u8> {
        let unsafe_byte = |b: &u8| b.is_ascii_control() || b"\"\\".contains(b) || self.delimiter.contains(b);
        let reason: Vec<u8> =
            reason.bytes().map(|byte| if unsafe_byte(&byte) { self.filler } else { byte }).collect();
        self.chunks.join(&reason[..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(delimiter: &'static [u8], error: Option<&'static [u8]>, max_message: usize) -> Settings {
        Settings {
            delimiter: Bytes::from_static(delimiter),
            error: error.map(Bytes::from_static),
            max_message,
        }
    }

    fn refusal(settings: &Settings, reason: &str) -> Option<String> {
        let mut out = Output::new();
        let mut codec = Line::new(settings).unwrap().downstream(usize::MAX);
        let refused = codec.refuse(&Id::None, &Refusal::Down(reason.into()), &mut out);
        refused.then(|| {
            let mut bytes = Vec::new();
            out.write_once(|slices| {
                bytes.extend(slices.iter().flat_map(|s| s.iter()));
                Ok::<_, ()>(bytes.len())
            })
            .unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        })
    }

    #[test]
    fn settings_that_cannot_be() {
        let error =
            |settings: Settings| Line::new(&settings).map_or_else(|e| e.to_string(), |_| String::new());
        assert_eq!(error(line(b"", None, 9)), "delimiter: a delimiter of 0 bytes; use 1 to 16 bytes");
        assert_eq!(
            error(line(&[b'x'; 17], None, 99)),
            "delimiter: a delimiter of 17 bytes; use 1 to 16 bytes"
        );
        assert_eq!(error(line(b"\r\n", None, 1)), "max_message: 1 bytes cannot hold the delimiter; raise it");
        assert_eq!(
            error(line(b"\r\n", Some(b"ERR {reason}\n"), 99)),
            "error: it does not end with the delimiter; append the delimiter"
        );
        assert_eq!(
            error(line(b"\n", Some(b"ERR\n{reason}\n"), 99)),
            "error: it is more than one message; the delimiter may only be at its end"
        );
        assert_eq!(
            error(line(b"aba", Some(b"{reason}ababa"), 99)),
            "error: it is more than one message; the delimiter may only be at its end"
        );
    }

    #[test]
    fn a_refusal_is_one_message_whatever_it_says() {
        let json = line(b"\n", Some(b"{\"error\":\"{reason}\"}\n"), 99);
        assert_eq!(
            refusal(&json, "no\n\"x\"\0").as_deref(),
            Some("{\"error\":\"upstream is down: no  x  \"}\n")
        );
        let twice = line(b" .", Some(b"{reason}! {reason} ."), 99);
        assert_eq!(
            refusal(&twice, "a . b").as_deref(),
            Some("upstream_is_down:_a___b! upstream_is_down:_a___b .")
        );
        assert_eq!(refusal(&line(b"\n", Some(b"no\n"), 99), "x").as_deref(), Some("no\n"));
        assert_eq!(refusal(&line(b"\n", None, 99), "x"), None);
    }

    #[test]
    fn the_first_word_is_the_method() {
        let method = |delimiter, request: &'static str| {
            let line = Line::new(&line(delimiter, None, 99)).unwrap();
            line.method(request.as_bytes()).map(|word| std::str::from_utf8(word).unwrap())
        };
        assert_eq!(method(b"\n", "get key\n"), Some("get"));
        assert_eq!(method(b"\n", " \tget\r\n"), Some("get"));
        assert_eq!(method(b"end", "get key end"), Some("get"));
        assert_eq!(method(b"end", "getend"), Some("get"));
        assert_eq!(method(b"\n", "\r\n"), None);
        assert_eq!(method(b"\n", "\n"), None);
        assert_eq!(method(b"\n", ""), None);
    }

    #[test]
    fn the_limit_counts_the_delimiter() {
        let decode = |max, bytes: &[u8]| {
            let mut input = BytesMut::from(bytes);
            match Line::new(&line(b"\r\n", None, max)).unwrap().upstream(usize::MAX).decode(&mut input) {
                Ok(Answered::Reply { reply, .. }) => Ok(reply.bytes.len()),
                Ok(_) => Ok(0),
                Err(reason) => Err(reason),
            }
        };
        assert_eq!(decode(6, b"abcd\r\n"), Ok(6));
        assert_eq!(decode(6, b"abcd\r"), Ok(0));
        assert_eq!(decode(6, b"abcde\r"), Err(Malformed::TooLarge(7)));
        assert_eq!(decode(6, b"abcde\r\n"), Err(Malformed::TooLarge(7)));
    }
}
