//! The codecs against a naive model of the same settings: random layouts, random bytes, random cuts.

use std::convert::Infallible;

use bytes::BytesMut;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::frame::Endian;

/// What a stream held, up to the first thing that is not a whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    Message { id: Option<u64>, oneway: bool, bytes: Vec<u8> },
    Control(Option<Vec<u8>>),
    Closing,
    More(Need),
    Bad(Option<u64>, Malformed),
}

/// One direction, as the model sees it.
struct Direction<'a> {
    length: &'a [Length],
    id: Option<&'a Field>,
    heartbeat: Option<&'a Heartbeat>,
    closing: &'a [Condition],
    oneway: &'a [Condition],
    message: &'a [Condition],
    /// The length and the id of heartbeats, and the id of their answers.
    beat: (&'a [Length], Option<&'a Field>, Option<&'a Field>),
    /// The bytes that are looked at before there is a length.
    front: usize,
    max: usize,
    /// Whether a refusal is to carry an id.
    client: bool,
}

/// The end of the fixed fields, or the first byte of a varint that begins before.
fn front(length: &[Length]) -> usize {
    let end = |field: &Length| {
        if let Size::Bytes(size) = field.size { field.offset + size } else { field.offset + 1 }
    };
    let varint = length.iter().filter(|field| field.size == Size::Varint).map(end).min();
    varint.unwrap_or(usize::MAX).min(length.iter().map(end).max().unwrap())
}

fn direction(s: &Settings, client: bool) -> Direction<'_> {
    let (id, reply_id) = (s.id.as_ref(), s.reply.id.as_ref().or(s.id.as_ref()));
    let max = s.max_message;
    let as_request = (&s.length[..], id, reply_id);
    if client {
        let (heartbeat, closing) = (s.heartbeat.as_ref(), &s.closing[..]);
        let (length, oneway, message) = (&s.length[..], &s.oneway[..], &s.message[..]);
        let (beat, front) = (as_request, front(length));
        return Direction { length, id, heartbeat, closing, oneway, message, beat, front, max, client };
    }
    let length = s.reply.length.as_ref().unwrap_or(&s.length);
    let heartbeat = s.reply.heartbeat.as_ref().or(s.heartbeat.as_ref());
    let is_request = heartbeat.is_some_and(|heartbeat| heartbeat.is_request);
    Direction {
        length,
        id: reply_id,
        heartbeat,
        closing: s.reply.closing.as_ref().unwrap_or(&s.closing),
        oneway: &[],
        message: s.reply.message.as_ref().unwrap_or(&s.message),
        beat: if is_request { as_request } else { (length, reply_id, id) },
        front: front(length).min(front(&s.length)),
        max,
        client,
    }
}

fn number(bytes: &[u8], offset: usize, size: usize, endian: Endian) -> Option<u64> {
    let mut digits: Vec<String> =
        bytes.get(offset..offset + size)?.iter().map(|b| format!("{b:02x}")).collect();
    if endian == Endian::Little {
        digits.reverse();
    }
    Some(u64::from_str_radix(&digits.concat(), 16).unwrap())
}

fn digits(number: u64, size: usize, endian: Endian) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..size).map(|i| number.to_le_bytes()[i]).collect();
    if endian == Endian::Big {
        bytes.reverse();
    }
    bytes
}

/// The share of one length field and where it ends; `Err(true)` if it is wrong, `Err(false)` if it is not
/// there yet.
fn share(field: &Length, bytes: &[u8]) -> Result<(i128, usize), bool> {
    match field.size {
        Size::Bytes(size) => {
            let value = number(bytes, field.offset, size, field.endian).ok_or(false)?;
            Ok((i128::from(value) + i128::from(field.adjust), field.offset + size))
        }
        Size::Varint => {
            let rest: Vec<u8> = bytes.iter().skip(field.offset).take(10).copied().collect();
            let Some(last) = rest.iter().position(|b| *b < 128) else { return Err(rest.len() == 10) };
            let value = rest[..=last].iter().rev().fold(0, |sum, b| sum * 128 + u128::from(b % 128));
            let value = u64::try_from(value).map_err(|_| true)?;
            let width = last + 1;
            Ok((i128::from(value) + i128::from(field.adjust) + width as i128, field.offset + width))
        }
    }
}

