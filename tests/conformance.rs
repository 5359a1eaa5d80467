//! Every protocol against its transcript: cut anywhere, a stream means the same.
//!
//! A new protocol joins by one line in `subjects` and a file in `fixtures`. Long because the settings of those without a
//! preset are here.

#![expect(clippy::unwrap_used, reason = "fixtures are our own; what they cannot be is a failed test")]

use std::convert::Infallible;
use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use warmline::frame::Endian;
use warmline::protocol::frame::{
    self, Condition, Field, Frame, Heartbeat, Length, Overrides, Size, Template,
};
use warmline::protocol::jsonrpc::{self, Framing, JsonRpc};
use warmline::protocol::line::{self, Line};
use warmline::protocol::thrift::{self, Encoding, Thrift, Transport};
use warmline::protocol::{
    Answered, BadRequest, Downstream, Id, Malformed, Need, Protocol, Received, Refusal, Reply, Request, Tag,
};
use warmline::wire::Output;

/// A protocol and what it is held against.
struct Subject {
    name: &'static str,
    protocol: Box<dyn Protocol>,
    client: Stream,
    server: Stream,
}

fn subjects() -> Vec<Subject> {
    vec![
        subject("netty4", preset("netty4"), include_str!("fixtures/netty4.txt")),
        subject("swoole", preset("swoole"), include_str!("fixtures/swoole.txt")),
        subject("dubbo", preset("dubbo"), include_str!("fixtures/dubbo.txt")),
        subject("bolt", preset("bolt"), include_str!("fixtures/bolt.txt")),
        subject("tars", preset("tars"), include_str!("fixtures/tars.txt")),
        subject("brpc", preset("brpc"), include_str!("fixtures/brpc.txt")),
        subject("varint", Frame::new(varint()).unwrap(), include_str!("fixtures/varint.txt")),
        subject("flags", Frame::new(flags()).unwrap(), include_str!("fixtures/flags.txt")),
        subject("sums", Frame::new(sums()).unwrap(), include_str!("fixtures/sums.txt")),
        subject("line", lines(b"\n", b"ERR {reason}\n"), include_str!("fixtures/line.txt")),
        subject("crlf", lines(b"\r\n", b"-{reason}\r\n"), include_str!("fixtures/crlf.txt")),
        subject("boundary", lines(b"abacabad", b"{reason}abacabad"), include_str!("fixtures/boundary.txt")),
        subject(
            "thrift framed",
            thrift(Transport::Framed, Encoding::Binary),
            include_str!("fixtures/thrift-framed.txt"),
        ),
        subject(
            "thrift compact",
            thrift(Transport::Framed, Encoding::Compact),
            include_str!("fixtures/thrift-compact.txt"),
        ),
        subject(
            "thrift buffered",
            thrift(Transport::Buffered, Encoding::Binary),
            include_str!("fixtures/thrift-buffered.txt"),
        ),
        subject("jsonrpc line", json(Framing::Line), include_str!("fixtures/jsonrpc-line.txt")),
        subject(
            "jsonrpc content-length",
            json(Framing::ContentLength),
            include_str!("fixtures/jsonrpc-content-length.txt"),
        ),
    ]
}

fn preset(name: &str) -> Frame {
    Frame::new(frame::preset(name).unwrap()).unwrap()
}

fn thrift(transport: Transport, encoding: Encoding) -> Thrift {
    let settings = thrift::Settings { transport, encoding, max_message: 2000, ..thrift::Settings::default() };
    Thrift::new(settings).unwrap()
}

fn json(framing: Framing) -> JsonRpc {
    JsonRpc::new(jsonrpc::Settings { framing, max_message: 2000, ..jsonrpc::Settings::default() }).unwrap()
}

fn lines(delimiter: &'static [u8], error: &'static [u8]) -> Line {
    let (delimiter, error) = (Bytes::from_static(delimiter), Some(Bytes::from_static(error)));
    Line::new(&line::Settings { delimiter, error, max_message: 1000 }).unwrap()
}

fn length(offset: usize, size: Size, endian: Endian, adjust: i64) -> Length {
    Length { offset, size, endian, adjust }
}

fn varint() -> frame::Settings {
    frame::Settings {
        error: Some(Template::parse("03 080510").unwrap()),
        max_message: 300,
        ..frame::Settings::new(length(0, Size::Varint, Endian::Big, 0))
    }
}

