//! Frames that this rig has made up.

use super::{MAX_PAYLOAD, Message, Reader, Stop, Wire, bad};

pub(super) fn header(wire: Wire) -> usize {
    match wire {
        Wire::Tagged => 16,
        Wire::Plain => 8,
        Wire::Wide => 24,
        _ => 0,
    }
}

fn length_size(wire: Wire) -> usize {
    if wire == Wire::Wide { 8 } else { 4 }
}

pub(super) fn head(wire: Wire, length: u64, flags: u8, id: u64) -> Vec<u8> {
    let mut head = vec![0; header(wire)];
    let size = length_size(wire);
    head[..size].copy_from_slice(&length.to_be_bytes()[8 - size..]);
    head[size] = flags;
    if wire.has_id() {
        let at = header(wire) - 8;
        head[at..].copy_from_slice(&id.to_be_bytes());
    }
    head
}

pub(super) fn encode(wire: Wire, message: &Message) -> Vec<u8> {
    let mut bytes = head(wire, message.payload.len() as u64, message.flags, message.id);
    bytes.extend_from_slice(&message.payload);
    bytes
}

pub(super) fn read(wire: Wire, input: &[u8]) -> Result<(Message, usize), Stop> {
    let mut reader = Reader::new(input);
    let (message, _) = front(wire, input).ok_or(Stop::Short)?;
    let length = reader.number(length_size(wire) as u64)?;
    if length > MAX_PAYLOAD {
        return bad(&format!("length {length} in header"), &input[..header(wire)]);
    }
    reader.at = header(wire);
    let payload = reader.take(length)?.to_vec();
    Ok((Message { payload, ..message }, reader.at))
}

pub(super) fn front(wire: Wire, input: &[u8]) -> Option<(Message, usize)> {
    let (header, _) = input.split_at_checked(header(wire))?;
    let id = header[header.len() - 8..].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    let id = if wire.has_id() { id } else { 0 };
    Some((Message { flags: header[length_size(wire)], id, payload: Vec::new() }, header.len()))
}