fn matches(conditions: &[Condition], frame: &[u8]) -> bool {
    !conditions.is_empty()
        && conditions.iter().all(|c| frame.len() > c.offset && frame[c.offset] & c.mask == c.equals)
}

/// Whether a byte that is there is against `conditions`.
fn excluded(conditions: &[Condition], front: &[u8]) -> bool {
    conditions.iter().any(|c| front.len() > c.offset && front[c.offset] & c.mask != c.equals)
}

/// Whether `bytes` begin like nothing that this direction may send.
fn is_nothing(d: &Direction<'_>, bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(d.front)];
    let heartbeat = d.heartbeat.map_or(&[][..], |heartbeat| &heartbeat.conditions);
    let kinds = [d.message, heartbeat, d.oneway, d.closing];
    !d.message.is_empty() && kinds.iter().all(|kind| kind.is_empty() || excluded(kind, bytes))
}

/// The first thing in `bytes` and how long it is.
fn first(d: &Direction<'_>, bytes: &[u8]) -> (Event, usize) {
    let invalid = |why| (Event::Bad(None, Malformed::Invalid(why)), 0);
    if is_nothing(d, bytes) {
        return invalid(NO_KIND);
    }
    let mut length = d.length;
    if let Some(heartbeat) = d.heartbeat
        && !std::ptr::eq(d.beat.0, d.length)
        && !excluded(&heartbeat.conditions, bytes)
    {
        if !matches(&heartbeat.conditions, bytes) {
            return (Event::More(Need::Unknown), 0);
        }
        length = d.beat.0;
    }
    let (mut total, mut header) = (0, 0);
    for field in length {
        match share(field, bytes) {
            Ok((bytes, end)) => (total, header) = (total + bytes, header.max(end)),
            Err(true) => return invalid("length is not a varint"),
            Err(false) => return (Event::More(Need::Unknown), 0),
        }
    }
    let id_at =
        |field: Option<&Field>, bytes: &[u8]| field.map(|f| number(bytes, f.offset, f.size, f.endian));
    if total < header as i128 {
        return invalid("length is less than the header");
    }
    if total > d.max as i128 {
        let reason = Malformed::TooLarge(u64::try_from(total).unwrap_or(u64::MAX));
        return match id_at(d.id, bytes) {
            Some(None) if d.client => (Event::More(Need::Unknown), 0),
            id => (Event::Bad(id.flatten().filter(|_| d.client), reason), 0),
        };
    }
    let total = usize::try_from(total).unwrap();
    let Some(frame) = bytes.get(..total) else { return (Event::More(Need::Total(total)), 0) };
    if let Some(heartbeat) = d.heartbeat
        && matches(&heartbeat.conditions, frame)
    {
        let Some(answer) = &heartbeat.reply else { return (Event::Control(None), total) };
        let (_, from, to) = d.beat;
        let hole = match (answer.has_id(), id_at(from, frame), to) {
            (false, ..) => Vec::new(),
            (true, Some(Some(id)), Some(to)) => digits(id, to.size, to.endian),
            _ => return invalid("heartbeat is too short to hold its id"),
        };
        return (Event::Control(Some(answer.render(&hole))), total);
    }
    if matches(d.closing, frame) {
        return (Event::Closing, total);
    }
    let oneway = matches(d.oneway, frame);
    if !oneway && !d.message.is_empty() && !matches(d.message, frame) {
        return invalid(NO_KIND);
    }
    match id_at(d.id, frame) {
        Some(None) if d.client => invalid("request is too short to hold its id"),
        Some(None) => invalid("reply is too short to hold its id"),
        id => (Event::Message { id: id.flatten(), oneway, bytes: frame.to_vec() }, total),
    }
}

fn model(d: &Direction<'_>, mut bytes: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let (event, taken) = first(d, bytes);
        events.push(event);
        if taken == 0 {
            return events;
        }
        bytes = &bytes[taken..];
    }
}

