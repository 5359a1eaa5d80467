//! Error replies of warmline's own (JSON-RPC 2.0, section 5.1).
//!
//! Used by both halves.

use super::envelope::Version;
use super::walk::quote;
use crate::protocol::Refusal;

/// Not JSON.
pub(super) const PARSE_ERROR: i32 = -32700;
/// JSON, but no request.
pub(super) const INVALID_REQUEST: i32 = -32600;
/// What a server that asks its client is told.
pub(super) const METHOD_NOT_FOUND: i32 = -32601;
/// The server left a call of a batch out.
pub(super) const LEFT_OUT: i32 = -32059;

/// An error for the request called `id`.
pub(super) fn error(version: Version, code: i32, message: &str, id: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::new();
    quote(message, &mut quoted);
    let code = code.to_string();
    match version {
        Version::V2 => {
            let start =
                [b"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":", code.as_bytes(), b",\"message\":"].concat();
            [&start, &quoted[..], b"},\"id\":", id, b"}"].concat()
        }
        // The first edition does not say what an error is; Go's client takes text only.
        Version::V1 => [b"{\"result\":null,\"error\":", &quoted[..], b",\"id\":", id, b"}"].concat(),
    }
}

/// The error for a request called `id` that is none for this reason.
pub(super) fn invalid(version: Version, reason: &str, id: Option<&[u8]>) -> Vec<u8> {
    error(version, INVALID_REQUEST, &format!("Invalid Request: {reason}"), id.unwrap_or(b"null"))
}

/// The code of a refusal: of those left to servers, the ones that no known library has a meaning for.
pub(super) fn code(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::QueueFull => -32050,
        Refusal::AcquireTimeout => -32051,
        Refusal::Timeout => -32052,
        Refusal::Down(_) => -32053,
        Refusal::NotTaken => -32054,
        Refusal::Lost => -32055,
        Refusal::Desync => -32056,
        Refusal::TooLarge => -32057,
        Refusal::Draining => -32058,
        Refusal::DedicatedFull => -32060,
        Refusal::Malformed => PARSE_ERROR,
    }
}

/// What a client reads.
pub(super) fn message(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Malformed => "Parse error".to_owned(),
        other => other.to_string(),
    }
}
