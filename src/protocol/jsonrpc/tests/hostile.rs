//! Bounds, headers, and bytes that come one at a time.

use bytes::BytesMut;

use super::super::framing::MAX_HEADER;
use super::super::{Framing, JsonRpc, Settings};
use super::talk::{Talk, framed};
use crate::protocol::{Malformed, Need, Protocol, Received};

const CALL: &str = r#"{"jsonrpc":"2.0","method":"a","id":7}"#;

fn decode(framing: Framing, max_message: usize, bytes: &[u8]) -> Result<Received, Malformed> {
    let protocol = JsonRpc::new(Settings { framing, max_message, ..Settings::default() }).unwrap();
    protocol.downstream(usize::MAX).decode(&mut BytesMut::from(bytes)).map_err(|bad| bad.reason)
}

#[test]
fn messages_are_bounded() {
    let line = |max| decode(Framing::Line, max, CALL.as_bytes());
    assert!(matches!(line(CALL.len()), Ok(Received::Request { .. })));
    assert_eq!(line(CALL.len() - 1).unwrap_err(), Malformed::TooLarge(CALL.len() as u64));
    let message = framed(Framing::ContentLength, CALL);
    let header = |max| decode(Framing::ContentLength, max, &message);
    assert!(matches!(header(message.len()), Ok(Received::Request { .. })));
    assert_eq!(header(message.len() - 1).unwrap_err(), Malformed::TooLarge(message.len() as u64));
    // White space in front is none of it.
    let spaced = [&[b' '; 100][..], CALL.as_bytes()].concat();
    assert!(matches!(decode(Framing::Line, CALL.len(), &spaced), Ok(Received::Request { .. })));
}

#[test]
fn a_header_says_how_long_the_message_is() {
    let decode = |text: &str| decode(Framing::ContentLength, 1 << 20, text.as_bytes());
    let length = CALL.len();
    for header in [
        format!("Content-Length: {length}\r\n\r\n"),
        format!("content-length:{length}\r\n\r\n"),
        format!(
            "Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nCONTENT-LENGTH:   {length} \r\n\r\n"
        ),
        format!("Content-Length: {length}\r\nContent-Type: application/vscode-jsonrpc; charset=utf8\r\n\r\n"),
        format!("X-Other: 1\r\nContent-Length: {length}\r\n\r\n"),
    ] {
        assert!(matches!(decode(&(header.clone() + CALL)), Ok(Received::Request { .. })), "{header}");
        assert!(
            matches!(decode(&header), Ok(Received::More(Need::Total(total))) if total == header.len() + length)
        );
    }
    let wrong = |header: &str| match decode(&format!("{header}\r\n\r\n{CALL}")) {
        Err(Malformed::Invalid(reason)) => reason,
        other => panic!("{header}: {other:?}"),
    };
    assert_eq!(wrong("Content-Type: text/plain"), "a header without Content-Length");
    assert_eq!(wrong("Content-Length: 5\r\nContent-Length: 5"), "two Content-Lengths");
    for number in ["", "-5", "+5", "5x", "0x5", "5 5", "99999999999999999999"] {
        assert_eq!(wrong(&format!("Content-Length: {number}")), "a Content-Length that is no number");
    }
    // There is no need to wait for the end of such a header.
    for text in ["{", "[", "{\"jsonrpc\":\"2.0\""] {
        assert_eq!(decode(text).unwrap_err(), Malformed::Invalid("JSON without a header"));
    }
    assert_eq!(wrong("GET / HTTP/1.1"), "a header line without a colon");
    assert_eq!(
        wrong("Content-Length: 37\r\nContent-Type: a; charset=latin-1"),
        "a Content-Type with another charset than UTF-8"
    );
    assert_eq!(
        wrong("Content-Length: 37\r\nX: \u{e9}"),
        "a header without Content-Length"
            .replace("a header without Content-Length", "a header that is not ASCII")
    );
    assert_eq!(
        decode("Content-Length: 18446744073709551615\r\n\r\n").unwrap_err(),
        Malformed::TooLarge(u64::MAX)
    );
    let endless = format!("X: {}", "x".repeat(MAX_HEADER));
    assert_eq!(decode(&endless).unwrap_err(), Malformed::Invalid("a header without an end"));
}

