//! Values that have several forms: text, a number, a table.
//!
//! Invariant: what has none of the forms is refused with its place and the forms there are; serde's `untagged` would
//! lose both. Called by serde through the structs of `file`.

use std::fmt;

use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};

use super::file::{Ask, Frame, JsonRpc, Line, Place, Thrift};
use super::units::{Count, Text, refused};
use super::words::{self, said};
use crate::net::Address;
use crate::protocol::frame;

/// One endpoint of an upstream: the text of its address, or a table with `address`.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub address: Address,
    /// Its share of the requests; default 1.
    pub weight: Option<Count>,
    /// Used only while no other endpoint can be; default false.
    pub backup: Option<bool>,
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Table {
            address: Text<Address>,
            weight: Option<Count>,
            backup: Option<bool>,
        }
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Endpoint;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address as in \"users.internal:9090\", or a table with `address`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Endpoint, E> {
                let Text(address) = Text::deserialize(StrDeserializer::new(text))?;
                Ok(Endpoint { address, weight: None, backup: None })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Endpoint, A::Error> {
                let Table { address: Text(address), weight, backup } =
                    Table::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Endpoint { address, weight, backup })
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// The width of a length field.
#[derive(Clone, Copy, Debug)]
pub struct Width(pub frame::Size);

impl<'de> Deserialize<'de> for Width {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Width;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("1, 2, 3, 4, 8 or \"varint\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Width, E> {
                let varint = (text == "varint").then_some(Width(frame::Size::Varint));
                varint.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }

            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Width, E> {
                let wrong = |_| E::invalid_value(de::Unexpected::Signed(size), &self);
                usize::try_from(size).map(|size| Width(frame::Size::Bytes(size))).map_err(wrong)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// A protocol: its name, or a table of the name and its options.
#[derive(Clone, Debug)]
pub enum Protocol {
    /// Without options.
    Name(String),
    /// `[upstreams.NAME.protocol.frame]`
    Frame(Box<Frame>),
    /// `[upstreams.NAME.protocol.line]`
    Line(Line),
    /// `[upstreams.NAME.protocol.jsonrpc]`
    JsonRpc(JsonRpc),
    /// `[upstreams.NAME.protocol.thrift]`
    Thrift(Thrift),
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// The keys of the table.
        #[derive(serde::Deserialize)]
        #[serde(variant_identifier, rename_all = "lowercase")]
        enum Kind {
            Frame,
            Line,
            JsonRpc,
            Thrift,
        }
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Protocol;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a protocol as in \"netty4\" or \"line\", or a table of its name")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Protocol, E> {
                Ok(Protocol::Name(name.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Protocol, A::Error> {
                let protocol = match map.next_key()? {
                    Some(Kind::Frame) => Protocol::Frame(map.next_value()?),
                    Some(Kind::Line) => Protocol::Line(map.next_value()?),
                    Some(Kind::JsonRpc) => Protocol::JsonRpc(map.next_value()?),
                    Some(Kind::Thrift) => Protocol::Thrift(map.next_value()?),
                    None => {
                        return Err(refused(said(
                            "no protocol is named",
                            "write `protocol = \"line\"`, a preset, or a table `protocol.frame`",
                        )));
                    }
                };
                match map.next_key::<Kind>()? {
                    None => Ok(protocol),
                    Some(_) => Err(refused(said(
                        "an upstream speaks one protocol, not two",
                        "leave one of the two tables out",
                    ))),
                }
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// What shows that an endpoint is well: a word, or a table of what to ask it.
#[derive(Clone, Debug)]
pub enum Probe {
    /// That it can be connected to.
    Connect,
    /// The protocol's own question.
    Ping,
    /// A request.
    Ask(Ask),
}

impl<'de> Deserialize<'de> for Probe {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Probe;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"connect\", \"ping\", or a table as in `{ send = \"...\", expect = \"...\" }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Probe, E> {
                match text {
                    "connect" => Ok(Probe::Connect),
                    "ping" => Ok(Probe::Ping),
                    "send" | "expect" | "method" => Err(refused((
                        format!("`{text}` is the key of a table"),
                        Some(format!("write `probe = {{ {text} = \"...\" }}`")),
                    ))),
                    _ => Err(refused(words::unknown(
                        "probe",
                        text,
                        &["connect", "ping", "{ send }", "{ method }"],
                    ))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Probe, A::Error> {
                Ask::deserialize(MapAccessDeserializer::new(map)).map(Probe::Ask)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// The part of a request that leads to its endpoint: a word, or a table of which bytes.
#[derive(Clone, Debug)]
pub enum Key {
    /// What it calls.
    Method,
    /// The client's id.
    Id,
    /// Some of its bytes.
    Bytes(Place),
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl<'de> Visitor<'de> for Visit {
            type Value = Key;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"method\", \"id\", or a table as in `{ offset = 0, size = 8 }`")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Key, E> {
                match text {
                    "method" => Ok(Key::Method),
                    "id" => Ok(Key::Id),
                    "offset" | "size" => Err(refused((
                        format!("`{text}` is the key of a table"),
                        Some("write `key = { offset = 0, size = 8 }`".to_owned()),
                    ))),
                    _ => Err(refused(words::unknown("key", text, &["method", "id", "{ offset, size }"]))),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Key, A::Error> {
                Place::deserialize(MapAccessDeserializer::new(map)).map(Key::Bytes)
            }
        }
        deserializer.deserialize_any(Visit)
    }
}
