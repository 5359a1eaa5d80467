//! Which settings cannot be, and why.
//!
//! Invariant: what passes here cannot make a codec panic, loop, corrupt a frame while it changes an id,
//! or write an error that a client cannot read. Called by `Frame::new`.

use super::layout::{IdField, Kind, Layout, front, least_width};
use super::settings::{Condition, Field, Heartbeat, Length, Method, Settings, Size};
use super::template::Template;
use super::{MAX_AVOID, MAX_HEADER, MAX_LENGTHS, last_tag};
use crate::frame::MAX_VARINT;
use crate::protocol::{Malformed, SettingsError};

type Check = Result<(), SettingsError>;

fn wrong(key: String, reason: impl Into<String>, remedy: impl Into<String>) -> Check {
    Err(SettingsError { key, reason: reason.into(), remedy: remedy.into() })
}

/// Checks everything but the templates.
pub(super) fn fields(settings: &Settings) -> Check {
    let reply = &settings.reply;
    lengths("length", &settings.length, settings.max_message)?;
    if let Some(length) = &reply.length {
        lengths("reply.length", length, settings.max_message)?;
    }
    ids(settings)?;
    method(settings)?;
    conditions("oneway", &settings.oneway)?;
    conditions("closing", &settings.closing)?;
    conditions("reply.closing", reply.closing.as_deref().unwrap_or_default())?;
    conditions("message", &settings.message)?;
    conditions("reply.message", reply.message.as_deref().unwrap_or_default())?;
    heartbeat("heartbeat", settings.heartbeat.as_ref(), settings)?;
    heartbeat("reply.heartbeat", reply.heartbeat.as_ref(), settings)
}

/// Checks what warmline itself writes against the layout of the side that reads it.
pub(super) fn templates(settings: &Settings, requests: &Layout, replies: &Layout) -> Check {
    let max = settings.max_message;
    if let Some(error) = &settings.error {
        template("error", "the error", error, replies, max)?;
        reads_as_reply(error, replies)?;
    }
    let heartbeat = settings.heartbeat.as_ref();
    if let Some(answer) = heartbeat.and_then(|h| h.reply.as_ref()) {
        template("heartbeat.reply", "the answer to a client", answer, replies, max)?;
    }
    let (key, heartbeat) = match &settings.reply.heartbeat {
        Some(heartbeat) => ("reply.heartbeat.reply", Some(heartbeat)),
        None => ("heartbeat.reply", heartbeat),
    };
    match heartbeat {
        Some(Heartbeat { reply: Some(answer), is_request, .. }) => {
            let layout = if *is_request { replies } else { requests };
            template(key, "the answer to a server", answer, layout, max)
        }
        _ => Ok(()),
    }
}

fn lengths(key: &str, fields: &[Length], max: usize) -> Check {
    if fields.is_empty() || fields.len() > MAX_LENGTHS {
        let reason = format!("a frame has {} length fields", fields.len());
        return wrong(key.into(), reason, format!("give 1 to {MAX_LENGTHS}"));
    }
    for (index, field) in fields.iter().enumerate() {
        if let Size::Bytes(size) = field.size
            && !matches!(size, 1 | 2 | 3 | 4 | 8)
        {
            let reason = format!("a length of {size} bytes");
            return wrong(format!("{key}.{index}.size"), reason, "use 1, 2, 3, 4, 8 or \"varint\"");
        }
        in_header(format!("{key}.{index}.offset"), field.offset, least_width(field), max)?;
    }
    let sum = |share: fn(&Length) -> i128| fields.iter().map(share).sum::<i128>();
    let least = sum(|f| i128::from(f.adjust) + varint_bytes(f, 1));
    let most = sum(|f| i128::from(f.adjust) + i128::from(largest(f)) + varint_bytes(f, MAX_VARINT));
    let header = fields.iter().map(|f| f.offset + least_width(f)).max().unwrap_or(0);
    if least > max as i128 {
        let reason = format!("an empty body makes {least} bytes, more than max_message ({max})");
        return wrong(format!("{key}.0.adjust"), reason, "lower adjust or raise max_message");
    }
    if most < header as i128 {
        let reason = format!("no value makes a frame as long as its header, {header} bytes");
        return wrong(format!("{key}.0.adjust"), reason, "raise adjust: bytes on the wire = value + adjust");
    }
    Ok(())
}

