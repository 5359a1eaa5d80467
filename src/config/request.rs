//! Requests that a configuration spells out, and the names of what they call.
//!
//! Invariant: what passes here is one message that a server answers, decoded as a client's would be. Called by
//! `health` and `retry`.

use bytes::{Bytes, BytesMut};

use super::words::{Words, said};
use crate::protocol::frame::MAX_HEADER;
use crate::protocol::{Need, Protocol, Received};

/// The longest name of a method in bytes.
pub(super) const MAX_METHOD: usize = MAX_HEADER;
const NOT_WHOLE: &str = "`send` is not a whole request";

/// The request that `send` is, if it is exactly one that is answered; else what it is.
///
/// # Errors
/// The message and the help.
pub(super) fn check(send: &Bytes, protocol: &dyn Protocol) -> Result<Bytes, Words> {
    let mut input = BytesMut::from(&send[..]);
    let (message, help) = match protocol.configured().decode(&mut input) {
        Ok(Received::Request { request, .. }) if request.oneway => {
            return Err(said("`send` is a request without a reply", "write one that the server answers"));
        }
        Ok(Received::Request { request, .. }) if !input.is_empty() => {
            let message = format!(
                "`send` goes on after its first request, which ends after {} bytes",
                request.bytes.len()
            );
            (message, "write one request and nothing after it".to_owned())
        }
        Ok(Received::Request { request, .. }) => return Ok(request.bytes),
        Ok(Received::Dropped) => {
            return Err(said("`send` is nothing for a server", "write a request that the server answers"));
        }
        Ok(Received::Control(_)) => {
            let help = "write one that the server answers, or `probe = \"connect\"`";
            return Err(said("`send` is a heartbeat and no request", help));
        }
        Ok(Received::Refused { reason, .. }) => {
            (format!("`send` is no request: {reason}"), "write what a client sends".to_owned())
        }
        Ok(Received::Closing) => {
            return Err(said(
                "`send` says that the client will close",
                "write a request that the server answers",
            ));
        }
        Ok(Received::More(Need::Total(total))) => {
            let help = format!("it has {} bytes, and should have {total}: write all of them", send.len());
            (NOT_WHOLE.to_owned(), help)
        }
        // In parts there is nothing, and nothing is handed over.
        Ok(Received::More(_) | Received::Head { .. } | Received::Part { .. } | Received::HandOver { .. }) => {
            return Err(said(
                NOT_WHOLE,
                "write it to its last byte, with what ends it, as a client sends it",
            ));
        }
        Err(bad) => {
            let help = format!("write what a client sends; or {}", protocol.remedy(bad.reason));
            (format!("`send` is no request: {}", bad.reason), help)
        }
    };
    Err((message, Some(help)))
}

/// A request that calls the method `name`, if the protocol can call by name alone.
///
/// # Errors
/// If no request can call that, or the name is empty: the message and the help.
pub(super) fn call(name: &Bytes, protocol: &dyn Protocol) -> Result<Option<Bytes>, Words> {
    if name.is_empty() {
        return Err(said("this method has no name", "write the name that requests have"));
    }
    let Some(request) = protocol.call(name) else { return Ok(None) };
    let fits = check(&request, protocol).is_ok_and(|decoded| protocol.method(&decoded) == Some(&name[..]));
    if !fits || name.len() > MAX_METHOD {
        let help = format!("write one word of 1 to {MAX_METHOD} bytes, without what ends a message");
        return Err((format!("`{}` is not the name of a method", shown(name)), Some(help)));
    }
    Ok(Some(request))
}

/// Whether requests have a name by which they call something.
pub(super) fn has_methods(protocol: &dyn Protocol) -> bool {
    // All of a header that there can be holds a field, if there is one.
    protocol.call(b"method").is_some() || protocol.method(&[0; MAX_METHOD]).is_some()
}

/// A name as a configuration may hold it, cut where it is long.
pub(super) fn shown(name: &[u8]) -> String {
    match std::str::from_utf8(name) {
        Ok(text) => text.chars().take(60).collect(),
        Err(_) => written(&name[..name.len().min(30)]),
    }
}

/// Bytes in hex, as a configuration may hold them.
pub(super) fn written(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("hex:{}", digits.concat())
}
