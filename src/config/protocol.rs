//! Makes a protocol of its name and options.
//!
//! Invariant: what the protocol itself refuses is shown at the key it names. A new protocol is one line in
//! `by_name`, one variant in `forms::Protocol` and its options here. Called by `check`.

use std::sync::Arc;

use super::error::{Error, Source};
use super::report::Report;
use super::units::{Count, List, Size, Text};
use super::words::{self, said};
use super::{file, forms};
use crate::protocol::frame::{self, Frame};
use crate::protocol::jsonrpc::{self, JsonRpc};
use crate::protocol::line::{self, Line};
use crate::protocol::thrift::{self, Thrift};
use crate::protocol::{Protocol, SettingsError};

/// The longest `max_message` where messages are stored whole, in bytes.
const MAX_MESSAGE: u64 = 1 << 30;
/// The longest `max_message` where messages travel in parts, in bytes.
const MAX_MESSAGE_IN_PARTS: u64 = 1 << 40;

/// What `protocol` may be without options.
pub fn names() -> Vec<&'static str> {
    [&["line", "jsonrpc", "thrift"], frame::PRESETS.as_slice()].concat()
}

/// The protocol of the upstream `at`; `None` if it cannot be, and the report says why.
pub(super) fn build(
    report: &mut Report<'_>,
    at: &[&str],
    written: forms::Protocol,
) -> Option<Arc<dyn Protocol>> {
    match written {
        forms::Protocol::Name(name) => by_name(report, at, &name),
        forms::Protocol::Frame(options) => {
            let at = [at, &["protocol", "frame"]].concat();
            let settings = frame_settings(report, &at, *options)?;
            finish(report, &at, Frame::new(settings))
        }
        forms::Protocol::Line(options) => {
            let at = [at, &["protocol", "line"]].concat();
            let settings = line_settings(report, &at, options)?;
            finish(report, &at, Line::new(&settings))
        }
        forms::Protocol::JsonRpc(options) => {
            let at = [at, &["protocol", "jsonrpc"]].concat();
            let settings = jsonrpc_settings(report, &at, &options)?;
            finish(report, &at, JsonRpc::new(settings))
        }
        forms::Protocol::Thrift(options) => {
            let at = [at, &["protocol", "thrift"]].concat();
            let settings = thrift_settings(report, &at, options)?;
            finish(report, &at, Thrift::new(settings))
        }
    }
}

/// The protocol that is called `name` on a command line.
///
/// # Errors
/// If there is none.
pub fn named(name: &str) -> Result<Arc<dyn Protocol>, Vec<Error>> {
    let source = Source::new("command line", format!("protocol = {}\n", toml::Value::from(name)));
    let report = &mut Report::new(&source);
    by_name(report, &[], name).ok_or_else(|| report.finish())
}

fn by_name(report: &mut Report<'_>, at: &[&str], name: &str) -> Option<Arc<dyn Protocol>> {
    if name == "line" {
        return finish(report, at, Line::new(&line::Settings::default()));
    }
    if name == "jsonrpc" {
        return finish(report, at, JsonRpc::new(jsonrpc::Settings::default()));
    }
    if name == "thrift" {
        return finish(report, at, Thrift::new(thrift::Settings::default()));
    }
    if let Some(settings) = frame::preset(name) {
        return finish(report, at, Frame::new(settings));
    }
    let (message, help) = match name {
        "frame" => (
            "`frame` needs to know where the length of a message stands".to_owned(),
            Some(format!(
                "write `protocol.frame.length = {{ offset = 0, size = 4, adjust = 4 }}`, or a preset: {}",
                frame::PRESETS.join(", "),
            )),
        ),
        other => words::unknown("protocol", other, &[&["frame"], names().as_slice()].concat()),
    };
    report.wrong(at, "protocol", message, help);
    None
}

fn finish<P: Protocol + 'static>(
    report: &mut Report<'_>,
    at: &[&str],
    built: Result<P, SettingsError>,
) -> Option<Arc<dyn Protocol>> {
    let refused = |SettingsError { key, reason, remedy }| report.wrong(at, &key, reason, remedy);
    built.map_err(refused).ok().map(|protocol| Arc::new(protocol) as _)
}

fn line_settings(report: &mut Report<'_>, at: &[&str], options: file::Line) -> Option<line::Settings> {
    let mut settings = line::Settings::default();
    let Text(delimiter) = options.delimiter.unwrap_or(Text(settings.delimiter));
    settings.delimiter = delimiter;
    settings.error = options.error.map(|Text(error)| error);
    settings.max_message = max_message(report, at, options.max_message, (settings.max_message, MAX_MESSAGE))?;
    Some(settings)
}

