//! What is wrong with a configuration, where, and what would do.
//!
//! Invariant: nothing a file holds reaches a terminal raw: control characters are escaped, long lines cut.
//! Made by every other file of `config`; shown by `cli`.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use serde::Serialize;

use super::words;

/// The longest configuration, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Characters shown before and after the start of the marked word.
const SHOWN_BEFORE: usize = 60;
const SHOWN_AFTER: usize = 100;

/// One thing wrong with a configuration. `Display` writes it without colours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Error {
    /// Where the configuration came from.
    pub file: String,
    /// Counted from 1; 0 where the file could not be read at all.
    pub line: usize,
    /// In characters, counted from 1; 0 where the file could not be read at all.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would do, where the message does not say it.
    pub help: Option<String>,
    #[serde(skip)]
    excerpt: Option<Excerpt>,
}

/// The part of a line that is shown, and which bytes of it are marked.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Excerpt {
    text: String,
    mark: Range<usize>,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl Error {
    /// The whole text: `FILE:LINE:COLUMN: message`, the line with a caret under the word, the help.
    pub fn render(&self, colours: bool) -> String {
        let place = match self.line {
            0 => String::new(),
            line => format!("{line}:{}:", self.column),
        };
        let title = format!("{}:{place} {}", self.file, self.message);
        let mut group = Group::with_level(Level::ERROR);
        if let Some(Excerpt { text, mark }) = &self.excerpt {
            let caret = AnnotationKind::Primary.span(mark.clone());
            group = group.element(Snippet::source(text).line_start(self.line).annotation(caret));
        }
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        if group.is_empty() {
            return title;
        }
        let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
        format!("{title}\n{}", renderer.render(&[group]))
    }
}

/// A configuration as text, with the name it has in errors.
#[derive(Clone, Debug)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// The text of a file.
    ///
    /// # Errors
    /// If it cannot be read, is longer than 1 MiB or is not UTF-8.
    pub fn read(path: &Path) -> Result<Self, Vec<Error>> {
        let name = path.display().to_string();
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        let unread = |message: String| {
            vec![Error { file: printable(&name), line: 0, column: 0, message, help: None, excerpt: None }]
        };
        match read {
            Err(error) => return Err(unread(format!("cannot be read: {error}"))),
            Ok(size) if size as u64 > MAX_FILE => {
                return Err(unread("is longer than 1 MiB; a configuration is not".into()));
            }
            Ok(_) => {}
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                Err(vec![Self { name, text }.error(
                    at..at + 1,
                    "not UTF-8",
                    Some("save the file as UTF-8".into()),
                )])
            }
        }
    }

    /// The text of a file, to be read while others are served: one that nobody has to be waited for.
    ///
    /// # Errors
    /// As those of [`Source::read`], and if it is no regular file: a pipe would wait for its writer.
    pub fn reread(path: &Path) -> Result<Self, Vec<Error>> {
        if fs::metadata(path).is_ok_and(|it| !it.is_file() && !it.is_dir()) {
            let (file, message) =
                (printable(&path.display().to_string()), "is not a regular file".to_owned());
            return Err(vec![Error { file, line: 0, column: 0, message, help: None, excerpt: None }]);
        }
        Self::read(path)
    }

    /// `text` under the name of `name`.
    pub fn new(name: &str, text: String) -> Self {
        Self { name: name.into(), text }
    }

    /// The text itself.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// An error about the bytes `span` of the text.
    pub fn error(&self, span: Range<usize>, message: impl Into<String>, help: Option<String>) -> Error {
        let boundary = |at: &usize| self.text.is_char_boundary(*at);
        let start = (0..=span.start.min(self.text.len())).rev().find(boundary).unwrap_or(0);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let rest = &self.text[start..];
        let line_end = start + rest.find(['\r', '\n']).unwrap_or(rest.len());
        // At least one character is marked, if the line has one there.
        let end = (span.end.max(start + 1)..line_end).find(boundary).unwrap_or(line_end);

        let whole = &self.text[line_start..start];
        let before = tail(whole, SHOWN_BEFORE);
        let cut = if before.len() < whole.len() { "..." } else { "" };
        let marked = head(&self.text[start..end], SHOWN_AFTER);
        let after = if marked.len() == end - start { &self.text[end..line_end] } else { "" };
        let before = cut.to_owned() + &blank(before);
        let marked = if marked.is_empty() { " ".to_owned() } else { blank(marked) };
        let mark = before.len()..before.len() + marked.len();
        Error {
            file: printable(&self.name),
            line: self.text[..line_start].matches('\n').count() + 1,
            column: self.text[line_start..start].chars().count() + 1,
            message: printable(&message.into()),
            help: help.map(|help| printable(&help)),
            excerpt: Some(Excerpt { text: before + &marked + &blank(head(after, SHOWN_AFTER)), mark }),
        }
    }

    /// What the TOML reader found, in our words.
    pub(super) fn toml_error(&self, error: &toml::de::Error) -> Error {
        let span = error.span().unwrap_or(0..0);
        let (message, help) = match error.message().split_once(words::HELP) {
            Some((message, help)) => (message.to_owned(), (!help.is_empty()).then(|| help.to_owned())),
            None => words::reword(error.message(), self.text.get(span.clone()).unwrap_or_default()),
        };
        self.error(span, message, help)
    }
}

/// The last `count` characters.
fn tail(text: &str, count: usize) -> &str {
    text.char_indices().rev().nth(count - 1).map_or(text, |(at, _)| &text[at..])
}

/// The first `count` characters.
fn head(text: &str, count: usize) -> &str {
    text.char_indices().nth(count).map_or(text, |(at, _)| &text[..at])
}

/// One blank or mark in place of each control character, so that carets stay under their words.
fn blank(text: &str) -> String {
    let shown = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => char::REPLACEMENT_CHARACTER,
        c => c,
    };
    text.chars().map(shown).collect()
}

/// `text` on one line, its control characters escaped.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_is_under_the_word() {
        let source = Source::new("a.toml", "one = 1\n\ttwo = ä\r\n".into());
        let error = source.error(15..17, "no", Some("say 2".into()));
        assert_eq!((error.line, error.column), (2, 8));
        assert_eq!(
            error.to_string(),
            "a.toml:2:8: no\n  |\n2 |  two = ä\n  |        ^\n  |\n  = help: say 2"
        );
    }

    #[test]
    fn hostile_text_stays_on_its_line() {
        let source = Source::new("a\u{1b}[2J", format!("{}\u{1b}[31m{}", "x".repeat(5000), "y".repeat(5000)));
        let text = source.error(5000..10_000, "bad\u{7}\nword", None).to_string();
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text:?}");
        assert!(text.starts_with("a\\u{1b}[2J:1:5001: bad\\u{7}\\nword\n"), "{text}");
        assert!(text.len() < 600, "{text}");
    }

    #[test]
    fn the_end_of_the_text_can_be_marked() {
        for text in ["", "a = ", "a = \n"] {
            let source = Source::new("f", text.into());
            let shown = source.error(text.len()..text.len(), "ends", None).to_string();
            assert!(shown.contains('^'), "{shown}");
        }
    }
}
