//! Holds the layers: who may import whom, who alone may do what, and how a file looks.
//!
//! The sources are read as tokens, so comments and strings neither hide nor cause a violation.

use std::path::{Path, PathBuf};

/// Every top-level module. A file imports only what is to its right; from `systemd` on they are leaves,
/// open to all.
const ORDER: [&str; 19] = [
    "main",
    "cli",
    "daemon",
    "config",
    "admin",
    "listener",
    "session",
    "pool",
    "connection",
    "queue",
    "exchange",
    "protocol",
    "frame",
    "systemd",
    "wire",
    "net",
    "lifecycle",
    "events",
    "lib",
];

/// Paths that only some modules may name.
const RESERVED: [(&[&str], &[&str]); 4] = [
    (&["tokio", "net"], &["net"]),
    (&["tokio", "signal"], &["daemon"]),
    (&["tracing"], &["events"]),
    (&["tracing_subscriber"], &["events"]),
];

/// Macros that only some modules may call.
const MACROS: [(&str, &[&str]); 5] = [
    ("print", &["main", "cli"]),
    ("println", &["main", "cli"]),
    ("eprint", &["main", "cli"]),
    ("eprintln", &["main", "cli"]),
    ("dbg", &[]),
];

/// Lines of a file, unless its header says "Long because".
const MAX_LINES: usize = 450;

#[test]
fn the_sources_keep_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    collect(&root, &mut files);
    files.sort();
    let sources: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&root).expect("under src").to_string_lossy().into_owned();
            (path, std::fs::read_to_string(file).expect("a readable source"))
        })
        .collect();
    assert!(sources.len() > 10, "{files:?}");
    let found: Vec<String> = sources.iter().flat_map(|(path, text)| violations(path, text)).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a readable directory") {
        let path = entry.expect("a readable entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// What is wrong with one file; `path` is relative to `src`.
fn violations(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let modules: Vec<&str> = path.trim_end_matches(".rs").split('/').filter(|name| *name != "mod").collect();
    let module = modules[0];
    let Some(rank) = ORDER.iter().position(|name| *name == module) else {
        return vec![format!(
            "{path}: `{module}` has no place in the layers; give it one in tests/layers.rs"
        )];
    };
    let tokens = tokens(text);
    for named in paths(&tokens, &modules) {
        let words: Vec<&str> = named.words.iter().map(String::as_str).collect();
        if let ["crate", other, ..] = words[..] {
            let right = ORDER.iter().position(|name| *name == other).is_some_and(|place| place >= rank);
            if module != "main" && !right {
                found.push(format!("{path}:{}: `{module}` may not import `{other}`", named.line));
            }
        }
        for (reserved, allowed) in RESERVED {
            if words.starts_with(reserved) && !allowed.contains(&module) {
                found.push(format!(
                    "{path}:{}: only {allowed:?} may name {}",
                    named.line,
                    reserved.join("::")
                ));
            }
        }
    }
    for (at, token) in tokens.iter().enumerate() {
        if token.text == "unsafe" && module != "net" {
            found.push(format!("{path}:{}: only net may be unsafe", token.line));
        }
        let called = tokens.get(at + 1).is_some_and(|next| next.text == "!");
        for (name, allowed) in MACROS {
            if called && token.text == name && !allowed.contains(&module) {
                found.push(format!("{path}:{}: only {allowed:?} may call {name}!", token.line));
            }
        }
    }
    found.extend(looks(path, text));
    found
}

fn looks(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let header: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
    if header.is_empty() {
        found.push(format!("{path}: does not open with //!"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES && !header.iter().any(|line| line.contains("Long because")) {
        found.push(format!("{path}: {lines} lines, and no \"Long because\" in its header"));
    }
    for (number, line) in text.lines().enumerate() {
        for mark in ["TODO", "FIXME", "XXX", "todo!", "unimplemented!"] {
            if line.contains(mark) {
                found.push(format!("{path}:{}: {mark}", number + 1));
            }
        }
    }
    found
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// Identifiers, `::` and single characters; comments, strings, characters and numbers are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let (mut rest, mut line) = (text, 1);
    while let Some(first) = rest.chars().next() {
        let (length, kept) = token(rest, first);
        let (this, after) = rest.split_at(length);
        if kept {
            tokens.push(Token { text: this.trim_start_matches("r#").into(), line });
        }
        line += this.matches('\n').count();
        rest = after;
    }
    tokens
}

/// The length of what `rest` starts with, and whether it counts.
fn token(rest: &str, first: char) -> (usize, bool) {
    let until = |end: &str| rest.find(end).map_or(rest.len(), |at| at + end.len());
    if first.is_whitespace() {
        (first.len_utf8(), false)
    } else if rest.starts_with("//") {
        (until("\n"), false)
    } else if rest.starts_with("/*") {
        (block_comment(rest), false)
    } else if let Some(length) = string(rest) {
        (length, false)
    } else if first == '\'' {
        (quote(rest), false)
    } else if rest.starts_with("r#") || first.is_alphabetic() || first == '_' {
        let start = if rest.starts_with("r#") { 2 } else { 0 };
        let word = |c: char| c.is_alphanumeric() || c == '_';
        (rest[start..].find(|c| !word(c)).map_or(rest.len(), |end| start + end), true)
    } else if first.is_ascii_digit() {
        (rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len()), false)
    } else if rest.starts_with("::") {
        (2, true)
    } else {
        (first.len_utf8(), true)
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let tail = &rest.as_bytes()[at..];
        let step = if tail.starts_with(b"/*") {
            depth += 1;
            2
        } else if tail.starts_with(b"*/") {
            depth -= 1;
            2
        } else {
            1
        };
        at += step;
        if depth == 0 {
            break;
        }
    }
    at
}

/// The length of a string literal of any kind, if there is one.
fn string(rest: &str) -> Option<usize> {
    let opens = |prefix: &&str| {
        let raw = prefix.ends_with('r');
        rest.strip_prefix(prefix).is_some_and(|after| {
            after.starts_with('"') || (raw && after.trim_start_matches('#').starts_with('"'))
        })
    };
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(opens)?;
    let raw = prefix.ends_with('r');
    let hashes = rest[prefix.len()..].bytes().take_while(|byte| *byte == b'#').count();
    let start = prefix.len() + hashes + 1;
    if raw {
        let end = format!("\"{}", "#".repeat(hashes));
        return Some(rest[start..].find(&end).map_or(rest.len(), |at| start + at + end.len()));
    }
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at + 1),
            _ => {}
        }
    }
    Some(rest.len())
}

