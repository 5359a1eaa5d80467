//! `jsonrpc`: JSON-RPC 1.0 and 2.0, as values that follow each other or with headers as in the Language Server
//! Protocol.
//!
//! Invariant: what goes to a server is written here, from requests that are some; so no client's text can make it
//! close a connection that others use, or read an id that is not warmline's. Ids come back as the client wrote them.
//! Built by `config`; `session` and `connection` hold the halves.

mod batch;
mod envelope;
mod framing;
mod refusal;
mod replies;
mod reply;
mod requests;
mod scan;
mod settings;
#[cfg(test)]
mod tests;
mod walk;

use bytes::Bytes;

use self::batch::TAG_BITS;
use self::replies::Replies;
use self::requests::Requests;
use self::scan::Rules;
pub use self::settings::{Framing, ServerMessages, Settings};
use super::{Downstream, Id, Malformed, Mode, Protocol, SettingsError, TagSpace, Upstream};

/// Values within values in a request, the outermost included; as `serde_json` has it.
pub const MAX_DEPTH: usize = 127;
/// The same in a reply, which is only passed on.
const MAX_REPLY_DEPTH: usize = 1 << 16;
const REQUEST_RULES: Rules = Rules { max_depth: MAX_DEPTH, strict: true };
/// What is called to see whether a server is there: it need not know it.
const PING: &str = "warmline.ping";

/// The protocol, with its settings. Clones are the same.
#[derive(Clone, Debug)]
pub struct JsonRpc(Settings);

impl JsonRpc {
    /// A protocol of these settings, if they can be.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        settings.check()?;
        Ok(Self(settings))
    }
}

impl Protocol for JsonRpc {
    fn name(&self) -> &'static str {
        "jsonrpc"
    }

    fn modes(&self) -> &'static [Mode] {
        match self.0.server_messages {
            ServerMessages::Drop => &[Mode::Multiplex, Mode::Exclusive, Mode::Pipeline],
            ServerMessages::Pass => &[Mode::Exclusive],
        }
    }

    /// Below 2^40, so that with the index of a call in its batch they stay below 2^53: readers may take them for
    /// floating-point numbers.
    fn tags(&self) -> Option<TagSpace> {
        Some(TagSpace { last: (1 << TAG_BITS) - 1, avoid: Vec::new() })
    }

    fn max_message(&self) -> usize {
        self.0.max_message
    }

    fn rewrites(&self) -> bool {
        true
    }

    /// As JSON has it, where the name has quotes, backslashes or control characters in it. A batch has none.
    fn method<'m>(&self, request: &'m [u8]) -> Option<&'m [u8]> {
        envelope::method(request)
    }

    fn ping(&self) -> Option<Bytes> {
        self.call(PING.as_bytes())
    }

    fn call(&self, method: &[u8]) -> Option<Bytes> {
        let mut request = b"{\"jsonrpc\":\"2.0\",\"method\":".to_vec();
        walk::quote(std::str::from_utf8(method).ok()?, &mut request);
        request.extend_from_slice(b",\"id\":0}");
        Some(framing::framed(self.0.framing, &request))
    }

    fn shown(&self, id: Id) -> Id {
        requests::shown(&id)
    }

    fn remedy(&self, reason: Malformed) -> &'static str {
        match (reason, self.0.framing) {
            (Malformed::TooLarge(_), _) => "raise `max_message`",
            (_, Framing::Line) => {
                "messages are JSON; where each has a header, write `framing = \"content-length\"`"
            }
            (_, Framing::ContentLength) => {
                "messages have headers; where they have none, write `framing = \"line\"`"
            }
        }
    }

    fn downstream(&self, _: usize) -> Box<dyn Downstream> {
        let passes = self.0.server_messages == ServerMessages::Pass;
        Box::new(Requests::new(&self.0, REQUEST_RULES, passes))
    }

    fn configured(&self) -> Box<dyn Downstream> {
        Box::new(Requests::new(&self.0, REQUEST_RULES, false))
    }

    fn upstream(&self, _: usize) -> Box<dyn Upstream> {
        Box::new(Replies::new(&self.0, Rules { max_depth: MAX_REPLY_DEPTH, strict: false }))
    }
}
