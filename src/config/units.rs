//! Values: numbers, those written as text (durations, sizes, bytes, addresses, choices), and lists of them.
//!
//! Invariant: a refused value says what would have been accepted; ranges are `check`'s business.
//! Called by serde through the structs of `file`.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer};
use serde::de::{self, Deserialize, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Visitor};

use super::words::{self, HELP};
use crate::events::log::Format;
use crate::frame::Endian;
use crate::net::{Address, BadAddress};
use crate::protocol::Mode;
use crate::protocol::jsonrpc::{Framing, ServerMessages};
use crate::protocol::thrift::{Encoding, Transport};
use crate::session::ClientClose;

/// A value that is written as text.
pub trait Written: Sized {
    /// What is accepted, as in "a duration as in \"250ms\"".
    const EXPECTED: &'static str;

    /// The value, or what is wrong with the text and what would do.
    ///
    /// # Errors
    /// The message, and the help if there is one.
    fn parse(text: &str) -> Result<Self, (String, Option<String>)>;
}

/// A [`Written`] value in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text<T>(pub T);

impl<'de, T: Written> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<T: Written> Visitor<'_> for Visit<T> {
            type Value = Text<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::EXPECTED)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<T>, E> {
                T::parse(text).map(Text).map_err(refused)
            }
        }
        deserializer.deserialize_any(Visit(PhantomData))
    }
}

/// A message and a help as one error of serde.
pub(super) fn refused<E: de::Error>((message, help): words::Words) -> E {
    E::custom(format_args!("{message}{HELP}{}", help.unwrap_or_default()))
}

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub struct List<T>(pub Vec<T>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Visit<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
                T::deserialize(StrDeserializer::new(text)).map(|one| List(vec![one]))
            }

            // What cannot stand here is told in the words of the one value.
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<List<T>, E> {
                T::deserialize(value.into_deserializer()).map(|one| List(vec![one]))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<List<T>, E> {
                T::deserialize(number.into_deserializer()).map(|one| List(vec![one]))
            }

            fn visit_f64<E: de::Error>(self, number: f64) -> Result<List<T>, E> {
                T::deserialize(number.into_deserializer()).map(|one| List(vec![one]))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<List<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|one| List(vec![one]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<List<T>, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(List)
            }
        }
        deserializer.deserialize_any(Visit(PhantomData))
    }
}

/// A number of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Count;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number that is not negative")
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Count, E> {
                Ok(Count(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Count, E> {
                let unsigned = u64::try_from(number);
                unsigned.map(Count).map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// A part of a whole, where 1 is all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visit;
        impl Visitor<'_> for Visit {
            type Value = Share;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number from 0 to 1, as in 0.2")
            }

            fn visit_f64<E: de::Error>(self, share: f64) -> Result<Share, E> {
                Ok(Share(share))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Share, E> {
                // Beyond the range it is refused, whatever it is.
                Ok(Share(i32::try_from(number).map_or(f64::INFINITY, f64::from)))
            }
        }
        deserializer.deserialize_any(Visit)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

/// Permission bits of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u32);

/// Which methods are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Marked {
    /// All of them.
    All,
    /// The one of this name.
    Method(Bytes),
}

/// Who gets the next request, without what goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// The endpoint with the fewest in flight.
    LeastInFlight,
    /// Each endpoint in turn.
    RoundRobin,
    /// The endpoint that a part of the request leads to.
    Hash,
}

impl Written for Duration {
    const EXPECTED: &'static str = "a duration as in \"250ms\", \"30s\" or \"5m\"";

    fn parse(text: &str) -> Result<Self, words::Words> {
        humantime::parse_duration(text).map_err(|_| wrong(text, "a duration", Self::EXPECTED))
    }
}

impl Written for Size {
    const EXPECTED: &'static str = "a size as in \"64KiB\" or \"16MiB\"";

    fn parse(text: &str) -> Result<Self, words::Words> {
        let size = text.parse::<bytesize::ByteSize>();
        size.map(|size| Self(size.as_u64())).map_err(|_| wrong(text, "a size", Self::EXPECTED))
    }
}

impl Written for Permissions {
    const EXPECTED: &'static str = "permission bits in octal digits, as in \"0660\"";

    fn parse(text: &str) -> Result<Self, words::Words> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
        let bits = u32::from_str_radix(text, 8).ok().filter(|bits| digits && *bits <= 0o777);
        bits.map(Self).ok_or_else(|| wrong(text, "permission bits", Self::EXPECTED))
    }
}

impl Written for IpAddr {
    const EXPECTED: &'static str = "an IP address as in \"10.0.0.7\"";

    fn parse(text: &str) -> Result<Self, words::Words> {
        text.parse().map_err(|_| wrong(text, "an IP address", Self::EXPECTED))
    }
}

impl Written for Address {
    const EXPECTED: &'static str = "an address as in \"127.0.0.1:7600\" or \"unix:/run/name.sock\"";

    fn parse(text: &str) -> Result<Self, words::Words> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let help = format!("leave `{scheme}://` away, as in `{}`", rest.trim_end_matches('/'));
            return Err(("an address has no scheme".into(), Some(help)));
        }
        let address = text.parse().map_err(|error: BadAddress| {
            (format!("`{}` is not an address", short(text)), Some(error.to_string()))
        })?;
        if let Self::Tcp { host, .. } = &address {
            let known = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
            if host.len() > 253 || !host.bytes().all(known) {
                return Err(wrong(host, "a host", "a name or an IP address"));
            }
        }
        Ok(address)
    }
}

impl Written for String {
    const EXPECTED: &'static str = "text";