fn flags() -> frame::Settings {
    let flag = |mask, equals| Condition { offset: 2, mask, equals };
    frame::Settings {
        id: Some(Field { offset: 4, size: 8, endian: Endian::Big, avoid: Vec::new() }),
        oneway: vec![flag(0x80, 0x80), flag(0x40, 0), flag(0x20, 0)],
        heartbeat: Some(Heartbeat {
            conditions: vec![flag(0xe0, 0xe0)],
            reply: Some(Template::parse("cafe 20 14 {id} 00000001 4e").unwrap()),
            is_request: false,
        }),
        closing: vec![flag(0xe0, 0xa0)],
        error: Some(Template::parse("cafe 00 50 {id} 00000001 00").unwrap()),
        max_message: 4096,
        ..frame::Settings::new(length(12, Size::Bytes(4), Endian::Big, 16))
    }
}

fn sums() -> frame::Settings {
    let id = |offset| Some(Field { offset, size: 3, endian: Endian::Little, avoid: vec![0] });
    let lengths = |parts: &[(usize, usize)], adjust| -> Vec<Length> {
        let part = |&(offset, size): &(usize, usize)| length(offset, Size::Bytes(size), Endian::Little, 0);
        let mut parts: Vec<Length> = parts.iter().map(part).collect();
        parts[0].adjust = adjust;
        parts
    };
    let byte = |offset, equals| vec![Condition { offset, mask: 0xff, equals }];
    let heartbeat = |conditions, reply| {
        Some(Heartbeat { conditions, reply: Some(Template::parse(reply).unwrap()), is_request: false })
    };
    frame::Settings {
        length: lengths(&[(5, 2), (7, 2), (9, 4)], 13),
        id: id(2),
        oneway: byte(1, 1),
        heartbeat: heartbeat(byte(1, 2), "02 0100 {id} 000000 00 21"),
        error: Some(Template::parse("02 0000 {id} 050000 01 6572726f72").unwrap()),
        reply: Overrides {
            length: Some(lengths(&[(1, 2), (6, 3)], 10)),
            id: id(3),
            heartbeat: heartbeat(byte(9, 0x99), "01 00 {id} 0000 0000 01000000 21"),
            closing: Some(byte(9, 0x98)),
            message: None,
        },
        max_message: 2000,
        ..frame::Settings::new(length(0, Size::Bytes(1), Endian::Big, 0))
    }
}

/// What one side says.
#[derive(Clone, Debug, Default)]
struct Stream {
    bytes: Vec<u8>,
    events: Vec<Event>,
}

/// What was at the front of a stream. Requests and replies as they go on under the number that they came with, which
/// is as they came.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Request { id: Option<u64>, oneway: bool, bytes: Vec<u8> },
    Reply { tag: Option<Tag>, bytes: Vec<u8> },
    Control(Option<Vec<u8>>),
    Closing,
    Bad(Option<u64>, Malformed),
}

fn subject(name: &'static str, protocol: impl Protocol + 'static, transcript: &str) -> Subject {
    let (mut client, mut server) = (Stream::default(), Stream::default());
    for line in transcript.lines().filter(|line| !line.starts_with('#')) {
        let (head, bytes) = line.split_once(" : ").unwrap();
        let (bytes, answer) = bytes.split_once(" -> ").map_or((bytes, None), |(b, a)| (b, Some(a)));
        let (bytes, answer) = (parse(bytes), answer.map(parse));
        let head: Vec<&str> = head.split(' ').collect();
        let id = head.get(2).map(|id| id.parse().unwrap());
        let (side, event) = match head[..2] {
            ["client", "request"] => {
                (&mut client, Event::Request { id, oneway: false, bytes: bytes.clone() })
            }
            ["client", "oneway"] => (&mut client, Event::Request { id, oneway: true, bytes: bytes.clone() }),
            ["server", "reply"] => (&mut server, Event::Reply { tag: id.map(Tag), bytes: bytes.clone() }),
            ["client", "heartbeat"] => (&mut client, Event::Control(answer)),
            ["server", "heartbeat"] => (&mut server, Event::Control(answer)),
            ["client", "closing"] => (&mut client, Event::Closing),
            ["server", "closing"] => (&mut server, Event::Closing),
            _ => panic!("{name}: {line}"),
        };
        side.bytes.extend(bytes);
        side.events.push(event);
    }
    assert!(!client.events.is_empty() && !server.events.is_empty(), "{name}");
    Subject { name, protocol: Box::new(protocol), client, server }
}

