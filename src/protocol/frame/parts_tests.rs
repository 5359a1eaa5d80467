//! Large frames: a head and parts, wherever the stream is cut.

use proptest::prelude::*;

use super::*;
use crate::frame::Endian;

/// Bytes on the wire = value; the id and a byte of flags follow.
fn frames() -> Frame {
    let length = Length { offset: 0, size: Size::Bytes(4), endian: Endian::Big, adjust: 0 };
    let flag = |mask| vec![Condition { offset: 8, mask, equals: mask }];
    Frame::new(Settings {
        id: Some(Field { offset: 4, size: 4, endian: Endian::Little, avoid: Vec::new() }),
        oneway: flag(1),
        heartbeat: Some(Heartbeat { conditions: flag(2), reply: None, is_request: false }),
        closing: flag(4),
        max_message: 1 << 20,
        ..Settings::new(length)
    })
    .unwrap()
}

fn frame(size: usize, id: u32, flags: u8) -> Vec<u8> {
    let head = [&u32::try_from(size).unwrap().to_be_bytes()[..], &id.to_le_bytes(), &[flags]].concat();
    head.into_iter().chain((0u8..251).cycle()).take(size).collect()
}

/// What a codec made of a stream: each message put together again, and the length of its head if it came in
/// parts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen(Vec<(u64, Vec<u8>, Option<usize>)>);

impl Seen {
    fn head(&mut self, id: u64, bytes: &[u8], in_parts: bool) {
        self.0.push((id, bytes.to_vec(), in_parts.then_some(bytes.len())));
    }

    fn part(&mut self, bytes: &[u8], last: bool, length: usize) {
        let (_, all, _) = self.0.last_mut().unwrap();
        all.extend_from_slice(bytes);
        assert!(!bytes.is_empty() && last == (all.len() == length));
    }
}

/// Feeds `stream` in pieces that end at `cuts`.
fn decode(client: bool, max_buffered: usize, stream: &[u8], lengths: &[usize], cuts: &[usize]) -> Seen {
    let frames = frames();
    let (mut requests, mut replies) = (frames.downstream(max_buffered), frames.upstream(max_buffered));
    let (mut seen, mut input, mut from) = (Seen::default(), BytesMut::new(), 0);
    for to in cuts.iter().copied().chain([stream.len()]) {
        input.extend_from_slice(&stream[from..to.max(from)]);
        from = to.max(from);
        loop {
            let length = lengths[seen.0.len().saturating_sub(1).min(lengths.len() - 1)];
            if client {
                match requests.decode(&mut input).unwrap() {
                    Received::Request { id: Id::Bits(id), request } => seen.head(id, &request.bytes, false),
                    Received::Head { id: Id::Bits(id), request, .. } => seen.head(id, &request.bytes, true),
                    Received::Part { bytes, last } => seen.part(&bytes, last, length),
                    Received::More(_) => break,
                    other => panic!("{other:?}"),
                }
            } else {
                match replies.decode(&mut input).unwrap() {
                    Answered::Reply { tag: Some(tag), reply } => seen.head(tag.0, &reply.bytes, false),
                    Answered::Head { tag: Some(tag), reply, .. } => seen.head(tag.0, &reply.bytes, true),
                    Answered::Part { bytes, last } => seen.part(&bytes, last, length),
                    Answered::More(_) => break,
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    assert!(input.is_empty());
    seen
}

proptest! {
    #[test]
    fn cut_anywhere_it_is_the_same(
        sizes in prop::collection::vec(prop_oneof![9usize..40, 1020usize..1030, 4000usize..9000], 1..6),
        max_buffered in prop_oneof![Just(0), Just(1024), 1024usize..5000],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..30),
        client: bool,
    ) {
        let frames: Vec<Vec<u8>> = sizes.iter().zip(1..).map(|(size, id)| frame(*size, id, 0)).collect();
        let stream = frames.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len())).collect();
        cuts.sort_unstable();
        let bound = max_buffered.max(MAX_HEADER);
        let expected = frames.iter().zip(1..).map(|(frame, id)| {
            (id, frame.clone(), (frame.len() > bound).then_some(bound))
        });
        let seen = decode(client, max_buffered, &stream, &sizes, &cuts);
        prop_assert_eq!(seen, Seen(expected.collect()));
    }
}

#[test]
fn what_is_needed_is_the_head_and_then_anything() {
    let mut codec = frames().downstream(2000);
    let stream = frame(5000, 7, 1);
    let mut input = BytesMut::from(&stream[..4]);
    assert!(matches!(codec.decode(&mut input), Ok(Received::More(Need::Head { head: 2000, rest: 3000 }))));
    input.extend_from_slice(&stream[4..2000]);
    let Ok(Received::Head { id: Id::Bits(7), request, rest: 3000 }) = codec.decode(&mut input) else {
        panic!("no head")
    };
    assert!(request.oneway && request.bytes == stream[..2000]);
    assert!(matches!(codec.decode(&mut input), Ok(Received::More(Need::Unknown))));
}

#[test]
fn a_large_control_message_is_malformed() {
    for flags in [2, 4] {
        let mut input = BytesMut::from(&frame(2001, 7, flags)[..]);
        let bad = frames().downstream(2000).decode(&mut input).unwrap_err();
        assert_eq!(bad.reason, Malformed::Invalid(LARGE_CONTROL));
        let mut input = BytesMut::from(&frame(2001, 7, flags)[..]);
        assert_eq!(
            frames().upstream(2000).decode(&mut input).unwrap_err(),
            Malformed::Invalid(LARGE_CONTROL)
        );
    }
}

#[test]
fn only_the_head_carries_the_id() {
    let frames = frames();
    let written = |out: &mut Output| {
        let mut all = Vec::new();
        while !out.is_empty() {
            let taken = out.write_once(|slices| {
                for slice in slices {
                    all.extend_from_slice(slice);
                }
                Ok::<_, std::convert::Infallible>(slices.iter().map(|slice| slice.len()).sum())
            });
            assert_ne!(taken, Ok(0));
        }
        all
    };
    let mut out = Output::new();
    frames.upstream(2000).encode(
        &Request::new(frame(5000, 7, 0)[..2000].to_vec().into(), false),
        Tag(9),
        &mut out,
    );
    assert_eq!(written(&mut out), frame(5000, 9, 0)[..2000]);
    frames.downstream(2000).encode(
        &Id::Bits(7),
        Reply::new(frame(5000, 9, 0)[..2000].to_vec().into()),
        &mut out,
    );
    assert_eq!(written(&mut out), frame(5000, 7, 0)[..2000]);
}
