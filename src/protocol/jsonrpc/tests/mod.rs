//! What clients and servers say to each other through the two halves.

mod hostile;
mod neighbours;
mod properties;
mod specification;
mod talk;

use serde_json::json;

use self::talk::{Talk, framed, requests};
use super::{Framing, JsonRpc, ServerMessages, Settings};
use crate::protocol::{Answered, Id, Malformed, Protocol, Received, Refusal};

fn protocol(framing: Framing) -> JsonRpc {
    JsonRpc::new(Settings { framing, ..Settings::default() }).unwrap()
}

/// What a server gets of `request`, its id apart; `None` if it gets nothing.
fn sent(request: &str) -> Option<String> {
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(request.as_bytes());
    talk.sent.first().map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap())
}

/// What a client is told about what it says, if no server has a part in it.
fn told(request: &str) -> String {
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(request.as_bytes());
    assert_eq!(talk.sent, []);
    talk.told()
}

#[test]
fn settings_that_cannot_be() {
    let error = |settings: Settings| JsonRpc::new(settings).unwrap_err().to_string();
    assert_eq!(
        error(Settings { max_message: 19, ..Settings::default() }),
        "max_message: no request is that short; raise it"
    );
    assert_eq!(
        error(Settings { batches: false, server_messages: ServerMessages::Pass, ..Settings::default() }),
        "batches: with `server_messages = \"pass\"` nobody looks at what clients send; leave one of the two out"
    );
}

