//! Apache Thrift: `binary call(1: binary payload)`, with and without `oneway`.

use super::{METHOD, Message, Reader, Side, Stop, Wire, bad, flags};

const CALL: u8 = 1;
const REPLY: u8 = 2;
const EXCEPTION: u8 = 3;
const ONEWAY: u8 = 4;

fn is_framed(wire: Wire) -> bool {
    wire != Wire::ThriftBuffered
}

fn is_compact(wire: Wire) -> bool {
    wire == Wire::ThriftCompact
}

pub(super) fn encode(wire: Wire, side: Side, message: &Message) -> Vec<u8> {
    let kind = match (side, message.flags) {
        (Side::Client, 0) => CALL,
        (Side::Client, flags::ONEWAY) => ONEWAY,
        (Side::Server, 0) => REPLY,
        (side, flags) => panic!("{side:?} cannot say {flags:#04x} in Thrift"),
    };
    let mut bytes = envelope(wire, kind, message.id);
    bytes.extend(field(wire, side));
    put_size(wire, message.payload.len(), &mut bytes);
    bytes.extend_from_slice(&message.payload);
    bytes.push(0);
    if is_framed(wire) { [&be32(bytes.len())[..], &bytes].concat() } else { bytes }
}

fn be32(size: usize) -> [u8; 4] {
    u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes()
}

fn envelope(wire: Wire, kind: u8, id: u64) -> Vec<u8> {
    let id = u32::try_from(id).unwrap_or(u32::MAX);
    if is_compact(wire) {
        let mut bytes = vec![0x82, kind << 5 | 1];
        put_varint(id, &mut bytes);
        put_size(wire, METHOD.len(), &mut bytes);
        bytes.extend_from_slice(METHOD.as_bytes());
        return bytes;
    }
    [&[0x80, 1, 0, kind][..], &be32(METHOD.len()), METHOD.as_bytes(), &id.to_be_bytes()].concat()
}

/// The head of the one field: 1 of the arguments, 0 of the result.
fn field(wire: Wire, side: Side) -> &'static [u8] {
    match (is_compact(wire), side) {
        (true, Side::Client) => &[0x18],
        (true, Side::Server) => &[0x08, 0],
        (false, Side::Client) => &[11, 0, 1],
        (false, Side::Server) => &[11, 0, 0],
    }
}

fn put_size(wire: Wire, size: usize, bytes: &mut Vec<u8>) {
    if is_compact(wire) {
        put_varint(u32::try_from(size).unwrap_or(u32::MAX), bytes);
    } else {
        bytes.extend(be32(size));
    }
}

fn put_varint(mut number: u32, bytes: &mut Vec<u8>) {
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn varint(reader: &mut Reader<'_>) -> Result<u64, Stop> {
    let mut number = 0;
    for at in 0..5 {
        let byte = reader.number(1)?;
        number |= (byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bad("a varint of more than 5 bytes", reader.bytes)
}

fn size(wire: Wire, reader: &mut Reader<'_>) -> Result<u64, Stop> {
    if is_compact(wire) { varint(reader) } else { reader.number(4) }
}

/// Kind and id.
fn read_envelope(wire: Wire, reader: &mut Reader<'_>) -> Result<(u8, u64), Stop> {
    let (kind, mut id);
    if is_compact(wire) {
        reader.expect(&[0x82])?;
        let second = reader.number(1)?;
        (kind, id) = (second >> 5, varint(reader)?);
        if second & 0x1f != 1 {
            return bad("another version", reader.bytes);
        }
    } else {
        reader.expect(&[0x80, 1, 0])?;
        (kind, id) = (reader.number(1)?, 0);
    }
    let length = size(wire, reader)?;
    if length != METHOD.len() as u64 {
        return bad("another method", reader.bytes);
    }
    reader.expect(METHOD.as_bytes())?;
    if !is_compact(wire) {
        id = reader.number(4)?;
    }
    Ok((u8::try_from(kind).unwrap_or(0), id))
}

pub(super) fn read(wire: Wire, input: &[u8]) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(input);
    if is_framed(wire) {
        let length = reader.number(4)?;
        let frame = reader.take(length)?;
        return match read_message(wire, &mut Reader::new(frame)) {
            Ok((message, size)) if size == frame.len() => Ok((message, reader.at)),
            Ok(_) => bad("a frame with more than a message", frame),
            Err(Stop::Short) => bad("a frame with less than a message", frame),
            Err(stop) => Err(stop),
        };
    }
    read_message(wire, &mut reader)
}

fn read_message(wire: Wire, reader: &mut Reader<'_>) -> Result<(Message, usize), Stop> {
    let (kind, id) = read_envelope(wire, reader)?;
    let (flags, begin) = match kind {
        CALL => (0, field(wire, Side::Client)),
        ONEWAY => (flags::ONEWAY, field(wire, Side::Client)),
        REPLY => (0, field(wire, Side::Server)),
        // Its text is field 1, too.
        EXCEPTION => (flags::ERROR, field(wire, Side::Client)),
        _ => return bad("a message of no kind", reader.bytes),
    };
    reader.expect(begin)?;
    let length = size(wire, reader)?;
    let payload = reader.take(length)?.to_vec();
    if kind == EXCEPTION {
        // Field 2: INTERNAL_ERROR.
        reader.expect(if is_compact(wire) { &[0x15, 12] } else { &[8, 0, 2, 0, 0, 0, 6] })?;
    }
    reader.expect(&[0])?;
    Ok((Message { flags, id, payload }, reader.at))
}

pub(super) fn front(wire: Wire, input: &[u8]) -> Option<(Message, usize)> {
    let mut reader = Reader::new(input);
    reader.at = if is_framed(wire) { 4 } else { 0 };
    let (kind, id) = read_envelope(wire, &mut reader).ok()?;
    reader.expect(field(wire, Side::Client)).ok()?;
    size(wire, &mut reader).ok()?;
    let flags = if kind == ONEWAY { flags::ONEWAY } else { 0 };
    Some((Message { flags, id, payload: Vec::new() }, reader.at))
}

/// How a `TApplicationException` begins, up to the length of its text.
pub(super) fn refusal(wire: Wire, id: u64) -> Vec<Option<u8>> {
    let length = if is_framed(wire) { 4 } else { 0 };
    let rest = [&envelope(wire, EXCEPTION, id)[..], field(wire, Side::Client)].concat();
    [vec![None; length], super::known(&rest)].concat()
}
