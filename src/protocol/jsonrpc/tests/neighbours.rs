//! What goes to a server whose connection others use as well: nothing that would cost them theirs.

use super::super::{Framing, JsonRpc, Settings};
use super::talk::{Talk, framed, requests};
use super::{protocol, sent, told};
use crate::protocol::{Id, Protocol, Received};

/// Python's reader raises an error of another kind for long ones, and some servers hear nothing more after it; others
/// take what they cannot represent for text that is no JSON.
#[test]
fn numbers_that_not_every_reader_takes_do_not_travel() {
    let call =
        |number: &str| format!(r#"{{"jsonrpc":"2.0","method":"a","params":[0,{{"a":{number}}}],"id":1}}"#);
    let largest = format!("{}", f64::MAX);
    for number in [
        "9".repeat(309),
        "1".repeat(310),
        format!("-{}", "1".repeat(310)),
        "9".repeat(5000),
        format!("0.{}", "0".repeat(1000)),
        "1e999".to_owned(),
        "-1E+309".to_owned(),
        "1.8e308".to_owned(),
        format!("0.{}1e1400", "0".repeat(900)),
        "1e99999999999999999999".to_owned(),
    ] {
        for text in [call(&number), format!(r#"{{"method":"a","params":[],"x":{number},"id":1}}"#)] {
            let said = told(&text);
            assert!(said.contains("a number that not every reader takes"), "{number}: {said}");
            assert!(said.ends_with("\"id\":1}\n"), "{said}");
        }
        let mut talk = Talk::new(Framing::Line);
        for byte in call(&number).as_bytes() {
            talk.client_says(&[*byte]);
        }
        assert_eq!(talk.sent, []);
        let batch = format!(r#"[{},{{"jsonrpc":"2.0","method":"b","id":2}}]"#, call(&number));
        assert_eq!(sent(&batch).unwrap(), "[{\"id\":1,\"jsonrpc\":\"2.0\",\"method\":\"b\"}]\n");
    }
    for number in [
        &*largest,
        "1e308",
        "-1.7976931348623157e308",
        "0e999",
        "1e-999",
        "1e0000000002",
        &format!("0.{}1e900", "0".repeat(900)),
        "-0",
    ] {
        assert!(sent(&call(number)).unwrap().contains(number), "{number}");
    }
    // Digits in text are none, and an id does not travel.
    assert!(sent(&call(&format!("[1e111,\"1e999\",\"{}\"]", "9".repeat(5000)))).is_some());
    assert!(sent(r#"{"jsonrpc":"2.0","method":"a","params":[1e111],"id":1e999}"#).is_some());
}

/// A server may do with its numbers what it likes.
#[test]
fn numbers_in_replies_are_passed_on() {
    for number in ["1e999".to_owned(), "9".repeat(5000)] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(br#"{"jsonrpc":"2.0","method":"a","id":7}"#);
        talk.server_replies(format!(r#"{{"id":1,"result":{number}}}"#).as_bytes());
        assert_eq!(talk.told(), format!(r#"{{"id":7,"result":{number}}}"#) + "\n");
    }
}

/// To the server, the id in it is that of somebody else's request.
#[test]
fn cancellations_do_not_travel() {
    let cancel = r#"{"jsonrpc":"2.0","method":"$\/cancelRequest","params":{"id":1}}"#;
    let first = r#"{"id":null,"method":"$/cancelRequest","params":[1]}"#;
    let call = r#"{"jsonrpc":"2.0","method":"a","id":1}"#;
    for framing in [Framing::Line, Framing::ContentLength] {
        let mut talk = Talk::new(framing);
        for text in [cancel.to_owned(), first.to_owned(), format!("[{cancel},{cancel}]")] {
            assert!(matches!(requests(&protocol(framing), &framed(framing, &text))[..], [Received::Dropped]));
            talk.client_says(&framed(framing, &text));
        }
        assert_eq!((&talk.sent[..], talk.told()), (&[][..], String::new()));
        talk.client_says(&framed(framing, &format!("[{cancel},{call}]")));
        let said = talk.sent_text();
        assert!(said.contains("[{\"id\":1,") && !said.contains("cancel"), "{said}");
        talk.server_echoes();
        assert!(talk.told().contains(r#"[{"id":1,"jsonrpc":"2.0","result":"a"}]"#), "{}", talk.told());
        let mut talk = Talk::new(framing);
        talk.client_says(&framed(framing, &format!("[{cancel},2]")));
        assert!(talk.sent.is_empty() && talk.told().contains("-32600"));
    }
    // Nor do calls of that name, which no server answers.
    let call = cancel.replace("\"params\"", "\"id\":\"x\",\"params\"");
    let refused = r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"Invalid Request: a cancellation with an id"},"id":"x"}"#;
    assert_eq!(told(&call), refused.to_owned() + "\n");
    assert_eq!(told(&format!("[{call},{cancel}]")), format!("[{refused}]\n"));
    assert!(told(r#"{"id":5,"method":"$/cancelRequest","params":[1]}"#).contains(r#""id":5"#));
    // Others with that sign do.
    assert!(sent(r#"{"jsonrpc":"2.0","method":"$/setTrace","params":{"value":"off"}}"#).is_some());
}

/// Go's server closes on one.
#[test]
fn batches_can_be_turned_off() {
    let protocol = JsonRpc::new(Settings { batches: false, ..Settings::default() }).unwrap();
    let mut talk = Talk::with(Framing::Line, &protocol);
    let call = r#"{"jsonrpc":"2.0","method":"a","id":1}"#;
    for batch in [format!("[{call}]"), format!("[{call},{call}]"), "[]".to_owned()] {
        talk.client_says(batch.as_bytes());
        assert_eq!(
            std::mem::take(&mut talk.output),
            b"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32600,\"message\":\"Invalid Request: batches are turned off\"},\"id\":null}\n"
        );
        assert_eq!(talk.sent, []);
    }
    talk.client_says(call.as_bytes());
    assert_eq!(talk.sent.len(), 1);
}

/// What a session keeps of an id is more than people should see.
#[test]
fn ids_are_shown_as_clients_wrote_them() {
    let protocol = protocol(Framing::Line);
    let shown = |text: &str| match requests(&protocol, text.as_bytes()).remove(0) {
        Received::Request { id, .. } => protocol.shown(id),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(r#"{"jsonrpc":"2.0","method":"a","id":"x"}"#), Id::Bytes("\"x\"".into()));
    assert_eq!(shown(r#"{"method":"a","params":[],"id":[1]}"#), Id::Bytes("[1]".into()));
    assert_eq!(shown(r#"{"method":"a","params":[],"id":null}"#), Id::None);
    assert_eq!(shown(r#"[{"jsonrpc":"2.0","method":"a","id":1}]"#), Id::None);
}
