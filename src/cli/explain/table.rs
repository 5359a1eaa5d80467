//! The table that `explain` prints: a line a message, aligned, as it goes.
//!
//! Invariant: every line has five columns without white space in them, whatever the bytes are; what is shown
//! of a name is bounded. Used by `explain`.

use std::io::{self, Write};

use bytes::Bytes;

use crate::protocol::{Id, Protocol};

/// Characters shown of a name that is text.
const MAX_TEXT: usize = 32;
/// Bytes shown of one that is not.
const MAX_HEX: usize = 16;

/// One message.
#[derive(Debug)]
pub(super) struct Row {
    /// Where it begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) length: Option<usize>,
    pub(super) id: Id,
    /// What it calls.
    pub(super) method: Option<Bytes>,
    /// What it is.
    pub(super) kind: &'static str,
}

/// Writes rows below a header.
#[derive(Debug)]
pub(super) struct Table<W> {
    out: W,
    id_width: usize,
    has_header: bool,
}

impl<W: Write> Table<W> {
    pub(super) fn new(out: W, protocol: &dyn Protocol) -> Self {
        let id_width = protocol.tags().map_or(0, |tags| tags.last.to_string().len());
        Self { out, id_width, has_header: false }
    }

    pub(super) fn row(&mut self, row: &Row) -> io::Result<()> {
        if !self.has_header {
            self.has_header = true;
            self.line("offset", "length", "id", "method", "kind")?;
        }
        let dash = || "-".to_owned();
        let id = match &row.id {
            Id::None => dash(),
            Id::Bits(id) => id.to_string(),
            Id::Bytes(id) => name(id),
        };
        let length = row.length.map_or_else(dash, |length| length.to_string());
        let method = row.method.as_deref().filter(|method| !method.is_empty());
        self.line(&row.offset.to_string(), &length, &id, &method.map_or_else(dash, name), row.kind)
    }

    fn line(&mut self, offset: &str, length: &str, id: &str, method: &str, kind: &str) -> io::Result<()> {
        // At least as wide as its title.
        let width = self.id_width.max(2);
        writeln!(self.out, "{offset:>10}  {length:>9}  {id:>width$}  {method:<16}  {kind}")
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A name as a configuration would have it: text, or hex where it is none.
fn name(bytes: &[u8]) -> String {
    let padding = bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let is_text = |text: &str| !text.is_empty() && !text.contains(char::is_control);
    let text = std::str::from_utf8(bytes).ok();
    let Some(text) = text.filter(|text| is_text(&text[..text.len() - padding])) else {
        let more = if bytes.len() > MAX_HEX { "..." } else { "" };
        return format!("hex:{}{more}", hex(&bytes[..bytes.len().min(MAX_HEX)], ""));
    };
    let more = if text.chars().nth(MAX_TEXT).is_some() { "..." } else { "" };
    text.chars().take(MAX_TEXT).map(visible).collect::<String>() + more
}

/// A character as something to see, and to tell from an escape.
fn visible(c: char) -> String {
    match c {
        '"' | '\'' => c.to_string(),
        c if c.is_whitespace() => c.escape_unicode().to_string(),
        c => c.escape_debug().to_string(),
    }
}

/// Bytes as hex, and as far as they are ASCII, as text.
pub(super) fn dump(bytes: &[u8]) -> String {
    let printable = |byte: &u8| if (b' '..=b'~').contains(byte) { char::from(*byte) } else { '.' };
    hex(bytes, " ") + "  " + &bytes.iter().map(printable).collect::<String>()
}

fn hex(bytes: &[u8], between: &str) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(between)
}
