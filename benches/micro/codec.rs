//! Both halves of each protocol: messages cut out of a buffer, and written under another id.

use std::convert::Infallible;
use std::fmt;

use bytes::{Bytes, BytesMut};
use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use warmline::frame::Endian;
use warmline::protocol::frame::{self, Field, Frame, Length, Size};
use warmline::protocol::line::{self, Line};
use warmline::protocol::{Answered, Downstream, Id, Protocol, Received, Reply, Request, Tag, Upstream};
use warmline::wire::Output;

/// Bytes of a message.
const SIZE: usize = 64;
const MAX_BUFFERED: usize = 64 << 10;

/// A protocol under test.
#[derive(Clone, Copy, Debug)]
enum Subject {
    Frame,
    FrameWithId,
    Line,
}

const SUBJECTS: [Subject; 3] = [Subject::Frame, Subject::FrameWithId, Subject::Line];

impl Subject {
    fn protocol(self) -> Box<dyn Protocol> {
        let length = Length { offset: 0, size: Size::Bytes(4), endian: Endian::Big, adjust: 4 };
        let id = Field { offset: 4, size: 8, endian: Endian::Big, avoid: Vec::new() };
        let frame = frame::Settings::new(length);
        match self {
            Self::Frame => Box::new(Frame::new(frame).expect("a layout")),
            Self::FrameWithId => {
                let frame = frame::Settings { id: Some(id), ..frame };
                Box::new(Frame::new(frame).expect("a layout"))
            }
            Self::Line => Box::new(Line::new(&line::Settings::default()).expect("a delimiter")),
        }
    }

    fn message(self) -> Vec<u8> {
        let mut message = vec![b'.'; SIZE];
        match self {
            Self::Line => message[SIZE - 1] = b'\n',
            Self::Frame | Self::FrameWithId => message[..4].copy_from_slice(&[0, 0, 0, 60]),
        }
        message
    }

    /// What clients of this protocol call a request.
    fn id(self) -> Id {
        if matches!(self, Self::FrameWithId) { Id::Bits(7) } else { Id::None }
    }
}

/// How messages come to a codec.
#[derive(Clone, Copy, Debug)]
enum Feed {
    One,
    Sixteen,
    ByteByByte,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    subject: Subject,
    feed: Feed,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let feed = match self.feed {
            Feed::One => "one",
            Feed::Sixteen => "16 in a buffer",
            Feed::ByteByByte => "byte by byte",
        };
        write!(f, "{:?}, {feed}", self.subject)
    }
}

fn cases() -> impl Iterator<Item = Case> {
    let feeds = [Feed::One, Feed::Sixteen, Feed::ByteByByte];
    SUBJECTS.into_iter().flat_map(move |subject| feeds.map(|feed| Case { subject, feed }))
}

impl Case {
    fn messages(self) -> usize {
        if matches!(self.feed, Feed::Sixteen) { 16 } else { 1 }
    }

    /// Gives the messages to `decode`, which takes one off the front of its input if it is whole.
    fn bench(self, bencher: Bencher<'_, '_>, mut decode: impl FnMut(&mut BytesMut) -> bool) {
        let bytes = self.subject.message().repeat(self.messages());
        let step = if matches!(self.feed, Feed::ByteByByte) { 1 } else { bytes.len() };
        bencher
            .counter(ItemsCount::new(self.messages()))
            .with_inputs(|| BytesMut::with_capacity(bytes.len()))
            .bench_local_values(|mut input| {
                let mut taken = 0;
                for part in bytes.chunks(step) {
                    input.extend_from_slice(part);
                    while decode(&mut input) {
                        taken += 1;
                    }
                }
                assert_eq!(taken, self.messages());
            });
    }
}

#[divan::bench(args = cases())]
fn decode_request(bencher: Bencher<'_, '_>, case: Case) {
    let mut codec = case.subject.protocol().downstream(MAX_BUFFERED);
    case.bench(bencher, |input| {
        let received = codec.decode(input).expect("requests");
        matches!(black_box(received), Received::Request { .. })
    });
}

#[divan::bench(args = cases())]
fn decode_reply(bencher: Bencher<'_, '_>, case: Case) {
    let mut codec = case.subject.protocol().upstream(MAX_BUFFERED);
    case.bench(bencher, |input| {
        let answered = codec.decode(input).expect("replies");
        matches!(black_box(answered), Answered::Reply { .. })
    });
}

#[divan::bench(args = SUBJECTS)]
fn encode_request(bencher: Bencher<'_, '_>, subject: Subject) {
    let mut codec: Box<dyn Upstream> = subject.protocol().upstream(MAX_BUFFERED);
    let mut out = Output::new();
    let mut tag = 0;
    let bytes = Bytes::from(subject.message());
    bencher.with_inputs(|| Request::new(bytes.clone(), false)).bench_local_refs(|request| {
        tag += 1;
        codec.encode(request, Tag(tag), &mut out);
        drain(&mut out);
    });
}

#[divan::bench(args = SUBJECTS)]
fn encode_reply(bencher: Bencher<'_, '_>, subject: Subject) {
    let mut codec: Box<dyn Downstream> = subject.protocol().downstream(MAX_BUFFERED);
    let mut out = Output::new();
    let id = subject.id();
    let bytes = Bytes::from(subject.message());
    bencher.with_inputs(|| Reply::new(bytes.clone())).bench_local_values(|reply| {
        codec.encode(&id, reply, &mut out);
        drain(&mut out);
    });
}

/// Has all of it written by a kernel that takes everything.
pub(crate) fn drain(out: &mut Output) {
    while !out.is_empty() {
        let written = out.write_once(|slices| {
            Ok::<_, Infallible>(black_box(slices).iter().map(|slice| slice.len()).sum::<usize>())
        });
        assert!(written.is_ok_and(|count| count > 0));
    }
}