/// One step of a codec, as an event.
fn step(frame: &Frame, client: bool) -> impl FnMut(&mut BytesMut) -> Event {
    let (mut downstream, mut upstream) = (frame.downstream(usize::MAX), frame.upstream(usize::MAX));
    let number = |id| if let Id::Bits(id) = id { Some(id) } else { None };
    move |input| {
        if client {
            return match downstream.decode(input) {
                Ok(Received::Request { id, request: Request { bytes, oneway, .. } }) => {
                    Event::Message { id: number(id), oneway, bytes: bytes.to_vec() }
                }
                Ok(Received::Control(answer)) => Event::Control(answer.map(Into::into)),
                Ok(Received::Head { .. } | Received::Part { .. }) => {
                    unreachable!("nothing is over the bound")
                }
                Ok(Received::HandOver { .. }) => unreachable!("any connection will do"),
                Ok(Received::Dropped | Received::Refused { .. }) => {
                    unreachable!("what is no frame has no end")
                }
                Ok(Received::Closing) => Event::Closing,
                Ok(Received::More(need)) => Event::More(need),
                Err(BadRequest { id, reason }) => Event::Bad(number(id), reason),
            };
        }
        match upstream.decode(input) {
            Ok(Answered::Reply { tag, reply }) => {
                Event::Message { id: tag.map(|t| t.0), oneway: false, bytes: reply.bytes.to_vec() }
            }
            Ok(Answered::Control(answer)) => Event::Control(answer.map(Into::into)),
            Ok(Answered::Head { .. } | Answered::Part { .. }) => unreachable!("nothing is over the bound"),
            Ok(Answered::Unasked(_) | Answered::Unclaimed) => unreachable!("any frame may be a reply"),
            Ok(Answered::Closing) => Event::Closing,
            Ok(Answered::More(need)) => Event::More(need),
            Err(reason) => Event::Bad(None, reason),
        }
    }
}

/// What the codec sees in `stream` when it comes cut like this.
fn decode(frame: &Frame, client: bool, stream: &[u8], cuts: &[usize]) -> Vec<Event> {
    let (mut step, mut input, mut start) = (step(frame, client), BytesMut::new(), 0);
    let mut events = Vec::new();
    for end in cuts.iter().copied().chain([stream.len()]) {
        input.extend_from_slice(&stream[start..end]);
        start = end;
        loop {
            let before = input.len();
            let event = step(&mut input);
            if matches!(event, Event::More(_)) && end < stream.len() {
                break;
            }
            events.push(event);
            if let Some(Event::More(_) | Event::Bad(..)) = events.last() {
                return events;
            }
            assert!(input.len() < before, "no progress");
        }
    }
    events
}

fn written(out: &mut Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let take = |slices: &[std::io::IoSlice<'_>]| {
            let before = bytes.len();
            bytes.extend(slices.iter().flat_map(|s| s.iter()));
            Ok::<_, Infallible>(bytes.len() - before)
        };
        let Ok(_) = out.write_once(take);
    }
    bytes
}

fn endian() -> impl Strategy<Value = Endian> {
    select(&[Endian::Big, Endian::Little][..])
}

fn length() -> impl Strategy<Value = Length> {
    let sizes = [1, 1, 1, 2, 3, 4, 8].map(Size::Bytes).into_iter().chain([Size::Varint; 2]);
    let size = select(sizes.collect::<Vec<_>>());
    (0usize..6, size, endian(), prop_oneof![4 => -4i64..12, 1 => any::<i64>()])
        .prop_map(|(offset, size, endian, adjust)| Length { offset, size, endian, adjust })
}

fn lengths() -> impl Strategy<Value = Vec<Length>> {
    prop_oneof![3 => prop::collection::vec(length(), 1), 1 => prop::collection::vec(length(), 1..4)]
}

fn field(size: usize) -> impl Strategy<Value = Field> {
    (0usize..12, endian()).prop_map(move |(offset, endian)| Field { offset, size, endian, avoid: Vec::new() })
}

fn conditions(least: usize) -> impl Strategy<Value = Vec<Condition>> {
    let condition = (0usize..10, 1u8..8, any::<u8>()).prop_map(|(offset, mask, equals)| Condition {
        offset,
        mask,
        equals: equals & mask,
    });
    prop::collection::vec(condition, least..3)
}

