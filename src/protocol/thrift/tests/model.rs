//! Generated messages, written and read by the `thrift` crate.

use std::io::Cursor;

use fastrand::Rng;
use proptest::prelude::*;
use thrift::protocol::{
    TBinaryInputProtocol, TCompactInputProtocol, TInputProtocol, TListIdentifier, TMapIdentifier,
    TSetIdentifier,
};

use super::*;

/// The type of a value.
#[derive(Clone, Debug)]
enum Type {
    Bool,
    Byte,
    I16,
    I32,
    I64,
    Double,
    Text,
    Uuid,
    Struct(Vec<Type>),
    List(Box<Type>),
    Set(Box<Type>),
    Map(Box<Type>, Box<Type>),
}

impl Type {
    fn code(&self) -> TType {
        match self {
            Self::Bool => TType::Bool,
            Self::Byte => TType::I08,
            Self::I16 => TType::I16,
            Self::I32 => TType::I32,
            Self::I64 => TType::I64,
            Self::Double => TType::Double,
            Self::Text => TType::String,
            Self::Uuid => TType::Uuid,
            Self::Struct(_) => TType::Struct,
            Self::List(_) => TType::List,
            Self::Set(_) => TType::Set,
            Self::Map(..) => TType::Map,
        }
    }

    /// Writes some value of the type.
    #[expect(clippy::default_trait_access, reason = "the type of a UUID has no name here")]
    fn write(&self, rng: &mut Rng, out: &mut dyn TOutputProtocol) -> thrift::Result<()> {
        let some = |rng: &mut Rng| if rng.u8(..) < 10 { rng.i32(14..40) } else { rng.i32(0..4) };
        match self {
            Self::Bool => out.write_bool(rng.bool()),
            Self::Byte => out.write_i8(rng.i8(..)),
            Self::I16 => out.write_i16(rng.i16(..) >> rng.u8(0..16)),
            Self::I32 => out.write_i32(rng.i32(..) >> rng.u8(0..32)),
            Self::I64 => out.write_i64(rng.i64(..) >> rng.u8(0..64)),
            Self::Double => out.write_double(rng.f64()),
            Self::Text => out.write_bytes(&vec![rng.u8(..); rng.usize(0..200)]),
            Self::Uuid => out.write_uuid(&Default::default()),
            Self::Struct(fields) => write_struct(fields, rng, out),
            Self::List(of) => {
                let count = some(rng);
                out.write_list_begin(&TListIdentifier::new(of.code(), count))?;
                (0..count).try_for_each(|_| of.write(rng, out))?;
                out.write_list_end()
            }
            Self::Set(of) => {
                let count = some(rng);
                out.write_set_begin(&TSetIdentifier::new(of.code(), count))?;
                (0..count).try_for_each(|_| of.write(rng, out))?;
                out.write_set_end()
            }
            Self::Map(key, value) => {
                let count = some(rng);
                out.write_map_begin(&TMapIdentifier::new(key.code(), value.code(), count))?;
                (0..count).try_for_each(|_| key.write(rng, out).and_then(|()| value.write(rng, out)))?;
                out.write_map_end()
            }
        }
    }
}

fn write_struct(fields: &[Type], rng: &mut Rng, out: &mut dyn TOutputProtocol) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new("s"))?;
    let mut id = 0;
    for field in fields {
        id += if rng.bool() { 1 } else { rng.i16(15..300) };
        out.write_field_begin(&TFieldIdentifier::new("f", field.code(), id))?;
        field.write(rng, out)?;
        out.write_field_end()?;
    }
    out.write_field_stop()?;
    out.write_struct_end()
}

fn types() -> impl Strategy<Value = Type> {
    let leaf = prop_oneof![
        Just(Type::Bool),
        Just(Type::Byte),
        Just(Type::I16),
        Just(Type::I32),
        Just(Type::I64),
        Just(Type::Double),
        Just(Type::Text),
        Just(Type::Uuid),
    ];
    leaf.prop_recursive(4, 24, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Type::Struct),
            inner.clone().prop_map(|of| Type::List(Box::new(of))),
            inner.clone().prop_map(|of| Type::Set(Box::new(of))),
            (inner.clone(), inner).prop_map(|(key, value)| Type::Map(Box::new(key), Box::new(value))),
        ]
    })
}

/// A message as the crate writes it.
fn generated(encoding: Encoding, strict: bool, seqid: i32, fields: &[Type], seed: u64) -> Vec<u8> {
    written(encoding, strict, |out| {
        out.write_message_begin(&TMessageIdentifier::new("some:method", TMessageType::Call, seqid))?;
        write_struct(fields, &mut Rng::with_seed(seed), out)?;
        out.write_message_end()
    })
}