/// Where a header says how long a message is, what is in it cannot bring the stream out of step.
#[test]
fn a_body_that_is_no_json_is_answered_and_the_client_goes_on() {
    for body in ["", " ", "{", "{]", "nul", "1 2", "{}{}", "\"\\ud800\"", "{\"a\":\u{1}}"] {
        let mut talk = Talk::new(Framing::ContentLength);
        talk.client_says(&framed(Framing::ContentLength, body));
        assert!(talk.told().contains("\"code\":-32700"), "{body:?}: {}", talk.told());
        talk.client_says(&framed(Framing::ContentLength, CALL));
        assert_eq!(talk.sent.len(), 1, "{body}");
    }
    let mut talk = Talk::new(Framing::ContentLength);
    talk.client_says(b"Content-Length: 3\r\n\r\n\"\xff\"");
    assert!(talk.told().contains("not UTF-8"));
    talk.client_says(&framed(Framing::ContentLength, &format!(" {CALL}\r\n")));
    assert_eq!(talk.sent.len(), 1);
}

/// Without headers nobody knows where the next one begins.
#[test]
fn a_value_that_is_no_json_is_answered_and_the_client_is_cut_off() {
    for value in [
        "}",
        "{]",
        "nul,",
        "hello",
        "{\"a\" 1}",
        "[1,]",
        "\"\\ud800\"",
        "{\"a\":\"\n\"}",
        "GET / HTTP/1.1",
        "-x",
    ] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(value.as_bytes());
        assert!(talk.bad.is_some(), "{value:?}");
        assert!(talk.told().contains("\"code\":-32700"), "{value:?}: {}", talk.told());
        assert_eq!(talk.sent, []);
    }
    // The end of this one is known.
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(b"[\"\xff\"]\n");
    talk.client_says(CALL.as_bytes());
    assert!(talk.bad.is_none() && talk.told().contains("not UTF-8"));
    assert_eq!(talk.sent.len(), 1);
}

#[test]
fn values_may_follow_each_other_with_nothing_between() {
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(format!("{CALL}{CALL}\r\n\r\n\t {CALL}\n").as_bytes());
    assert_eq!(talk.sent.len(), 3);
}

/// The white space that ends a message goes with it: what is left looks like the front of another one.
#[test]
fn nothing_is_left_of_a_message() {
    let protocol = JsonRpc::new(Settings::default()).unwrap();
    let mut codec = protocol.downstream(usize::MAX);
    let mut input = BytesMut::from(&format!("{CALL}\r\n")[..]);
    assert!(matches!(codec.decode(&mut input), Ok(Received::Request { .. })));
    assert!(input.is_empty());
    input.extend_from_slice(b"\n");
    assert!(matches!(codec.decode(&mut input), Ok(Received::More(Need::Unknown))));
    assert!(input.is_empty());
}

/// A scan from the start for each byte would look at fifty billion.
#[test]
fn a_byte_at_a_time_costs_no_more_than_a_byte() {
    let size = 300_000;
    for framing in [Framing::Line, Framing::ContentLength] {
        let json = format!(
            r#"{{"method":"a","id":1,"params":["{}",{}1{}]}}"#,
            "x".repeat(size),
            "[".repeat(50),
            "]".repeat(50)
        );
        let mut talk = Talk::new(framing);
        for byte in framed(framing, &json) {
            talk.client_says(&[byte]);
        }
        assert_eq!(talk.sent.len(), 1);
    }
}

/// Shapes that were or could be trouble, whole and cut short at every byte: they are taken, refused or waited for.
#[test]
fn a_corpus_of_odd_messages() {
    let corpus = [
        r#"{"id":0,"method":"a","params":[{"id":5,"jsonrpc":"2.0"}]}"#,
        r#"[{"jsonrpc":"2.0","method":"a","id":1},[],{},"x",null,{"jsonrpc":"2.0","method":"b"}]"#,
        r#"[[[[[[[[{"jsonrpc":"2.0"}]]]]]]]]"#,
        r#"{"jsonrpc":"2.0","method":"\\\"","id":"\\"}"#,
        r#"{"a":{"b":{"c":"}]"}},"method":"\"id\":0","id":-1.5e+10,"params":{"\"":"\\"}}"#,
        r##"{"id":"# \n\n","method":"a"}"##,
        "{\"id\":[\n\n1],\"method\":\"a\"}",
        r##"{"id":"#","method":"a","jsonrpc":"2.0"}"##,
        "Content-Length: 2\r\n\r\n{}",
        "\u{feff}{}",
    ];
    for framing in [Framing::Line, Framing::ContentLength] {
        for text in corpus {
            let bytes = framed(framing, text);
            for end in 0..=bytes.len() {
                let mut talk = Talk::new(framing);
                talk.client_says(&bytes[..end]);
                for (_, sent) in &talk.sent {
                    let start = sent.iter().position(|byte| b"[{".contains(byte)).unwrap();
                    let value: serde_json::Value = serde_json::from_slice(&sent[start..]).unwrap();
                    assert!(value.is_array() || value["method"].is_string());
                }
                if talk.bad.is_none() {
                    talk.server_echoes();
                }
            }
        }
    }
}
