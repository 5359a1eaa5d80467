//! JSON-RPC 2.0: `call` with the payload, which is text, for its only parameter and for result.

use serde_json::Value;

use super::{METHOD, Message, Reader, Side, Stop, Wire, bad, flags, known};

/// The id of an error that has none.
pub(crate) const NOBODYS: u64 = u64::MAX;

const HEADER: &str = "Content-Length: ";

pub(super) fn encode(wire: Wire, side: Side, message: &Message) -> Vec<u8> {
    let payload = Value::from(String::from_utf8_lossy(&message.payload));
    let id = message.id;
    let json = match (side, message.flags) {
        (Side::Client, 0) => {
            format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"method\":\"{METHOD}\",\"params\":[{payload}]}}")
        }
        (Side::Client, flags::ONEWAY) => {
            format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{METHOD}\",\"params\":[{payload}]}}")
        }
        (Side::Server, 0) => format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"result\":{payload}}}"),
        (side, flags) => panic!("{side:?} cannot say {flags:#04x} in JSON-RPC"),
    };
    let text = match wire {
        Wire::JsonLine => json,
        _ => format!("{HEADER}{}\r\n\r\n{json}", json.len()),
    };
    text.into_bytes()
}

pub(super) fn read(wire: Wire, input: &[u8]) -> Result<(Message, usize), Stop> {
    let (json, end) = if wire == Wire::JsonLine {
        let end = memchr::memchr(b'\n', input).ok_or(Stop::Short)?;
        (&input[..end], end + 1)
    } else {
        let mut reader = Reader::new(input);
        reader.expect(HEADER.as_bytes())?;
        let digits = memchr::memchr(b'\r', &input[reader.at..]).ok_or(Stop::Short)?;
        let length = std::str::from_utf8(reader.take(digits as u64)?).ok().and_then(|it| it.parse().ok());
        reader.expect(b"\r\n\r\n")?;
        let Some(length) = length else { return bad("no length", input) };
        (reader.take(length)?, reader.at)
    };
    let message = serde_json::from_slice(json).ok().and_then(|value| message(&value));
    message.map_or_else(|| bad("no message of JSON-RPC", json), |message| Ok((message, end)))
}

/// What `value` is, if it is anything that the rig or warmline would say.
fn message(value: &Value) -> Option<Message> {
    let object = value.as_object().filter(|object| object.get("jsonrpc").is_some_and(|it| it == "2.0"))?;
    let id = object.get("id");
    let text = |text: &Value| text.as_str().map(|text| text.as_bytes().to_vec());
    if let Some(method) = object.get("method") {
        let [payload] = &object.get("params")?.as_array()?[..] else { return None };
        let flags = if id.is_none() { flags::ONEWAY } else { 0 };
        let id = id.map_or(Some(0), Value::as_u64)?;
        return (method == METHOD).then_some(Message { flags, id, payload: text(payload)? });
    }
    match (object.get("result"), object.get("error")) {
        (Some(result), None) => Some(Message { flags: 0, id: id?.as_u64()?, payload: text(result)? }),
        (None, Some(error)) => {
            error.get("code")?.as_i64()?;
            let id = if id?.is_null() { NOBODYS } else { id?.as_u64()? };
            Some(Message { flags: flags::ERROR, id, payload: text(error.get("message")?)? })
        }
        _ => None,
    }
}

pub(super) fn front(input: &[u8]) -> Option<(Message, usize)> {
    const PARAMS: &[u8] = b"\"params\":[\"";
    const ID: &[u8] = b"{\"id\":";
    let head = &input[..input.len().min(256)];
    let find = |what: &[u8]| memchr::memmem::find(head, what).map(|at| at + what.len());
    let start = find(PARAMS)?;
    let digits = find(ID).map(|at| head[at..].iter().take_while(|byte| byte.is_ascii_digit()));
    let flags = if digits.is_none() { flags::ONEWAY } else { 0 };
    let id = digits.into_iter().flatten().fold(0, |id, digit| id * 10 + u64::from(digit - b'0'));
    Some((Message { flags, id, payload: Vec::new() }, start))
}

/// How an error of warmline's own begins. Its length has two digits or three.
pub(super) fn refusals(wire: Wire) -> Vec<Vec<Option<u8>>> {
    let error = known(b"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-320");
    if wire == Wire::JsonLine {
        return vec![error];
    }
    let digits = [2, 3].into_iter();
    digits
        .map(|digits| {
            [known(HEADER.as_bytes()), vec![None; digits], known(b"\r\n\r\n"), error.clone()].concat()
        })
        .collect()
}
