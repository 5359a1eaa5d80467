//! What may be said of a JSON-RPC upstream. Built by `config`.

use crate::protocol::{MAX_MESSAGE, SettingsError};

/// The options of `jsonrpc`. The fields have the names of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What tells one message from the next, on both sides.
    pub framing: Framing,
    /// What becomes of messages that a server sends of its own accord.
    pub server_messages: ServerMessages,
    /// Lists of requests are taken.
    pub batches: bool,
    /// The longest message in bytes, its header included.
    pub max_message: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            framing: Framing::Line,
            server_messages: ServerMessages::Drop,
            batches: true,
            max_message: MAX_MESSAGE,
        }
    }
}

impl Settings {
    /// Whether this version can do it.
    pub(super) fn check(&self) -> Result<(), SettingsError> {
        let wrong = |key: &str, reason: &str, remedy: &str| {
            Err(SettingsError { key: key.into(), reason: reason.into(), remedy: remedy.into() })
        };
        if self.max_message < LEAST {
            return wrong("max_message", "no request is that short", "raise it");
        }
        if !self.batches && self.server_messages == ServerMessages::Pass {
            let reason = "with `server_messages = \"pass\"` nobody looks at what clients send";
            return wrong("batches", reason, "leave one of the two out");
        }
        Ok(())
    }
}

/// The length of the shortest request, `{"method":"","id":0}`, in bytes.
const LEAST: usize = 20;

/// What tells one message from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// A message is a JSON value; white space may be between two. One that is written ends with a newline.
    Line,
    /// A message has a header as in the Language Server Protocol.
    ContentLength,
}

/// What becomes of the notifications and requests of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerMessages {
    /// Notifications are dropped, requests are answered with the error -32601.
    Drop,
    /// Each client has a connection of its own, and they go to it.
    Pass,
}
