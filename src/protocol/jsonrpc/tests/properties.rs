//! JSON of all kinds, in pieces of all sizes, beside `serde_json`.

use bytes::BytesMut;
use proptest::prelude::*;
use serde_json::Value;

use super::super::scan::{Rules, Scan};
use super::super::{Framing, MAX_DEPTH, walk};
use super::protocol;
use super::talk::{Talk, framed};
use crate::protocol::{Protocol, Received};

const STRICT: Rules = Rules { max_depth: MAX_DEPTH, strict: true };

/// Any JSON, not too deep.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<i32>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        ".{0,8}".prop_map(Value::from),
        "[\\x00-\\x20\"\\\\/\u{7f}é😀]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,5}", inner, 0..6)
                .prop_map(|members| members.into_iter().collect::<serde_json::Map<_, _>>().into()),
        ]
    })
}

/// Text of it, with white space and escapes, and perhaps some bytes that are wrong.
fn written(value: &Value, pretty: bool, escaped: bool, changes: &[(prop::sample::Index, u8)]) -> Vec<u8> {
    let mut text =
        if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) }.unwrap();
    if escaped {
        let escape = |c: char| {
            let mut units = [0; 2];
            c.encode_utf16(&mut units)
                .iter()
                .map(|unit| format!("\\u{unit:04X}"))
                .collect::<Vec<_>>()
                .concat()
        };
        text = text.chars().map(|c| if c.is_ascii() { c.to_string() } else { escape(c) }).collect();
    }
    let mut bytes = text.into_bytes();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    bytes
}

/// How long the value at the front is, as far as the scan knows.
fn scan(bytes: &[u8], step: usize) -> Result<Option<usize>, &'static str> {
    let (mut scan, mut before) = (Scan::new(STRICT), 0);
    for piece in bytes.chunks(step) {
        if let Some(end) = scan.feed(piece)? {
            return Ok(Some(before + end));
        }
        before += piece.len();
    }
    // A number ends where something else begins.
    Ok(scan.feed(b" ")?.map(|_| before))
}

/// Whether the scan takes `bytes` for one value.
fn accepts(bytes: &[u8], step: usize) -> bool {
    let whole =
        matches!(scan(bytes, step), Ok(Some(end)) if bytes[end..].iter().all(u8::is_ascii_whitespace));
    whole && std::str::from_utf8(bytes).is_ok()
}

