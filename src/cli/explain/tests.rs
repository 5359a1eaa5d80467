//! What is shown of streams, whole and in pieces, and of names.

use std::collections::VecDeque;

use bytes::BytesMut;
use proptest::prelude::*;

use super::table::Row;
use super::*;
use crate::frame::Endian;
use crate::protocol::frame::{self, Condition, Field, Frame, Heartbeat, Length, Method, Size, Template};
use crate::protocol::line::{self, Line};
use crate::protocol::{
    Answered, Downstream, Id, Mode, Received, Refusal, Reply, Request, Tag, TagSpace, Upstream,
};
use crate::wire::Output;

const HEADER: &str = "offset length id method kind";

/// Length, id and kind of every message; the method is the first 3 bytes of its body.
fn calls() -> Arc<dyn Protocol> {
    let field = |offset, size| Field { offset, size, endian: Endian::Big, avoid: Vec::new() };
    let kind = |equals| vec![Condition { offset: 3, mask: 0xff, equals }];
    let length = Length { offset: 0, size: Size::Bytes(1), endian: Endian::Big, adjust: 1 };
    let settings = frame::Settings {
        id: Some(field(1, 2)),
        oneway: kind(1),
        heartbeat: Some(Heartbeat {
            conditions: kind(2),
            reply: Template::parse("03 {id} 04").ok(),
            is_request: false,
        }),
        closing: kind(3),
        method: Some(Method { offset: 4, size: 3 }),
        max_message: 60,
        ..frame::Settings::new(length)
    };
    Arc::new(Frame::new(settings).unwrap())
}

fn lines(max_message: usize) -> Arc<dyn Protocol> {
    Arc::new(Line::new(&line::Settings { max_message, ..line::Settings::default() }).unwrap())
}

/// Gives one piece a read, and an interruption before each.
struct Pieces {
    pieces: VecDeque<Vec<u8>>,
    interrupted: bool,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.interrupted = !self.interrupted;
        if self.interrupted {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let Some(mut piece) = self.pieces.pop_front() else { return Ok(0) };
        let size = piece.len().min(into.len());
        into[..size].copy_from_slice(&piece[..size]);
        if size < piece.len() {
            self.pieces.push_front(piece.split_off(size));
        }
        Ok(size)
    }
}

/// The table of `bytes` that come in pieces that end at `cuts`, as it is, and how it ends.
fn table(protocol: &Arc<dyn Protocol>, replies: bool, bytes: &[u8], cuts: &[usize]) -> (String, End) {
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let mut start = 0;
    let pieces = ends.map(|end| bytes[std::mem::replace(&mut start, end)..end].to_vec());
    let pieces = pieces.filter(|piece| !piece.is_empty()).collect();
    let mut out = Vec::new();
    let mut cutter = Cutter::new(protocol.clone(), replies);
    let mut capture = Pieces { pieces, interrupted: false };
    let end = fill(&mut Table::new(&mut out, &**protocol), &mut cutter, &mut capture).unwrap();
    (String::from_utf8(out).unwrap(), end)
}

/// The rows of the table, a blank between columns, and how it ends.
fn shown(protocol: &Arc<dyn Protocol>, replies: bool, bytes: &[u8]) -> (Vec<String>, End) {
    let (text, end) = table(protocol, replies, bytes, &[]);
    let mut rows: Vec<_> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    if !rows.is_empty() {
        assert_eq!(rows.remove(0), HEADER);
    }
    (rows, end)
}

#[test]
fn every_kind_of_message() {
    let bytes = b"\x08\0\x07\0get a\x06\xff\xff\x01put\x03\0\x08\x02\x03\0\0\x03\x04\0\x09\0x";
    let (rows, end) = shown(&calls(), false, bytes);
    assert_eq!(
        rows,
        [
            "0 9 7 get request",
            "9 7 65535 put oneway",
            "16 4 - - heartbeat",
            "20 4 - - closing",
            "24 5 9 - request"
        ]
    );
    assert_eq!(end, End::Whole);
    let (rows, end) = shown(&calls(), true, bytes);
    assert_eq!(
        rows,
        ["0 9 7 - reply", "9 7 65535 - reply", "16 4 - - heartbeat", "20 4 - - closing", "24 5 9 - reply"]
    );
    assert_eq!(end, End::Whole);
}

