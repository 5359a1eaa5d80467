//! The half that speaks to a server.

use bytes::BytesMut;

use super::batch::number;
use super::envelope::{CALL, Version};
use super::framing::{Cut, Cutter, framed, put};
use super::refusal::{self, METHOD_NOT_FOUND};
use super::reply::{self, Message, Number};
use super::scan::Rules;
use super::settings::{Framing, Settings};
use crate::protocol::{Answered, Malformed, Reply, Request, Tag, Upstream};
use crate::wire::Output;

/// Reads replies and writes requests.
#[derive(Debug)]
pub(super) struct Replies {
    framing: Framing,
    cutter: Cutter,
    owed: Vec<Owed>,
}

/// A request whose reply is due.
#[derive(Debug)]
struct Owed {
    tag: u64,
    /// The calls of a batch; `None` for a single one.
    calls: Option<u64>,
}

impl Replies {
    pub(super) fn new(settings: &Settings, rules: Rules) -> Self {
        let Settings { framing, max_message, .. } = *settings;
        let cutter = Cutter::new(framing, max_message, rules);
        Self { framing, cutter, owed: Vec::new() }
    }

    fn answered(&mut self, message: Message<'_>) -> Result<Answered, &'static str> {
        let (tag, json) = match message {
            Message::Reply { id: Number { tag, index }, json } => {
                let owed = self.settle(tag);
                if index > 0 || owed.is_some_and(|owed| owed.calls.is_some()) {
                    return Err("a batch answered call by call");
                }
                (tag, json)
            }
            Message::Batch { ids, json } => (self.settle_batch(&ids)?, json),
            // Nobody can tell whose it is, even with one request due: it may be the second reply to an earlier one.
            Message::Unknown => return Ok(Answered::Unclaimed),
            Message::Notification => return Ok(Answered::Unasked(None)),
            Message::Call(id) => {
                let answer = refusal::error(Version::V2, METHOD_NOT_FOUND, "Method not found", id);
                return Ok(Answered::Unasked(Some(framed(self.framing, &answer))));
            }
        };
        Ok(Answered::Reply { tag: Some(Tag(tag)), reply: Reply::new(json.into()) })
    }

    /// Takes note of the reply to `tag`.
    fn settle(&mut self, tag: u64) -> Option<Owed> {
        let place = self.owed.iter().position(|owed| owed.tag == tag)?;
        Some(self.owed.remove(place))
    }

    /// The tag of the batch whose calls have these numbers.
    fn settle_batch(&mut self, ids: &[Number]) -> Result<u64, &'static str> {
        let tag = ids.first().map_or(0, |id| id.tag);
        let calls =
            self.settle(tag).map_or(Some(0), |owed| owed.calls).ok_or("a batch in reply to a single call")?;
        let mut indices: Vec<u64> = ids.iter().map(|id| id.index).collect();
        indices.sort_unstable();
        indices.dedup();
        let fits = indices.len() == ids.len() && indices.last().is_some_and(|last| *last < calls);
        if fits && ids.iter().all(|id| id.tag == tag) {
            Ok(tag)
        } else {
            Err("a batch with ids of another one")
        }
    }
}

impl Upstream for Replies {
    fn encode(&mut self, request: &Request, tag: Tag, out: &mut Output) {
        let Request { bytes, oneway, charge, .. } = request;
        if *oneway {
            return put(self.framing, &[], (bytes, 0), charge, out);
        }
        if bytes.starts_with(b"[") {
            let (json, calls) = number(bytes, tag);
            self.owed.push(Owed { tag: tag.0, calls: Some(calls) });
            return put(self.framing, &[], (&json.into(), 0), charge, out);
        }
        self.owed.push(Owed { tag: tag.0, calls: None });
        let head = format!("{{\"id\":{}", tag.0);
        put(self.framing, &[head.as_bytes()], (bytes, CALL.len().min(bytes.len())), charge, out);
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        let (json, seen, end) = match self.cutter.next(input)? {
            Cut::More(need) => return Ok(Answered::More(need)),
            // What follows can be understood: only the reply is lost.
            Cut::Broken { end, .. } => {
                self.cutter.drop_front(input, end);
                return Ok(Answered::Unclaimed);
            }
            Cut::Value { json, seen, end } => (json, seen, end),
        };
        let message = reply::read(&input[json], seen.spaced).map_err(Malformed::Invalid)?;
        let answered = self.answered(message).map_err(Malformed::Invalid)?;
        self.cutter.drop_front(input, end);
        Ok(answered)
    }

    fn forget(&mut self, Tag(tag): Tag) {
        self.settle(tag);
    }

    /// Notifications and calls of its own.
    fn speaks_unasked(&self) -> bool {
        true
    }
}