/// Whether serde takes them for one. A number that is too large for it is one all the same; `None` where it then does
/// not look at escapes, of which some stand for nothing.
fn serde_accepts(bytes: &[u8]) -> Option<bool> {
    match serde_json::from_slice::<Value>(bytes) {
        Ok(_) => Some(true),
        Err(error) if error.to_string().starts_with("number out of range") => {
            let whole = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
            let accepts = whole && std::str::from_utf8(bytes).is_ok();
            (!accepts || !bytes.contains(&b'\\')).then_some(accepts)
        }
        Err(_) => Some(false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_serde_takes_is_taken_and_nothing_else(
        value in any_json(),
        pretty: bool,
        escaped: bool,
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(CHANGES)), 0..4),
        step in 1usize..20,
    ) {
        let bytes = written(&value, pretty, escaped, &changes);
        let expected = serde_accepts(&bytes).unwrap_or_else(|| accepts(&bytes, usize::MAX));
        prop_assert_eq!(accepts(&bytes, step), expected, "{}", bytes.escape_ascii());
    }

    #[test]
    fn bytes_without_a_plan_too(text in "[\\[\\]{},:\"\\\\0-9.eE+\\-truefalsn u\n]{0,12}", step in 1usize..6) {
        let expected = serde_accepts(text.as_bytes()).unwrap_or_else(|| accepts(text.as_bytes(), usize::MAX));
        prop_assert_eq!(accepts(text.as_bytes(), step), expected, "{}", text);
    }

    #[test]
    fn what_a_server_gets_means_the_same(
        params in any_json().prop_filter("params have a structure", |it| it.is_array() || it.is_object()),
        name in ".{0,6}",
        method in ".{0,12}",
        pretty: bool,
        escaped: bool,
    ) {
        let mut object = serde_json::Map::new();
        object.insert("x".to_owned() + &name, params.clone());
        object.insert("method".into(), method.clone().into());
        object.insert("params".into(), params);
        object.insert("id".into(), 1.into());
        object.insert("jsonrpc".into(), "2.0".into());
        let request = Value::from(object);
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(&written(&request, pretty, escaped, &[]));
        let [(_, sent)] = &talk.sent[..] else { panic!("{request}: {talk:?}") };
        prop_assert_eq!(&serde_json::from_slice::<Value>(sent).unwrap(), &request);
        let line = &sent[..sent.len() - 1];
        prop_assert!(line.iter().all(|byte| *byte >= b' '), "{}", line.escape_ascii());
    }

    #[test]
    fn a_reply_means_the_same(result in any_json(), pretty: bool, escaped: bool) {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(br#"{"jsonrpc":"2.0","method":"a","id":"mine"}"#);
        let reply = serde_json::json!({"jsonrpc": "2.0", "result": result, "id": 1});
        talk.server_replies(&written(&reply, pretty, escaped, &[]));
        let mut expected = reply;
        expected["id"] = "mine".into();
        prop_assert_eq!(serde_json::from_str::<Value>(&talk.told()).unwrap(), expected);
    }

    #[test]
    fn it_does_not_matter_how_the_bytes_come(
        values in prop::collection::vec(any_json(), 1..5),
        changes in prop::collection::vec((any::<prop::sample::Index>(), prop::sample::select(CHANGES)), 0..2),
        step in 1usize..30,
        content_length: bool,
        pretty: bool,
    ) {
        let framing = if content_length { Framing::ContentLength } else { Framing::Line };
        let call = |value: &Value| serde_json::json!({"id": value, "jsonrpc": "2.0", "method": "a", "params": [value]});
        let text = |value: &Value| String::from_utf8(written(value, pretty, false, &[])).unwrap();
        let mut bytes: Vec<u8> =
            values.iter().flat_map(|value| [value.clone(), call(value)]).flat_map(|v| framed(framing, &text(&v))).collect();
        for (at, byte) in &changes {
            let at = at.index(bytes.len());
            bytes[at] = *byte;
        }
        let said = |step: usize| {
            let mut talk = Talk::new(framing);
            bytes.chunks(step).for_each(|piece| talk.client_says(piece));
            (talk.sent, talk.output, talk.bad)
        };
        prop_assert_eq!(said(step), said(bytes.len()));
    }

    #[test]
    fn walks_find_what_serde_finds(value in any_json(), pretty: bool) {
        let bytes = written(&value, pretty, false, &[]);
        match &value {
            Value::Array(list) => {
                let items: Vec<Value> = walk::items(&bytes).map(|item| serde_json::from_slice(item).unwrap()).collect();
                prop_assert_eq!(&items, list);
            }
            Value::Object(object) => {
                let members: Vec<(String, Value)> = walk::members(&bytes)
                    .map(|(name, value)| (walk::text(name).unwrap().into(), serde_json::from_slice(value).unwrap()))
                    .collect();
                let expected: Vec<_> = object.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
                prop_assert_eq!(members, expected);
            }
            _ => {}
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_stand_still(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        content_length: bool,
    ) {
        let framing = if content_length { Framing::ContentLength } else { Framing::Line };
        let (protocol, mut input) = (protocol(framing), BytesMut::from(&bytes[..]));
        let mut codec = protocol.downstream(usize::MAX);
        while !input.is_empty() {
            let before = input.len();
            match codec.decode(&mut input) {
                Ok(Received::More(_)) | Err(_) => break,
                Ok(_) => prop_assert!(input.len() < before),
            }
        }
        let _ = walk::items(&bytes).count();
        let _ = walk::members(&bytes).count();
    }
}

/// Bytes that make a difference.
const CHANGES: &[u8] = b"{}[],:\"\\/u019.-+eEtfn \t\n\r\x00\x1f\x7f\x80\xc3\xa9\xed\xa0\xf4\xff";

#[test]
fn depth_is_bounded_as_serde_bounds_it() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for depth in [MAX_DEPTH - 1, MAX_DEPTH, MAX_DEPTH + 1] {
            let inner = if open == "[" { "" } else { "1" };
            let text = open.repeat(depth) + inner + &close.repeat(depth);
            assert_eq!(accepts(text.as_bytes(), 3), depth <= MAX_DEPTH, "{depth}");
            assert_eq!(serde_accepts(text.as_bytes()), Some(depth <= MAX_DEPTH), "{depth}");
        }
    }
}

#[test]
fn surrogates_come_in_pairs() {
    let cases = [
        ("\\ud83d\\ude00", true),
        ("\\ud83d", false),
        ("\\ude00", false),
        ("\\ud83dx", false),
        ("\\ud83d\\n", false),
        ("\\ud83d\\ud83d\\ude00", false),
        ("\\ud83d\\u0041", false),
        ("\\uDBFF\\uDFFF", true),
        ("\\ud7ff\\ue000", true),
        ("\\u12", false),
        ("\\u12g4", false),
    ];
    for (text, right) in cases {
        let text = format!("[\"{text}\"]");
        for step in 1..5 {
            assert_eq!(accepts(text.as_bytes(), step), right, "{text}");
        }
        assert_eq!(serde_accepts(text.as_bytes()), Some(right), "{text}");
    }
}