#[test]
fn nothing_has_no_table() {
    assert_eq!(shown(&calls(), false, b""), (vec![], End::Whole));
}

#[test]
fn a_message_that_is_cut_off() {
    let whole = "0 4 1 - request".to_owned();
    let end = |rest: &[u8]| shown(&calls(), false, &[b"\x03\0\x01\0", rest].concat());
    let incomplete = |length, need| {
        (vec![whole.clone(), format!("4 {length} - - incomplete")], End::Incomplete(length, need))
    };
    assert_eq!(end(b"\x09"), incomplete(1, Need::Total(10)));
    assert_eq!(end(b"\x09\0\x02\0get a"), incomplete(9, Need::Total(10)));
    let (rows, end) = shown(&lines(99), true, b"one\ntwo");
    assert_eq!(rows, ["0 4 - - reply", "4 3 - - incomplete"]);
    assert_eq!(end, End::Incomplete(3, Need::Unknown));
}

#[test]
fn what_is_no_message() {
    let malformed = |reason, front: &[u8]| End::Malformed(reason, front.to_vec());
    // Its id was read.
    let (rows, end) = shown(&calls(), false, b"\x03\0\x01\0\xff\0\x02");
    assert_eq!(rows, ["0 4 1 - request", "4 - 2 - malformed"]);
    assert_eq!(end, malformed(Malformed::TooLarge(256), b"\xff\0\x02"));
    // The codec has taken it by then.
    let (rows, end) = shown(&calls(), true, b"\x01\x09next message, and more");
    assert_eq!(rows, ["0 - - - malformed"]);
    let reason = Malformed::Invalid("reply is too short to hold its id");
    assert_eq!(end, malformed(reason, b"\x01\x09next message, "));
    let (rows, end) = shown(&lines(4), false, b"ok!\ntoo long\n");
    assert_eq!(rows, ["0 4 - ok! request", "4 - - - malformed"]);
    assert_eq!(end, malformed(Malformed::TooLarge(5), b"too long\n"));
}

#[test]
fn a_length_beyond_memory_takes_none() {
    let length = Length { offset: 0, size: Size::Bytes(8), endian: Endian::Big, adjust: 0 };
    let huge: Arc<dyn Protocol> = Arc::new(Frame::new(frame::Settings::new(length)).unwrap());
    let (rows, end) = shown(&huge, false, &[0xff; 20]);
    assert_eq!(rows, ["0 - - - malformed"]);
    assert_eq!(end, End::Malformed(Malformed::TooLarge(u64::MAX), vec![0xff; 16]));
}

#[test]
fn names_are_one_word_whatever_they_are() {
    let method = |bytes: &'static [u8]| {
        let row = Row { offset: 0, length: None, id: Id::None, method: Some(bytes.into()), kind: "request" };
        let mut out = Vec::new();
        Table::new(&mut out, &*lines(9)).row(&row).unwrap();
        let text = String::from_utf8(out).unwrap();
        text.lines().nth(1).unwrap().split_whitespace().nth(3).unwrap().to_owned()
    };
    assert_eq!(method(b"get"), "get");
    assert_eq!(method("größe".as_bytes()), "größe");
    assert_eq!(method(b"say \"it's\"\\"), "say\\u{20}\"it's\"\\\\");
    assert_eq!(method(b"get\0\0"), "get\\0\\0");
    assert_eq!(method(b"\0\0\0\x07"), "hex:00000007");
    assert_eq!(method(b"\0\0"), "hex:0000");
    assert_eq!(method(b"\x1b[31m"), "hex:1b5b33316d");
    assert_eq!(method(b"\xffget"), "hex:ff676574");
    assert_eq!(method("a\u{202e}b\u{2028}".as_bytes()), "a\\u{202e}b\\u{2028}");
    assert_eq!(method(&[b'x'; 32]), "x".repeat(32));
    assert_eq!(method(&[b'x'; 33]), "x".repeat(32) + "...");
    assert_eq!(method(&[0xff; 17]), format!("hex:{}...", "ff".repeat(16)));
    assert_eq!(method(b""), "-");
}

