//! Whose a reply is: the one whose seqid and name it has.

use std::sync::atomic::Ordering;

use super::*;
use crate::protocol::Malformed;

const CALL: u8 = envelope::CALL;
const REPLY: u8 = envelope::REPLY;
const EXCEPTION: u8 = envelope::EXCEPTION;
const ONEWAY: u8 = envelope::ONEWAY;

const NAME: Malformed = Malformed::Invalid("reply whose name is not that of its call");
const WHOSE: Malformed = Malformed::Invalid("reply without a seqid that may be to another call");

fn said(kind: u8, name: &str, seqid: i32) -> Vec<u8> {
    framed(&message(Encoding::Binary, kind, name, seqid, "x"))
}

/// A server that was sent these messages, under tags from 1 on.
fn asked(sent_before: &[(u8, &str)]) -> Box<dyn Upstream> {
    asked_of(&thrift(Transport::Framed, Encoding::Binary), sent_before)
}

/// The same, of an upstream that is known to write 0.
fn asked_zero(sent_before: &[(u8, &str)]) -> Box<dyn Upstream> {
    let thrift = thrift(Transport::Framed, Encoding::Binary);
    let mut first = asked_of(&thrift, &[(CALL, "get")]);
    assert_eq!(heard(&mut *first, REPLY, "get", 0), Ok(None));
    asked_of(&thrift, sent_before)
}

fn asked_of(thrift: &Thrift, sent_before: &[(u8, &str)]) -> Box<dyn Upstream> {
    let mut server = thrift.upstream(usize::MAX);
    let mut client = thrift.downstream(usize::MAX);
    for (tag, (kind, name)) in (1..).zip(sent_before) {
        let (_, request) = request(&mut *client, &said(*kind, name, 9));
        sent(&mut *server, &request, tag);
    }
    server
}

