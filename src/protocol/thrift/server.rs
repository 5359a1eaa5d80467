//! The half that speaks to one server connection, as the options say.
//!
//! Invariant: what answers a one-way request answers nobody. All of them go out under one seqid that no call has, so
//! a server that replies to one all the same disturbs none of those who share the connection.

use std::sync::Arc;

use bytes::BytesMut;

use super::carry::{self, Seqid};
use super::cutter::{Cut, Cutter, Fault, Message};
use super::envelope::{self, EXCEPTION, REPLY};
use super::settings::Transport;
use super::{LAST_TAG, Spec};
use crate::protocol::{Answered, Malformed, Reply, Request, Tag, Upstream};
use crate::wire::Output;

/// The seqid of one-way requests.
const NOBODYS: i32 = LAST_TAG + 1;

/// Reads replies and writes requests.
#[derive(Debug)]
pub(super) struct Server {
    spec: Arc<Spec>,
    cutter: Cutter,
    /// A one-way request was sent.
    has_sent_oneway: bool,
}

impl Server {
    pub(super) fn new(spec: Arc<Spec>, max_buffered: usize) -> Self {
        let max_buffered = Some(max_buffered).filter(|_| spec.form.transport == Transport::Framed);
        let cutter = Cutter::new(Some(spec.form), max_buffered, spec.max_message);
        Self { spec, cutter, has_sent_oneway: false }
    }

    /// The tag in a reply.
    ///
    /// Some servers do not bring the seqid back and write 0, which is no tag: their replies are taken in order. Once a
    /// one-way request was sent they cannot be told from an answer to that.
    fn tag(&self, number: i32) -> Result<Option<Tag>, Malformed> {
        match number {
            0 if self.has_sent_oneway => {
                Err(Malformed::Invalid("reply without a seqid after a one-way request"))
            }
            0 => Ok(None),
            number => Ok(Some(Tag(number.cast_unsigned().into()))),
        }
    }
}

impl Upstream for Server {
    fn encode(&mut self, request: &Request, Tag(tag): Tag, out: &mut Output) {
        let number = if request.oneway { NOBODYS } else { i32::try_from(tag).unwrap_or(NOBODYS) };
        self.has_sent_oneway |= request.oneway;
        let message = &envelope::seqid(self.spec.form.encoding, number);
        let seqid = Seqid { message, header: number.to_be_bytes() };
        let form = self.spec.form;
        carry::put(form, form.transport, (&request.bytes, &request.charge), &seqid, out);
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        let (message, rest) = match self.cutter.next(input).map_err(|Fault { reason, .. }| reason)? {
            Cut::Message(message) => (message, 0),
            Cut::Head(message, rest) => (message, rest),
            Cut::Part { bytes, last } => return Ok(Answered::Part { bytes, last }),
            Cut::More(need) => return Ok(Answered::More(need)),
        };
        if self.cutter.form() != Some(self.spec.form) {
            return Err(Malformed::Invalid("encoding other than the option says"));
        }
        let Message { bytes, envelope, .. } = message;
        if !matches!(envelope.kind, REPLY | EXCEPTION) {
            return Err(Malformed::Invalid("message that is neither a reply nor an exception"));
        }
        if envelope.number == NOBODYS && self.has_sent_oneway && rest == 0 {
            return Ok(Answered::Control(None));
        }
        let (tag, reply) = (self.tag(envelope.number)?, Reply::new(bytes));
        Ok(if rest > 0 { Answered::Head { tag, reply, rest } } else { Answered::Reply { tag, reply } })
    }

    fn speaks_unasked(&self) -> bool {
        self.has_sent_oneway
    }
}
