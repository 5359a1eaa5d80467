//! What can be said about a Thrift service: plain values, as `config` reads them.

use std::collections::BTreeSet;

use bytes::Bytes;

use crate::protocol::MAX_MESSAGE;

/// How messages are set apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Four bytes of length before each: `TFramedTransport`.
    Framed,
    /// One after the other: `TBufferedTransport` and none at all look the same.
    Buffered,
    /// Frames with a header of their own: `THeaderTransport`.
    Header,
}

impl Transport {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Framed, Self::Buffered, Self::Header];

    /// The word used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Framed => "framed",
            Self::Buffered => "buffered",
            Self::Header => "header",
        }
    }
}

/// How messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `TBinaryProtocol`, strict and not, message by message.
    Binary,
    /// `TCompactProtocol`.
    Compact,
    /// `TJSONProtocol`.
    Json,
}

impl Encoding {
    /// All of them, the default first.
    pub const ALL: [Self; 3] = [Self::Binary, Self::Compact, Self::Json];

    /// The word used in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Compact => "compact",
            Self::Json => "json",
        }
    }
}

/// The options of `thrift`: what the upstream speaks. The fields have the names of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How messages are set apart.
    pub transport: Transport,
    /// How messages are written.
    pub encoding: Encoding,
    /// Methods without a reply although their clients may mark them as calls, each named as in its requests:
    /// `method`, or `service:method` where services are multiplexed.
    pub oneway: BTreeSet<Bytes>,
    /// The upstream writes the seqid of a call into its reply, as it should.
    pub echoes_seqid: bool,
    /// The longest message in bytes, its frame included.
    pub max_message: usize,
}

impl Default for Settings {
    /// The strict binary protocol in frames.
    fn default() -> Self {
        Self {
            transport: Transport::Framed,
            encoding: Encoding::Binary,
            oneway: BTreeSet::new(),
            echoes_seqid: true,
            max_message: MAX_MESSAGE,
        }
    }
}