/// Where the crate finds the end of a message; `None` where it finds none.
fn end_for_crate(encoding: Encoding, message: &[u8]) -> Option<u64> {
    let mut cursor = Cursor::new(message);
    let read = |input: &mut dyn TInputProtocol| {
        input.read_message_begin()?;
        input.skip(TType::Struct)?;
        input.read_message_end()
    };
    match encoding {
        Encoding::Binary => read(&mut TBinaryInputProtocol::new(&mut cursor, false)),
        _ => read(&mut TCompactInputProtocol::new(&mut cursor)),
    }
    .ok()?;
    Some(cursor.position())
}

/// Where warmline finds it, for a client without frames, or why there is none.
fn end_for_us(encoding: Encoding, message: &[u8]) -> Result<Option<u64>, Malformed> {
    let mut input = BytesMut::from(message);
    let mut client = thrift(Transport::Buffered, encoding).downstream(usize::MAX);
    match client.decode(&mut input) {
        Ok(Received::Request { .. }) => Ok(Some((message.len() - input.len()) as u64)),
        Ok(_) => Ok(None),
        Err(bad) => Err(bad.reason),
    }
}

fn encodings() -> impl Strategy<Value = (Encoding, bool)> {
    prop_oneof![
        Just((Encoding::Binary, true)),
        Just((Encoding::Binary, false)),
        Just((Encoding::Compact, true))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn messages_are_found_however_they_are_cut(
        (encoding, strict) in encodings(),
        transport in prop_oneof![Just(Transport::Framed), Just(Transport::Buffered)],
        messages in prop::collection::vec((prop::collection::vec(types(), 0..4), any::<u64>(), any::<i32>()), 1..4),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let messages: Vec<Vec<u8>> = messages
            .iter()
            .map(|(fields, seed, seqid)| {
                let message = generated(encoding, strict, *seqid, fields, *seed);
                if transport == Transport::Framed { framed(&message) } else { message }
            })
            .filter(|message| message.len() < 1 << 19)
            .collect();
        let stream = messages.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let thrift = thrift(transport, encoding);
        let mut client = thrift.downstream(usize::MAX);
        let (seen, bad) = requests(&mut *client, &stream, &cuts);
        prop_assert_eq!(bad, None);
        prop_assert_eq!(seen.len(), messages.len());
        for ((id, request), message) in seen.iter().zip(&messages) {
            prop_assert_eq!(&request.bytes[..], &message[..]);
            // Under any tag and back it is what it was.
            let tagged = sent(&mut *thrift.upstream(usize::MAX), request, 70_000);
            let again = answered(&mut *client, id, Reply::new(tagged.into()));
            prop_assert_eq!(&again, message);
        }
    }

    #[test]
    fn what_the_crate_takes_for_a_message_is_one(
        (encoding, _) in encodings(),
        fields in prop::collection::vec(types(), 0..4),
        seed: u64,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut message = generated(encoding, true, 1, &fields, seed);
        prop_assume!(message.len() < 1 << 19);
        prop_assert_eq!(end_for_crate(encoding, &message), Some(message.len() as u64));
        // Only the arguments: the crate lets more names and kinds pass.
        let from = envelope::write(encoding, 1, b"some:method", 1).len();
        for (at, byte) in changes {
            let at = from + at.index(message.len() - from);
            message[at] = byte;
        }
        let (theirs, ours) = (end_for_crate(encoding, &message), end_for_us(encoding, &message));
        // The crate drops the bits of a varint for which it has no room, and lets others be longer.
        if theirs.is_some() && ours != Err(Malformed::Invalid("varint longer than its type takes")) {
            prop_assert_eq!(ours, Ok(theirs));
        }
    }

    #[test]
    fn any_bytes_mean_the_same_however_they_are_cut(
        encoding in prop_oneof![Just(Encoding::Binary), Just(Encoding::Compact), Just(Encoding::Json)],
        kind in 0u8..6,
        frame: bool,
        noise in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..16, Just(b'{'), Just(b']')], 0..120),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let message = [&envelope::write(encoding, kind, b"m", 1)[..], &noise].concat();
        let stream = if frame { framed(&message) } else { message };
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.sort_unstable();
        let end = |cuts: &[usize]| {
            let mut client = thrift(Transport::Framed, encoding).downstream(usize::MAX);
            let mut input = BytesMut::new();
            let (mut seen, mut from) = (Vec::new(), 0);
            for to in cuts.iter().copied().chain([stream.len()]) {
                input.extend_from_slice(&stream[from..to]);
                from = to;
                loop {
                    match client.decode(&mut input) {
                        Ok(Received::Request { id, request }) => seen.push(Ok((id, request.bytes))),
                        Ok(_) => break,
                        Err(bad) => {
                            seen.push(Err(bad));
                            return seen;
                        }
                    }
                }
            }
            seen
        };
        prop_assert_eq!(end(&cuts), end(&[]));
    }
}
