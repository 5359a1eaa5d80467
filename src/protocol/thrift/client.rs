//! The half that speaks to one client: what it speaks is detected, and turned into what the upstream speaks.

use std::sync::Arc;

use bytes::BytesMut;

use super::Spec;
use super::carry::{self, Form, Named, Seqid};
use super::cutter::{Cut, Cutter, Fault, Message, TRANSFORMED};
use super::envelope::{CALL, Envelope, ONEWAY};
use super::refusal::{self, Code};
use super::settings::Transport;
use super::walk::MAX_DEPTH;
use crate::protocol::{BadRequest, Downstream, Id, Malformed, Received, Refusal, Reply, Request};
use crate::wire::Output;

const ENCODING: &str = "encoding other than the upstream's";
const PAIRS: &str = "THeader with values, for an upstream that has no place for them";
const KIND: &str = "message that is neither a call nor one-way";
/// A server that takes names for text would end its connection.
const NAME: &str = "name of a method that is no UTF-8";

/// Reads requests and writes replies.
#[derive(Debug)]
pub(super) struct Client {
    spec: Arc<Spec>,
    cutter: Cutter,
    /// Why what the client said last is refused, if it is.
    fault: Option<Malformed>,
}

impl Client {
    pub(super) fn new(spec: Arc<Spec>, max_buffered: usize) -> Self {
        // Parts of a frame can only go on as parts of one.
        let max_buffered = Some(max_buffered).filter(|_| spec.form.transport == Transport::Framed);
        let cutter = Cutter::new(None, max_buffered, spec.max_message, MAX_DEPTH);
        Self { spec, cutter, fault: None }
    }

    fn next(&mut self, input: &mut BytesMut) -> Result<Received, Fault> {
        let (message, rest) = match self.cutter.next(input)? {
            Cut::Message(message) => (message, 0),
            Cut::Head(message, rest) => (message, rest),
            Cut::Part { bytes, last } => return Ok(Received::Part { bytes, last }),
            Cut::More(need) => return Ok(Received::More(need)),
        };
        let form = self.cutter.form().unwrap_or(self.spec.form);
        let Message { bytes, start, envelope, is_plain } = message;
        let id = carry::id(form, &bytes, start, &envelope);
        if let Some(what) = self.misfit(form, &bytes[start..], &envelope, is_plain) {
            return Err(Fault { id, reason: Malformed::Invalid(what) });
        }
        let oneway = self.is_oneway(&bytes[start..], &envelope);
        let request = Request::new(carry::convert(form, self.spec.form.transport, bytes, start), oneway);
        Ok(if rest > 0 { Received::Head { id, request, rest } } else { Received::Request { id, request } })
    }

    fn is_oneway(&self, message: &[u8], envelope: &Envelope) -> bool {
        envelope.kind == ONEWAY || self.spec.oneway.contains(&message[envelope.name.clone()])
    }

    /// Why a message cannot go to the upstream, if it cannot.
    fn misfit(
        &self,
        form: Form,
        message: &[u8],
        envelope: &Envelope,
        is_plain: bool,
    ) -> Option<&'static str> {
        if form.encoding != self.spec.form.encoding {
            Some(ENCODING)
        } else if !matches!(envelope.kind, CALL | ONEWAY) {
            Some(KIND)
        } else if std::str::from_utf8(&message[envelope.name.clone()]).is_err() {
            Some(NAME)
        } else if !is_plain && self.spec.form.transport != Transport::Header {
            Some(PAIRS)
        } else {
            None
        }
    }

    /// The type of the exception for `refusal`, and its text.
    fn words(&self, refusal: &Refusal) -> (Code, String) {
        let code = match (refusal, self.fault) {
            (Refusal::Malformed, Some(Malformed::Invalid(what))) => {
                let code = match what {
                    ENCODING => Code::InvalidProtocol,
                    TRANSFORMED => Code::InvalidTransform,
                    PAIRS => Code::UnsupportedClient,
                    _ => Code::Protocol,
                };
                return (code, format!("{refusal}: {what}"));
            }
            (Refusal::Malformed | Refusal::TooLarge, _) => Code::Protocol,
            _ => Code::Internal,
        };
        (code, refusal.to_string())
    }
}

impl Downstream for Client {
    fn decode(&mut self, input: &mut BytesMut) -> Result<Received, BadRequest> {
        self.next(input).map_err(|Fault { id, reason }| {
            self.fault = Some(reason);
            BadRequest { id, reason }
        })
    }

    fn encode(&mut self, id: &Id, reply: Reply, out: &mut Output) {
        // Nobody gets what was not written for it.
        let Some(Named { form, header, written, envelope }) = Named::open(id) else { return };
        let seqid = Seqid { message: &written[envelope.seqid], header, is_old: envelope.is_old };
        carry::put(self.spec.form, form.transport, (&reply.bytes, &reply.charge), &seqid, out);
    }

    fn refuse(&mut self, id: &Id, refusal: &Refusal, out: &mut Output) -> bool {
        let Some(Named { form, header, written, envelope }) = Named::open(id) else { return false };
        // It would pass for the reply to another request.
        if self.is_oneway(written, &envelope) {
            return false;
        }
        let (code, text) = self.words(refusal);
        let exception = refusal::exception(form.encoding, (written, &envelope), code, &text);
        out.put(&carry::wrap(form, &exception, header));
        true
    }
}
