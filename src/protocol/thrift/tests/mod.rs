//! Codecs held against messages that the `thrift` crate writes.

mod forms;
mod fuzz;
mod hostile;
mod model;
mod names;
mod parts;

use std::convert::Infallible;

use bytes::BytesMut;
use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TFieldIdentifier, TMessageIdentifier, TMessageType,
    TOutputProtocol, TStructIdentifier, TType,
};

use super::*;
use crate::protocol::{Answered, BadRequest, Need, Received, Refusal, Reply, Request, Tag};
use crate::wire::Output;

/// A message of one text field.
fn message(encoding: Encoding, kind: u8, name: &str, seqid: i32, text: &str) -> Vec<u8> {
    if encoding == Encoding::Json {
        return format!("[1,\"{name}\",{kind},{seqid},{{\"1\":{{\"str\":\"{text}\"}}}}]").into_bytes();
    }
    written(encoding, true, |out| {
        out.write_message_begin(&TMessageIdentifier::new(name, TMessageType::try_from(kind)?, seqid))?;
        out.write_struct_begin(&TStructIdentifier::new("args"))?;
        out.write_field_begin(&TFieldIdentifier::new("text", TType::String, 1))?;
        out.write_string(text)?;
        out.write_field_end()?;
        out.write_field_stop()?;
        out.write_struct_end()?;
        out.write_message_end()
    })
}

/// What `write` makes the crate write.
fn written(
    encoding: Encoding,
    strict: bool,
    write: impl Fn(&mut dyn TOutputProtocol) -> thrift::Result<()>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    match encoding {
        Encoding::Binary => write(&mut TBinaryOutputProtocol::new(&mut bytes, strict)),
        _ => write(&mut TCompactOutputProtocol::new(&mut bytes)),
    }
    .unwrap();
    bytes
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u32::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// A message in a frame with a header: its flags, its seqid, and what follows the transforms.
fn with_header(encoding: Encoding, seqid: i32, pairs: &[u8], message: &[u8]) -> Vec<u8> {
    let mut rest = vec![if encoding == Encoding::Compact { 2 } else { 0 }, 0];
    rest.extend_from_slice(pairs);
    rest.resize(rest.len().next_multiple_of(4), 0);
    let words = u16::try_from(rest.len() / 4).unwrap();
    let fixed = [&[0x0f, 0xff, 0, 7][..], &seqid.to_be_bytes(), &words.to_be_bytes()].concat();
    framed(&[&fixed[..], &rest, message].concat())
}

fn thrift(transport: Transport, encoding: Encoding) -> Thrift {
    Thrift::new(Settings { transport, encoding, max_message: 1 << 20, ..Settings::default() }).unwrap()
}

fn drain(mut out: Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let Ok(_) = out.write_once(|slices| {
            bytes.extend(slices.iter().flat_map(|slice| slice.iter()));
            Ok::<_, Infallible>(slices.iter().map(|slice| slice.len()).sum())
        });
    }
    bytes
}

/// The requests in `stream`, which comes cut at `cuts`, and how it ends if it does so badly.
fn requests(
    codec: &mut dyn Downstream,
    stream: &[u8],
    cuts: &[usize],
) -> (Vec<(Id, Request)>, Option<BadRequest>) {
    let (mut seen, mut input, mut from) = (Vec::new(), BytesMut::new(), 0);
    for to in cuts.iter().copied().chain([stream.len()]) {
        input.extend_from_slice(&stream[from..to]);
        from = to;
        loop {
            let before = input.len();
            match codec.decode(&mut input) {
                Ok(Received::Request { id, request }) => seen.push((id, request)),
                Ok(Received::More(need)) => {
                    assert_eq!(input.len(), before);
                    assert!(need.total().is_none_or(|total| total > before));
                    break;
                }
                Ok(other) => panic!("{other:?}"),
                Err(bad) => return (seen, Some(bad)),
            }
            assert!(input.len() < before);
        }
    }
    assert!(input.is_empty(), "{} bytes left", input.len());
    (seen, None)
}

/// The one request in `stream`.
fn request(codec: &mut dyn Downstream, stream: &[u8]) -> (Id, Request) {
    let (mut seen, bad) = requests(codec, stream, &[]);
    assert_eq!((seen.len(), bad), (1, None));
    seen.remove(0)
}

/// The one reply in `stream`.
fn reply(codec: &mut dyn Upstream, stream: &[u8]) -> (Option<Tag>, Reply) {
    let mut input = BytesMut::from(stream);
    match codec.decode(&mut input).unwrap() {
        Answered::Reply { tag, reply } if input.is_empty() => (tag, reply),
        other => panic!("{other:?} and {} bytes", input.len()),
    }
}

fn sent(codec: &mut dyn Upstream, request: &Request, tag: u64) -> Vec<u8> {
    let mut out = Output::new();
    codec.encode(request, Tag(tag), &mut out);
    drain(out)
}

fn answered(codec: &mut dyn Downstream, id: &Id, reply: Reply) -> Vec<u8> {
    let mut out = Output::new();
    codec.encode(id, reply, &mut out);
    drain(out)
}

fn refused(codec: &mut dyn Downstream, id: &Id, refusal: &Refusal) -> Option<Vec<u8>> {
    let mut out = Output::new();
    let has_words = codec.refuse(id, refusal, &mut out);
    let bytes = drain(out);
    assert_eq!(has_words, !bytes.is_empty());
    has_words.then_some(bytes)
}