fn varint_bytes(field: &Length, width: usize) -> i128 {
    if field.size == Size::Varint { width as i128 } else { 0 }
}

fn largest(field: &Length) -> u64 {
    match field.size {
        Size::Bytes(size) => last_tag(size),
        Size::Varint => u64::MAX,
    }
}

/// Checks that `size` bytes at `offset` can be part of the header of a frame.
fn in_header(key: String, offset: usize, size: usize, max: usize) -> Check {
    let end = offset.saturating_add(size);
    if end > MAX_HEADER {
        let reason = format!("{offset} is too far into the frame");
        return wrong(key, reason, format!("header fields end within {MAX_HEADER} bytes"));
    }
    if end > max {
        let reason = format!("{max} bytes cannot hold a header of {end} bytes");
        return wrong("max_message".into(), reason, "raise it");
    }
    Ok(())
}

fn ids(settings: &Settings) -> Check {
    let reply = &settings.reply;
    let Some(request_id) = &settings.id else {
        return match reply.id {
            None => Ok(()),
            Some(_) => wrong(
                "reply.id".into(),
                "replies have an id and requests have none",
                "give id, for requests, too",
            ),
        };
    };
    id("id", request_id, settings.max_message)?;
    if let Some(field) = &reply.id {
        id("reply.id", field, settings.max_message)?;
        if field.size != request_id.size {
            let reason = format!("{} bytes in replies, {} in requests", field.size, request_id.size);
            return wrong("reply.id.size".into(), reason, "an id has one size");
        }
    }
    apart("id", "requests", request_id, &settings.length)?;
    let length = reply.length.as_ref().unwrap_or(&settings.length);
    let key = if reply.id.is_some() { "reply.id" } else { "id" };
    apart(key, "replies", reply.id.as_ref().unwrap_or(request_id), length)
}

fn id(key: &str, field: &Field, max: usize) -> Check {
    if !(1..=size_of::<u64>()).contains(&field.size) {
        return wrong(format!("{key}.size"), format!("an id of {} bytes", field.size), "use 1 to 8");
    }
    in_header(format!("{key}.offset"), field.offset, field.size, max)?;
    if field.avoid.len() > MAX_AVOID {
        let reason = format!("{} values to avoid", field.avoid.len());
        return wrong(format!("{key}.avoid"), reason, format!("give at most {MAX_AVOID}"));
    }
    match field.avoid.iter().position(|value| *value > last_tag(field.size)) {
        None => Ok(()),
        Some(index) => {
            let reason = format!("{} does not fit in {} bytes", field.avoid[index], field.size);
            wrong(format!("{key}.avoid.{index}"), reason, "leave it out")
        }
    }
}

/// Checks that changing the id cannot change a length.
fn apart(key: &str, side: &str, id: &Field, length: &[Length]) -> Check {
    let id_end = id.offset + id.size;
    for field in length {
        let varint = field.size == Size::Varint;
        let end = field.offset + if varint { MAX_VARINT } else { least_width(field) };
        if id.offset < end && field.offset < id_end {
            let what = if varint { "a varint length, which may take 10 bytes" } else { "a length" };
            let reason = format!("bytes {} to {} overlap {what}, in {side}", id.offset, id_end - 1);
            return wrong(format!("{key}.offset"), reason, "an id is a field of its own");
        }
    }
    Ok(())
}

fn method(settings: &Settings) -> Check {
    let Some(Method { offset, size }) = settings.method else { return Ok(()) };
    if !(1..=MAX_HEADER).contains(&size) {
        let remedy = format!("use 1 to {MAX_HEADER}");
        return wrong("method.size".into(), format!("a method of {size} bytes"), remedy);
    }
    in_header("method.offset".into(), offset, size, settings.max_message)?;
    match &settings.id {
        // Every request would be a method of its own.
        Some(id) if id.offset < offset + size && offset < id.offset + id.size => {
            let reason = format!("bytes {offset} to {} overlap the id", offset + size - 1);
            wrong("method.offset".into(), reason, "a method is a field of its own")
        }
        _ => Ok(()),
    }
}