/// Hex digits, and text in quotes.
fn parse(text: &str) -> Vec<u8> {
    let (mut bytes, mut chars) = (Vec::new(), text.chars());
    while let Some(first) = chars.next() {
        if first == '"' {
            loop {
                match chars.next().unwrap() {
                    '"' => break,
                    '\\' => match chars.next().unwrap() {
                        'r' => bytes.push(b'\r'),
                        'n' => bytes.push(b'\n'),
                        '0' => bytes.push(0),
                        other => bytes.push(other as u8),
                    },
                    other => bytes.push(other as u8),
                }
            }
        } else if first != ' ' {
            let second = chars.next().unwrap();
            bytes.push(u8::from_str_radix(&format!("{first}{second}"), 16).unwrap());
        }
    }
    bytes
}

/// One call of `decode`.
enum Step {
    Event(Event),
    More(Need),
}

impl Subject {
    /// The number in an id.
    fn number(&self, id: &Id) -> Option<u64> {
        match self.protocol.shown(id.clone()) {
            Id::None => None,
            Id::Bits(number) => Some(number),
            Id::Bytes(bytes) => std::str::from_utf8(&bytes).ok()?.parse().ok(),
        }
    }

    /// A codec that has read a request whose client calls it `number`, and what it calls that.
    fn asked(&self, number: u64) -> (Box<dyn Downstream>, Id) {
        let is_call = |event: &&Event| matches!(event, Event::Request { oneway: false, .. });
        let Some(Event::Request { bytes, .. }) = self.client.events.iter().find(is_call) else {
            panic!("{}: no request", self.name)
        };
        let (_, request) = self.request(bytes);
        let sent = self.sent(&request, number);
        let mut codec = self.protocol.downstream(usize::MAX);
        let Ok(Received::Request { id, .. }) = codec.decode(&mut BytesMut::from(&sent[..])) else {
            panic!("{}: {} is no request", self.name, sent.escape_ascii())
        };
        (codec, id)
    }

    /// The request in `bytes`.
    fn request(&self, bytes: &[u8]) -> (Id, Request) {
        match self.protocol.downstream(usize::MAX).decode(&mut BytesMut::from(bytes)) {
            Ok(Received::Request { id, request }) => (id, request),
            other => panic!("{}: {other:?}", self.name),
        }
    }

    /// What a server gets of `request` under the number `tag`.
    fn sent(&self, request: &Request, tag: u64) -> Vec<u8> {
        let mut out = Output::new();
        self.protocol.upstream(usize::MAX).encode(request, Tag(tag), &mut out);
        written(out)
    }

    /// What a client that calls its request `number` gets of `reply`.
    fn told(&self, reply: Reply, number: Option<u64>) -> Vec<u8> {
        let (mut codec, id) = match number {
            Some(number) => self.asked(number),
            None => (self.protocol.downstream(usize::MAX), Id::None),
        };
        let mut out = Output::new();
        codec.encode(&id, reply, &mut out);
        written(out)
    }

