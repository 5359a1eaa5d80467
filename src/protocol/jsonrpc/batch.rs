//! Batches (JSON-RPC 2.0, section 6): one exchange, whatever is in them.
//!
//! What is no request in a batch is answered here and does not travel. The ids of the calls are kept in lines, the
//! n-th for the call of index n; upstream that call has the id `tag + n * 2^40`. Used by both halves.

use memchr::memmem;

use super::envelope::{CALL, CANCELS, Envelope, Version};
use super::refusal::{self, LEFT_OUT};
use super::scan::Seen;
use super::walk::items;
use crate::protocol::Tag;

/// The most members.
pub(super) const MAX_BATCH: usize = 1024;
/// The most bytes of ids and errors that are kept until the reply comes.
const MAX_KEPT: usize = 16 * 1024;
/// The most bytes of errors that are told at once: a few bytes can ask for many.
const MAX_ERRORS: usize = 4096;
/// The most calls that are told of the same error one by one.
const MAX_TOLD: usize = 32;
/// The bits of an id below its index.
pub(super) const TAG_BITS: u32 = 40;
/// What the ids of a batch begin with in [`Batch::id`]; no JSON begins so.
const MARK: u8 = b'#';

/// A batch that a client sent.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// What goes to the server; a list.
    pub(super) json: Vec<u8>,
    /// The ids of its calls, in lines.
    ids: Vec<u8>,
    /// The errors of what is no request, in lines.
    errors: Vec<u8>,
    /// Some of it goes no further, without an error.
    pub(super) dropped: bool,
    /// Why there are errors.
    pub(super) fault: Option<&'static str>,
}

impl Batch {
    /// Reads `list`, which is one.
    ///
    /// # Errors
    /// If nothing of it can be answered by itself.
    pub(super) fn read(list: &[u8], seen: Seen) -> Result<Self, &'static str> {
        let mut batch = Self { json: Vec::with_capacity(list.len()), ..Self::default() };
        for (place, item) in items(list).enumerate() {
            if place == MAX_BATCH {
                return Err("a batch of too many requests");
            }
            batch.add(item, seen);
            let max = if batch.has_calls() { MAX_KEPT } else { MAX_ERRORS };
            if batch.ids.len() + batch.errors.len() > max {
                return Err("a batch with ids and faults that are too long in sum");
            }
        }
        if batch.json.is_empty() && batch.fault.is_none() && !batch.dropped {
            return Err("an empty batch");
        }
        if !batch.json.is_empty() {
            batch.json.push(b']');
        }
        Ok(batch)
    }

    fn add(&mut self, item: &[u8], seen: Seen) {
        let (fault, id) = match item {
            [b'{', ..] => match Envelope::read(item, seen) {
                Ok(Envelope { version: Version::V1, id, .. }) => {
                    ("a request without `jsonrpc` in a batch", id)
                }
                Ok(request) if request.is_cancel() && request.id.is_none() => {
                    self.dropped = true;
                    return;
                }
                Ok(request) if request.is_cancel() => (CANCELS, request.id),
                Ok(request) => {
                    self.json.push(if self.json.is_empty() { b'[' } else { b',' });
                    request.write(&mut self.json);
                    if let Some(id) = request.id {
                        self.ids.extend_from_slice(id);
                        self.ids.push(b'\n');
                    }
                    return;
                }
                Err(invalid) => (invalid.reason, invalid.id),
            },
            _ => ("a request is an object", None),
        };
        // What the first edition allows as an id may have line breaks in it.
        let id = id.filter(|id| !id.contains(&b'\n'));
        self.errors.extend(refusal::invalid(Version::V2, fault, id));
        self.errors.push(b'\n');
        self.fault = Some(fault);
    }

    /// Whether a reply will come.
    pub(super) fn has_calls(&self) -> bool {
        !self.ids.is_empty()
    }

    /// What the client calls it: all that its answer must bring back.
    pub(super) fn id(&self) -> Vec<u8> {
        [&[MARK][..], &self.ids, b"\n", &self.errors].concat()
    }

    /// The answer to what is no request, where there is nothing else to answer.
    pub(super) fn errors(&self) -> Vec<u8> {
        list(lines(&self.errors))
    }
}

/// What [`Batch::id`] keeps.
#[derive(Debug)]
pub(super) struct Kept<'i> {
    ids: Vec<&'i [u8]>,
    errors: &'i [u8],
}

impl<'i> Kept<'i> {
    /// `None` if `id` is that of a single request.
    pub(super) fn parse(id: &'i [u8]) -> Option<Self> {
        let rest = id.strip_prefix(&[MARK])?;
        let end = memmem::find(rest, b"\n\n")?;
        Some(Self { ids: rest[..end].split(|byte| *byte == b'\n').collect(), errors: &rest[end + 2..] })
    }

    /// The answer: the members of `replies`, as [`super::reply`] writes them, under the client's ids, and the errors.
    pub(super) fn answer(&self, replies: &[u8]) -> Vec<u8> {
        let mut missing: Vec<Option<&[u8]>> = self.ids.iter().copied().map(Some).collect();
        let mut restored = Vec::new();
        for reply in items(replies) {
            let id =
                placeholder(reply).and_then(|(index, rest)| Some((missing.get_mut(index)?.take()?, rest)));
            restored.push(match id {
                Some((id, rest)) => [b"{\"id\":", id, rest].concat(),
                // The server could not tell which call this is about.
                None => reply.to_vec(),
            });
        }
        if missing.iter().flatten().count() > MAX_TOLD {
            let message = "upstream left most calls of the batch out";
            return refusal::error(Version::V2, LEFT_OUT, message, b"null");
        }
        let left_out =
            |id| refusal::error(Version::V2, LEFT_OUT, "upstream left this call of the batch out", id);
        restored.extend(missing.into_iter().flatten().map(left_out));
        list(restored.iter().map(Vec::as_slice).chain(lines(self.errors)))
    }

    /// The answer if all calls get the same error: one for all of them, if they are many.
    pub(super) fn refuse(&self, code: i32, message: &str) -> Vec<u8> {
        if self.ids.len() > MAX_TOLD {
            return refusal::error(Version::V2, code, message, b"null");
        }
        let errors: Vec<_> =
            self.ids.iter().map(|id| refusal::error(Version::V2, code, message, id)).collect();
        list(errors.iter().map(Vec::as_slice).chain(lines(self.errors)))
    }
}

/// The batch `json`, as [`Batch::read`] writes it, under `tag`; and how many calls it has.
pub(super) fn number(json: &[u8], Tag(tag): Tag) -> (Vec<u8>, u64) {
    let (mut out, mut calls) = (Vec::with_capacity(json.len()), 0);
    for item in items(json) {
        out.push(if out.is_empty() { b'[' } else { b',' });
        match item.strip_prefix(CALL) {
            Some(rest) => {
                out.extend_from_slice(format!("{{\"id\":{}", tag + (calls << TAG_BITS)).as_bytes());
                out.extend_from_slice(rest);
                calls += 1;
            }
            None => out.extend_from_slice(item),
        }
    }
    out.push(b']');
    (out, calls)
}

/// The number that stands for the id in `reply`, and what follows it.
fn placeholder(reply: &[u8]) -> Option<(usize, &[u8])> {
    let rest = reply.strip_prefix(b"{\"id\":")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let index = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    Some((index, &rest[digits..]))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty())
}

fn list<'i>(items: impl Iterator<Item = &'i [u8]>) -> Vec<u8> {
    let mut out = vec![b'['];
    for item in items {
        if out.len() > 1 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.push(b']');
    out
}
