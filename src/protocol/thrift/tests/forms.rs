//! Every client form against every upstream: what fits goes there and back byte for byte, the rest is refused in
//! the client's own words.

use super::*;
use crate::protocol::Malformed;

/// What a client in this form writes.
fn as_client(transport: Transport, encoding: Encoding, seqid: i32, message: &[u8]) -> Vec<u8> {
    match transport {
        Transport::Framed => framed(message),
        Transport::Buffered => message.to_vec(),
        Transport::Header => with_header(encoding, seqid, &[], message),
    }
}

pub(super) fn forms() -> Vec<(Transport, Encoding)> {
    let all = Transport::ALL.into_iter().flat_map(|t| Encoding::ALL.into_iter().map(move |e| (t, e)));
    all.filter(|form| *form != (Transport::Header, Encoding::Json)).collect()
}

#[test]
fn every_client_of_the_encoding_is_served_by_every_upstream() {
    for (to, encoding) in forms() {
        for (from, _) in forms().into_iter().filter(|form| form.1 == encoding) {
            let thrift = thrift(to, encoding);
            let (mut client, mut server) = (thrift.downstream(usize::MAX), thrift.upstream(usize::MAX));
            for seqid in [0, 1, 77, 128, 1 << 20, i32::MAX] {
                let said = message(encoding, 1, "svc:echo", seqid, "hello");
                let (id, request) = request(&mut *client, &as_client(from, encoding, seqid, &said));
                assert!(!request.oneway);
                assert_eq!(thrift.method(&request.bytes), Some(&b"svc:echo"[..]));
                for tag in [1, 300, LAST_TAG] {
                    let got = sent(&mut *server, &request, tag.cast_unsigned().into());
                    let heard = message(encoding, 1, "svc:echo", tag, "hello");
                    let flagged = from == Transport::Header && to == Transport::Header;
                    let mut expected = as_client(to, encoding, tag, &heard);
                    if to == Transport::Header && !flagged {
                        expected[7] = 0;
                    }
                    assert_eq!(got, expected, "{from:?} to {to:?} in {encoding:?}");

                    let answer = message(encoding, 2, "echo", tag, "hello too");
                    let (found, reply) = reply(&mut *server, &as_client(to, encoding, tag, &answer));
                    assert_eq!(found, Some(Tag(tag.cast_unsigned().into())));
                    let got = answered(&mut *client, &id, reply);
                    let mut expected =
                        as_client(from, encoding, seqid, &message(encoding, 2, "echo", seqid, "hello too"));
                    if from == Transport::Header && !flagged {
                        expected[7] = 0;
                    }
                    assert_eq!(got, expected, "{to:?} to {from:?} in {encoding:?}");
                }
            }
        }
    }
}

#[test]
fn another_encoding_is_refused_in_the_clients_own() {
    for (to, encoding) in forms() {
        for (from, other) in forms().into_iter().filter(|form| form.1 != encoding) {
            let mut client = thrift(to, encoding).downstream(usize::MAX);
            let said = as_client(from, other, 5, &message(other, 1, "echo", 5, "x"));
            let (seen, bad) = requests(&mut *client, &said, &[]);
            assert!(seen.is_empty());
            let bad = bad.unwrap();
            let told = refused(&mut *client, &bad.id, &Refusal::Malformed).unwrap();
            let text = "request is malformed: encoding other than the upstream's";
            let mut expected = as_client(from, other, 5, &exception(other, "echo", 5, text, 9));
            if from == Transport::Header {
                expected[7] = 0;
            }
            assert_eq!(told, expected, "{from:?} {other:?} for {to:?} {encoding:?}");
        }
    }
}

/// A `TApplicationException` as the crate writes it.
fn exception(encoding: Encoding, name: &str, seqid: i32, text: &str, code: i32) -> Vec<u8> {
    if encoding == Encoding::Json {
        return format!("[1,\"{name}\",3,{seqid},{{\"1\":{{\"str\":\"{text}\"}},\"2\":{{\"i32\":{code}}}}}]")
            .into_bytes();
    }
    let error =
        thrift::ApplicationError::new(thrift::ApplicationErrorKind::try_from(code).unwrap(), text.to_owned());
    written(encoding, true, |out| {
        out.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Exception, seqid))?;
        thrift::Error::write_application_error_to_out_protocol(&error, out)?;
        out.write_message_end()
    })
}

