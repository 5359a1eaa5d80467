//! What the header of a frame says: how long it is, whose it is and what kind it is.
//!
//! Invariant: a frame is as long as its length fields say, never shorter than the bytes they stand in
//! and never longer than `max_message`; both are known before anything is stored. Used by the codecs.

use bytes::Bytes;

use super::settings::{Condition, Field, Heartbeat, Length, Settings, Size};
use super::template::Template;
use crate::frame::{self, Endian};
use crate::protocol::Malformed;

/// Why a frame that meets the conditions of no kind is none.
pub(super) const NO_KIND: &str = "not what this protocol begins a message with";

/// The layout of the frames of one direction.
#[derive(Debug)]
pub(super) struct Layout {
    length: Vec<Length>,
    /// So many bytes tell whether it can be a frame.
    front: usize,
    /// Where the id is, if frames carry one.
    pub(super) id: Option<IdField>,
    heartbeat: Option<Beat>,
    closing: Vec<Condition>,
    oneway: Vec<Condition>,
    message: Vec<Condition>,
}

/// The heartbeats of one direction, and what they are answered with.
#[derive(Debug)]
pub(super) struct Beat {
    conditions: Vec<Condition>,
    /// Where they are not laid out as the other frames of their direction.
    length: Option<Vec<Length>>,
    answer: Option<Template>,
    /// Where it has its id, and where its answer has it.
    ids: (Option<IdField>, Option<IdField>),
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
    /// Answered in place.
    Heartbeat(&'a Beat),
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
        let (id, reply_id) = ids(settings);
        let beat = |heartbeat| Beat::new(heartbeat, None, (id, reply_id));
        Self {
            length: settings.length.clone(),
            front: front(&settings.length),
            id,
            heartbeat: settings.heartbeat.as_ref().map(beat),
            closing: settings.closing.clone(),
            oneway: settings.oneway.clone(),
            message: settings.message.clone(),
        }
    }

    /// The layout of what servers send.
    pub(super) fn of_replies(settings: &Settings) -> Self {
        let Settings { length, heartbeat, closing, message, reply, .. } = settings;
        let (id, reply_id) = ids(settings);
        let beat = |heartbeat: &Heartbeat| {
            if heartbeat.is_request {
                Beat::new(heartbeat, reply.length.as_ref().map(|_| length.clone()), (id, reply_id))
            } else {
                Beat::new(heartbeat, None, (reply_id, id))
            }
        };
        let replies = reply.length.as_ref().unwrap_or(length);
        Self {
            length: replies.clone(),
            front: front(replies).min(front(length)),
            id: reply_id,
            heartbeat: reply.heartbeat.as_ref().or(heartbeat.as_ref()).map(beat),
            closing: reply.closing.as_ref().unwrap_or(closing).clone(),
            oneway: Vec::new(),
            message: reply.message.as_ref().unwrap_or(message).clone(),
        }
    }

    /// Whether there are messages that are neither request nor reply.
    pub(super) fn has_controls(&self) -> bool {
        self.heartbeat.is_some() || !self.closing.is_empty()
    }

    /// The length of the frame that begins with `front`, in bytes, if it can be one of this direction; `None`
    /// until the fields that tell it are there.
    pub(super) fn measure(&self, front: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
        if self.may_be_one(front) { self.length(front, max) } else { Err(Malformed::Invalid(NO_KIND)) }
    }

    /// The length of the frame that begins with `front`, whatever it is for.
    pub(super) fn length(&self, front: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
        if let Some(Beat { conditions, length: Some(length), .. }) = &self.heartbeat
            && all_may_hold(conditions, front)
        {
            return if all_hold(conditions, front) { total(length, front, max) } else { Ok(None) };
        }
        total(&self.length, front, max)
    }

    /// Whether a frame that begins with `front` can be of any kind.
    fn may_be_one(&self, front: &[u8]) -> bool {
        if self.message.is_empty() {
            return true;
        }
        // What comes after may be of the next frame.
        let front = &front[..front.len().min(self.front)];
        let may_be = |kind: &[Condition]| !kind.is_empty() && all_may_hold(kind, front);
        may_be(&self.message)
            || self.heartbeat.as_ref().is_some_and(|beat| may_be(&beat.conditions))
            || may_be(&self.oneway)
            || may_be(&self.closing)
    }

    /// What the whole `frame` is for; `None` if it may not be sent at all.
    pub(super) fn kind(&self, frame: &[u8]) -> Option<Kind<'_>> {
        if let Some(beat) = &self.heartbeat
            && all_hold(&beat.conditions, frame)
        {
            return Some(Kind::Heartbeat(beat));
        }
        if all_hold(&self.closing, frame) {
            Some(Kind::Closing)
        } else if all_hold(&self.oneway, frame) {
            Some(Kind::Oneway)
        } else {
            (self.message.is_empty() || all_hold(&self.message, frame)).then_some(Kind::Message)
        }
    }
}

impl Beat {
    fn new(
        heartbeat: &Heartbeat,
        length: Option<Vec<Length>>,
        ids: (Option<IdField>, Option<IdField>),
    ) -> Self {
        let Heartbeat { conditions, reply, .. } = heartbeat.clone();
        Self { conditions, length, answer: reply, ids }
    }

    /// What goes back for `frame`, if anything does.
    pub(super) fn answer(&self, frame: &[u8]) -> Result<Option<Bytes>, &'static str> {
        let Some(answer) = &self.answer else { return Ok(None) };
        let bytes = match self.ids {
            (Some(from), Some(to)) if answer.has_id() => {
                let id = from.read(frame).ok_or("heartbeat is too short to hold its id")?;
                answer.render(&to.write(id))
            }
            _ => answer.render(&[]),
        };
        Ok(Some(bytes.into()))
    }
}

/// Where requests and where replies have their id.
fn ids(settings: &Settings) -> (Option<IdField>, Option<IdField>) {
    let place = |field: Option<&Field>| field.map(IdField::new);
    (place(settings.id.as_ref()), place(settings.reply.id.as_ref().or(settings.id.as_ref())))
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

/// The bytes that every frame with these length fields has, and that are looked at before its length is known: up
/// to where the fields end, or a varint among them begins, which may turn out to be none.
pub(super) fn front(fields: &[Length]) -> usize {
    let header = fields.iter().map(|f| f.offset + least_width(f)).max().unwrap_or(0);
    let varints = fields.iter().filter(|f| f.size == Size::Varint);
    varints.map(|f| f.offset + 1).fold(header, usize::min)
}

/// What a length field takes at least, in bytes.
pub(super) fn least_width(field: &Length) -> usize {
    match field.size {
        Size::Bytes(size) => size,
        Size::Varint => 1,
    }
}

/// What the length fields of the frame that begins with `front` come to.
fn total(fields: &[Length], front: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
    // Eight fields of 64 bits and their adjustments are far from overflowing 128.
    let (mut total, mut header) = (0i128, 0);
    for field in fields {
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

/// Whether no byte that is there is against any of the conditions.
fn all_may_hold(conditions: &[Condition], front: &[u8]) -> bool {
    let may = |c: &Condition| front.get(c.offset).is_none_or(|byte| byte & c.mask == c.equals);
    conditions.iter().all(may)
}
