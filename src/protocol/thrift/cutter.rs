//! Cuts a stream into messages, and large framed ones into a head and parts.
//!
//! Invariant: what comes out is exactly one well-formed message: a frame with anything more or less in it is refused,
//! or its rest would pass for a message of somebody else. Used by both halves.

use bytes::{Bytes, BytesMut};

use super::carry::{self, Form, PREFIX};
use super::envelope::{COMPACT, Envelope, MAX_ENVELOPE, STRICT, Stop};
use super::header::{Header, MAGIC};
use super::settings::{Encoding, Transport};
use super::walk::Walk;
use crate::frame::take;
use crate::protocol::{Id, Malformed, Need};

/// The head of a message in parts holds its envelope.
const MIN_HEAD: usize = PREFIX + MAX_ENVELOPE;

const SHORT: &str = "frame that ends before its message does";
const LONG: &str = "frame with more in it than one message";
/// Why a message with a transform is refused.
pub(super) const TRANSFORMED: &str = "THeader with a transform";

const NO_MESSAGE: &str = "no message of Thrift begins like this";

/// What the front of a stream is.
#[derive(Debug)]
pub(super) enum Cut {
    /// A message, its frame included.
    Message(Message),
    /// The front of one that travels in parts, and how many bytes follow.
    Head(Message, usize),
    Part {
        bytes: Bytes,
        last: bool,
    },
    More(Need),
}

/// A message, or its head.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) bytes: Bytes,
    /// Where the message begins behind what its transport puts before it.
    pub(super) start: usize,
    pub(super) envelope: Envelope,
    /// Its transport carries nothing but the message.
    pub(super) is_plain: bool,
}

/// Why what is there is no message, and what its sender calls it as far as that was read.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) id: Id,
    pub(super) reason: Malformed,
}

impl From<Malformed> for Fault {
    fn from(reason: Malformed) -> Self {
        Self { id: Id::None, reason }
    }
}

/// The state of a stream.
#[derive(Debug)]
pub(super) struct Cutter {
    /// What is spoken; `None` as long as too little was said to tell.
    form: Option<Form>,
    /// The longest framed message that comes whole; `None` where all do.
    max_buffered: Option<usize>,
    max_message: usize,
    /// How deep a message may be.
    max_depth: usize,
    /// The length of the frame at the front, once that was read.
    total: Option<usize>,
    /// The message without a frame at the front, once its envelope was read: its walk, and the bytes walked.
    open: Option<(Envelope, Walk, usize)>,
    /// What is still to come of the message whose head is gone.
    rest: Option<Rest>,
}

#[derive(Debug)]
struct Rest {
    id: Id,
    walk: Walk,
    left: usize,
}

impl Cutter {
    pub(super) fn new(
        form: Option<Form>,
        max_buffered: Option<usize>,
        max_message: usize,
        max_depth: usize,
    ) -> Self {
        let max_buffered = max_buffered.map(|most| most.max(MIN_HEAD));
        Self { form, max_buffered, max_message, max_depth, total: None, open: None, rest: None }
    }

    /// What is spoken, as far as that is known.
    pub(super) fn form(&self) -> Option<Form> {
        self.form
    }

