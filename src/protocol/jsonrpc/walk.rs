//! Walks over JSON without building a tree.
//!
//! What it walks over has passed a [`super::scan::Scan`]; other bytes lead to nonsense, never to a panic. Used by
//! `request`, `batch` and `reply`.

use std::borrow::Cow;

use memchr::memchr2;

use super::scan::is_space;

/// The members of `object`: names with their quotes, and values.
pub(super) fn members(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut walk = Walk::inside(object);
    std::iter::from_fn(move || Some((walk.value()?, walk.value()?)))
}

/// The items of `list`.
pub(super) fn items(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut walk = Walk::inside(list);
    std::iter::from_fn(move || walk.value())
}

/// What the string `quoted` says; `None` if it is no string, or not one of whole characters.
pub(super) fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inside = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    match std::str::from_utf8(inside) {
        Ok(plain) if !inside.contains(&b'\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_slice(quoted).ok().map(Cow::Owned),
    }
}

/// Appends `text` as a string, in the one way that strings are written here.
pub(super) fn quote(text: &str, out: &mut Vec<u8>) {
    // Writing to a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// The numbers anywhere in `json`.
pub(super) fn numbers(json: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 0;
    std::iter::from_fn(move || {
        loop {
            let start = at;
            at = match json.get(start)? {
                b'"' => end_of_text(json, start),
                b'-' | b'0'..=b'9' => {
                    at = end_of_word(json, start);
                    return Some(&json[start..at]);
                }
                _ => start + 1,
            };
        }
    })
}

/// Appends `json` without white space that means nothing.
pub(super) fn compact(json: &[u8], out: &mut Vec<u8>) {
    let mut at = 0;
    while let Some(&byte) = json.get(at) {
        let end = if byte == b'"' { end_of_text(json, at) } else { at + 1 };
        if !is_space(byte) {
            out.extend_from_slice(&json[at..end]);
        }
        at = end;
    }
}

/// A place between the tokens of a list or an object.
struct Walk<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Walk<'j> {
    /// Behind the bracket that opens `json`.
    fn inside(json: &'j [u8]) -> Self {
        Self { json, at: 1 }
    }

    /// The next value or name, if there is one.
    fn value(&mut self) -> Option<&'j [u8]> {
        while self.json.get(self.at).is_some_and(|byte| is_space(*byte) || matches!(byte, b',' | b':')) {
            self.at += 1;
        }
        let start = self.at;
        self.at = match self.json.get(start)? {
            b']' | b'}' => return None,
            b'"' => end_of_text(self.json, start),
            b'[' | b'{' => end_of_nest(self.json, start),
            _ => end_of_word(self.json, start),
        };
        Some(&self.json[start..self.at])
    }
}

/// Where the string that begins at `start` ends.
pub(super) fn end_of_text(json: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(found) = json.get(at..).and_then(|rest| memchr2(b'"', b'\\', rest)) {
        at += found;
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
    json.len()
}

/// Where the list or object that begins at `start` ends.
fn end_of_nest(json: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while let Some(&byte) = json.get(at) {
        at = if byte == b'"' { end_of_text(json, at) } else { at + 1 };
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' if depth <= 1 => return at,
            b']' | b'}' => depth -= 1,
            _ => {}
        }
    }
    json.len()
}

/// Where the number or literal that begins at `start` ends.
fn end_of_word(json: &[u8], start: usize) -> usize {
    let ends = |byte: &u8| is_space(*byte) || matches!(byte, b',' | b']' | b'}');
    json[start..].iter().position(ends).map_or(json.len(), |length| start + length.max(1))
}
