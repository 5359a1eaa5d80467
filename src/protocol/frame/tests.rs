//! Lengths at every edge, and what is said about settings that cannot be.

use super::*;
use crate::frame::Endian;

const MAX: usize = 1000;

fn length(offset: usize, size: usize, adjust: i64) -> Length {
    Length { offset, size: Size::Bytes(size), endian: Endian::Big, adjust }
}

fn field(offset: usize, size: usize) -> Field {
    Field { offset, size, endian: Endian::Big, avoid: Vec::new() }
}

fn settings(length: Length) -> Settings {
    Settings { max_message: MAX, ..Settings::new(length) }
}

fn condition(offset: usize, mask: u8, equals: u8) -> Condition {
    Condition { offset, mask, equals }
}

fn template(text: &str) -> Template {
    Template::parse(text).unwrap()
}

/// What a header makes of the frame: its length, or why there is none. Both sides must agree.
fn header(settings: &Settings, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
    let frame = Frame::new(settings.clone()).unwrap();
    let reply = match frame.upstream(usize::MAX).decode(&mut bytes.into()) {
        Ok(Answered::More(Need::Total(total))) => Ok(Some(total)),
        Ok(Answered::Reply { reply, .. }) => Ok(Some(reply.bytes.len())),
        Ok(_) => Ok(None),
        Err(reason) => Err(reason),
    };
    let request = match frame.downstream(usize::MAX).decode(&mut bytes.into()) {
        Ok(Received::More(Need::Total(total))) => Ok(Some(total)),
        Ok(Received::Request { request, .. }) => Ok(Some(request.bytes.len())),
        Ok(_) => Ok(None),
        Err(bad) => Err(bad.reason),
    };
    assert_eq!(request, reply);
    request
}

#[test]
fn lengths_at_the_edges() {
    let too_large = |n| Err(Malformed::TooLarge(n));
    let short = Err(Malformed::Invalid("length is less than the header"));
    let four = |adjust, value: u32| header(&settings(length(0, 4, adjust)), &value.to_be_bytes());
    assert_eq!(four(0, 999), Ok(Some(999)));
    assert_eq!(four(0, 1000), Ok(Some(1000)));
    assert_eq!(four(0, 1001), too_large(1001));
    assert_eq!(four(4, 995), Ok(Some(999)));
    assert_eq!(four(4, 996), Ok(Some(1000)));
    assert_eq!(four(4, 997), too_large(1001));
    assert_eq!(four(0, 4), Ok(Some(4)));
    assert_eq!(four(0, 3), short);
    assert_eq!(four(0, 0), short);
    assert_eq!(four(-10, 13), short);
    assert_eq!(four(-10, 9), short);
    assert_eq!(four(4, (1 << 31) - 1), too_large((1 << 31) + 3));
    assert_eq!(four(4, 1 << 31), too_large((1 << 31) + 4));
    assert_eq!(four(4, (1 << 31) + 1), too_large((1 << 31) + 5));
    assert_eq!(four(4, u32::MAX), too_large((1 << 32) + 3));

    let eight = |adjust, value: u64| header(&settings(length(0, 8, adjust)), &value.to_be_bytes());
    assert_eq!(eight(0, 1 << 63), too_large(1 << 63));
    assert_eq!(eight(0, u64::MAX), too_large(u64::MAX));
    assert_eq!(eight(8, u64::MAX), too_large(u64::MAX));
    assert_eq!(eight(i64::MIN, (1 << 63) + 100), Ok(Some(100)));
    assert_eq!(eight(i64::MIN, 100), short);
    assert_eq!(eight(-1, 0), short);

    let two = Settings { length: vec![length(0, 8, 8), length(8, 8, 8)], ..settings(length(0, 8, 0)) };
    assert_eq!(header(&two, &[0xff; 16]), too_large(u64::MAX));
    assert_eq!(header(&two, &[0xff; 15]), Ok(None));
    assert_eq!(header(&two, &[[0; 7], [5; 7]].concat()), Ok(None));
}

