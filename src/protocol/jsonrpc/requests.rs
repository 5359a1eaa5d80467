//! The half that speaks to a client.

use bytes::{Bytes, BytesMut};

use super::batch::{Batch, Kept};
use super::envelope::{CALL, CANCELS, Envelope, Version};
use super::framing::{Cut, Cutter, framed, put};
use super::refusal::{self, PARSE_ERROR};
use super::scan::{Rules, Seen};
use super::settings::{Framing, Settings};
use crate::events::HandOver;
use crate::protocol::{BadRequest, Downstream, Id, Malformed, Received, Refusal, Reply, Request};
use crate::wire::Output;

/// What a notification is called.
const NOTIFICATION: Id = Id::Bytes(Bytes::new());
/// Bytes kept of a message that is no request, to be shown in the log.
const FRONT: usize = 16;

/// Begins what is kept of an id of the first edition; no JSON begins so.
const FIRST: u8 = b'!';

/// Reads requests and writes replies.
#[derive(Debug)]
pub(super) struct Requests {
    framing: Framing,
    cutter: Cutter,
    batches: bool,
    /// What the client speaks, as far as is known.
    version: Version,
    /// The rest of a batch whose faults were told first. The last byte of it is still in the input.
    waiting: Option<(Id, Request)>,
    /// The client is to have a connection of its own.
    passes: bool,
}

impl Requests {
    pub(super) fn new(settings: &Settings, rules: Rules, passes: bool) -> Self {
        let Settings { framing, max_message, batches, .. } = *settings;
        let cutter = Cutter::new(framing, max_message, rules);
        Self { framing, cutter, batches, version: Version::V2, waiting: None, passes }
    }

    fn object(&mut self, object: &[u8], seen: Seen) -> Received {
        match Envelope::read(object, seen) {
            Ok(envelope) => {
                self.version = envelope.version;
                if envelope.is_cancel() {
                    let Some(id) = envelope.id else { return Received::Dropped };
                    let answer = refusal::invalid(envelope.version, CANCELS, Some(id));
                    return self.refused(CANCELS, object, Some(answer));
                }
                // It may be longer than it was by its placeholder.
                let mut bytes = Vec::with_capacity(object.len() + CALL.len() + 1);
                envelope.write(&mut bytes);
                let id = envelope.id.map_or(Id::None, |id| kept(envelope.version, id));
                Received::Request { id, request: Request::new(bytes.into(), envelope.id.is_none()) }
            }
            Err(invalid) => {
                self.version = invalid.version;
                let answer = refusal::invalid(invalid.version, invalid.reason, invalid.id);
                self.refused(invalid.reason, object, Some(answer))
            }
        }
    }

    /// The server judges for itself what the client says, in `message` as it came.
    fn hand_over(&mut self, json: &[u8], message: &[u8]) -> Received {
        let envelope = json.starts_with(b"{").then(|| Envelope::read(json, Seen::default()).ok()).flatten();
        self.version = envelope.as_ref().map_or(Version::V2, |envelope| envelope.version);
        // That of a notification is empty: nobody waits for a word.
        let id = envelope.map(|envelope| envelope.id.map_or(NOTIFICATION, |id| kept(envelope.version, id)));
        Received::HandOver {
            id: id.unwrap_or(Id::None),
            reason: HandOver::ServerMessages,
            front: Bytes::copy_from_slice(message),
        }
    }

    fn list(&mut self, list: &[u8], seen: Seen) -> Received {
        self.version = Version::V2;
        if !self.batches {
            return self.invalid("batches are turned off", list);
        }
        let mut batch = match Batch::read(list, seen) {
            Ok(batch) => batch,
            Err(reason) => return self.invalid(reason, list),
        };
        let (json, has_calls) = (std::mem::take(&mut batch.json), batch.has_calls());
        let request = (!json.is_empty()).then(|| {
            let id = if has_calls { Id::Bytes(batch.id().into()) } else { Id::None };
            (id, Request::new(json.into(), !has_calls))
        });
        match (request, batch.fault) {
            (Some((id, request)), None) => Received::Request { id, request },
            (None, None) => Received::Dropped,
            (request, fault) => {
                let answer = (!has_calls).then(|| batch.errors());
                self.waiting = request;
                self.refused(fault.unwrap_or_default(), list, answer)
            }
        }
    }