fn jsonrpc_settings(
    report: &mut Report<'_>,
    at: &[&str],
    options: &file::JsonRpc,
) -> Option<jsonrpc::Settings> {
    let settings = jsonrpc::Settings::default();
    Some(jsonrpc::Settings {
        framing: options.framing.map_or(settings.framing, |Text(it)| it),
        server_messages: options.server_messages.map_or(settings.server_messages, |Text(it)| it),
        batches: options.batches.unwrap_or(settings.batches),
        max_message: max_message(report, at, options.max_message, (settings.max_message, MAX_MESSAGE))?,
    })
}

fn thrift_settings(report: &mut Report<'_>, at: &[&str], options: file::Thrift) -> Option<thrift::Settings> {
    let mut settings = thrift::Settings::default();
    let Text(transport) = options.transport.unwrap_or(Text(settings.transport));
    let Text(encoding) = options.encoding.unwrap_or(Text(settings.encoding));
    let List(oneway) = options.oneway.unwrap_or(List(Vec::new()));
    (settings.transport, settings.encoding) = (transport, encoding);
    settings.oneway = oneway.into_iter().map(|Text(name)| name).collect();
    settings.echoes_seqid = options.echoes_seqid.unwrap_or(settings.echoes_seqid);
    settings.max_message = max_message(report, at, options.max_message, (settings.max_message, MAX_MESSAGE))?;
    Some(settings)
}

fn max_message(
    report: &mut Report<'_>,
    at: &[&str],
    written: Option<Text<Size>>,
    (default, most): (usize, u64),
) -> Option<usize> {
    let bytes = report.size(at, "max_message", written, default as u64, 1..=most);
    usize::try_from(bytes).ok().filter(|_| (1..=most).contains(&bytes))
}

fn frame_settings(report: &mut Report<'_>, at: &[&str], options: file::Frame) -> Option<frame::Settings> {
    let mut settings = base(report, at, options.preset, options.length)?;
    if let Some(it) = options.id {
        settings.id = Some(id(report, at, "id", it)?);
    }
    if let Some(list) = options.oneway {
        settings.oneway = conditions(report, at, "oneway", list.0)?;
    }
    if let Some(it) = options.heartbeat {
        settings.heartbeat = Some(heartbeat(report, at, "heartbeat", it)?);
    }
    if let Some(list) = options.closing {
        settings.closing = conditions(report, at, "closing", list.0)?;
    }
    if let Some(list) = options.message {
        settings.message = conditions(report, at, "message", list.0)?;
    }
    if let Some(Text(text)) = options.error {
        settings.error = Some(template(report, at, "error", &text)?);
    }
    if let Some(it) = options.method {
        settings.method = Some(method(report, at, "method", &it)?);
    }
    if let Some(it) = options.reply {
        settings.reply = overrides(report, at, it, settings.reply)?;
    }
    settings.max_message =
        max_message(report, at, options.max_message, (settings.max_message, MAX_MESSAGE_IN_PARTS))?;
    Some(settings)
}

/// The preset, the length fields, or the preset with other length fields.
fn base(
    report: &mut Report<'_>,
    at: &[&str],
    preset: Option<Text<String>>,
    length: Option<List<file::Length>>,
) -> Option<frame::Settings> {
    let preset = match preset {
        Some(Text(name)) => {
            let Some(settings) = frame::preset(&name) else {
                let (message, help) = words::unknown("preset", &name, &frame::PRESETS);
                report.wrong(at, "preset", message, help);
                return None;
            };
            Some(settings)
        }
        None => None,
    };
    let Some(list) = length else {
        if preset.is_none() {
            let help =
                "write `length = { offset = 0, size = 4, adjust = 4 }` as the protocol has it, or a `preset`";
            report.wrong(at, "", "`frame` needs a `length` or a `preset`", help.to_owned());
        }
        return preset;
    };
    let start = preset.as_ref().map_or(&[][..], |preset| &preset.length);
    let length = lengths(report, at, "length", list, start)?;
    let settings = preset.or_else(|| length.first().cloned().map(frame::Settings::new));
    if settings.is_none() {
        let help = "write at least one, as in `{ offset = 0, size = 4, adjust = 4 }`";
        report.wrong(at, "length", "there is no length field", help.to_owned());
    }
    Some(frame::Settings { length, ..settings? })
}

/// What differs for replies, over what differs already.
fn overrides(
    report: &mut Report<'_>,
    at: &[&str],
    options: file::Reply,
    mut replies: frame::Overrides,
) -> Option<frame::Overrides> {
    if let Some(list) = options.length {
        replies.length = Some(lengths(report, at, "reply.length", list, &[])?);
    }
    if let Some(it) = options.id {
        replies.id = Some(id(report, at, "reply.id", it)?);
    }
    if let Some(it) = options.heartbeat {
        replies.heartbeat = Some(heartbeat(report, at, "reply.heartbeat", it)?);
    }
    if let Some(list) = options.closing {
        replies.closing = Some(conditions(report, at, "reply.closing", list.0)?);
    }
    if let Some(list) = options.message {
        replies.message = Some(conditions(report, at, "reply.message", list.0)?);
    }
    Some(replies)
}

