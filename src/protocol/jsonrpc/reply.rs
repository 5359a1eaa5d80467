//! What a server's message says: a reply, or something that nobody asked for.
//!
//! Replies are written with their id in front, where a placeholder is easy to find: 0 in a single one, the index of
//! its call in one of a batch, `null` where the server did not say what it answers. Used by the half that reads
//! replies.

use super::batch::TAG_BITS;
use super::walk::{compact, items, members, text};

/// A message of a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message<'j> {
    /// The reply to a call.
    Reply {
        /// The number it was given.
        id: Number,
        /// The reply.
        json: Vec<u8>,
    },
    /// The replies to the calls of a batch.
    Batch {
        /// The number of each that has one.
        ids: Vec<Number>,
        /// The replies.
        json: Vec<u8>,
    },
    /// A reply to something that the server could not read the id of, or that had none.
    Unknown,
    /// Nothing is to come back.
    Notification,
    /// A call by the server, which it calls so.
    Call(&'j [u8]),
}

/// What warmline called a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// The exchange.
    pub(super) tag: u64,
    /// Which of its calls.
    pub(super) index: u64,
}

/// What an object is about.
enum About<'j> {
    Number(Number),
    Unknown,
    Notification,
    Call(&'j [u8]),
}

const NOT_OURS: &str = "a reply with an id that no request had";

/// What `json` says. With `spaced`, it has white space that means nothing.
///
/// # Errors
/// Why nobody can tell.
pub(super) fn read(json: &[u8], spaced: bool) -> Result<Message<'_>, &'static str> {
    match json.first() {
        Some(b'{') => {
            let mut out = Vec::with_capacity(json.len() + 8);
            Ok(match about(json)? {
                About::Number(id) => {
                    write(json, spaced, b"0", &mut out);
                    Message::Reply { id, json: out }
                }
                About::Unknown => Message::Unknown,
                About::Notification => Message::Notification,
                About::Call(id) => Message::Call(id),
            })
        }
        Some(b'[') => read_batch(json, spaced),
        _ => Err("a message that is no object"),
    }
}

fn read_batch(json: &[u8], spaced: bool) -> Result<Message<'_>, &'static str> {
    let (mut out, mut ids, mut unasked) = (Vec::with_capacity(json.len()), Vec::new(), false);
    for item in items(json) {
        let id = match about(item)? {
            About::Number(number) => Some(number),
            About::Unknown => None,
            About::Notification => {
                unasked = true;
                continue;
            }
            About::Call(_) => return Err("a batch of calls by a server"),
        };
        out.push(if out.is_empty() { b'[' } else { b',' });
        let index = id.map_or_else(|| "null".to_owned(), |id| id.index.to_string());
        write(item, spaced, index.as_bytes(), &mut out);
        ids.extend(id);
    }
    match (out.is_empty(), unasked) {
        (true, true) => Ok(Message::Notification),
        // To a batch of notifications, by servers that must say something.
        (true, false) => Ok(Message::Unknown),
        _ => {
            out.push(b']');
            Ok(if ids.is_empty() { Message::Unknown } else { Message::Batch { ids, json: out } })
        }
    }
}

fn about(object: &[u8]) -> Result<About<'_>, &'static str> {
    if !object.starts_with(b"{") {
        return Err("a reply that is no object");
    }
    let (mut id, mut has_method, mut has_outcome) = (None, false, false);
    for (name, value) in members(object) {
        match text(name).as_deref() {
            Some("method") => has_method = true,
            // Whatever else it has, it is a reply.
            Some("result" | "error") => has_outcome = true,
            Some("id") if id.replace(value).is_some() => return Err("a message with two ids"),
            _ => {}
        }
    }
    match (has_method && !has_outcome, id) {
        (true, None | Some(b"null")) => Ok(About::Notification),
        (true, Some(id)) => Ok(About::Call(id)),
        (false, None | Some(b"null")) => Ok(About::Unknown),
        (false, Some(id)) => number(id).map(About::Number).ok_or(NOT_OURS),
    }
}

/// The number that `id` is, if it is written as requests have it.
fn number(id: &[u8]) -> Option<Number> {
    let is_plain = id.iter().all(u8::is_ascii_digit) && !(id.len() > 1 && id[0] == b'0');
    let id: u64 = std::str::from_utf8(id).ok()?.parse().ok().filter(|_| is_plain)?;
    Some(Number { tag: id & ((1 << TAG_BITS) - 1), index: id >> TAG_BITS })
}

/// Appends `object` with `id` in place of its own.
fn write(object: &[u8], spaced: bool, id: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id);
    for (name, value) in members(object) {
        if text(name).as_deref() == Some("id") {
            continue;
        }
        out.push(b',');
        out.extend_from_slice(name);
        out.push(b':');
        if spaced { compact(value, out) } else { out.extend_from_slice(value) }
    }
    out.push(b'}');
}
