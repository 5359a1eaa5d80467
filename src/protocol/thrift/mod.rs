//! `thrift`: Apache Thrift, in its transports and encodings.
//!
//! The options say what the upstream speaks. What a client speaks is detected, and turned into that where nothing is
//! lost by it. Built by `config`; `session` and `connection` hold the halves.

mod calls;
mod carry;
mod client;
mod cutter;
mod envelope;
mod header;
mod json;
mod refusal;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use self::carry::Form;
use self::client::Client;
use self::server::Server;
pub use self::settings::{Encoding, Settings, Transport};
use super::{Downstream, Id, Malformed, Mode, Protocol, SettingsError, TagSpace, Upstream};

/// A seqid has 32 bits and a sign that not all libraries read alike; 0 is what servers write that do not bring it
/// back, and the last is kept for what has no reply.
const LAST_TAG: i32 = i32::MAX - 1;
/// The longest name in `oneway`, in bytes.
const MAX_NAME: usize = envelope::MAX_NAME;
/// The least `max_message` in bytes: a refusal has to fit.
const MIN_MESSAGE: usize = 256;
/// The largest `max_message` in bytes: a longer frame could be taken for another transport.
const MAX_MESSAGE: usize = 1 << 30;
/// What a ping calls: no service has such a method, and any answer will do.
const PING: &[u8] = b"warmline_ping";

/// The protocol, with its settings. Clones are the same.
#[derive(Clone, Debug)]
pub struct Thrift(Arc<Spec>);

/// What all codecs of one protocol share.
#[derive(Debug)]
struct Spec {
    /// What the upstream speaks.
    form: Form,
    oneway: BTreeSet<Bytes>,
    echoes_seqid: bool,
    max_message: usize,
}

impl Thrift {
    /// A protocol of these settings, if they can be.
    pub fn new(settings: Settings) -> Result<Self, SettingsError> {
        let Settings { transport, encoding, oneway, echoes_seqid, max_message } = settings;
        if transport == Transport::Header && encoding == Encoding::Json {
            let reason = "`json` cannot be in the transport `header`";
            return Err(wrong("encoding", reason, "write \"binary\" or \"compact\""));
        }
        if !(MIN_MESSAGE..=MAX_MESSAGE).contains(&max_message) {
            return Err(wrong("max_message", format!("{max_message} bytes"), "write 256 bytes to 1 GiB"));
        }
        if let Some(place) = oneway.iter().position(|name| name.is_empty() || name.len() > MAX_NAME) {
            let reason = format!("a name of {} bytes", oneway.iter().nth(place).map_or(0, Bytes::len));
            return Err(wrong("oneway", reason, format!("write names of 1 to {MAX_NAME} bytes")));
        }
        let form = Form { transport, encoding };
        Ok(Self(Arc::new(Spec { form, oneway, echoes_seqid, max_message })))
    }
}

fn wrong(key: &str, reason: impl Into<String>, remedy: impl Into<String>) -> SettingsError {
    SettingsError { key: key.into(), reason: reason.into(), remedy: remedy.into() }
}

impl Protocol for Thrift {
    fn name(&self) -> &'static str {
        "thrift"
    }

    fn modes(&self) -> &'static [Mode] {
        // Messages of JSON are not read as far as a shared connection needs.
        if self.0.form.encoding == Encoding::Json || !self.0.echoes_seqid {
            return &[Mode::Exclusive];
        }
        &[Mode::Exclusive, Mode::Pipeline, Mode::Multiplex]
    }

    fn tags(&self) -> Option<TagSpace> {
        Some(TagSpace { last: u64::from(LAST_TAG.cast_unsigned()), avoid: Vec::new() })
    }

    fn max_message(&self) -> usize {
        self.0.max_message
    }

    fn has_parts(&self) -> bool {
        self.0.form.transport == Transport::Framed
    }

    fn method<'m>(&self, request: &'m [u8]) -> Option<&'m [u8]> {
        let (start, envelope) = self.0.form.open(request)?;
        request.get(start..)?.get(envelope.name)
    }

    fn ping(&self) -> Option<Bytes> {
        self.call(PING)
    }

    fn call(&self, method: &[u8]) -> Option<Bytes> {
        let form @ Form { encoding, .. } = self.0.form;
        let mut message = envelope::write(encoding, envelope::CALL, method, 1);
        message.extend_from_slice(if encoding == Encoding::Json { b"{}]" } else { &[0] });
        Some(carry::wrap(form, &message, 1_i32.to_be_bytes()).into())
    }

    /// The seqid, without its sign.
    fn shown(&self, id: Id) -> Id {
        let number = carry::Named::open(&id).map(|named| named.envelope.number);
        number.map_or(id, |number| Id::Bits(number.cast_unsigned().into()))
    }

    fn remedy(&self, reason: Malformed) -> &'static str {
        match reason {
            Malformed::TooLarge(_) => {
                "look at `transport` and `encoding`; if they are right, raise `max_message`"
            }
            Malformed::Invalid(_) => "look at `transport` and `encoding`: they say what the upstream speaks",
        }
    }

    fn downstream(&self, max_buffered: usize) -> Box<dyn Downstream> {
        Box::new(Client::new(self.0.clone(), max_buffered))
    }

    fn upstream(&self, max_buffered: usize) -> Box<dyn Upstream> {
        Box::new(Server::new(self.0.clone(), max_buffered))
    }
}