fn conditions(key: &str, conditions: &[Condition]) -> Check {
    for (index, condition) in conditions.iter().enumerate() {
        let Condition { offset, mask, equals } = *condition;
        if offset >= MAX_HEADER {
            let reason = format!("{offset} is too far into the frame");
            let remedy = format!("conditions look at the first {MAX_HEADER} bytes");
            return wrong(format!("{key}.{index}.offset"), reason, remedy);
        }
        if mask == 0 {
            let remedy = "set the bits that count; 0xff for the whole byte";
            return wrong(format!("{key}.{index}.mask"), "a mask of 0 holds for every frame", remedy);
        }
        if equals & !mask != 0 {
            let reason = format!("0x{equals:02x} has bits that the mask 0x{mask:02x} takes away");
            let remedy = format!("it can never hold; 0x{:02x} could", equals & mask);
            return wrong(format!("{key}.{index}.equals"), reason, remedy);
        }
    }
    Ok(())
}

fn heartbeat(key: &str, heartbeat: Option<&Heartbeat>, settings: &Settings) -> Check {
    let Some(heartbeat) = heartbeat else { return Ok(()) };
    if heartbeat.conditions.is_empty() {
        let reason = "without conditions every frame is a heartbeat";
        return wrong(format!("{key}.match"), reason, "give at least one");
    }
    conditions(&format!("{key}.match"), &heartbeat.conditions)?;
    // Which lengths a frame has is known from its first bytes, and every frame has these.
    let replies = settings.reply.length.as_ref().unwrap_or(&settings.length);
    let front = front(&settings.length).min(front(replies));
    match heartbeat.conditions.iter().position(|c| c.offset >= front) {
        Some(index) if heartbeat.is_request => {
            let reason = format!("a frame may end before byte {}", heartbeat.conditions[index].offset);
            let remedy = format!("tell heartbeats apart by the first {front} bytes");
            wrong(format!("{key}.match.{index}.offset"), reason, remedy)
        }
        _ => Ok(()),
    }
}

/// Checks that `template` is one frame of `layout`.
fn template(key: &str, what: &str, template: &Template, layout: &Layout, max: usize) -> Check {
    if template.has_id() && layout.id.is_none() {
        return wrong(key.into(), "frames have no id to put into {id}", "set id, or leave {id} out");
    }
    let bytes = render(template, layout.id, 0);
    let len = bytes.len();
    let fix = "count again: bytes on the wire = value + adjust";
    let says = |n: u64| format!("{what} is {len} bytes long but its length field says {n}");
    match layout.length(&bytes, max) {
        Ok(Some(n)) if n == len => Ok(()),
        Ok(Some(n)) => wrong(key.into(), says(n as u64), fix),
        Ok(None) => wrong(key.into(), format!("{what} is too short to hold its length"), "write it whole"),
        Err(Malformed::TooLarge(n)) => wrong(key.into(), says(n), fix),
        Err(Malformed::Invalid(why)) => wrong(key.into(), format!("{what} is no frame: {why}"), fix),
    }
}

/// Checks that a client would take `error` for the reply to its request.
fn reads_as_reply(error: &Template, replies: &Layout) -> Check {
    if let Some(id) = replies.id {
        let (offset, last) = (id.offset(), last_tag(id.end() - id.offset()));
        // Two ids that differ in every bit: no fixed bytes read as both.
        if [0, last].into_iter().any(|n| id.read(&render(error, Some(id), n)) != Some(n)) {
            let reason = format!("replies carry their id at offset {offset}, the error does not");
            return wrong("error".into(), reason, format!("put {{id}} at offset {offset}"));
        }
    }
    match replies.kind(&render(error, replies.id, 0)) {
        Some(Kind::Message | Kind::Oneway) => Ok(()),
        None => wrong("error".into(), "the error does not read as a reply", "look at reply.message"),
        Some(Kind::Heartbeat(_)) => {
            wrong("error".into(), "the error reads as a heartbeat", "change its flags")
        }
        Some(Kind::Closing) => {
            wrong("error".into(), "the error reads as a closing frame", "change its flags")
        }
    }
}

fn render(template: &Template, id: Option<IdField>, number: u64) -> Vec<u8> {
    id.map_or_else(|| template.render(&[]), |id| template.render(&id.write(number)))
}
