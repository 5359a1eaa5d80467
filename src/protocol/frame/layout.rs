//! What the header of a frame says: how long it is, whose it is and what kind it is.
//!
//! Invariant: a frame is as long as its length fields say, never shorter than the bytes they stand in
//! and never longer than `max_message`; both are known before anything is stored. Used by the codecs.

use super::settings::{Condition, Field, Length, Settings, Size};
use super::template::Template;
use crate::frame::{self, Endian};
use crate::protocol::Malformed;

/// The layout of the frames of one direction.
#[derive(Debug)]
pub(super) struct Layout {
    length: Vec<Length>,
    /// Where the id is, if frames carry one.
    pub(super) id: Option<IdField>,
    heartbeat: Vec<Condition>,
    answer: Option<Template>,
    closing: Vec<Condition>,
    oneway: Vec<Condition>,
}

/// The place of an id.
#[derive(Clone, Copy, Debug)]
pub(super) struct IdField {
    offset: usize,
    size: usize,
    endian: Endian,
}

/// What a frame is for.
#[derive(Debug)]
pub(super) enum Kind<'a> {
    /// Answered in place, with this if with anything.
    Heartbeat(Option<&'a Template>),
    /// The sender is about to close.
    Closing,
    /// A request without a reply.
    Oneway,
    /// A request or a reply.
    Message,
}

impl Layout {
    /// The layout of what clients send.
    pub(super) fn of_requests(settings: &Settings) -> Self {
        let heartbeat = settings.heartbeat.clone();
        Self {
            length: settings.length.clone(),
            id: settings.id.as_ref().map(IdField::new),
            answer: heartbeat.as_ref().and_then(|h| h.reply.clone()),
            heartbeat: heartbeat.map_or_else(Vec::new, |h| h.conditions),
            closing: settings.closing.clone(),
            oneway: settings.oneway.clone(),
        }
    }

    /// Whether there are messages that are neither request nor reply.
    pub(super) fn has_controls(&self) -> bool {
        !self.heartbeat.is_empty() || !self.closing.is_empty()
    }

    /// The layout of what servers send.
    pub(super) fn of_replies(settings: &Settings) -> Self {
        let Settings { length, id, heartbeat, closing, reply, .. } = settings.clone();
        Self::of_requests(&Settings {
            length: reply.length.unwrap_or(length),
            id: reply.id.or(id),
            oneway: Vec::new(),
            heartbeat: reply.heartbeat.or(heartbeat),
            closing: reply.closing.unwrap_or(closing),
            ..settings.clone()
        })
    }

    /// The length of the frame that begins with `front`, in bytes; `None` until its length fields are
    /// there.
    pub(super) fn measure(&self, front: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
        // Eight fields of 64 bits and their adjustments are far from overflowing 128.
        let (mut total, mut header) = (0i128, 0);
        for field in &self.length {
            let Some((value, end)) = read_length(field, front)? else { return Ok(None) };
            total += i128::from(value) + i128::from(field.adjust);
            if field.size == Size::Varint {
                total += (end - field.offset) as i128;
            }
            header = header.max(end);
        }
        if total < header as i128 {
            return Err(Malformed::Invalid("length is less than the header"));
        }
        match usize::try_from(total) {
            Ok(total) if total <= max => Ok(Some(total)),
            _ => Err(Malformed::TooLarge(u64::try_from(total).unwrap_or(u64::MAX))),
        }
    }

    /// What the whole `frame` is for.
    pub(super) fn kind(&self, frame: &[u8]) -> Kind<'_> {
        if all_hold(&self.heartbeat, frame) {
            Kind::Heartbeat(self.answer.as_ref())
        } else if all_hold(&self.closing, frame) {
            Kind::Closing
        } else if all_hold(&self.oneway, frame) {
            Kind::Oneway
        } else {
            Kind::Message
        }
    }
}

impl IdField {
    pub(super) fn new(field: &Field) -> Self {
        Self { offset: field.offset, size: field.size, endian: field.endian }
    }

    /// The id in `frame`, if it is long enough to have one.
    pub(super) fn read(self, frame: &[u8]) -> Option<u64> {
        frame.get(self.offset..self.end()).map(|field| self.endian.read(field))
    }

    /// The field with `id` in it.
    pub(super) fn write(self, id: u64) -> IdBytes {
        let mut bytes = [0; size_of::<u64>()];
        self.endian.write(id, &mut bytes[..self.size]);
        IdBytes { bytes, size: self.size }
    }

    /// Where it begins, in bytes from the front of the frame.
    pub(super) fn offset(self) -> usize {
        self.offset
    }

    /// Where it ends, in bytes from the front of the frame.
    pub(super) fn end(self) -> usize {
        self.offset + self.size
    }
}

/// An id as it stands in a frame.
pub(super) struct IdBytes {
    bytes: [u8; size_of::<u64>()],
    size: usize,
}

impl std::ops::Deref for IdBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.size]
    }
}

/// The value of a length field and where the field ends; `None` if it is not there yet.
fn read_length(field: &Length, front: &[u8]) -> Result<Option<(u64, usize)>, Malformed> {
    let Some(bytes) = front.get(field.offset..) else { return Ok(None) };
    let read = match field.size {
        Size::Bytes(size) => bytes.get(..size).map(|bytes| (field.endian.read(bytes), size)),
        Size::Varint => frame::varint(bytes).map_err(|_| Malformed::Invalid("length is not a varint"))?,
    };
    Ok(read.map(|(value, size)| (value, field.offset + size)))
}

/// Whether there are conditions and each holds. A byte that is not there is equal to nothing.
fn all_hold(conditions: &[Condition], frame: &[u8]) -> bool {
    let holds = |c: &Condition| frame.get(c.offset).is_some_and(|byte| byte & c.mask == c.equals);
    !conditions.is_empty() && conditions.iter().all(holds)
}
