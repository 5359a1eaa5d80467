//! `frame`: any length-prefixed protocol, from configuration alone.
//!
//! Invariant: a frame leaves warmline as it came, but for its id. The length of a frame is known from its
//! header, before memory is taken for it. Built by `config`; `session` and `connection` hold the halves.

mod check;
mod layout;
#[cfg(test)]
mod model;
#[cfg(test)]
mod parts_tests;
mod preset;
#[cfg(test)]
mod preset_tests;
mod settings;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use self::layout::{IdField, Kind, Layout, NO_KIND};
pub use self::preset::{PRESETS, preset};
pub use self::settings::{Condition, Field, Heartbeat, Length, Method, Overrides, Settings, Size};
pub use self::template::{Template, TemplateError};
use super::{
    Answered, BadRequest, Downstream, Id, Malformed, Mode, Need, Protocol, Received, Refusal, Reply, Request,
    SettingsError, Tag, TagSpace, Upstream,
};
use crate::frame::take;
use crate::wire::{Charge, Output};

/// Header fields and conditions look at the first so many bytes of a frame.
pub const MAX_HEADER: usize = 1024;
/// The most length fields.
pub const MAX_LENGTHS: usize = 8;
/// The most values of `avoid`. An id of one byte keeps most of its tags.
pub const MAX_AVOID: usize = 64;

/// The protocol, with its settings. Clones are the same.
#[derive(Clone, Debug)]
pub struct Frame(Arc<Spec>);

/// What all codecs of one protocol share.
#[derive(Debug)]
struct Spec {
    requests: Layout,
    replies: Layout,
    error: Option<Template>,
    method: Option<Method>,
    tags: Option<TagSpace>,
    modes: &'static [Mode],
    max_message: usize,
}

impl Frame {
    /// A protocol of these settings, if they can be.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        check::fields(&settings)?;
        let (requests, replies) = (Layout::of_requests(&settings), Layout::of_replies(&settings));
        check::templates(&settings, &requests, &replies)?;
        Ok(Self(Arc::new(Spec {
            requests,
            replies,
            tags: tags(&settings),
            modes: modes(settings.id.is_some(), settings.in_order),
            error: settings.error,
            method: settings.method,
            max_message: settings.max_message,
        })))
    }
}

fn tags(settings: &Settings) -> Option<TagSpace> {
    let id = settings.id.as_ref()?;
    let mut avoid = id.avoid.clone();
    avoid.extend(settings.reply.id.iter().flat_map(|id| &id.avoid));
    Some(TagSpace { last: last_tag(id.size), avoid })
}

/// The largest number of `size` bytes.
fn last_tag(size: usize) -> u64 {
    u64::MAX >> (u64::BITS as usize - 8 * size)
}

fn modes(has_id: bool, in_order: bool) -> &'static [Mode] {
    match (has_id, in_order) {
        (true, true) => &[Mode::Exclusive, Mode::Pipeline, Mode::Multiplex],
        (true, false) => &[Mode::Exclusive, Mode::Multiplex],
        (false, true) => &[Mode::Exclusive, Mode::Pipeline],
        (false, false) => &[Mode::Exclusive],
    }
}

impl Protocol for Frame {
    fn name(&self) -> &'static str {
        "frame"
    }

    fn modes(&self) -> &'static [Mode] {
        self.0.modes
    }

    fn tags(&self) -> Option<TagSpace> {
        self.0.tags.clone()
    }

    fn max_message(&self) -> usize {
        self.0.max_message
    }

    fn has_parts(&self) -> bool {
        true
    }

    fn method<'m>(&self, request: &'m [u8]) -> Option<&'m [u8]> {
        let Method { offset, size } = self.0.method?;
        request.get(offset..offset + size)
    }

    fn remedy(&self, reason: Malformed) -> &'static str {
        match reason {
            Malformed::TooLarge(_) => {
                "look at `length`: offset, size, endian, adjust; if they are right, raise `max_message`"
            }
            Malformed::Invalid(NO_KIND) => "look at `message`, and at the conditions of what is no message",
            Malformed::Invalid(_) => {
                "look at `length`: bytes on the wire = value + adjust; if that is right, at `id`"
            }
        }
    }

    fn downstream(&self, max_buffered: usize) -> Box<dyn Downstream> {
        Box::new(Requests { spec: self.0.clone(), cutter: Cutter::new(max_buffered) })
    }

    fn upstream(&self, max_buffered: usize) -> Box<dyn Upstream> {
        Box::new(Replies { spec: self.0.clone(), cutter: Cutter::new(max_buffered) })
    }
}

