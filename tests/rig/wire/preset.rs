//! Dubbo 2 and SOFA Bolt 1, as far as their frames go.

use super::{Message, Reader, Side, Stop, Wire, bad, flags};

/// Magic, flags (80 request, 40 wants a reply, 20 event, 02 Hessian 2), status, id (8), size of the body (4).
const DUBBO: usize = 16;
/// What warmline says where there is no reply, as a string of Hessian 2.
const DUBBO_WORDS: &[u8] = b"\x1ewarmline: no reply from server";
const SERVER_ERROR: u8 = 0x50;
const OK: u8 = 0x14;

pub(super) fn dubbo(side: Side, message: &Message) -> Vec<u8> {
    const ANSWER: u8 = flags::HEARTBEAT | flags::ANSWER;
    let (kind, status) = match (side, message.flags) {
        (Side::Client, 0) => (0xc2, 0),
        (Side::Client, flags::ONEWAY) => (0x82, 0),
        (Side::Server, 0) => (0x02, OK),
        (_, flags::HEARTBEAT) => (0xe2, 0),
        (_, ANSWER) => (0x22, OK),
        (_, flags::CLOSING) => (0xa2, 0),
        (side, flags) => panic!("{side:?} cannot say {flags:#04x} in Dubbo"),
    };
    dubbo_frame(kind, status, message.id, &message.payload)
}

fn dubbo_frame(kind: u8, status: u8, id: u64, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
    [&[0xda, 0xbb, kind, status], &id.to_be_bytes()[..], &size.to_be_bytes(), body].concat()
}

pub(super) fn dubbo_refusal(id: u64) -> Vec<u8> {
    dubbo_frame(0x02, SERVER_ERROR, id, DUBBO_WORDS)
}

pub(super) fn read_dubbo(input: &[u8]) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(input);
    reader.expect(&[0xda, 0xbb])?;
    let (kind, status) = (reader.number(1)?, reader.number(1)?);
    let (id, size) = (reader.number(8)?, reader.number(4)?);
    let payload = reader.take(size)?.to_vec();
    let flags = match (kind, u8::try_from(status).unwrap_or(0)) {
        (0xc2, 0) | (0x02, OK) => 0,
        (0x82, 0) => flags::ONEWAY,
        (0xe2, 0) => flags::HEARTBEAT,
        (0x22, OK) => flags::HEARTBEAT | flags::ANSWER,
        (0xa2, 0) => flags::CLOSING,
        (0x02, SERVER_ERROR) if payload == DUBBO_WORDS => flags::ERROR,
        _ => return bad("no message of Dubbo", input),
    };
    Ok((Message { flags, id, payload }, reader.at))
}

/// Bytes before the content of a request.
const BOLT: usize = 22;
const BOLT_REPLY: [u8; 5] = [1, 0, 0, 2, 1];

/// Protocol, type, command (2), version, id (4), codec; timeout (4) or status (2); sizes of class (2), header (2) and
/// content (4).
pub(super) fn bolt(side: Side, message: &Message) -> Vec<u8> {
    let (begin, middle): ([u8; 5], &[u8]) = match (side, message.flags) {
        (Side::Client, 0) => ([1, 1, 0, 1, 1], &[0, 0, 0x0b, 0xb8]),
        (Side::Client, flags::ONEWAY) => ([1, 2, 0, 1, 1], &[0, 0, 0x0b, 0xb8]),
        (Side::Server, 0) => (BOLT_REPLY, &[0, 0]),
        (side, flags) => panic!("{side:?} cannot say {flags:#04x} in Bolt"),
    };
    bolt_frame(begin, middle, message.id, &message.payload)
}

fn bolt_frame(begin: [u8; 5], middle: &[u8], id: u64, content: &[u8]) -> Vec<u8> {
    let id = u32::try_from(id).unwrap_or(u32::MAX).to_be_bytes();
    let size = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&begin[..], &id, &[1], middle, &[0; 4], &size, content].concat()
}

pub(super) fn bolt_refusal(id: u64) -> Vec<u8> {
    bolt_frame(BOLT_REPLY, &[0, 1], id, b"")
}

pub(super) fn read_bolt(input: &[u8]) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(input);
    let begin = reader.take(5)?;
    let id = reader.number(4)?;
    reader.expect(&[1])?;
    let is_reply = begin == BOLT_REPLY;
    let middle = reader.number(if is_reply { 2 } else { 4 })?;
    reader.expect(&[0; 4])?;
    let size = reader.number(4)?;
    let payload = reader.take(size)?.to_vec();
    let flags = match (begin, middle) {
        ([1, 1, 0, 1, 1], _) | ([1, 0, 0, 2, 1], 0) => 0,
        ([1, 2, 0, 1, 1], _) => flags::ONEWAY,
        ([1, 0, 0, 2, 1], 1) if payload.is_empty() => flags::ERROR,
        _ => return bad("no message of Bolt", input),
    };
    Ok((Message { flags, id, payload }, reader.at))
}

pub(super) fn front(wire: Wire, input: &[u8]) -> Option<(Message, usize)> {
    let (start, id, is_oneway) = match wire {
        Wire::Dubbo => (DUBBO, 4..12, input.get(2)? & 0x40 == 0),
        _ => (BOLT, 5..9, *input.get(1)? == 2),
    };
    let id = input.get(..start)?[id].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let flags = if is_oneway { flags::ONEWAY } else { 0 };
    Some((Message { flags, id, payload: Vec::new() }, start))
}