fn heartbeat() -> impl Strategy<Value = Heartbeat> {
    (conditions(1), any::<bool>()).prop_map(|(conditions, is_request)| Heartbeat {
        conditions,
        reply: None,
        is_request,
    })
}

/// Gives the heartbeat of `key` the first answer that is a frame, if there is one among a few simple ones.
fn with_answer(settings: &Settings, key: fn(&mut Settings) -> Option<&mut Heartbeat>) -> Settings {
    let texts = (1..=8usize).flat_map(|len| (0..=12usize).map(move |byte| (len, format!("{byte:02x}"))));
    let texts = texts.flat_map(|(len, byte)| {
        [
            format!("{} {{id}}", byte.repeat(len)),
            format!("{byte} {{id}} {}", byte.repeat(len)),
            byte.repeat(len),
        ]
    });
    let answered = texts.map(|text| {
        let mut answered = settings.clone();
        if let Some(heartbeat) = key(&mut answered) {
            heartbeat.reply = Template::parse(&text).ok();
        }
        answered
    });
    answered.into_iter().find(|s| Frame::new(s.clone()).is_ok()).unwrap_or_else(|| settings.clone())
}

prop_compose! {
    fn settings()(size in 1usize..=8)(
        length in lengths(),
        id in prop::option::weighted(0.8, field(size)),
        oneway in conditions(0),
        heartbeat in prop::option::of(heartbeat()),
        closing in conditions(0),
        message in prop_oneof![Just(Vec::new()), conditions(0)],
        reply_message in prop::option::of(conditions(0)),
        reply_length in prop::option::of(lengths()),
        reply_id in prop::option::weighted(0.8, field(size)),
        reply_heartbeat in prop::option::of(self::heartbeat()),
        reply_closing in prop::option::of(conditions(0)),
        max_message in 1usize..100,
    ) -> Settings {
        Settings {
            reply: Overrides {
                length: reply_length,
                id: reply_id.filter(|_| id.is_some()),
                heartbeat: reply_heartbeat,
                closing: reply_closing,
                message: reply_message,
            },
            length, id, oneway, heartbeat, closing, message, error: None, method: None, max_message, in_order: true,
        }
    }
}

/// Settings that can be.
fn frames() -> impl Strategy<Value = (Settings, Frame)> {
    let valid = settings().prop_filter("settings that cannot be", |s| Frame::new(s.clone()).is_ok());
    valid.prop_filter_map("settings that cannot be", |settings| {
        let settings = with_answer(&settings, |s| s.heartbeat.as_mut());
        let settings = with_answer(&settings, |s| s.reply.heartbeat.as_mut());
        Frame::new(settings.clone()).ok().map(|frame| (settings, frame))
    })
}

fn stream() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => 0u8..8, 3 => 0u8..40, 1 => any::<u8>()];
    prop::collection::vec(byte, 0..160)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, max_local_rejects: 1_000_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_decode_as_the_model_says(
        (settings, frame) in frames(),
        stream in stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        client: bool,
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let expected = model(&direction(&settings, client), &stream);
        prop_assert_eq!(&decode(&frame, client, &stream, &[]), &expected);
        prop_assert_eq!(&decode(&frame, client, &stream, &cuts), &expected);
        prop_assert_eq!(&decode(&frame, client, &stream, &(0..stream.len()).collect::<Vec<_>>()), &expected);
    }

    #[test]
    fn only_the_id_changes_on_the_way(
        (settings, frame) in frames(),
        stream in stream(),
        client: bool,
        to: u64,
    ) {
        let d = direction(&settings, client);
        for event in model(&d, &stream) {
            let Event::Message { bytes, id, oneway } = event else { continue };
            let mut out = Output::new();
            if client {
                let request = Request::new(bytes.clone().into(), oneway);
                frame.upstream(usize::MAX).encode(&request, Tag(to), &mut out);
            } else {
                let id = id.map_or(Id::None, |_| Id::Bits(to));
                frame.downstream(usize::MAX).encode(&id, Reply::new(bytes.clone().into()), &mut out);
            }
            let mut expected = bytes;
            if let Some(f) = d.id {
                expected.splice(f.offset..f.offset + f.size, digits(to, f.size, f.endian));
            }
            prop_assert_eq!(written(&mut out), expected);
        }
    }
}
