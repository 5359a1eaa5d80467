//! A client and a server with the two halves between them.

use std::convert::Infallible;
use std::fmt::Write as _;

use bytes::BytesMut;
use serde_json::Value;

use super::super::{Framing, JsonRpc};
use super::protocol;
use crate::protocol::{
    Answered, BadRequest, Downstream, Id, Malformed, Protocol, Received, Refusal, Request, Tag, Upstream,
};
use crate::wire::Output;

/// One client and one server connection.
#[derive(Debug)]
pub(super) struct Talk {
    framing: Framing,
    client: Box<dyn Downstream>,
    server: Box<dyn Upstream>,
    input: BytesMut,
    /// What went to the server, by its tag if a reply is to come.
    pub(super) sent: Vec<(Option<Tag>, Vec<u8>)>,
    owed: Vec<(Tag, Id)>,
    tags: u64,
    /// What the client was told.
    pub(super) output: Vec<u8>,
    /// Why the client was cut off.
    pub(super) bad: Option<BadRequest>,
}

impl Talk {
    pub(super) fn new(framing: Framing) -> Self {
        Self::with(framing, &protocol(framing))
    }

    pub(super) fn with(framing: Framing, protocol: &JsonRpc) -> Self {
        Self {
            framing,
            client: protocol.downstream(usize::MAX),
            server: protocol.upstream(usize::MAX),
            input: BytesMut::new(),
            sent: Vec::new(),
            owed: Vec::new(),
            tags: 0,
            output: Vec::new(),
            bad: None,
        }
    }

    /// The client's bytes come, as a session would take them.
    pub(super) fn client_says(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.bad.is_none() && !self.input.is_empty() {
            match self.client.decode(&mut self.input) {
                Ok(Received::Request { id, request }) => self.carry(id, &request),
                Ok(Received::Refused { answer, .. }) => self.output.extend(answer.unwrap_or_default()),
                Ok(Received::Dropped) => {}
                Ok(Received::More(_)) => break,
                Ok(other) => panic!("{other:?}"),
                Err(bad) => {
                    let mut out = Output::new();
                    self.client.refuse(&bad.id, &Refusal::Malformed, &mut out);
                    self.output.extend(written(out));
                    self.bad = Some(bad);
                }
            }
        }
    }

    fn carry(&mut self, id: Id, request: &Request) {
        self.tags += 1;
        let tag = Tag(self.tags);
        let mut out = Output::new();
        self.server.encode(request, tag, &mut out);
        self.sent.push(((!request.oneway).then_some(tag), written(out)));
        if !request.oneway {
            self.owed.push((tag, id));
        }
    }

    /// The server's bytes come; what they are is not looked at further.
    pub(super) fn server_says(&mut self, bytes: &[u8]) -> Result<Answered, Malformed> {
        self.server.decode(&mut BytesMut::from(bytes))
    }

    /// The server's bytes are one reply.
    pub(super) fn server_replies(&mut self, bytes: &[u8]) {
        let Ok(Answered::Reply { tag: Some(tag), reply }) = self.server_says(bytes) else {
            panic!("{}", String::from_utf8_lossy(bytes))
        };
        let place = self.owed.iter().position(|(owed, _)| *owed == tag).expect("a reply to a request");
        let (_, id) = self.owed.remove(place);
        let mut out = Output::new();
        self.client.encode(&id, reply, &mut out);
        self.output.extend(written(out));
    }

    /// The server answers every call with its method's name.
    pub(super) fn server_echoes(&mut self) {
        let answer = |call: &Value| {
            let (id, method) = (call.get("id")?, &call["method"]);
            let version = if call.get("jsonrpc").is_some() { "\"jsonrpc\":\"2.0\"," } else { "" };
            Some(format!("{{{version}\"result\":{method},\"id\":{id}}}"))
        };
        for (_, bytes) in std::mem::take(&mut self.sent).into_iter().filter(|(tag, _)| tag.is_some()) {
            let request: Value = serde_json::from_slice(unframed(self.framing, &bytes)).unwrap();
            let reply = match &request {
                Value::Array(calls) => {
                    format!("[{}]", calls.iter().rev().filter_map(answer).collect::<Vec<_>>().join(","))
                }
                call => answer(call).unwrap(),
            };
            self.server_replies(&framed(self.framing, &reply));
        }
    }

    /// The oldest request is refused.
    pub(super) fn refuse(&mut self, refusal: &Refusal) {
        let (_, id) = self.owed.remove(0);
        let mut out = Output::new();
        assert!(self.client.refuse(&id, refusal, &mut out));
        self.output.extend(written(out));
    }

    pub(super) fn told(&self) -> String {
        String::from_utf8(self.output.clone()).unwrap()
    }

    /// All that went to the server.
    pub(super) fn sent_text(&self) -> String {
        self.sent.iter().fold(String::new(), |mut text, (_, bytes)| {
            let _ = write!(text, "{}", String::from_utf8_lossy(bytes));
            text
        })
    }
}

/// Everything in `out`.
fn written(mut out: Output) -> Vec<u8> {
    let mut bytes = Vec::new();
    while !out.is_empty() {
        let Ok(_) = out.write_once(|slices| {
            let before = bytes.len();
            bytes.extend(slices.iter().flat_map(|slice| slice.iter()));
            Ok::<_, Infallible>(bytes.len() - before)
        });
    }
    bytes
}

/// `json` as it is written.
pub(super) fn framed(framing: Framing, json: &str) -> Vec<u8> {
    match framing {
        Framing::Line => format!("{json}\n").into_bytes(),
        Framing::ContentLength => format!("Content-Length: {}\r\n\r\n{json}", json.len()).into_bytes(),
    }
}

fn unframed(framing: Framing, bytes: &[u8]) -> &[u8] {
    match framing {
        Framing::Line => bytes,
        Framing::ContentLength => &bytes[memchr::memmem::find(bytes, b"\r\n\r\n").unwrap() + 4..],
    }
}

/// All that `bytes` hold for a session.
pub(super) fn requests(protocol: &JsonRpc, bytes: &[u8]) -> Vec<Received> {
    let (mut codec, mut input) = (protocol.downstream(usize::MAX), BytesMut::from(bytes));
    let mut all = Vec::new();
    while !input.is_empty() {
        match codec.decode(&mut input).unwrap() {
            Received::More(_) => break,
            received => all.push(received),
        }
    }
    all
}