    fn parse(text: &str) -> Result<Self, words::Words> {
        Ok(text.to_owned())
    }
}

impl Written for Bytes {
    const EXPECTED: &'static str = "text, or \"hex:\" and hex digits";

    fn parse(text: &str) -> Result<Self, words::Words> {
        let Some(digits) = text.strip_prefix("hex:") else {
            return Ok(Self::copy_from_slice(text.as_bytes()));
        };
        hex(digits).map(Self::from).ok_or_else(|| wrong(digits, "pairs of hex digits", Self::EXPECTED))
    }
}

impl Written for Marked {
    const EXPECTED: &'static str = "the name of a method, or \"*\" for all";

    fn parse(text: &str) -> Result<Self, words::Words> {
        // As `hex:2a` it is a name.
        if text == "*" { Ok(Self::All) } else { Bytes::parse(text).map(Self::Method) }
    }
}

/// The bytes of pairs of hex digits; blanks between pairs are ignored.
pub(super) fn hex(digits: &str) -> Option<Vec<u8>> {
    let nibble = |c: u8| char::from(c).to_digit(16);
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    for word in digits.split_ascii_whitespace() {
        for pair in word.as_bytes().chunks(2) {
            let [high, low] = pair else { return None };
            bytes.push(u8::try_from(nibble(*high)? * 16 + nibble(*low)?).ok()?);
        }
    }
    Some(bytes)
}

/// A closed set of words.
macro_rules! choice {
    ($type:ty, $expected:literal, { $($word:literal => $value:expr),* $(,)? }) => {
        impl Written for $type {
            const EXPECTED: &'static str = $expected;

            fn parse(text: &str) -> Result<Self, words::Words> {
                match text {
                    $($word => Ok($value),)*
                    _ => Err(words::unknown("value", text, &[$($word),*])),
                }
            }
        }
    };
}

choice!(Mode, "a mode as in \"exclusive\"", {
    "exclusive" => Mode::Exclusive,
    "pipeline" => Mode::Pipeline,
    "multiplex" => Mode::Multiplex,
});
choice!(Policy, "a policy as in \"least_in_flight\"", {
    "least_in_flight" => Policy::LeastInFlight,
    "round_robin" => Policy::RoundRobin,
    "hash" => Policy::Hash,
});
choice!(ClientClose, "a way to close as in \"auto\"", {
    "auto" => ClientClose::Auto,
    "fin" => ClientClose::Fin,
    "reset" => ClientClose::Reset,
});
choice!(Endian, "\"big\" or \"little\"", {
    "big" => Endian::Big,
    "little" => Endian::Little,
});
choice!(Framing, "\"line\" or \"content-length\"", {
    "line" => Framing::Line,
    "content-length" => Framing::ContentLength,
});
choice!(ServerMessages, "\"drop\" or \"pass\"", {
    "drop" => ServerMessages::Drop,
    "pass" => ServerMessages::Pass,
});
choice!(Transport, "\"framed\", \"buffered\" or \"header\"", {
    "framed" => Transport::Framed,
    "buffered" => Transport::Buffered,
    "header" => Transport::Header,
});
choice!(Encoding, "\"binary\", \"compact\" or \"json\"", {
    "binary" => Encoding::Binary,
    "compact" => Encoding::Compact,
    "json" => Encoding::Json,
});
choice!(Format, "a log format as in \"auto\"", {
    "auto" => Format::Auto,
    "pretty" => Format::Pretty,
    "json" => Format::Json,
});

fn wrong(text: &str, what: &str, expected: &str) -> words::Words {
    (format!("`{}` is not {what}", short(text)), Some(format!("write {expected}")))
}

fn short(text: &str) -> String {
    text.chars().take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes() {
        assert_eq!(Duration::parse("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(Duration::parse("0s"), Ok(Duration::ZERO));
        assert!(Duration::parse("5 minuts").is_err());
        assert!(Duration::parse("").is_err());
        assert_eq!(Size::parse("64KiB"), Ok(Size(65_536)));
        assert!(Size::parse("-1").is_err());
    }

    #[test]
    fn bytes_are_text_or_hex() {
        assert_eq!(Bytes::parse("220 ready\n"), Ok(Bytes::from_static(b"220 ready\n")));
        assert_eq!(Bytes::parse("hex:00 fF10"), Ok(Bytes::from_static(b"\x00\xff\x10")));
        for bad in ["hex:0", "hex:0 0", "hex:zz", "hex:+1", "hex:ä"] {
            assert!(Bytes::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_star_means_all_and_has_a_name_of_its_own() {
        assert_eq!(Marked::parse("*"), Ok(Marked::All));
        assert_eq!(Marked::parse("hex:2a"), Ok(Marked::Method(Bytes::from_static(b"*"))));
        assert_eq!(Marked::parse("**"), Ok(Marked::Method(Bytes::from_static(b"**"))));
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(Permissions::parse("0660"), Ok(Permissions(0o660)));
        for bad in ["", "8", "+660", "06600", "1777", "rw-"] {
            assert!(Permissions::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_say_what_is_missing() {
        assert!(Address::parse("users.internal:9090").is_ok());
        let (message, help) = Address::parse("users").unwrap_err();
        assert_eq!(message, "`users` is not an address");
        assert_eq!(help.as_deref(), Some("it needs a port, as in `users:7600`"));
        let (_, help) = Address::parse("http://users:80/").unwrap_err();
        assert_eq!(help.as_deref(), Some("leave `http://` away, as in `users:80`"));
        assert!(Address::parse("a b:80").is_err());
    }
}