/// Cuts a stream into frames, and large frames into a head and parts.
#[derive(Debug)]
struct Cutter {
    /// The longest frame that comes whole. What the header says is read from the head, so it is not less than
    /// [`MAX_HEADER`].
    max_buffered: usize,
    /// The length of the frame at the front, once its header was read.
    total: Option<usize>,
    /// What is still to come of the frame whose head is gone.
    rest: usize,
}

enum Cut {
    Frame(Bytes),
    Head(Bytes, usize),
    Part { bytes: Bytes, last: bool },
    More(Need),
}

impl Cutter {
    fn new(max_buffered: usize) -> Self {
        Self { max_buffered: max_buffered.max(MAX_HEADER), total: None, rest: 0 }
    }

    fn next(&mut self, layout: &Layout, max: usize, input: &mut BytesMut) -> Result<Cut, Malformed> {
        if self.rest > 0 {
            return Ok(self.part(input));
        }
        if self.total.is_none() {
            self.total = layout.measure(input, max)?;
        }
        let Some(total) = self.total else { return Ok(Cut::More(Need::Unknown)) };
        let head = total.min(self.max_buffered);
        let rest = total - head;
        if input.len() < head {
            return Ok(Cut::More(if rest > 0 { Need::Head { head, rest } } else { Need::Total(total) }));
        }
        self.total = None;
        self.rest = rest;
        let bytes = take(input, head);
        Ok(if rest > 0 { Cut::Head(bytes, rest) } else { Cut::Frame(bytes) })
    }

    fn part(&mut self, input: &mut BytesMut) -> Cut {
        if input.is_empty() {
            return Cut::More(Need::Unknown);
        }
        let bytes = input.split_to(input.len().min(self.rest)).freeze();
        self.rest -= bytes.len();
        Cut::Part { bytes, last: self.rest == 0 }
    }
}

/// Why a large frame that is neither request nor reply is no frame.
const LARGE_CONTROL: &str = "a heartbeat or closing message over max_buffered";

/// Reads requests and writes replies.
#[derive(Debug)]
struct Requests {
    spec: Arc<Spec>,
    cutter: Cutter,
}

impl Downstream for Requests {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Received, BadRequest> {
        let layout = &self.spec.requests;
        let (bytes, rest) = match self.cutter.next(layout, self.spec.max_message, input) {
            Ok(Cut::Frame(bytes)) => (bytes, 0),
            Ok(Cut::Head(bytes, rest)) => (bytes, rest),
            Ok(Cut::Part { bytes, last }) => return Ok(Received::Part { bytes, last }),
            Ok(Cut::More(need)) => return Ok(Received::More(need)),
            Err(reason) => return oversize(layout, reason, input),
        };
        let malformed = |what| BadRequest { id: Id::None, reason: Malformed::Invalid(what) };
        let kind = layout.kind(&bytes).ok_or(malformed(NO_KIND))?;
        match kind {
            Kind::Closing | Kind::Heartbeat(_) if rest > 0 => return Err(malformed(LARGE_CONTROL)),
            Kind::Closing => return Ok(Received::Closing),
            Kind::Heartbeat(beat) => return beat.answer(&bytes).map(Received::Control).map_err(malformed),
            Kind::Oneway | Kind::Message => {}
        }
        let id = match layout.id {
            None => Id::None,
            Some(field) => match field.read(&bytes) {
                Some(id) => Id::Bits(id),
                None => return Err(malformed("request is too short to hold its id")),
            },
        };
        let request = Request::new(bytes, matches!(kind, Kind::Oneway));
        Ok(if rest > 0 { Received::Head { id, request, rest } } else { Received::Request { id, request } })
    }