#[test]
fn columns_stand_below_their_titles() {
    let (text, _) = table(&calls(), false, b"\x08\x12\x34\0get a", &[]);
    assert_eq!(
        text,
        "    offset     length     id  method            kind
         0          9   4660  get               request\n"
    );
    let (text, _) = table(&lines(99), false, b"set a 1\n", &[]);
    assert_eq!(
        text,
        "    offset     length  id  method            kind
         0          8   -  set               request\n"
    );
}

/// A protocol that never finds an end, and leaves it to others to give up.
#[derive(Debug)]
struct Endless;

impl Protocol for Endless {
    fn name(&self) -> &'static str {
        "endless"
    }

    fn modes(&self) -> &'static [Mode] {
        &[Mode::Exclusive]
    }

    fn tags(&self) -> Option<TagSpace> {
        None
    }

    fn max_message(&self) -> usize {
        10
    }

    fn remedy(&self, _: Malformed) -> &'static str {
        ""
    }

    fn downstream(&self, _: usize) -> Box<dyn Downstream> {
        Box::new(Self)
    }

    fn upstream(&self, _: usize) -> Box<dyn Upstream> {
        Box::new(Self)
    }
}

impl Downstream for Endless {
    fn decode(&mut self, _: &mut BytesMut) -> Result<Received, BadRequest> {
        Ok(Received::More(Need::Unknown))
    }

    fn encode(&mut self, _: &Id, _: Reply, _: &mut Output) {}

    fn refuse(&mut self, _: &Id, _: &Refusal, _: &mut Output) -> bool {
        false
    }
}

impl Upstream for Endless {
    fn encode(&mut self, _: &Request, _: Tag, _: &mut Output) {}

    fn decode(&mut self, _: &mut BytesMut) -> Result<Answered, Malformed> {
        Ok(Answered::More(Need::Unknown))
    }
}

#[test]
fn a_message_without_an_end_is_not_stored() {
    let endless: Arc<dyn Protocol> = Arc::new(Endless);
    for replies in [false, true] {
        let short = shown(&endless, replies, b"123456789");
        assert_eq!(short, (vec!["0 9 - - incomplete".to_owned()], End::Incomplete(9, Need::Unknown)));
        let (rows, end) = shown(&endless, replies, b"1234567890");
        assert_eq!(rows, ["0 - - - malformed"]);
        assert_eq!(end, End::Malformed(Malformed::TooLarge(10), b"1234567890".to_vec()));
    }
}

/// Fails to read, or to write.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::IsADirectory.into())
    }
}

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn faults_are_told_apart() {
    let protocol = lines(99);
    let cutter = || Cutter::new(protocol.clone(), false);
    let read = fill(&mut Table::new(Vec::new(), &*protocol), &mut cutter(), &mut Broken);
    assert!(matches!(read, Err(Fault::Read(_))), "{read:?}");
    let write = fill(&mut Table::new(Broken, &*protocol), &mut cutter(), &mut &b"a\n"[..]);
    assert!(matches!(write, Err(Fault::Write(_))), "{write:?}");
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        bytes in prop::collection::vec(prop_oneof![6 => 0u8..10, 1 => any::<u8>()], 0..120),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        replies: bool,
        is_line: bool,
    ) {
        let protocol = if is_line { lines(20) } else { calls() };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let whole = table(&protocol, replies, &bytes, &[]);
        prop_assert_eq!(&table(&protocol, replies, &bytes, &cuts), &whole);
        prop_assert_eq!(&table(&protocol, replies, &bytes, &(0..bytes.len()).collect::<Vec<_>>()), &whole);
        // Every byte is a part of a message, or of what the last row is about.
        let lengths = whole.0.lines().skip(1).filter_map(|row| row.split_whitespace().nth(1)?.parse::<usize>().ok());
        if !matches!(whole.1, End::Malformed(..)) {
            prop_assert_eq!(lengths.sum::<usize>(), bytes.len());
        }
    }
}