#[test]
fn refusals_are_exceptions() {
    for (form, encoding) in forms() {
        let mut client = thrift(form, encoding).downstream(usize::MAX);
        let said = as_client(form, encoding, 9, &message(encoding, 1, "svc:echo", 9, "x"));
        let (id, _) = request(&mut *client, &said);
        let down = Refusal::Down("it said \"no\"\n".into());
        for (refusal, code) in
            [(Refusal::Timeout, 6), (Refusal::QueueFull, 6), (down, 6), (Refusal::TooLarge, 7)]
        {
            let text = match encoding {
                Encoding::Json => refusal.to_string().replace('"', "\\\"").replace('\n', "\\n"),
                _ => refusal.to_string(),
            };
            let mut expected = as_client(form, encoding, 9, &exception(encoding, "svc:echo", 9, &text, code));
            if form == Transport::Header {
                expected[7] = 0;
            }
            assert_eq!(refused(&mut *client, &id, &refusal), Some(expected), "{form:?} {encoding:?}");
        }
        assert_eq!(refused(&mut *client, &Id::None, &Refusal::Malformed), None);
    }
}

#[test]
fn old_binary_messages_reach_a_server_as_strict_ones() {
    let old = |kind: u8, name: &str, seqid: i32| {
        let size = u32::try_from(name.len()).unwrap().to_be_bytes();
        [&size[..], name.as_bytes(), &[kind], &seqid.to_be_bytes(), &[0]].concat()
    };
    let strict = |kind, seqid| [&envelope::write(Encoding::Binary, kind, b"ping", seqid)[..], &[0]].concat();
    for (from, to) in [Transport::Framed, Transport::Buffered]
        .into_iter()
        .flat_map(|from| Transport::ALL.map(|to| (from, to)))
    {
        let thrift = thrift(to, Encoding::Binary);
        let mut client = thrift.downstream(usize::MAX);
        let said = old(1, "ping", -5);
        let (id, request) = request(&mut *client, &as_client(from, Encoding::Binary, 0, &said));
        assert_eq!(thrift.method(&request.bytes), Some(&b"ping"[..]));
        let as_server = |message: &[u8]| {
            let mut bytes = as_client(to, Encoding::Binary, 8, message);
            if to == Transport::Header {
                bytes[7] = 0;
            }
            bytes
        };
        // Some servers answer in the old form all the same.
        for answer in [strict(2, 8), old(2, "ping", 8)] {
            let mut server = thrift.upstream(usize::MAX);
            assert_eq!(sent(&mut *server, &request, 8), as_server(&strict(1, 8)), "{from:?} {to:?}");
            let (tag, reply) = reply(&mut *server, &as_server(&answer));
            assert_eq!(tag, Some(Tag(8)));
            let got = answered(&mut *client, &id, reply);
            assert_eq!(got, as_client(from, Encoding::Binary, 0, &old(2, "ping", -5)), "{from:?} {to:?}");
        }
        let told = refused(&mut *client, &id, &Refusal::Lost).unwrap();
        let head = old(3, "ping", -5);
        let expected = as_client(from, Encoding::Binary, 0, &head[..head.len() - 1]);
        let skip = if from == Transport::Framed { 4 } else { 0 };
        assert_eq!(told[skip..][..head.len() - 1], expected[skip..]);
    }
}

#[test]
fn a_header_client_may_change_its_encoding_while_a_call_is_out() {
    let thrift = thrift(Transport::Framed, Encoding::Binary);
    let (mut client, mut server) = (thrift.downstream(usize::MAX), thrift.upstream(usize::MAX));
    let said = |encoding, seqid| with_header(encoding, seqid, &[], &message(encoding, 1, "m", seqid, "x"));
    let (id, request) = request(&mut *client, &said(Encoding::Binary, 77));
    sent(&mut *server, &request, 5);
    let other = said(Encoding::Compact, 78);
    assert!(client.decode(&mut BytesMut::from(&other[..])).is_err());
    let plain = |message: &[u8]| {
        let mut bytes = with_header(Encoding::Binary, 77, &[], message);
        bytes[7] = 0;
        bytes
    };
    let (_, reply) = reply(&mut *server, &framed(&message(Encoding::Binary, 2, "m", 5, "y")));
    let got = answered(&mut *client, &id, reply);
    assert_eq!(got, plain(&message(Encoding::Binary, 2, "m", 77, "y")), "{}", got.escape_ascii());
    let told = refused(&mut *client, &id, &Refusal::Lost).unwrap();
    let lost = exception(Encoding::Binary, "m", 77, "upstream connection was lost", 6);
    assert_eq!(told, plain(&lost), "{}", told.escape_ascii());
}

#[test]
fn a_seqid_comes_back_as_it_was_written() {
    let mut client = thrift(Transport::Buffered, Encoding::Compact).downstream(usize::MAX);
    // 1 as a varint of three bytes.
    let said = [&[0x82, 0x21, 0x81, 0x80, 0x00, 4][..], b"ping", &[0]].concat();
    let (id, _) = request(&mut *client, &said);
    let reply = Reply::new([&[0x82, 0x41, 0xac, 0x02, 4][..], b"ping", &[0]].concat().into());
    let expected = [&[0x82, 0x41, 0x81, 0x80, 0x00, 4][..], b"ping", &[0]].concat();
    assert_eq!(answered(&mut *client, &id, reply), expected);
}