/// The tag in a message of the server.
fn heard(server: &mut dyn Upstream, kind: u8, name: &str, seqid: i32) -> Result<Option<Tag>, Malformed> {
    match server.decode(&mut BytesMut::from(&said(kind, name, seqid)[..]))? {
        Answered::Reply { tag, .. } => Ok(tag),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reply_has_the_name_of_its_call() {
    let calls = [(CALL, "get"), (CALL, "put")];
    let mut server = asked(&calls);
    assert_eq!(heard(&mut *server, REPLY, "put", 2), Ok(Some(Tag(2))));
    assert_eq!(heard(&mut *server, REPLY, "get", 1), Ok(Some(Tag(1))));
    for wrong in ["put", "ge", "", "get "] {
        assert_eq!(heard(&mut *asked(&calls), REPLY, wrong, 1), Err(NAME), "{wrong}");
        // What is no reply but tells why there is none may name something else.
        assert_eq!(heard(&mut *asked(&calls), EXCEPTION, wrong, 1), Ok(Some(Tag(1))), "{wrong}");
    }
}

#[test]
fn a_service_may_be_left_out() {
    for (call, reply) in [("Svc:get", "get"), ("Svc:get", "Svc:get"), ("a:b:get", "b:get"), ("GET", "get")] {
        assert_eq!(heard(&mut *asked(&[(CALL, call)]), REPLY, reply, 1), Ok(Some(Tag(1))), "{call} {reply}");
    }
    for (call, reply) in [("Svc:get", "Svc"), ("Svc:get", "put"), ("Svc:get", "Svc:put"), ("Svc:", "Svc")] {
        assert_eq!(heard(&mut *asked(&[(CALL, call)]), REPLY, reply, 1), Err(NAME), "{call} {reply}");
    }
}

#[test]
fn every_encoding_has_names() {
    for encoding in Encoding::ALL {
        let thrift = thrift(Transport::Framed, encoding);
        let (_, request) =
            request(&mut *thrift.downstream(usize::MAX), &framed(&message(encoding, 1, "get", 3, "x")));
        for (name, right) in [("get", true), ("put", false)] {
            let mut server = thrift.upstream(usize::MAX);
            sent(&mut *server, &request, 7);
            let reply = framed(&message(encoding, 2, name, 7, "y"));
            assert_eq!(server.decode(&mut BytesMut::from(&reply[..])).is_ok(), right, "{encoding:?} {name}");
        }
    }
}

#[test]
fn a_name_is_let_go_of_with_its_reply() {
    let mut server = asked(&[(CALL, "get")]);
    assert_eq!(heard(&mut *server, REPLY, "get", 1), Ok(Some(Tag(1))));
    // What answers nothing keeps its seqid: it is for the connection to see that nobody has it.
    assert_eq!(heard(&mut *server, REPLY, "put", 1), Ok(Some(Tag(1))));
    assert_eq!(heard(&mut *server, REPLY, "put", -1), Ok(Some(Tag(u32::MAX.into()))));
    assert_eq!(heard(&mut *server, REPLY, "put", 0), Ok(None));
}

#[test]
fn a_reply_without_a_seqid_is_to_the_only_call() {
    assert_eq!(heard(&mut *asked(&[(CALL, "get")]), REPLY, "get", 0), Ok(None));
    assert_eq!(heard(&mut *asked(&[(CALL, "get")]), EXCEPTION, "get", 0), Ok(None));
    assert_eq!(heard(&mut *asked(&[(CALL, "get")]), EXCEPTION, "", 0), Err(NAME));
    assert_eq!(heard(&mut *asked_zero(&[(CALL, "get")]), EXCEPTION, "", 0), Ok(None));
    assert_eq!(heard(&mut *asked(&[(CALL, "get")]), REPLY, "put", 0), Err(NAME));
    // The first may be one-way to the server.
    let mut server = asked(&[(CALL, "get"), (CALL, "get")]);
    assert_eq!(heard(&mut *server, REPLY, "get", 0), Err(WHOSE));
}

#[test]
fn what_answers_a_oneway_answers_nobody() {
    let mut server = asked(&[]);
    assert_eq!(heard(&mut *server, EXCEPTION, "log", i32::MAX), Ok(Some(Tag(i32::MAX as u64))));

    let sent_before = [(ONEWAY, "log"), (CALL, "get")];
    let mut server = asked(&sent_before);
    let mut input = BytesMut::from(&said(EXCEPTION, "log", i32::MAX)[..]);
    assert!(matches!(server.decode(&mut input), Ok(Answered::Control(None))));
    assert_eq!(heard(&mut *server, REPLY, "get", 2), Ok(Some(Tag(2))));
}

#[test]
fn a_reply_without_a_seqid_after_a_oneway_is_known_by_its_name() {
    let sent_before = [(ONEWAY, "log"), (CALL, "get")];
    for kind in [REPLY, EXCEPTION] {
        assert_eq!(heard(&mut *asked_zero(&sent_before), kind, "get", 0), Ok(None));
        assert!(heard(&mut *asked_zero(&sent_before), kind, "log", 0).is_err());
        // It may be to what is hidden in the one-way request.
        assert_eq!(heard(&mut *asked(&sent_before), kind, "get", 0), Err(WHOSE));
    }
    assert_eq!(heard(&mut *asked_zero(&sent_before), EXCEPTION, "", 0), Err(WHOSE));
    // It may be to either.
    assert_eq!(heard(&mut *asked_zero(&[(ONEWAY, "get"), (CALL, "get")]), REPLY, "get", 0), Err(WHOSE));
    // More names than are remembered.
    let names: Vec<String> = (0..100).map(|n| format!("log{n}")).collect();
    let mut many: Vec<_> = names.iter().map(|name| (ONEWAY, name.as_str())).collect();
    many.push((CALL, "get"));
    assert_eq!(heard(&mut *asked_zero(&many), REPLY, "get", 0), Err(WHOSE));
}

#[test]
fn a_large_answer_to_a_oneway_disturbs_nobody() {
    let thrift = thrift(Transport::Framed, Encoding::Binary);
    let mut server = thrift.upstream(4096);
    let mut client = thrift.downstream(usize::MAX);
    for (kind, tag) in [(ONEWAY, 1), (CALL, 2)] {
        let (_, request) = request(&mut *client, &said(kind, "get", 9));
        sent(&mut *server, &request, tag);
    }
    let large = framed(&message(Encoding::Binary, 2, "get", i32::MAX, &"x".repeat(20_000)));
    let mut input = BytesMut::new();
    for piece in [large.clone(), large, said(REPLY, "get", 2)].concat().chunks(3000) {
        input.extend_from_slice(piece);
        loop {
            match server.decode(&mut input).unwrap() {
                Answered::Control(None) => {}
                Answered::More(_) => break,
                Answered::Reply { tag, .. } => return assert_eq!((tag, input.len()), (Some(Tag(2)), 0)),
                other => panic!("{other:?}"),
            }
        }
    }
    panic!("no reply");
}

/// Or a reload would open all connections anew.
#[test]
fn what_is_learned_of_a_server_does_not_make_it_another_protocol() {
    let thrift = thrift(Transport::Framed, Encoding::Binary);
    let before = format!("{thrift:?}");
    assert_eq!(heard(&mut *asked_of(&thrift, &[(CALL, "get")]), REPLY, "get", 0), Ok(None));
    assert!(thrift.0.writes_zero.load(Ordering::Relaxed));
    assert_eq!(format!("{thrift:?}"), before);
}
