//! The examples of the JSON-RPC 2.0 specification, section 7, and of the 1.0 specification.

use serde_json::{Value, json};

use super::super::Framing;
use super::talk::{Talk, framed};

/// A server that does what the examples say of theirs.
fn serve(call: &Value) -> Option<Value> {
    let (id, params) = (call.get("id")?, &call["params"]);
    let number = |at: usize| params[at].as_i64();
    let result = match call["method"].as_str()? {
        "subtract" if params.is_array() => json!(number(0)? - number(1)?),
        "subtract" => json!(params["minuend"].as_i64()? - params["subtrahend"].as_i64()?),
        "sum" => json!(params.as_array()?.iter().filter_map(Value::as_i64).sum::<i64>()),
        "get_data" => json!(["hello", 5]),
        _ => {
            let error = json!({"code": -32601, "message": "Method not found"});
            return Some(json!({"jsonrpc": "2.0", "error": error, "id": id}));
        }
    };
    Some(json!({"jsonrpc": "2.0", "result": result, "id": id}))
}

/// What a client hears, the messages of errors of warmline's own cut to the words of the specification; and how often
/// the server was asked.
fn ask(framing: Framing, request: &str) -> (Option<Value>, usize) {
    let mut talk = Talk::new(framing);
    talk.client_says(&framed(framing, request));
    let sent = std::mem::take(&mut talk.sent);
    for (_, bytes) in sent.iter().filter(|(tag, _)| tag.is_some()) {
        let start = bytes.iter().position(|byte| b"[{".contains(byte)).unwrap();
        let reply = match serde_json::from_slice(&bytes[start..]).unwrap() {
            Value::Array(calls) => Value::Array(calls.iter().filter_map(serve).collect()),
            call => serve(&call).unwrap(),
        };
        talk.server_replies(&framed(framing, &reply.to_string()));
    }
    let told = talk.told();
    let text = told.find(['{', '[']).map(|start| &told[start..]);
    let mut answer: Option<Value> = text.map(|text| serde_json::from_str(text).unwrap());
    let cut = |reply: &mut Value| {
        if let Some(Value::String(message)) = reply.pointer_mut("/error/message") {
            message.truncate(message.find(':').unwrap_or(message.len()));
        }
    };
    match &mut answer {
        Some(Value::Array(replies)) => replies.iter_mut().for_each(cut),
        Some(reply) => cut(reply),
        None => {}
    }
    (answer, sent.len())
}

#[track_caller]
fn example(request: &str, answer: &str, asked: usize) {
    let sorted = |answer: Option<Value>| match answer {
        Some(Value::Array(mut replies)) => {
            replies.sort_by_key(Value::to_string);
            Some(Value::Array(replies))
        }
        other => other,
    };
    let expected = (!answer.is_empty()).then(|| serde_json::from_str(answer).unwrap());
    for framing in [Framing::Line, Framing::ContentLength] {
        let (found, sent) = ask(framing, request);
        assert_eq!((sorted(found), sent), (sorted(expected.clone()), asked), "{request}");
    }
}

#[test]
fn positional_parameters() {
    example(
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 1}"#,
        1,
    );
    example(
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}"#,
        r#"{"jsonrpc": "2.0", "result": -19, "id": 2}"#,
        1,
    );
}

#[test]
fn named_parameters() {
    example(
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 3}"#,
        1,
    );
    example(
        r#"{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}"#,
        r#"{"jsonrpc": "2.0", "result": 19, "id": 4}"#,
        1,
    );
}

#[test]
fn notifications() {
    example(r#"{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}"#, "", 1);
    example(r#"{"jsonrpc": "2.0", "method": "foobar"}"#, "", 1);
}

#[test]
fn a_method_that_does_not_exist() {
    example(
        r#"{"jsonrpc": "2.0", "method": "foobar", "id": "1"}"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}"#,
        1,
    );
}

#[test]
fn invalid_json() {
    example(
        r#"{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#,
        0,
    );
    example(
        r#"[
  {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
  {"jsonrpc": "2.0", "method"
]"#,
        r#"{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}"#,
        0,
    );
}

#[test]
fn invalid_requests() {
    const INVALID: &str =
        r#"{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}"#;
    example(r#"{"jsonrpc": "2.0", "method": 1, "params": "bar"}"#, INVALID, 0);
    example("[]", INVALID, 0);
    example("[1]", &format!("[{INVALID}]"), 0);
    example("[1,2,3]", &format!("[{INVALID},{INVALID},{INVALID}]"), 0);
}

#[test]
fn batches() {
    example(
        r#"[
        {"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}
    ]"#,
        r#"[
        {"jsonrpc": "2.0", "result": 7, "id": "1"},
        {"jsonrpc": "2.0", "result": 19, "id": "2"},
        {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
        {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
        {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}
    ]"#,
        1,
    );
    example(
        r#"[
        {"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}
    ]"#,
        "",
        1,
    );
}

/// The 1.0 specification, section 3.1.
#[test]
fn the_first_edition() {
    let mut talk = Talk::new(Framing::Line);
    talk.client_says(br#"{ "method": "echo", "params": ["Hello JSON-RPC"], "id": 1}"#);
    talk.server_replies(br#"{ "result": "Hello JSON-RPC", "error": null, "id": 1}"#);
    assert_eq!(talk.told(), "{\"id\":1,\"result\":\"Hello JSON-RPC\",\"error\":null}\n");
    talk.client_says(
        br#"{ "method": "handleMessage", "params": ["user1", "we were just talking"], "id": null}"#,
    );
    assert!(matches!(talk.sent.last(), Some((None, _))));
}