    /// A new codec of one side, as a function.
    fn decoder(&self, client: bool) -> Box<dyn FnMut(&mut BytesMut) -> Step + '_> {
        if client {
            let mut half = self.protocol.downstream(usize::MAX);
            return Box::new(move |input| match half.decode(input) {
                Ok(Received::Request { id, request }) => {
                    let (id, oneway) = (self.number(&id), request.oneway);
                    Step::Event(Event::Request { id, oneway, bytes: self.sent(&request, id.unwrap_or(0)) })
                }
                Ok(Received::Control(answer)) => Step::Event(Event::Control(answer.map(Into::into))),
                Ok(Received::Dropped) => Step::Event(Event::Control(None)),
                Ok(Received::Head { .. } | Received::Part { .. }) => {
                    unreachable!("nothing is over the bound")
                }
                Ok(Received::HandOver { .. }) => unreachable!("any connection will do"),
                Ok(Received::Refused { reason, .. }) => Step::Event(Event::Bad(None, reason)),
                Ok(Received::Closing) => Step::Event(Event::Closing),
                Ok(Received::More(need)) => Step::More(need),
                Err(BadRequest { id, reason }) => Step::Event(Event::Bad(self.number(&id), reason)),
            });
        }
        let mut half = self.protocol.upstream(usize::MAX);
        Box::new(move |input| match half.decode(input) {
            Ok(Answered::Reply { tag, reply }) => {
                Step::Event(Event::Reply { tag, bytes: self.told(reply, tag.map(|Tag(tag)| tag)) })
            }
            Ok(Answered::Control(answer) | Answered::Unasked(answer)) => {
                Step::Event(Event::Control(answer.map(Into::into)))
            }
            Ok(Answered::Unclaimed) => Step::Event(Event::Control(None)),
            Ok(Answered::Head { .. } | Answered::Part { .. }) => unreachable!("nothing is over the bound"),
            Ok(Answered::Closing) => Step::Event(Event::Closing),
            Ok(Answered::More(need)) => Step::More(need),
            Err(reason) => Step::Event(Event::Bad(None, reason)),
        })
    }

    /// The events of `bytes` when they come cut at `cuts`, and what is left; nothing follows a bad one.
    fn decode(&self, client: bool, bytes: &[u8], cuts: &[usize]) -> (Vec<Event>, usize) {
        let (mut step, mut input) = (self.decoder(client), BytesMut::new());
        let (mut events, mut start) = (Vec::new(), 0);
        for end in cuts.iter().copied().chain([bytes.len()]) {
            input.extend_from_slice(&bytes[start..end]);
            start = end;
            loop {
                let before = input.len();
                match step(&mut input) {
                    Step::More(need) => {
                        // White space before a value is none of it.
                        let took = input.len() < before && !self.protocol.rewrites();
                        assert!(!took, "{}: more, and yet it took some", self.name);
                        if let Need::Total(total) = need {
                            assert!(total > before, "{}: needs {total} and has {before}", self.name);
                            assert!(total <= self.protocol.max_message(), "{}: needs {total}", self.name);
                        }
                        break;
                    }
                    Step::Event(event @ Event::Bad(..)) => {
                        events.push(event);
                        return (events, 0);
                    }
                    Step::Event(event) => events.push(event),
                }
                assert!(input.len() < before, "{}: no progress", self.name);
            }
        }
        (events, input.len())
    }

    fn sides(&self) -> [(bool, &Stream); 2] {
        [(true, &self.client), (false, &self.server)]
    }
}

#[test]
fn a_transcript_means_the_same_however_it_is_cut() {
    for subject in subjects() {
        for (client, stream) in subject.sides() {
            let expected = (stream.events.clone(), 0);
            let decode = |cuts: &[usize]| subject.decode(client, &stream.bytes, cuts);
            assert_eq!(decode(&[]), expected, "{} whole", subject.name);
            let all: Vec<usize> = (0..stream.bytes.len()).collect();
            assert_eq!(decode(&all), expected, "{} byte by byte", subject.name);
            for cut in all {
                assert_eq!(decode(&[cut]), expected, "{} cut at {cut}", subject.name);
            }
        }
    }
}

#[test]
fn truncated_is_not_yet() {
    for subject in subjects() {
        for (client, stream) in subject.sides() {
            for end in 0..=stream.bytes.len() {
                let (events, left) = subject.decode(client, &stream.bytes[..end], &[]);
                assert_eq!(events[..], stream.events[..events.len()], "{} up to {end}", subject.name);
                let (rest, _) = subject.decode(client, &stream.bytes[end - left..], &[]);
                assert_eq!(rest[..], stream.events[events.len()..], "{} from {end}", subject.name);
            }
        }
    }
}

/// Everything in `out`.
fn written(mut out: Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let Ok(_) = out.write_once(|slices: &[IoSlice<'_>]| {
            bytes.extend(slices.iter().flat_map(|slice| slice.iter()));
            Ok::<_, Infallible>(slices.iter().map(|slice| slice.len()).sum())
        });
    }
    bytes
}

/// The numbers to try, the last one included; none where there are no tags.
fn numbers(subject: &Subject) -> Vec<u64> {
    subject
        .protocol
        .tags()
        .map_or_else(Vec::new, |tags| vec![1, 0x1234_5678_9abc_def0 & tags.last, tags.last])
}

#[test]
fn requests_go_out_under_their_tag() {
    for subject in subjects() {
        for event in &subject.client.events {
            let Event::Request { id, oneway, bytes } = event else { continue };
            let (_, request) = subject.request(bytes);
            // What has no reply may have no number of its own.
            let numbered = !oneway || subject.protocol.name() == "frame";
            for tag in numbers(&subject) {
                let sent = subject.sent(&request, tag);
                let id = if numbered { Some(tag) } else { *id };
                let seen = Event::Request { id, oneway: *oneway, bytes: sent.clone() };
                assert_eq!(subject.decode(true, &sent, &[]), (vec![seen], 0), "{}", subject.name);
            }
            assert_eq!(&subject.sent(&request, id.unwrap_or(77)), bytes, "{}", subject.name);
        }
    }
}