#[test]
fn protobuf_delimited() {
    let varint = Length { size: Size::Varint, ..length(0, 1, 0) };
    let header = |bytes: &[u8]| header(&settings(varint.clone()), bytes);
    assert_eq!(header(&[0]), Ok(Some(1)));
    assert_eq!(header(&[3, b'a', b'b', b'c', 9]), Ok(Some(4)));
    assert_eq!(header(&[0xac, 0x02]), Ok(Some(302)));
    assert_eq!(header(&[0xac]), Ok(None));
    assert_eq!(header(&[0xe6, 0x07]), Ok(Some(MAX)));
    assert_eq!(header(&[0xe7, 0x07]), Err(Malformed::TooLarge(1001)));
    assert_eq!(header(&[0xff; 10]), Err(Malformed::Invalid("length is not a varint")));
    assert_eq!(
        header(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        Err(Malformed::TooLarge(u64::MAX))
    );
}

#[test]
fn a_method_is_a_part_of_the_request() {
    let frame = |method| Frame::new(Settings { method, ..settings(length(0, 1, 1)) }).unwrap();
    let named = frame(Some(Method { offset: 1, size: 3 }));
    assert_eq!(named.method(b"\x05get a"), Some(&b"get"[..]));
    assert_eq!(named.method(b"\x03get"), Some(&b"get"[..]));
    assert_eq!(named.method(b"\x02ge"), None);
    assert_eq!(named.method(b""), None);
    assert_eq!(frame(None).method(b"\x05get a"), None);
}

#[test]
fn a_refusal_of_too_large_a_request_waits_for_its_id() {
    let settings = Settings { id: Some(field(4, 2)), ..settings(length(0, 4, 0)) };
    let mut codec = Frame::new(settings).unwrap().downstream(usize::MAX);
    let mut input = BytesMut::from(&[0, 0, 4, 0, 0x12][..]);
    assert!(matches!(codec.decode(&mut input), Ok(Received::More(Need::Unknown))));
    input.extend_from_slice(&[0x34]);
    let bad = BadRequest { id: Id::Bits(0x1234), reason: Malformed::TooLarge(1024) };
    assert_eq!(codec.decode(&mut input).unwrap_err(), bad);
}

#[test]
fn a_large_message_is_not_copied() {
    let settings = Settings { id: Some(field(4, 2)), max_message: 1 << 20, ..settings(length(0, 4, 0)) };
    let frame = Frame::new(settings).unwrap();
    let mut bytes = vec![7; 100_000];
    bytes[..6].copy_from_slice(&[0, 1, 0x86, 0xa0, 0, 1]);
    let request = Request::new(bytes.into(), false);
    let mut out = Output::new();
    frame.upstream(usize::MAX).encode(&request, Tag(2), &mut out);
    let referenced = |slices: &[std::io::IoSlice<'_>]| {
        assert_eq!(&slices[0][..], [0, 1, 0x86, 0xa0, 0, 2]);
        assert_eq!(slices[1].as_ptr(), request.bytes[6..].as_ptr());
        Err::<usize, _>(())
    };
    assert_eq!(out.write_once(referenced), Err(()));
}

#[test]
fn modes_and_tags() {
    use Mode::{Exclusive, Multiplex, Pipeline};
    let plain = settings(length(0, 4, 4));
    let frame = |s: Settings| Frame::new(s).unwrap();
    assert_eq!(frame(plain.clone()).modes(), [Exclusive, Pipeline]);
    assert_eq!(frame(plain.clone()).tags(), None);
    assert_eq!(frame(Settings { in_order: false, ..plain.clone() }).modes(), [Exclusive]);
    let avoid = |avoid: &[u64]| Field { avoid: avoid.to_vec(), ..field(4, 2) };
    let reply = Overrides { id: Some(avoid(&[9])), ..Overrides::default() };
    let tagged = Settings { id: Some(avoid(&[0, 65535])), reply, ..plain };
    assert_eq!(frame(tagged.clone()).modes(), [Exclusive, Pipeline, Multiplex]);
    assert_eq!(frame(tagged.clone()).tags(), Some(TagSpace { last: 65535, avoid: vec![0, 65535, 9] }));
    let wide = Settings { id: Some(field(4, 8)), reply: Overrides::default(), in_order: false, ..tagged };
    assert_eq!(frame(wide.clone()).modes(), [Exclusive, Multiplex]);
    assert_eq!(frame(wide).tags(), Some(TagSpace { last: u64::MAX, avoid: Vec::new() }));
}

#[track_caller]
fn refused(change: impl FnOnce(&mut Settings), expected: &str) {
    let mut settings = Settings { id: Some(field(4, 4)), ..settings(length(0, 4, 4)) };
    Frame::new(settings.clone()).unwrap();
    change(&mut settings);
    assert_eq!(Frame::new(settings).unwrap_err().to_string(), expected);
}

#[test]
fn fields_that_cannot_be() {
    refused(|s| s.length.clear(), "length: a frame has 0 length fields; give 1 to 8");
    refused(
        |s| s.length[0].size = Size::Bytes(5),
        "length.0.size: a length of 5 bytes; use 1, 2, 3, 4, 8 or \"varint\"",
    );
    refused(
        |s| s.length[0].offset = usize::MAX,
        "length.0.offset: 18446744073709551615 is too far into the frame; header fields end within 1024 bytes",
    );
    refused(
        |s| s.length[0].adjust = 1001,
        "length.0.adjust: an empty body makes 1001 bytes, more than max_message (1000); \
         lower adjust or raise max_message",
    );
    refused(
        |s| s.length[0] = length(0, 1, -255),
        "length.0.adjust: no value makes a frame as long as its header, 1 bytes; \
         raise adjust: bytes on the wire = value + adjust",
    );
    refused(|s| s.max_message = 7, "max_message: 7 bytes cannot hold a header of 8 bytes; raise it");
    refused(
        |s| s.method = Some(Method { offset: 8, size: 0 }),
        "method.size: a method of 0 bytes; use 1 to 1024",
    );
    refused(
        |s| s.method = Some(Method { offset: 8, size: usize::MAX }),
        "method.size: a method of 18446744073709551615 bytes; use 1 to 1024",
    );
    refused(
        |s| s.method = Some(Method { offset: 1017, size: 8 }),
        "method.offset: 1017 is too far into the frame; header fields end within 1024 bytes",
    );
    refused(
        |s| s.method = Some(Method { offset: 1000, size: 1 }),
        "max_message: 1000 bytes cannot hold a header of 1001 bytes; raise it",
    );
    refused(
        |s| s.method = Some(Method { offset: 7, size: 2 }),
        "method.offset: bytes 7 to 8 overlap the id; a method is a field of its own",
    );
    refused(|s| s.id = Some(field(4, 9)), "id.size: an id of 9 bytes; use 1 to 8");
    refused(
        |s| s.id = Some(field(2, 4)),
        "id.offset: bytes 2 to 5 overlap a length, in requests; an id is a field of its own",
    );
    refused(
        |s| s.length[0].size = Size::Varint,
        "id.offset: bytes 4 to 7 overlap a varint length, which may take 10 bytes, in requests; \
         an id is a field of its own",
    );
    refused(
        |s| s.reply.length = Some(vec![length(7, 2, 0)]),
        "id.offset: bytes 4 to 7 overlap a length, in replies; an id is a field of its own",
    );
    refused(
        |s| s.id = Some(Field { avoid: vec![1, 256], ..field(4, 1) }),
        "id.avoid.1: 256 does not fit in 1 bytes; leave it out",
    );
    refused(
        |s| s.id = Some(Field { avoid: vec![1; 65], ..field(4, 1) }),
        "id.avoid: 65 values to avoid; give at most 64",
    );
    refused(
        |s| s.reply.id = Some(field(8, 8)),
        "reply.id.size: 8 bytes in replies, 4 in requests; an id has one size",
    );
    refused(
        |s| s.reply.id = s.id.take(),
        "reply.id: replies have an id and requests have none; give id, for requests, too",
    );
}

#[test]
fn conditions_that_cannot_be() {
    refused(
        |s| s.oneway = vec![condition(8, 1, 1), condition(8, 0, 0)],
        "oneway.1.mask: a mask of 0 holds for every frame; set the bits that count; 0xff for the whole byte",
    );
    refused(
        |s| s.reply.closing = Some(vec![condition(8, 0x0f, 0x81)]),
        "reply.closing.0.equals: 0x81 has bits that the mask 0x0f takes away; it can never hold; 0x01 could",
    );
    refused(
        |s| s.closing = vec![condition(1024, 1, 1)],
        "closing.0.offset: 1024 is too far into the frame; conditions look at the first 1024 bytes",
    );
    refused(
        |s| s.reply.message = Some(vec![condition(8, 0, 0)]),
        "reply.message.0.mask: a mask of 0 holds for every frame; set the bits that count; 0xff for the whole byte",
    );
    refused(
        |s| {
            let conditions = vec![condition(4, 0xff, 1)];
            s.heartbeat = Some(Heartbeat { conditions, reply: None, is_request: true });
        },
        "heartbeat.match.0.offset: a frame may end before byte 4; \
         tell heartbeats apart by the first 4 bytes",
    );
    let none = || Some(Heartbeat { conditions: Vec::new(), reply: None, is_request: false });
    refused(
        |s| s.heartbeat = none(),
        "heartbeat.match: without conditions every frame is a heartbeat; give at least one",
    );
    refused(
        |s| s.reply.heartbeat = none(),
        "reply.heartbeat.match: without conditions every frame is a heartbeat; give at least one",
    );
}

#[test]
fn templates_that_cannot_be() {
    let fix = "count again: bytes on the wire = value + adjust";
    let error = |text: &str, expected: String| refused(|s| s.error = Some(template(text)), &expected);
    error("00000004 {id} 00", format!("error: the error is 9 bytes long but its length field says 8; {fix}"));
    error(
        "ffffffff {id}",
        format!("error: the error is 8 bytes long but its length field says 4294967299; {fix}"),
    );
    error("000000", "error: the error is too short to hold its length; write it whole".into());
    error(
        "00000004 00000000",
        "error: replies carry their id at offset 4, the error does not; put {id} at offset 4".into(),
    );
    error(
        "00000005 ff {id}",
        "error: replies carry their id at offset 4, the error does not; put {id} at offset 4".into(),
    );
    let heartbeat = |text| {
        Some(Heartbeat {
            conditions: vec![condition(8, 0xff, 1)],
            reply: Some(template(text)),
            is_request: false,
        })
    };
    refused(
        |s| {
            s.heartbeat = heartbeat("00000005 {id} 02");
            s.error = Some(template("00000005 {id} 01"));
        },
        "error: the error reads as a heartbeat; change its flags",
    );
    refused(
        |s| {
            s.reply.closing = Some(vec![condition(8, 0xff, 2)]);
            s.error = Some(template("00000005 {id} 02"));
        },
        "error: the error reads as a closing frame; change its flags",
    );
    refused(
        |s| {
            s.id = None;
            s.error = Some(template("00000005 {id} 02"));
        },
        "error: frames have no id to put into {id}; set id, or leave {id} out",
    );
    refused(
        |s| s.heartbeat = heartbeat("00000006 {id} 02"),
        &format!(
            "heartbeat.reply: the answer to a client is 9 bytes long but its length field says 10; {fix}"
        ),
    );
    refused(
        |s| {
            s.reply.length = Some(vec![length(0, 4, 3)]);
            s.heartbeat = heartbeat("00000006 {id} 02");
        },
        &format!(
            "heartbeat.reply: the answer to a server is 9 bytes long but its length field says 10; {fix}"
        ),
    );
    refused(
        |s| s.reply.heartbeat = heartbeat("00000006 {id} 02"),
        &format!(
            "reply.heartbeat.reply: the answer to a server is 9 bytes long but its length field says 10; {fix}"
        ),
    );
}

#[test]
fn an_error_is_a_reply() {
    refused(
        |s| {
            s.message = vec![condition(8, 0xff, 3)];
            s.error = Some(template("00000005 {id} 02"));
        },
        "error: the error does not read as a reply; look at reply.message",
    );
    let message = vec![condition(8, 0xff, 3)];
    let reply = Overrides { message: Some(vec![condition(8, 0xff, 2)]), ..Overrides::default() };
    let error = Some(template("00000005 {id} 02"));
    let id = Some(field(4, 4));
    Frame::new(Settings { id, message, error, reply, ..settings(length(0, 4, 4)) }).unwrap();
}

#[test]
fn an_answer_has_the_layout_of_the_side_that_reads_it() {
    let heartbeat = |text: Option<&str>| {
        Some(Heartbeat {
            conditions: vec![condition(4, 0xff, 1)],
            reply: text.map(template),
            is_request: false,
        })
    };
    let mut settings = settings(length(0, 4, 4));
    settings.heartbeat = heartbeat(Some("00000001 02"));
    settings.reply.length = Some(vec![length(0, 4, 0)]);
    assert_eq!(Frame::new(settings.clone()).unwrap_err().key, "heartbeat.reply");
    // Valid for clients; servers are answered by their own, or not at all.
    settings.heartbeat = heartbeat(Some("00000005 02"));
    assert_eq!(Frame::new(settings.clone()).unwrap_err().key, "heartbeat.reply");
    settings.reply.heartbeat = heartbeat(Some("00000001 02"));
    Frame::new(settings.clone()).unwrap();
    settings.reply.heartbeat = heartbeat(None);
    Frame::new(settings).unwrap();
}