#[test]
fn people_see_the_seqid() {
    for (transport, encoding) in forms() {
        let thrift = thrift(transport, encoding);
        let said = as_client(transport, encoding, 77, &message(encoding, 1, "echo", 77, "x"));
        let (id, _) = request(&mut *thrift.downstream(usize::MAX), &said);
        assert_eq!(thrift.shown(id), Id::Bits(77), "{transport:?} {encoding:?}");
    }
}

#[test]
fn oneway_by_kind_and_by_name() {
    let oneway = [Bytes::from_static(b"svc:log")].into();
    let thrift = Thrift::new(Settings { oneway, ..Settings::default() }).unwrap();
    let mut client = thrift.downstream(usize::MAX);
    let mut ask = |kind, name| request(&mut *client, &framed(&message(Encoding::Binary, kind, name, 3, "x")));
    assert!(!ask(1, "log").1.oneway);
    let by_kind = ask(4, "log");
    let by_name = ask(1, "svc:log");
    for (id, request) in [by_kind, by_name] {
        assert!(request.oneway);
        assert_eq!(refused(&mut *client, &id, &Refusal::Malformed), None);
        let mut server = thrift.upstream(usize::MAX);
        let bytes = sent(&mut *server, &request, 4);
        let seqid = bytes.len() - 4 - 9..bytes.len() - 9;
        assert_eq!(bytes[seqid], i32::MAX.to_be_bytes());
        assert!(server.speaks_unasked());
    }
}

#[test]
fn header_values_go_where_there_is_a_place_for_them() {
    // One pair, and padding.
    let pairs = [1, 1, 1, b'k', 2, b'v', b'w'];
    let said = with_header(Encoding::Compact, 6, &pairs, &message(Encoding::Compact, 1, "echo", 6, "x"));
    let header = thrift(Transport::Header, Encoding::Compact);
    let (_, kept) = request(&mut *header.downstream(usize::MAX), &said);
    assert_eq!(header.method(&kept.bytes), Some(&b"echo"[..]));
    let expected =
        with_header(Encoding::Compact, 900, &pairs, &message(Encoding::Compact, 1, "echo", 900, "x"));
    assert_eq!(sent(&mut *header.upstream(usize::MAX), &kept, 900), expected);

    let mut client = thrift(Transport::Framed, Encoding::Compact).downstream(usize::MAX);
    let bad = requests(&mut *client, &said, &[]).1.unwrap();
    assert!(refused(&mut *client, &bad.id, &Refusal::Malformed).is_some());
}

#[test]
fn transforms_are_refused_under_the_headers_seqid() {
    let mut said = with_header(Encoding::Binary, 6, &[], b"zzzz");
    said[15] = 1;
    let mut client = thrift(Transport::Header, Encoding::Binary).downstream(usize::MAX);
    let bad = requests(&mut *client, &said, &[]).1.unwrap();
    assert_eq!(bad.reason, Malformed::Invalid("THeader with a transform"));
    let told = refused(&mut *client, &bad.id, &Refusal::Malformed).unwrap();
    let text = "request is malformed: THeader with a transform";
    let mut expected = with_header(Encoding::Binary, 6, &[], &exception(Encoding::Binary, "", 6, text, 8));
    expected[7] = 0;
    assert_eq!(told, expected);
}

#[test]
fn pings_are_calls_that_a_client_could_make() {
    for (transport, encoding) in forms() {
        let thrift = thrift(transport, encoding);
        let ping = thrift.ping().unwrap();
        let (_, request) = request(&mut *thrift.downstream(usize::MAX), &ping);
        assert_eq!((&request.bytes, request.oneway), (&ping, false));
        assert_eq!(thrift.method(&ping), Some(PING));
        assert_eq!(thrift.method(&thrift.call(b"Calc:ping").unwrap()), Some(&b"Calc:ping"[..]));
    }
}

#[test]
fn settings_that_cannot_be() {
    let error = |settings: Settings| Thrift::new(settings).map_or_else(|e| e.to_string(), |_| String::new());
    let default = Settings::default();
    assert_eq!(
        error(Settings { transport: Transport::Header, encoding: Encoding::Json, ..default.clone() }),
        "encoding: `json` cannot be in the transport `header`; write \"binary\" or \"compact\""
    );
    assert_eq!(
        error(Settings { max_message: 255, ..default.clone() }),
        "max_message: 255 bytes; write 256 bytes to 1 GiB"
    );
    assert_eq!(
        error(Settings { oneway: [Bytes::new()].into(), ..default }),
        "oneway: a name of 0 bytes; write names of 1 to 1024 bytes"
    );
}