#[test]
fn replies_go_back_under_the_clients_id() {
    for subject in subjects() {
        for event in &subject.server.events {
            let Event::Reply { tag, bytes } = event else { continue };
            let reply = || match subject.protocol.upstream(usize::MAX).decode(&mut BytesMut::from(&bytes[..]))
            {
                Ok(Answered::Reply { reply, .. }) => reply,
                other => panic!("{}: {other:?}", subject.name),
            };
            for id in numbers(&subject) {
                let sent = subject.told(reply(), Some(id));
                let seen = Event::Reply { tag: Some(Tag(id)), bytes: sent.clone() };
                assert_eq!(subject.decode(false, &sent, &[]), (vec![seen], 0), "{}", subject.name);
            }
            assert_eq!(&subject.told(reply(), tag.map(|Tag(tag)| tag)), bytes, "{}", subject.name);
        }
    }
}

#[test]
fn a_refusal_reads_as_the_reply_to_its_request() {
    let refusals = [
        Refusal::QueueFull,
        Refusal::AcquireTimeout,
        Refusal::Timeout,
        Refusal::Down("abacabad\r\nabacabad\n".into()),
        Refusal::Lost,
        Refusal::Desync,
        Refusal::TooLarge,
        Refusal::Malformed,
        Refusal::Draining,
    ];
    let mut speak = Vec::new();
    for subject in subjects() {
        let ids = match &numbers(&subject)[..] {
            [] => vec![None],
            numbers => numbers.iter().copied().map(Some).collect(),
        };
        for (refusal, number) in refusals.iter().flat_map(|r| ids.iter().map(move |id| (r, *id))) {
            let mut out = Output::new();
            let (mut codec, id) = match number {
                Some(number) => subject.asked(number),
                None => (subject.protocol.downstream(usize::MAX), Id::None),
            };
            if !codec.refuse(&id, refusal, &mut out) {
                assert!(out.is_empty(), "{}: {refusal}", subject.name);
                continue;
            }
            let bytes = written(out);
            let (seen, left) = subject.decode(false, &bytes, &[]);
            let [Event::Reply { tag, bytes: read }] = &seen[..] else {
                panic!("{}: {refusal}: {seen:?}", subject.name)
            };
            assert_eq!((*tag, left), (number.map(Tag), 0), "{}: {refusal}", subject.name);
            assert!(*read == bytes || subject.protocol.rewrites(), "{}: {refusal}", subject.name);
            speak.push(subject.name);
        }
        // Without its id a client could not tell what was refused; JSON has an id for that.
        if subject.protocol.tags().is_some() {
            let (mut codec, mut out) = (subject.asked(1).0, Output::new());
            let told = codec.refuse(&Id::None, &Refusal::Malformed, &mut out);
            assert_eq!(told, subject.protocol.name() == "jsonrpc", "{}", subject.name);
            assert_eq!(out.is_empty(), !told, "{}", subject.name);
        }
    }
    speak.dedup();
    let all = subjects().into_iter().map(|subject| subject.name);
    let silent = ["netty4", "swoole", "tars", "brpc"];
    assert_eq!(speak, all.filter(|name| !silent.contains(name)).collect::<Vec<_>>());
}

/// Bytes that are nearly a transcript, or nothing like one.
fn hostile(transcript: &[u8], noise: &[u8], changes: &[(prop::sample::Index, u8)], bare: bool) -> Vec<u8> {
    let mut bytes = if bare { Vec::new() } else { transcript.to_vec() };
    bytes.extend_from_slice(noise);
    if !bytes.is_empty() {
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut(
        noise in prop::collection::vec(any::<u8>(), 0..200),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        bare: bool,
    ) {
        for subject in subjects() {
            for (client, stream) in subject.sides() {
                let bytes = hostile(&stream.bytes, &noise, &changes, bare);
                let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
                cuts.sort_unstable();
                let whole = subject.decode(client, &bytes, &[]);
                prop_assert_eq!(subject.decode(client, &bytes, &cuts), whole, "{}", subject.name);
            }
        }
    }
}