#[test]
fn requests_are_written_anew() {
    let same = [
        r#"{"id":1,"jsonrpc":"2.0","method":"a"}"#,
        r#"{"id":1,"jsonrpc":"2.0","method":"a","params":[1, "x y" ,null]}"#,
        r#"{"jsonrpc":"2.0","method":"a","params":{}}"#,
        r#"{"id":1,"method":"a","params":[]}"#,
        r#"{"id":null,"method":"a","params":[]}"#,
    ];
    for request in same {
        assert_eq!(sent(request).unwrap(), request.replace(", ", ",").replace(" ,", ",") + "\n");
    }
    let other = [
        (r#"{"method" : "a", "id": "x", "jsonrpc": "2.0"}"#, r#"{"id":1,"jsonrpc":"2.0","method":"a"}"#),
        // The method in one spelling, so that it can be compared.
        (r#"{"id":0,"method":"\u0061\/\n\ud83d\ude00\""}"#, "{\"id\":1,\"method\":\"a/\\n😀\\\"\"}"),
        // An edition by another spelling; names, too.
        (r#"{"\u0069d":0,"jsonrpc":"\u0032.0","method":"a"}"#, r#"{"id":1,"jsonrpc":"2.0","method":"a"}"#),
        (r#"{"id":1,"method":"a","params":null}"#, r#"{"id":1,"method":"a"}"#),
        // What nobody knows goes along.
        (
            r#"{"auth":{"a": [1]},"id":1,"x":"y","method":"a"}"#,
            r#"{"id":1,"method":"a","auth":{"a":[1]},"x":"y"}"#,
        ),
    ];
    for (request, expected) in other {
        assert_eq!(sent(request).unwrap(), expected.to_owned() + "\n", "{request}");
    }
}

#[test]
fn ids_come_back_byte_for_byte() {
    let ids = [
        "1",
        "1.0",
        "1e2",
        "-0",
        "0.1000",
        "\"1\"",
        "\"\"",
        "\"\\u0041\"",
        "\"é\"",
        "null",
        "12345678901234567890123",
        "1e999",
    ];
    for framing in [Framing::Line, Framing::ContentLength] {
        for id in ids {
            let mut talk = Talk::new(framing);
            talk.client_says(&framed(framing, &format!(r#"{{"jsonrpc":"2.0","method":"a","id": {id} }}"#)));
            talk.server_echoes();
            let expected = format!(r#"{{"id":{id},"jsonrpc":"2.0","result":"a"}}"#);
            assert_eq!(talk.output, framed(framing, &expected), "{id}");
        }
    }
    // The first edition allows any, except null.
    for id in ["[1, 2]", "{\"a\" : []}", "true", "[]"] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(format!(r#"{{"method":"a","id":{id},"params":[]}}"#).as_bytes());
        talk.server_echoes();
        assert_eq!(talk.told(), format!(r#"{{"id":{id},"result":"a"}}"#) + "\n");
    }
}

#[test]
fn what_is_no_request_is_answered_and_does_not_travel() {
    let v2 = |reason: &str, id: &str| {
        format!(
            r#"{{"jsonrpc":"2.0","error":{{"code":-32600,"message":"Invalid Request: {reason}"}},"id":{id}}}"#
        ) + "\n"
    };
    let v1 = |reason: &str, id: &str| {
        format!(r#"{{"result":null,"error":"Invalid Request: {reason}","id":{id}}}"#) + "\n"
    };
    assert_eq!(told("{}"), v2("a request without `method`", "null"));
    assert_eq!(told("7 "), v2("a request is an object", "null"));
    assert_eq!(told("[]"), v2("an empty batch", "null"));
    assert_eq!(told(r#"{"id":7,"jsonrpc":"2.0"}"#), v2("a request without `method`", "7"));
    assert_eq!(told(r#"{"id":7,"jsonrpc":"2.1","method":"a"}"#), v2("`jsonrpc` is not \\\"2.0\\\"", "7"));
    assert_eq!(told(r#"{"id":7,"jsonrpc":2.0,"method":"a"}"#), v2("`jsonrpc` is not \\\"2.0\\\"", "7"));
    assert_eq!(told(r#"{"id":7,"jsonrpc":"2.0","method":1}"#), v2("`method` is no text", "7"));
    assert_eq!(
        told(r#"{"id":7,"jsonrpc":"2.0","method":"a","params":1}"#),
        v2("`params` is neither a list nor an object", "7")
    );
    assert_eq!(
        told(r#"{"id":[7],"jsonrpc":"2.0","method":"a"}"#),
        v2("`id` is neither text nor a number", "null")
    );
    let long = format!(r#"{{"id":"{}","jsonrpc":"2.0","method":"a"}}"#, "x".repeat(1023));
    assert_eq!(told(&long), v2("`id` is too long", "null"));
    assert_eq!(told(r#"{"id":1,"method":"a","id":1}"#), v1("two members of the same name", "null"));
    assert_eq!(
        told(r#"{"id":1,"method":"a","\u006dethod":"b"}"#),
        v1("two members of the same name", "null")
    );
    assert_eq!(told(r#"{"method":"a","params":[]}"#), v1("a request without `id`", "null"));
    assert_eq!(told(r#"{"id":1,"method":"a","result":1}"#), v1("a request with `result` or `error`", "1"));
}

/// Go reads names without looking at letter case, and the last one wins; readers in C may end a name at a zero.
#[test]
fn no_name_can_pass_for_the_id_of_another_request() {
    let names = [
        "ID",
        "Id",
        "iD",
        "\\u0049d",
        "id\\u0000",
        "ID\\u0000x",
        "METHOD",
        "Param\u{17f}",
        "j\u{17f}onrpc",
        "Result",
        "ıd",
    ];
    for name in names {
        let said = told(&format!(r#"{{"id":1,"method":"a","{name}":2}}"#));
        assert!(said.contains("letter case"), "{name}: {said}");
    }
    for name in ["ids", "i d", "xid", "", "\\\"id", "idéa"] {
        assert!(sent(&format!(r#"{{"id":1,"method":"a","{name}":2}}"#)).is_some(), "{name}");
    }
}

#[test]
fn a_method_has_one_name() {
    let protocol = protocol(Framing::Line);
    let method = |request: &str| {
        let [Received::Request { request, .. }] = &requests(&protocol, request.as_bytes())[..] else {
            panic!("{request}")
        };
        protocol.method(&request.bytes).map(|name| String::from_utf8(name.to_vec()).unwrap())
    };
    assert_eq!(method(r#"{"id":1,"method":"\u0061.b"}"#).as_deref(), Some("a.b"));
    assert_eq!(method(r#"{"id":null,"method":"a.b"}"#).as_deref(), Some("a.b"));
    assert_eq!(method(r#"{"jsonrpc":"2.0","method":"a.b"}"#).as_deref(), Some("a.b"));
    assert_eq!(method(r#"{"jsonrpc":"2.0","params":["method"],"method":"é","id":3}"#).as_deref(), Some("é"));
    assert_eq!(method(r#"{"jsonrpc":"2.0","method":"a\"b","id":3}"#).as_deref(), Some("a\\\"b"));
    assert_eq!(method(r#"[{"jsonrpc":"2.0","method":"a","id":3}]"#), None);
    assert_eq!(protocol.method(b"{\"id\":0,\"method\":\"a\\"), None);
    assert_eq!(protocol.method(&[0; 100]), None);
    let call = protocol.call(b"a\"b").unwrap();
    assert_eq!(call, "{\"jsonrpc\":\"2.0\",\"method\":\"a\\\"b\",\"id\":0}\n");
    assert_eq!(protocol.call(b"\xff"), None);
    let ping = super::tests::protocol(Framing::ContentLength).ping().unwrap();
    assert_eq!(
        ping,
        "Content-Length: 51\r\n\r\n{\"jsonrpc\":\"2.0\",\"method\":\"warmline.ping\",\"id\":0}"
            .replace("51", &(ping.len() - 22).to_string())
    );
}

#[test]
fn refusals_are_in_the_words_of_the_client() {
    let refused = |request: &str, refusal: &Refusal| {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(request.as_bytes());
        talk.refuse(refusal);
        talk.told()
    };
    assert_eq!(
        refused(r#"{"jsonrpc":"2.0","method":"a","id":"x"}"#, &Refusal::Down("\"here\"".into())),
        "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32053,\"message\":\"upstream is down: \\\"here\\\"\"},\"id\":\"x\"}\n"
    );
    assert_eq!(
        refused(r#"{"method":"a","params":[],"id":4}"#, &Refusal::Timeout),
        "{\"result\":null,\"error\":\"upstream did not reply in time\",\"id\":4}\n"
    );
    // Whatever it has said since.
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(br#"{"method":"a","params":[],"id":4}{"params":[],"id":5}"#);
    talk.output.clear();
    talk.refuse(&Refusal::Timeout);
    assert_eq!(talk.told(), "{\"result\":null,\"error\":\"upstream did not reply in time\",\"id\":4}\n");
    let batch = r#"[{"jsonrpc":"2.0","method":"a","id":1},{"jsonrpc":"2.0","method":"a"},2,{"jsonrpc":"2.0","method":"a","id":"b"}]"#;
    let answer: serde_json::Value = serde_json::from_str(&refused(batch, &Refusal::Lost)).unwrap();
    let codes: Vec<_> =
        answer.as_array().unwrap().iter().map(|error| (&error["id"], &error["error"]["code"])).collect();
    let [lost, invalid] = [json!(-32055), json!(-32600)];
    assert_eq!(codes, [(&json!(1), &lost), (&json!("b"), &lost), (&json!(null), &invalid)]);
}

#[test]
fn messages_of_a_servers_own_are_dropped_or_answered() {
    let mut talk = Talk::new(Framing::Line);
    let unasked = |talk: &mut Talk, text: &str| match talk.server_says(text.as_bytes()).unwrap() {
        Answered::Unasked(answer) => answer.map(|answer| String::from_utf8(answer.to_vec()).unwrap()),
        other => panic!("{other:?}"),
    };
    assert_eq!(unasked(&mut talk, r#"{"jsonrpc":"2.0","method":"progress","params":[1]}"#), None);
    assert_eq!(unasked(&mut talk, r#"{"method":"progress","params":[1],"id":null}"#), None);
    assert_eq!(unasked(&mut talk, r#"[{"jsonrpc":"2.0","method":"progress"}]"#), None);
    assert_eq!(
        unasked(&mut talk, r#"{"jsonrpc":"2.0","method":"ask","id":"7"}"#).as_deref(),
        Some(
            "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32601,\"message\":\"Method not found\"},\"id\":\"7\"}\n"
        )
    );
}

/// Whatever else it has, it has an outcome.
#[test]
fn a_reply_may_name_the_method() {
    for outcome in [r#""result":1"#, r#""error":{"code":1}"#] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(br#"{"jsonrpc":"2.0","method":"a","id":7}"#);
        talk.server_replies(format!(r#"{{"method":"a",{outcome},"id":1}}"#).as_bytes());
        assert_eq!(talk.told(), format!(r#"{{"id":7,"method":"a",{outcome}}}"#) + "\n");
    }
}

/// It may be the second reply to the request of another client, or a notification's.
#[test]
fn a_reply_without_an_id_answers_nobody() {
    let call = r#"{"jsonrpc":"2.0","method":"a","id":7}"#;
    let batch = format!("[{call},{call}]");
    let error = r#"{"jsonrpc":"2.0","error":{"code":-32600,"message":"no"},"id":null}"#;
    let result = r#"{"jsonrpc":"2.0","result":1,"id":null}"#;
    for (asked, said) in [
        (call, error.to_owned()),
        (call, result.to_owned()),
        (call, result.replace(",\"id\":null", "")),
        (call, format!("[{result}]")),
        (&batch, error.to_owned()),
        (&batch, format!("[{error},{result}]")),
    ] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(asked.as_bytes());
        assert!(matches!(talk.server_says(said.as_bytes()), Ok(Answered::Unclaimed)), "{asked} {said}");
    }
}

#[test]
fn batches_are_one_exchange() {
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(
        br#" [ {"jsonrpc":"2.0","method":"a","id":"x"} , {"jsonrpc":"2.0","method":"n"},
              {"jsonrpc":"2.0","method":"b","id":1.50}, {"jsonrpc":"2.0","method":"c","id":"x"} ] "#,
    );
    assert_eq!(
        talk.sent_text(),
        r#"[{"id":1,"jsonrpc":"2.0","method":"a"},{"jsonrpc":"2.0","method":"n"},{"id":1099511627777,"jsonrpc":"2.0","method":"b"},{"id":2199023255553,"jsonrpc":"2.0","method":"c"}]"#
            .to_owned() + "\n"
    );
    // In any order; what is missing is told, and what has no id is passed on.
    talk.server_replies(
        br#"[ {"result":"b","id":1099511627777}, {"error":{"code":1},"id":null}, {"id":1,"result": "a"} ]"#,
    );
    assert_eq!(
        talk.told(),
        r#"[{"id":1.50,"result":"b"},{"id":null,"error":{"code":1}},{"id":"x","result":"a"},{"jsonrpc":"2.0","error":{"code":-32059,"message":"upstream left this call of the batch out"},"id":"x"}]"#
            .to_owned() + "\n"
    );
}

#[test]
fn a_batch_of_notifications_has_no_answer_but_for_its_faults() {
    let notification = r#"{"jsonrpc":"2.0","method":"n"}"#;
    for framing in [Framing::Line, Framing::ContentLength] {
        let protocol = protocol(framing);
        let alone = requests(&protocol, &framed(framing, &format!("[{notification},{notification}]")));
        let [Received::Request { id: Id::None, request }] = &alone[..] else { panic!("{alone:?}") };
        assert!(request.oneway);
        assert_eq!(request.bytes, format!("[{notification},{notification}]"));
        let mixed = requests(&protocol, &framed(framing, &format!("[1,{notification}]")));
        let [Received::Refused { answer: Some(answer), .. }, Received::Request { request, .. }] = &mixed[..]
        else {
            panic!("{mixed:?}")
        };
        assert!(
            request.oneway && String::from_utf8_lossy(answer).contains("[{\"jsonrpc\":\"2.0\",\"error\"")
        );
        assert_eq!(request.bytes, format!("[{notification}]"));
    }
}

#[test]
fn a_batch_is_bounded() {
    let many = |count: usize, item: &str| format!("[{}]", vec![item; count].join(","));
    let call = r#"{"jsonrpc":"2.0","method":"a","id":1}"#;
    assert!(told(&many(1025, call)).contains("a batch of too many requests"));
    assert!(told(&many(30, "1")).starts_with("[{"));
    assert!(told(&many(50, "1")).starts_with('{'), "a few bytes can ask for many errors");
    let long = format!(r#"{{"jsonrpc":"2.0","method":"a","id":"{}"}}"#, "x".repeat(1000));
    let too_long = "a batch with ids and faults that are too long in sum";
    assert!(told(&many(17, &long)).contains(too_long));
    assert!(sent(&many(16, &long)).is_some());
    // Faults are told with the replies.
    assert!(told(&many(1000, "1").replacen('1', call, 1)).contains(too_long));
    assert!(sent(&many(100, "1").replacen('1', call, 1)).is_some());
    assert!(sent(&many(1024, call)).is_some());
}

#[test]
fn replies_that_answer_nothing_break_the_protocol() {
    let call = r#"{"jsonrpc":"2.0","method":"a","id":7}"#;
    let fault = |reply: &str, asked: &str| {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(asked.as_bytes());
        match talk.server_says(reply.as_bytes()) {
            Err(Malformed::Invalid(reason)) => reason,
            other => panic!("{other:?}"),
        }
    };
    for id in ["\"1\"", "1.0", "01", "-1", "[1]", "true", "99999999999999999999999"] {
        let reply = format!("{{\"result\":1,\"id\":{id}}}");
        let reason = fault(&reply, call);
        assert!(reason == "a reply with an id that no request had" || id == "01", "{id}: {reason}");
    }
    let batch = format!("[{call},{call}]");
    assert_eq!(fault(r#"{"id":1,"result":1}"#, &batch), "a batch answered call by call");
    assert_eq!(fault(r#"{"id":1099511627777,"result":1}"#, call), "a batch answered call by call");
    assert_eq!(fault(r#"[{"id":1,"result":1}]"#, call), "a batch in reply to a single call");
    for wrong in [
        r#"[{"id":1,"result":1},{"id":1,"result":1}]"#,
        r#"[{"id":1,"result":1},{"id":2,"result":1}]"#,
        r#"[{"id":2199023255553,"result":1}]"#,
        r#"[{"id":9,"result":1}]"#,
    ] {
        assert_eq!(fault(wrong, &batch), "a batch with ids of another one", "{wrong}");
    }
    assert_eq!(fault("[1]", &batch), "a reply that is no object");
    assert_eq!(fault("7 ", call), "a message that is no object");
    assert_eq!(fault("{]", call), "not JSON");
    assert_eq!(fault(r#"{"id":1,"id":1,"result":1}"#, call), "a message with two ids");
    // The connection finds out about a number that nothing has.
    let mut talk = Talk::new(Framing::Line);
    assert!(matches!(talk.server_says(br#"{"id":5,"result":1}"#), Ok(Answered::Reply { tag: Some(_), .. })));
}

/// What a server says is passed on as it is, even text that a client may not send.
#[test]
fn replies_may_hold_text_that_is_none() {
    for text in [&b"\\ud800"[..], b"\xff\xfe", b"\\udc00\\ud800x"] {
        let mut talk = Talk::new(Framing::Line);
        talk.client_says(br#"{"jsonrpc":"2.0","method":"a","id":7}"#);
        talk.server_replies(&[b"{\"id\":1,\"result\":\"", text, b"\"}"].concat());
        assert_eq!(talk.output, [b"{\"id\":7,\"result\":\"", text, b"\"}\n"].concat());
    }
}