/// A character literal, or the tick of a lifetime.
fn quote(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match chars.next() {
        Some((_, '\\')) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        Some(_) => match chars.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

#[derive(Debug)]
struct Named {
    words: Vec<String>,
    line: usize,
}

/// Every path of two words and more, groups written out, `super` and `self` resolved to `crate`.
/// `modules` is where the file stands.
fn paths(tokens: &[Token], modules: &[&str]) -> Vec<Named> {
    let mut found = Vec::new();
    // The modules around a token: the file's own, then the inline ones with their brace depth.
    let mut inline: Vec<(usize, String)> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token: &Token| token.text == text);
    while at < tokens.len() {
        let text = tokens[at].text.as_str();
        match text {
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                inline.retain(|(outer, _)| *outer < depth + 1);
            }
            "mod" if is(at + 2, "{") => inline.push((depth + 1, tokens[at + 1].text.clone())),
            _ => {}
        }
        // What follows `>::` belongs to a path that began before; what follows another `::` is absolute.
        let goes_on = at > 1 && is(at - 1, "::") && is(at - 2, ">");
        if is_word(text) && is(at + 1, "::") && !goes_on {
            let around = modules.iter().map(|m| (*m).to_owned()).chain(inline.iter().map(|(_, m)| m.clone()));
            let around: Vec<String> = around.filter(|m| m != "lib" && m != "main").collect();
            at = path(tokens, at, &mut Vec::new(), &around, &mut found);
        } else {
            at += 1;
        }
    }
    found
}

/// Keywords that may stand before an absolute path, as in `use ::tokio`.
const KEYWORDS: [&str; 12] =
    ["use", "impl", "for", "as", "dyn", "in", "return", "mut", "where", "if", "match", "else"];

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_') && !KEYWORDS.contains(&text)
}

/// Reads one path, or one element of a group, from `at`; returns where it ends.
fn path(
    tokens: &[Token],
    mut at: usize,
    prefix: &mut Vec<String>,
    around: &[String],
    found: &mut Vec<Named>,
) -> usize {
    let length = prefix.len();
    let line = tokens[at].line;
    while at < tokens.len() && is_word(&tokens[at].text) {
        prefix.push(tokens[at].text.clone());
        at += 1;
        if tokens.get(at).is_none_or(|token| token.text != "::") {
            break;
        }
        at += 1;
    }
    let is = |at: usize, text: &str| tokens.get(at).is_some_and(|token: &Token| token.text == text);
    let follows = is(at - 1, "::");
    if follows && is(at, "{") {
        at += 1;
        while at < tokens.len() && !is(at, "}") {
            let before = at;
            at = path(tokens, at, prefix, around, found);
            at += usize::from(at == before);
        }
        at += 1;
    } else {
        if is(at, "*") && (follows || length > 0) {
            prefix.push("*".into());
            at += 1;
        }
        if prefix.len() > length.max(1) {
            found.push(Named { words: resolve(prefix, around), line });
        }
        if is(at, "as") {
            at += 2;
        }
    }
    prefix.truncate(length);
    at
}

