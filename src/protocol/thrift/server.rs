//! The half that speaks to one server connection, as the options say.
//!
//! Invariant: what answers a one-way request answers nobody. All of them go out under one seqid that no call has, so
//! a server that replies to one all the same disturbs none of those who share the connection. A reply has the seqid
//! and the name of its call.

use std::sync::Arc;

use bytes::BytesMut;

use super::calls::Calls;
use super::carry::{self, Seqid};
use super::cutter::{Cut, Cutter, Fault, Message};
use super::envelope::{self, EXCEPTION, REPLY};
use super::settings::Transport;
use super::walk::MAX_REPLY_DEPTH;
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
    calls: Calls,
    /// What comes are parts of a reply to a one-way request.
    is_nobodys: bool,
}

impl Server {
    pub(super) fn new(spec: Arc<Spec>, max_buffered: usize) -> Self {
        let max_buffered = Some(max_buffered).filter(|_| spec.form.transport == Transport::Framed);
        let cutter = Cutter::new(Some(spec.form), max_buffered, spec.max_message, MAX_REPLY_DEPTH);
        Self { spec, cutter, calls: Calls::default(), is_nobodys: false }
    }
}

impl Upstream for Server {
    fn encode(&mut self, request: &Request, Tag(tag): Tag, out: &mut Output) {
        let form = self.spec.form;
        // Codecs only let messages through that hold their envelope.
        let Some((start, envelope)) = form.open(&request.bytes) else { return };
        let name = &request.bytes[start..][envelope.name];
        let number = if request.oneway { NOBODYS } else { i32::try_from(tag).unwrap_or(NOBODYS) };
        if request.oneway {
            self.calls.sent_oneway();
        } else {
            self.calls.sent(number, name);
        }
        let message = &envelope::seqid(form.encoding, number);
        // Any server reads strict messages, and some read no others.
        let seqid = Seqid { message, header: number.to_be_bytes(), is_old: false };
        carry::put(form, form.transport, (&request.bytes, &request.charge), &seqid, out);
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        let (message, rest) = match self.cutter.next(input).map_err(|Fault { reason, .. }| reason)? {
            Cut::Message(message) => (message, 0),
            Cut::Head(message, rest) => (message, rest),
            Cut::Part { last, .. } if self.is_nobodys => {
                self.is_nobodys = !last;
                return Ok(Answered::Control(None));
            }
            Cut::Part { bytes, last } => return Ok(Answered::Part { bytes, last }),
            Cut::More(need) => return Ok(Answered::More(need)),
        };
        if self.cutter.form() != Some(self.spec.form) {
            return Err(Malformed::Invalid("encoding other than the option says"));
        }
        let Message { bytes, start, envelope, .. } = message;
        if !matches!(envelope.kind, REPLY | EXCEPTION) {
            return Err(Malformed::Invalid("message that is neither a reply nor an exception"));
        }
        if envelope.number == NOBODYS && self.calls.has_oneways() {
            self.is_nobodys = rest > 0;
            return Ok(Answered::Control(None));
        }
        let name = &bytes[start..][envelope.name];
        self.calls.answered(envelope.number, envelope.kind, name, self.spec.echoes_seqid)?;
        // 0 is what servers write that do not bring the seqid back.
        let tag = (envelope.number != 0).then(|| Tag(envelope.number.cast_unsigned().into()));
        let reply = Reply::new(bytes);
        Ok(if rest > 0 { Answered::Head { tag, reply, rest } } else { Answered::Reply { tag, reply } })
    }

    fn forget(&mut self, Tag(tag): Tag) {
        if let Ok(number) = i32::try_from(tag) {
            self.calls.forget(number);
        }
    }

    /// What answers a one-way request, or what is hidden in it, would pass for the reply to the next call.
    fn is_worn(&self) -> bool {
        !self.spec.echoes_seqid && self.calls.has_oneways()
    }

    fn speaks_unasked(&self) -> bool {
        self.calls.has_oneways()
    }
}