    /// Takes what is at the front of `input`.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Cut, Fault> {
        if let Some(rest) = &mut self.rest {
            let cut = rest.part(input)?;
            if matches!(cut, Cut::Part { last: true, .. }) {
                self.rest = None;
            }
            return Ok(cut);
        }
        if self.form.is_none() {
            self.form = detect(input)?;
        }
        match self.form {
            None => Ok(Cut::More(Need::Unknown)),
            Some(form) if form.transport == Transport::Buffered => self.bare(form.encoding, input),
            Some(form) => self.frame(form, input),
        }
    }

    /// A message without a frame: it ends where its arguments end.
    fn bare(&mut self, encoding: Encoding, input: &mut BytesMut) -> Result<Cut, Fault> {
        let over = Malformed::TooLarge(self.max_message as u64 + 1);
        if self.open.is_none() {
            let Some(envelope) = Envelope::read(encoding, input)? else {
                return if input.len() < self.max_message {
                    Ok(Cut::More(Need::Unknown))
                } else {
                    Err(over.into())
                };
            };
            let left = self.max_message.saturating_sub(envelope.end);
            let walked = envelope.end;
            self.open = Some((envelope, Walk::new(encoding, self.max_depth, left as u64, over), walked));
        }
        let Some((envelope, walk, walked)) = &mut self.open else { return Ok(Cut::More(Need::Unknown)) };
        let form = Form { transport: Transport::Buffered, encoding };
        let fault = |reason| Fault { id: carry::id(form, input, 0, envelope), reason };
        match walk.feed(&input[*walked..]).map_err(fault)? {
            None => {
                *walked = input.len();
                Ok(Cut::More(Need::Unknown))
            }
            Some(more) => {
                let (envelope, end) = (envelope.clone(), *walked + more);
                self.open = None;
                Ok(Cut::Message(Message { bytes: take(input, end), start: 0, envelope, is_plain: true }))
            }
        }
    }

    fn frame(&mut self, form: Form, input: &mut BytesMut) -> Result<Cut, Fault> {
        let Some(total) = self.measure(input)? else { return Ok(Cut::More(Need::Unknown)) };
        if total > self.max_message {
            return oversize(form, total, input);
        }
        let cut = self.max_buffered.filter(|_| form.transport == Transport::Framed);
        let head = cut.map_or(total, |most| most.min(total));
        let rest = total - head;
        if input.len() < head {
            return Ok(Cut::More(if rest > 0 { Need::Head { head, rest } } else { Need::Total(total) }));
        }
        self.total = None;
        let (start, is_plain) = self.start(form, &input[..head])?;
        let form = self.form.unwrap_or(form);
        let message = &input[start..head];
        let envelope = Envelope::read(form.encoding, message)?.ok_or(Malformed::Invalid(SHORT))?;
        let id = || carry::id(form, input, start, &envelope);
        let left = (total - start - envelope.end) as u64;
        let mut walk = Walk::new(form.encoding, self.max_depth, left, Malformed::Invalid(SHORT));
        let end = walk.feed(&message[envelope.end..]).map_err(|reason| Fault { id: id(), reason })?;
        if end.is_some_and(|end| rest > 0 || end < message.len() - envelope.end) {
            return Err(Fault { id: id(), reason: Malformed::Invalid(LONG) });
        }
        if rest > 0 {
            self.rest = Some(Rest { id: id(), walk, left: rest });
        }
        let message = Message { bytes: take(input, head), start, envelope, is_plain };
        Ok(if rest > 0 { Cut::Head(message, rest) } else { Cut::Message(message) })
    }

    /// The length of the frame at the front, its own four bytes included.
    fn measure(&mut self, input: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.total.is_none()
            && let Some(&[a, b, c, d]) = input.first_chunk::<PREFIX>()
        {
            let length = i32::from_be_bytes([a, b, c, d]);
            let length = usize::try_from(length).ok().filter(|length| *length > 0);
            self.total = Some(length.ok_or(Malformed::Invalid("frame with a length below 1"))? + PREFIX);
        }
        Ok(self.total)
    }

    /// Where the message in `frame` begins, and whether there is nothing else.
    fn start(&mut self, form: Form, frame: &[u8]) -> Result<(usize, bool), Fault> {
        if form.transport == Transport::Framed {
            return Ok((PREFIX, true));
        }
        let header = Header::read(frame).map_err(|stop| {
            Malformed::Invalid(match stop {
                Stop::Short => SHORT,
                Stop::Bad(what) => what,
            })
        })?;
        let form = Form { encoding: header.encoding, ..form };
        self.form = Some(form);
        if header.is_transformed {
            return Err(Fault { id: carry::nameless(form, frame), reason: Malformed::Invalid(TRANSFORMED) });
        }
        Ok((header.end, header.is_plain))
    }
}

impl Rest {
    fn part(&mut self, input: &mut BytesMut) -> Result<Cut, Fault> {
        if input.is_empty() {
            return Ok(Cut::More(Need::Unknown));
        }
        let count = input.len().min(self.left);
        let fault = |reason| Fault { id: self.id.clone(), reason };
        let end = self.walk.feed(&input[..count]).map_err(fault)?;
        let last = count == self.left;
        if end.is_some_and(|end| !last || end < count) {
            return Err(fault(Malformed::Invalid(LONG)));
        }
        self.left -= count;
        Ok(Cut::Part { bytes: input.split_to(count).freeze(), last })
    }
}

/// A frame that is too large is refused under its name, for which its envelope is waited for.
fn oversize(form: Form, total: usize, input: &[u8]) -> Result<Cut, Fault> {
    let reason = Malformed::TooLarge(total as u64);
    if form.transport == Transport::Header {
        return Err(reason.into());
    }
    let message = input.get(PREFIX..).unwrap_or_default();
    match Envelope::read(form.encoding, message) {
        Ok(Some(envelope)) => Err(Fault { id: carry::id(form, input, PREFIX, &envelope), reason }),
        Ok(None) if input.len() < total => Ok(Cut::More(Need::Unknown)),
        _ => Err(reason.into()),
    }
}

/// What a client speaks, from its first bytes; `None` as long as there are too few.
///
/// No two forms share their first five bytes: a frame has less than 2^30 bytes, and a binary message that is not
/// strict begins with the length of its name and a letter of it.
fn detect(input: &[u8]) -> Result<Option<Form>, Malformed> {
    let form = |transport, encoding| Ok(Some(Form { transport, encoding }));
    let by_first = |bytes: &[u8]| match bytes {
        [0x80, second, ..] if u32::from(*second) == STRICT & 0xff => Some(Encoding::Binary),
        [COMPACT, ..] => Some(Encoding::Compact),
        [b'[', ..] => Some(Encoding::Json),
        _ => None,
    };
    if let Some(encoding) = by_first(input) {
        return form(Transport::Buffered, encoding);
    }
    match input {
        [0x80] => return Ok(None),
        // Longer than a frame is, or nothing in it.
        [0x40..=0xff, ..] | [0, 0, 0, 0, ..] => return Err(Malformed::Invalid(NO_MESSAGE)),
        _ => {}
    }
    let Some(inner) = input.get(PREFIX..PREFIX + 2) else { return Ok(None) };
    if let Some(encoding) = by_first(inner) {
        return form(Transport::Framed, encoding);
    }
    match inner {
        _ if inner == MAGIC => form(Transport::Header, Encoding::Binary),
        [0, _] => form(Transport::Framed, Encoding::Binary),
        [b'a'..=b'z' | b'A'..=b'Z' | b'_', _] => form(Transport::Buffered, Encoding::Binary),
        _ => Err(Malformed::Invalid(NO_MESSAGE)),
    }
}