/// The path from the root of the crate, if it starts at one of `crate`, `super`, `self` or `warmline`.
fn resolve(words: &[String], around: &[String]) -> Vec<String> {
    let supers = words.iter().skip_while(|w| *w == "self").take_while(|w| *w == "super").count();
    let relative = words[0] == "self" || supers > 0;
    if relative {
        let rest = words.iter().skip_while(|w| *w == "self" || *w == "super");
        let base = &around[..around.len().saturating_sub(supers)];
        return std::iter::once("crate".into()).chain(base.iter().cloned()).chain(rest.cloned()).collect();
    }
    let mut words = words.to_vec();
    if words[0] == "warmline" {
        words[0] = "crate".into();
    }
    words
}

#[test]
fn planted_violations_are_found() {
    let planted = [
        ("pool/mod.rs", "use crate::session::Session;", "`pool` may not import `session`"),
        ("pool/mod.rs", "fn f() { crate::admin::run() }", "`pool` may not import `admin`"),
        ("pool/keeper.rs", "use super::super::admin;", "`pool` may not import `admin`"),
        ("queue.rs", "use super::pool;", "`queue` may not import `pool`"),
        ("queue.rs", "mod tests { use super::super::pool::Pool; }", "`queue` may not import `pool`"),
        ("queue.rs", "use crate::{exchange::{A, B}, net, cli as c};", "`queue` may not import `cli`"),
        ("queue.rs", "use crate::*;", "`queue` may not import `*`"),
        ("queue.rs", "use super::*;", "`queue` may not import `*`"),
        ("net.rs", "use crate::wire::Output;", "`net` may not import `wire`"),
        ("events/mod.rs", "impl crate::pool::T for U {}", "`events` may not import `pool`"),
        ("wire/mod.rs", "use crate::protocol::Mode;", "`wire` may not import `protocol`"),
        ("lib.rs", "pub use crate::pool::Pool;", "`lib` may not import `pool`"),
        ("main.rs", "fn main() { unsafe { x() } }", "only net may be unsafe"),
        ("wire/mod.rs", "use tokio::net::TcpStream;", "may name tokio::net"),
        ("wire/mod.rs", "use ::tokio::{io::{self, AsyncRead}, net as n};", "may name tokio::net"),
        ("wire/mod.rs", "fn f(s: tokio::net::TcpStream) {}", "may name tokio::net"),
        ("cli.rs", "use tokio::signal;", "may name tokio::signal"),
        ("pool/mod.rs", "use tracing::warn;", "may name tracing"),
        ("daemon.rs", "fn f() { println!(\"x\") }", "may call println!"),
        ("cli.rs", "fn f() { dbg!(1) }", "may call dbg!"),
        ("metrics.rs", "", "`metrics` has no place in the layers"),
        ("metrics/mod.rs", "", "`metrics` has no place in the layers"),
    ];
    for (path, source, expected) in planted {
        let found = violations(path, &format!("//! What it is.\n\n{source}\n"));
        assert_eq!(found.len(), 1, "{path}: {source}: {found:?}");
        assert!(found[0].starts_with(path) && found[0].contains(expected), "{found:?}");
    }
}

#[test]
fn planted_looks_are_found() {
    let long = "\n".repeat(MAX_LINES);
    assert_eq!(violations("pool/mod.rs", "//! Pool.\n// TO\u{44}O: all of it\n"), ["pool/mod.rs:2: TODO"]);
    assert_eq!(violations("pool/mod.rs", "use std::fmt;\n"), ["pool/mod.rs: does not open with //!"]);
    assert_eq!(violations("pool/mod.rs", &format!("//! Pool.{long}x")).len(), 1);
    let reasoned = format!("//! Pool.\n//! Long because it is one table.{long}x");
    assert_eq!(violations("pool/mod.rs", &reasoned), [""; 0]);
}

#[test]
fn what_keeps_the_layers_passes() {
    let innocent = [
        ("main.rs", "fn main() { warmline::cli::run(); println!(\"x\") }"),
        ("daemon.rs", "use tokio::signal::unix; use crate::{admin::{self, Settings}, events};"),
        ("net.rs", "use tokio::net::TcpStream; fn f() { unsafe { g() } } use crate::events::Upstream;"),
        ("wire/mod.rs", "mod output; pub use output::Output; use self::output::X; use crate::net;"),
        ("wire/output.rs", "use super::Charge; mod tests { use super::*; use super::super::budget::B; }"),
        ("queue.rs", "mod a { mod b { use super::super::Queue; } } mod tests { use super::*; }"),
        ("queue.rs", "// crate::pool\n/* unsafe /* crate::cli::x */ tokio::net::T */ fn f() {}"),
        (
            "queue.rs",
            "fn f<'a>() { g(\"crate::pool \\\" unsafe\", r#\"\"tokio::net::X\"#, b\"unsafe\", '\"', '\\'') }",
        ),
        ("queue.rs", "fn f() { printer.print(); let x = Vec::<u8>::new(); let r#unsafe_code = 1; }"),
        ("protocol/frame.rs", "use crate::protocol::Mode; use super::Request; use crate::wire::Output;"),
    ];
    for (path, source) in innocent {
        assert_eq!(violations(path, &format!("//! What it is.\n\n{source}\n")), [""; 0], "{source}");
    }
}
