//! Cuts bytes into messages with the codec of one side, and keeps count.
//!
//! Sans-IO: bytes are fed in, rows come out. Called by `explain`.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::table::Row;
use crate::protocol::{
    Answered, BadRequest, Downstream, Id, Malformed, Need, Protocol, Received, Request, Upstream,
};

/// Bytes shown of what is no message.
pub(super) const FRONT: usize = 16;

/// Why no message comes in parts.
const WHOLE: &str = "the codec was told to buffer whatever `max_message` allows";

/// A stream of one side.
#[derive(Debug)]
pub(super) struct Cutter {
    codec: Codec,
    protocol: Arc<dyn Protocol>,
    /// What is not cut yet.
    input: BytesMut,
    /// Messages so far.
    pub(super) messages: u64,
    /// Their bytes: where the next one begins.
    pub(super) offset: u64,
}

/// Who sent the bytes.
#[derive(Debug)]
enum Codec {
    Client(Box<dyn Downstream>),
    Server(Box<dyn Upstream>),
}

/// What the front of the bytes turned out to be.
#[derive(Debug)]
pub(super) enum Step {
    /// A message.
    Message(Row),
    /// Not a whole message yet; without a need, nothing at all.
    Missing(Option<Need>),
    /// No message, and nothing is known of what follows. So it begins, as far as it is there.
    Refused(Row, BadRequest, Vec<u8>),
}

/// One message, or how much of it is missing.
enum Decoded {
    Message { id: Id, method: Option<Bytes>, kind: &'static str },
    More(Need),
}

impl Cutter {
    pub(super) fn new(protocol: Arc<dyn Protocol>, replies: bool) -> Self {
        let codec = if replies {
            Codec::Server(protocol.upstream(usize::MAX))
        } else {
            Codec::Client(protocol.downstream(usize::MAX))
        };
        Self { codec, protocol, input: BytesMut::new(), messages: 0, offset: 0 }
    }

    /// Adds what comes next.
    pub(super) fn feed(&mut self, piece: &[u8]) {
        self.input.extend_from_slice(piece);
    }

    /// Takes one message off the front.
    pub(super) fn step(&mut self) -> Step {
        let there = self.input.len();
        if there == 0 {
            return Step::Missing(None);
        }
        // A codec may have taken it by the time it refuses it.
        let front = self.input[..there.min(FRONT)].to_vec();
        let decoded = self.decode().and_then(|decoded| match decoded {
            // As a session does with a message without an end.
            Decoded::More(need) => need
                .beyond(there, usize::MAX, self.protocol.max_message())
                .map(|_| decoded)
                .map_err(|reason| BadRequest { id: Id::None, reason }),
            message @ Decoded::Message { .. } => Ok(message),
        });
        match decoded {
            Ok(Decoded::More(need)) => {
                // White space between messages is gone.
                self.offset += (there - self.input.len()) as u64;
                Step::Missing((!self.input.is_empty()).then_some(need))
            }
            Ok(Decoded::Message { id, method, kind }) => {
                let length = there - self.input.len();
                let row = Row { offset: self.offset, length: Some(length), id, method, kind };
                self.messages += 1;
                self.offset += length as u64;
                Step::Message(row)
            }
            Err(bad) => {
                let id = self.protocol.shown(bad.id.clone());
                let row = Row { offset: self.offset, length: None, id, method: None, kind: "malformed" };
                Step::Refused(row, bad, front)
            }
        }
    }

    /// What is left where nothing more comes.
    pub(super) fn rest(&self) -> Row {
        let length = Some(self.input.len());
        Row { offset: self.offset, length, id: Id::None, method: None, kind: "incomplete" }
    }

    fn decode(&mut self) -> Result<Decoded, BadRequest> {
        let bare = |kind| Decoded::Message { id: Id::None, method: None, kind };
        match &mut self.codec {
            Codec::Client(codec) => Ok(match codec.decode(&mut self.input)? {
                Received::Request { id, request: Request { bytes, oneway, .. } } => {
                    let method = self.protocol.method(&bytes).map(|method| bytes.slice_ref(method));
                    let id = self.protocol.shown(id);
                    Decoded::Message { id, method, kind: if oneway { "oneway" } else { "request" } }
                }
                Received::Head { .. } | Received::Part { .. } => unreachable!("{WHOLE}"),
                Received::Control(_) => bare("heartbeat"),
                Received::Dropped => bare("dropped"),
                Received::Refused { .. } => bare("invalid"),
                Received::HandOver { id, .. } => {
                    Decoded::Message { id: self.protocol.shown(id), method: None, kind: "dedicated" }
                }
                Received::Closing => bare("closing"),
                Received::More(need) => Decoded::More(need),
            }),
            Codec::Server(codec) => {
                let refused = |reason: Malformed| BadRequest { id: Id::None, reason };
                Ok(match codec.decode(&mut self.input).map_err(refused)? {
                    Answered::Reply { tag, .. } => {
                        let id = tag.map_or(Id::None, |tag| Id::Bits(tag.0));
                        Decoded::Message { id, method: None, kind: "reply" }
                    }
                    Answered::Head { .. } | Answered::Part { .. } => unreachable!("{WHOLE}"),
                    Answered::Control(_) => bare("heartbeat"),
                    Answered::Unasked(_) => bare("unasked"),
                    Answered::Unclaimed => bare("unclaimed"),
                    Answered::Closing => bare("closing"),
                    Answered::More(need) => Decoded::More(need),
                })
            }
        }
    }
}