/// Length fields. A single one says only what differs from the single one of `start`.
fn lengths(
    report: &mut Report<'_>,
    at: &[&str],
    key: &str,
    list: List<file::Length>,
    start: &[frame::Length],
) -> Option<Vec<frame::Length>> {
    let start = match (start, list.0.as_slice()) {
        ([one], [_]) => Some(one),
        _ => None,
    };
    let length = |(place, it): (usize, file::Length)| {
        let size = it.size.or_else(|| start.map(|start| forms::Width(start.size)));
        let forms::Width(size) = needed(report, at, &format!("{key}.{place}"), ("size", "4"), size)?;
        Some(frame::Length {
            offset: it.offset.map_or(start.map_or(0, |start| start.offset), |it| offset(Some(it))),
            size,
            endian: it.endian.map_or(start.map(|start| start.endian).unwrap_or_default(), |Text(it)| it),
            adjust: it.adjust.unwrap_or(start.map_or(0, |start| start.adjust)),
        })
    };
    list.0.into_iter().enumerate().map(length).collect()
}

fn id(report: &mut Report<'_>, at: &[&str], key: &str, it: file::Id) -> Option<frame::Field> {
    Some(frame::Field {
        offset: offset(it.offset),
        size: offset(Some(needed(report, at, key, ("size", "8"), it.size)?)),
        endian: it.endian.map(|Text(endian)| endian).unwrap_or_default(),
        avoid: it.avoid.unwrap_or_default().into_iter().map(|Count(value)| value).collect(),
    })
}

fn method(report: &mut Report<'_>, at: &[&str], key: &str, it: &file::Method) -> Option<frame::Method> {
    let size = needed(report, at, key, ("size", "8"), it.size)?;
    Some(frame::Method { offset: offset(it.offset), size: offset(Some(size)) })
}

fn conditions(
    report: &mut Report<'_>,
    at: &[&str],
    key: &str,
    list: Vec<file::Condition>,
) -> Option<Vec<frame::Condition>> {
    let mut condition = |(place, it): (usize, file::Condition)| {
        let key = format!("{key}.{place}");
        let equals = needed(report, at, &key, ("equals", "1"), it.equals)?;
        Some(frame::Condition {
            offset: offset(it.offset),
            mask: byte(report, at, &format!("{key}.mask"), it.mask.unwrap_or(Count(0xff)))?,
            equals: byte(report, at, &format!("{key}.equals"), equals)?,
        })
    };
    list.into_iter().enumerate().map(&mut condition).collect()
}

fn heartbeat(
    report: &mut Report<'_>,
    at: &[&str],
    key: &str,
    it: file::Heartbeat,
) -> Option<frame::Heartbeat> {
    let list = needed(report, at, key, ("match", "{ offset = 4, equals = 1 }"), it.r#match)?;
    let conditions = conditions(report, at, &format!("{key}.match"), list.0)?;
    let reply = match it.reply {
        Some(Text(text)) => Some(template(report, at, &format!("{key}.reply"), &text)?),
        None => None,
    };
    Some(frame::Heartbeat { conditions, reply, is_request: it.is_request.unwrap_or(false) })
}

fn template(report: &mut Report<'_>, at: &[&str], key: &str, text: &str) -> Option<frame::Template> {
    if text.starts_with("hex:") {
        let help = "leave `hex:` out: here everything is hex digits, but for `{id}`";
        report.wrong_part(at, key, text, 0..4, said("a template has no prefix", help));
        return None;
    }
    let wrong = |error: frame::TemplateError| {
        let help = "write pairs of hex digits, and `{id}` where the id stands";
        report.wrong_part(at, key, text, error.span, said(error.reason, help));
    };
    frame::Template::parse(text).map_err(wrong).ok()
}

fn byte(report: &mut Report<'_>, at: &[&str], key: &str, Count(number): Count) -> Option<u8> {
    let too_large = |_| {
        report.wrong(at, key, format!("{number} is more than a byte holds"), "write 0 to 0xff".to_owned());
    };
    u8::try_from(number).map_err(too_large).ok()
}

/// The value of a key that a table must have; with the key comes an example of it.
fn needed<T>(
    report: &mut Report<'_>,
    at: &[&str],
    table: &str,
    (key, example): (&str, &str),
    value: Option<T>,
) -> Option<T> {
    if value.is_none() {
        let help = format!("add it, as in `{key} = {example}`");
        report.wrong(at, table, format!("`{key}` is missing"), help);
    }
    value
}

/// Offsets and sizes beyond memory are as wrong as any that are too large.
fn offset(count: Option<Count>) -> usize {
    count.map_or(0, |Count(number)| usize::try_from(number).unwrap_or(usize::MAX))
}
