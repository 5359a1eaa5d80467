//! Large framed messages: a head and parts, and what cannot travel in them.

use super::*;
use crate::protocol::Malformed;

const MAX_BUFFERED: usize = 4096;

/// What a codec made of a stream in pieces: whether it came in parts, its bytes put together, and how it ended.
fn gathered(codec: &mut dyn Downstream, stream: &[u8], step: usize) -> (bool, Vec<u8>, Option<BadRequest>) {
    let (mut input, mut all, mut in_parts) = (BytesMut::new(), Vec::new(), false);
    for piece in stream.chunks(step) {
        input.extend_from_slice(piece);
        loop {
            match codec.decode(&mut input) {
                Ok(Received::Request { request, .. }) => all.extend_from_slice(&request.bytes),
                Ok(Received::Head { request, rest, .. }) => {
                    assert_eq!((request.bytes.len(), rest), (MAX_BUFFERED, stream.len() - MAX_BUFFERED));
                    in_parts = true;
                    all.extend_from_slice(&request.bytes);
                }
                Ok(Received::Part { bytes, last }) => {
                    all.extend_from_slice(&bytes);
                    assert_eq!(last, all.len() == stream.len());
                }
                Ok(Received::More(_)) => break,
                Ok(other) => panic!("{other:?}"),
                Err(bad) => return (in_parts, all, Some(bad)),
            }
        }
    }
    (in_parts, all, None)
}

#[test]
fn only_frames_for_a_framed_upstream_travel_in_parts() {
    for encoding in [Encoding::Binary, Encoding::Compact] {
        let large = message(encoding, 1, "m", 1, &"x".repeat(20_000));
        let header = with_header(encoding, 1, &[], &large);
        for step in [1, 100, 5000, 30_000] {
            let ask =
                |to, said: &[u8]| gathered(&mut *thrift(to, encoding).downstream(MAX_BUFFERED), said, step);
            assert_eq!(ask(Transport::Framed, &framed(&large)), (true, framed(&large), None));
            assert_eq!(ask(Transport::Framed, &large), (false, framed(&large), None));
            assert_eq!(ask(Transport::Framed, &header), (false, framed(&large), None));
            assert_eq!(ask(Transport::Buffered, &framed(&large)), (false, large.clone(), None));
        }
    }
}

#[test]
fn a_request_in_parts_is_one_message_or_is_cut() {
    let large = message(Encoding::Binary, 1, "m", 1, &"x".repeat(20_000));
    let short = [&large[..large.len() - 1], &[11]].concat();
    let long = [&large[..], &[0]].concat();
    let bad = [&large[..large.len() - 1], &[99, 0, 1]].concat();
    for (said, what) in [
        (short, "frame that ends before its message does"),
        (long, "frame with more in it than one message"),
        (bad, "type that Thrift does not have"),
    ] {
        for step in [1, 1000, 30_000] {
            let mut client = thrift(Transport::Framed, Encoding::Binary).downstream(MAX_BUFFERED);
            let (in_parts, all, end) = gathered(&mut *client, &framed(&said), step);
            let end = end.unwrap();
            assert!(in_parts && all.len() < said.len() + 4);
            assert_eq!(end.reason, Malformed::Invalid(what));
            assert!(refused(&mut *client, &end.id, &Refusal::Malformed).is_some());
        }
    }
}

#[test]
fn a_head_goes_on_under_its_tag_with_the_length_of_all() {
    let large = message(Encoding::Compact, 1, "m", 1, &"x".repeat(20_000));
    let thrift = thrift(Transport::Framed, Encoding::Compact);
    let mut client = thrift.downstream(MAX_BUFFERED);
    let mut input = BytesMut::from(&framed(&large)[..]);
    let Ok(Received::Head { request, .. }) = client.decode(&mut input) else { panic!("no head") };
    assert_eq!(thrift.method(&request.bytes), Some(&b"m"[..]));
    let head = sent(&mut *thrift.upstream(MAX_BUFFERED), &request, 300);
    let whole = [&head[..], &input].concat();
    assert_eq!(whole, framed(&message(Encoding::Compact, 1, "m", 300, &"x".repeat(20_000))));
}

#[test]
fn replies_in_parts_reach_every_client() {
    let encoding = Encoding::Compact;
    let thrift = thrift(Transport::Framed, encoding);
    let answer = |seqid| message(encoding, 2, "m", seqid, &"y".repeat(20_000));
    let call = message(encoding, 1, "m", 5, "x");
    let mut plain = with_header(encoding, 5, &[], &answer(5));
    plain[7] = 0;
    for (said, expected) in [
        (framed(&call), framed(&answer(5))),
        (call.clone(), answer(5)),
        (with_header(encoding, 5, &[], &call), plain),
    ] {
        let mut client = thrift.downstream(MAX_BUFFERED);
        let (id, _) = request(&mut *client, &said);
        let mut input = BytesMut::from(&framed(&answer(300))[..]);
        let mut server = thrift.upstream(MAX_BUFFERED);
        let Ok(Answered::Head { tag, reply, rest }) = server.decode(&mut input) else { panic!("no head") };
        assert_eq!((tag, rest), (Some(Tag(300)), input.len()));
        let mut got = answered(&mut *client, &id, reply);
        let Ok(Answered::Part { bytes, last: true }) = server.decode(&mut input) else { panic!("no part") };
        got.extend_from_slice(&bytes);
        assert_eq!(got, expected);
    }
}
