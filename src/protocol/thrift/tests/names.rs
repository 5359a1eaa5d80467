//! Whose a reply is: the one whose seqid and name it has.

use super::*;
use crate::protocol::Malformed;

const CALL: u8 = envelope::CALL;
const REPLY: u8 = envelope::REPLY;
const EXCEPTION: u8 = envelope::EXCEPTION;
const ONEWAY: u8 = envelope::ONEWAY;

const NAME: Malformed = Malformed::Invalid("reply whose name is not that of its call");
const NUMBER: Malformed = Malformed::Invalid(
    "reply without the seqid of its call, although `echoes_seqid` says that replies have it",
);
const WHOSE: Malformed = Malformed::Invalid("reply without a seqid that may be to another call");

fn said(kind: u8, name: &str, seqid: i32) -> Vec<u8> {
    framed(&message(Encoding::Binary, kind, name, seqid, "x"))
}

/// A server that was sent these messages, under tags from 1 on.
fn asked(sent_before: &[(u8, &str)]) -> Box<dyn Upstream> {
    asked_of(&thrift(Transport::Framed, Encoding::Binary), sent_before)
}

/// The same, of an upstream that is said not to echo seqids.
fn asked_zero(sent_before: &[(u8, &str)]) -> Box<dyn Upstream> {
    let settings = Settings { echoes_seqid: false, max_message: 1 << 20, ..Settings::default() };
    asked_of(&Thrift::new(settings).unwrap(), sent_before)
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
    assert_eq!(heard(&mut *server, REPLY, "put", 0), Err(NUMBER));
}

/// A client can bring such replies about, so they are believed only where the operator says so.
#[test]
fn a_reply_without_a_seqid_is_to_the_only_call_of_servers_that_write_none() {
    for kind in [REPLY, EXCEPTION] {
        assert_eq!(heard(&mut *asked(&[(CALL, "get")]), kind, "get", 0), Err(NUMBER));
        assert_eq!(heard(&mut *asked_zero(&[(CALL, "get")]), kind, "get", 0), Ok(None));
    }
    assert_eq!(heard(&mut *asked_zero(&[(CALL, "get")]), EXCEPTION, "", 0), Ok(None));
    assert_eq!(heard(&mut *asked_zero(&[(CALL, "get")]), REPLY, "put", 0), Err(NAME));
    assert_eq!(heard(&mut *asked_zero(&[(CALL, "get")]), REPLY, "get", 1), Ok(Some(Tag(1))));
    // The first may be one-way to the server.
    let mut server = asked_zero(&[(CALL, "get"), (CALL, "get")]);
    assert_eq!(heard(&mut *server, REPLY, "get", 0), Err(WHOSE));
    let spec = Settings { echoes_seqid: false, ..Settings::default() };
    assert_eq!(Thrift::new(spec).unwrap().modes(), [Mode::Exclusive]);
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
fn after_a_oneway_a_reply_without_a_seqid_may_be_to_what_is_hidden_in_it() {
    let mut server = asked_zero(&[(ONEWAY, "log"), (CALL, "get")]);
    assert_eq!(heard(&mut *server, REPLY, "get", 0), Err(WHOSE));
    // So nothing is to follow it on its connection.
    assert!(asked_zero(&[(ONEWAY, "log")]).is_worn());
    assert!(!asked_zero(&[(CALL, "get")]).is_worn());
    assert!(!asked(&[(ONEWAY, "log")]).is_worn());
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