    /// What is no request, answered with an error of an unknown id.
    fn invalid(&self, reason: &'static str, message: &[u8]) -> Received {
        self.refused(reason, message, Some(refusal::invalid(self.version, reason, None)))
    }

    /// The edition of the request that is called `id`, and that in the client's words.
    fn own<'i>(&self, id: &'i Id) -> (Version, &'i [u8]) {
        match id {
            Id::Bytes(id) => match id.strip_prefix(&[FIRST]) {
                Some(id) => (Version::V1, id),
                None => (Version::V2, id),
            },
            _ => (self.version, b"null"),
        }
    }

    fn refused(&self, reason: &'static str, message: &[u8], answer: Option<Vec<u8>>) -> Received {
        Received::Refused {
            reason: Malformed::Invalid(reason),
            front: Bytes::copy_from_slice(&message[..message.len().min(FRONT)]),
            answer: answer.map(|answer| framed(self.framing, &answer)),
        }
    }
}

impl Downstream for Requests {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Received, BadRequest> {
        if let Some((id, request)) = self.waiting.take() {
            self.cutter.drop_front(input, 1);
            return Ok(Received::Request { id, request });
        }
        let cut = self.cutter.next(input).map_err(|reason| BadRequest { id: Id::None, reason })?;
        let (received, end) = match cut {
            Cut::More(need) => return Ok(Received::More(need)),
            Cut::Broken { reason, end } => {
                let message = format!("Parse error: {reason}");
                let answer = refusal::error(self.version, PARSE_ERROR, &message, b"null");
                (self.refused(reason, input, Some(answer)), end)
            }
            Cut::Value { json, seen, end } => {
                let json = &input[json];
                let received = match json.first() {
                    _ if self.passes => self.hand_over(json, &input[..self.cutter.whole(input, end)]),
                    Some(b'{') => self.object(json, seen),
                    Some(b'[') => self.list(json, seen),
                    _ => self.invalid("a request is an object", json),
                };
                (received, end)
            }
        };
        // As long as something waits, the session is to see that there is more.
        let end = if self.waiting.is_some() { end - 1 } else { end };
        self.cutter.drop_front(input, end);
        Ok(received)
    }

    fn encode(&mut self, id: &Id, reply: Reply, out: &mut Output) {
        let Reply { bytes, charge, .. } = reply;
        let (_, id) = self.own(id);
        match Kept::parse(id) {
            Some(kept) => put(self.framing, &[], (&kept.answer(&bytes).into(), 0), &charge, out),
            None => {
                put(self.framing, &[b"{\"id\":", id], (&bytes, CALL.len().min(bytes.len())), &charge, out);
            }
        }
    }

    fn refuse(&mut self, id: &Id, refusal: &Refusal, out: &mut Output) -> bool {
        if *id == NOTIFICATION {
            return false;
        }
        let (code, message) = (refusal::code(refusal), refusal::message(refusal));
        let (version, id) = self.own(id);
        let answer = match Kept::parse(id) {
            Some(kept) => kept.refuse(code, &message),
            None => refusal::error(version, code, &message, id),
        };
        out.put(&framed(self.framing, &answer));
        true
    }
}

/// What is kept of the id of a single request.
fn kept(version: Version, id: &[u8]) -> Id {
    let mark: &[u8] = if version == Version::V1 { &[FIRST] } else { &[] };
    Id::Bytes([mark, id].concat().into())
}

/// `id` as the client wrote it; that of a batch is none.
pub(super) fn shown(id: &Id) -> Id {
    match id {
        Id::Bytes(id) if Kept::parse(id).is_some() => Id::None,
        Id::Bytes(id) if id.first() == Some(&FIRST) => Id::Bytes(id.slice(1..)),
        id => id.clone(),
    }
}