    fn encode(&mut self, id: &Id, reply: Reply, out: &mut Output) {
        match (id, self.spec.replies.id) {
            (Id::Bits(id), Some(field)) => put(&reply.bytes, &reply.charge, field, *id, out),
            _ => out.put_bytes(reply.bytes, reply.charge),
        }
    }

    fn refuse(&mut self, id: &Id, _: &Refusal, out: &mut Output) -> bool {
        let Some(error) = &self.spec.error else { return false };
        match (id, self.spec.replies.id) {
            (Id::Bits(id), Some(field)) => out.put(&error.render(&field.write(*id))),
            // Without its id no client knows which request was refused.
            (_, Some(_)) => return false,
            (_, None) => out.put(&error.render(&[])),
        }
        true
    }
}

/// Reads replies and writes requests.
#[derive(Debug)]
struct Replies {
    spec: Arc<Spec>,
    cutter: Cutter,
}

impl Upstream for Replies {
    fn encode(&mut self, request: &Request, tag: Tag, out: &mut Output) {
        match self.spec.requests.id {
            Some(field) => put(&request.bytes, &request.charge, field, tag.0, out),
            None => out.put_shared(&request.bytes, 0, &request.charge),
        }
    }

    fn speaks_unasked(&self) -> bool {
        self.spec.replies.has_controls()
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        let layout = &self.spec.replies;
        let (bytes, rest) = match self.cutter.next(layout, self.spec.max_message, input)? {
            Cut::Frame(bytes) => (bytes, 0),
            Cut::Head(bytes, rest) => (bytes, rest),
            Cut::Part { bytes, last } => return Ok(Answered::Part { bytes, last }),
            Cut::More(need) => return Ok(Answered::More(need)),
        };
        match layout.kind(&bytes).ok_or(Malformed::Invalid(NO_KIND))? {
            Kind::Closing | Kind::Heartbeat(_) if rest > 0 => return Err(Malformed::Invalid(LARGE_CONTROL)),
            Kind::Closing => return Ok(Answered::Closing),
            Kind::Heartbeat(beat) => {
                return beat.answer(&bytes).map(Answered::Control).map_err(Malformed::Invalid);
            }
            Kind::Oneway | Kind::Message => {}
        }
        let tag = match layout.id {
            None => None,
            Some(field) => match field.read(&bytes) {
                Some(tag) => Some(Tag(tag)),
                None => return Err(Malformed::Invalid("reply is too short to hold its id")),
            },
        };
        let reply = Reply::new(bytes);
        Ok(if rest > 0 { Answered::Head { tag, reply, rest } } else { Answered::Reply { tag, reply } })
    }
}

/// The outcome of a request whose length cannot be. One that is merely too large has an id, which is
/// waited for, so that the refusal can carry it.
fn oversize(layout: &Layout, reason: Malformed, input: &[u8]) -> Result<Received, BadRequest> {
    match (reason, layout.id) {
        (Malformed::TooLarge(_), Some(field)) => match field.read(input) {
            Some(id) => Err(BadRequest { id: Id::Bits(id), reason }),
            None => Ok(Received::More(Need::Unknown)),
        },
        _ => Err(BadRequest { id: Id::None, reason }),
    }
}

/// Writes `message` with `id` in its id field. What follows the field is not copied.
fn put(message: &Bytes, charge: &Charge, field: IdField, id: u64, out: &mut Output) {
    // Codecs only let messages through that hold their id.
    if message.len() < field.end() {
        return out.put_shared(message, 0, charge);
    }
    out.put(&message[..field.offset()]);
    out.put(&field.write(id));
    out.put_shared(message, field.end(), charge);
}
