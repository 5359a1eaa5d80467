//! One client, step by step, for tests that care about single bytes.

use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;

use super::socket::Stream;
use super::{Message, PATIENCE, Request, Wire, eventually, flags};

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: Stream,
    wire: Wire,
    input: Vec<u8>,
}

/// A request as it was sent, with the reply that is right.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: Request,
    pub(crate) bytes: Vec<u8>,
    pub(crate) reply: Message,
}

/// What came back.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// A message that is no refusal.
    Reply(Message),
    /// The protocol's own words for "no".
    Refused,
    /// The connection ended, maybe in the middle of a message.
    Closed,
}

impl Asked {
    /// A request of `size` bytes of payload or a little more.
    pub(crate) fn new(wire: Wire, verb: &str, size: usize) -> Self {
        Self::with_id(wire, verb, size, 1)
    }

    pub(crate) fn with_id(wire: Wire, verb: &str, size: usize, id: u64) -> Self {
        let mut request = Request::new(verb, 0, 0);
        let payload = request.payload(size, wire.is_binary());
        let id = if wire.has_id() { id } else { 0 };
        let reply = Message { flags: 0, id, payload: request.reply(&payload) };
        let bytes = wire.request(&Message { flags: 0, id, payload });
        Self { request, bytes, reply }
    }

    /// The same request, expecting no reply.
    pub(crate) fn oneway(wire: Wire) -> Self {
        let mut request = Request::new("echo", 0, 0);
        let payload = request.payload(100, true);
        let message = Message { flags: flags::ONEWAY, id: 1, payload };
        Self { request, bytes: wire.request(&message), reply: message }
    }
}

impl Client {
    pub(crate) fn connect(address: &str, wire: Wire) -> Self {
        let stream = Stream::connect(address).unwrap();
        stream.set_patience(PATIENCE).unwrap();
        Self { stream, wire, input: Vec::new() }
    }

    pub(crate) fn send(&self, bytes: &[u8]) {
        (&self.stream).write_all(bytes).unwrap();
    }

    /// Sends a request.
    pub(crate) fn ask(&self, verb: &str) -> Asked {
        let asked = Asked::new(self.wire, verb, 100);
        self.send(&asked.bytes);
        asked
    }

    /// Waits for a message or the end. Hearing nothing at all is a failure.
    #[track_caller]
    pub(crate) fn receive(&mut self) -> Answer {
        match self.message() {
            None => Answer::Closed,
            Some(message) if message.flags & flags::ERROR != 0 => Answer::Refused,
            Some(message) => Answer::Reply(message),
        }
    }

    /// Waits for a message as it is, `None` at the end.
    #[track_caller]
    pub(crate) fn message(&mut self) -> Option<Message> {
        loop {
            if let Some(message) = self.wire.decode(&mut self.input).expect("a message") {
                return Some(message);
            }
            let bytes = self.some_bytes(16 << 10);
            if bytes.is_empty() {
                return None;
            }
            self.input.extend_from_slice(&bytes);
        }
    }

    /// Waits for up to so many bytes; none at the end.
    #[track_caller]
    fn some_bytes(&self, most: usize) -> Vec<u8> {
        let mut buffer = vec![0; most];
        match (&self.stream).read(&mut buffer) {
            Ok(read) => {
                buffer.truncate(read);
                buffer
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("no answer in {PATIENCE:?}"),
            Err(_) => Vec::new(),
        }
    }

    /// Reads so many bytes, fewer if the end comes before, or the end of a message.
    #[track_caller]
    pub(crate) fn read_up_to(&self, most: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < most && !matches!(self.wire.decode(&mut bytes.clone()), Ok(Some(_))) {
            let more = self.some_bytes(most - bytes.len());
            if more.is_empty() {
                break;
            }
            bytes.extend(more);
        }
        bytes
    }

    /// Requires the end, and nothing before it.
    #[track_caller]
    pub(crate) fn expect_end(&self) {
        let rest = [&self.input[..], &self.some_bytes(100)].concat();
        assert!(rest.is_empty(), "after the answer came {}", rest.escape_ascii());
    }

    /// Requires the right reply.
    #[track_caller]
    pub(crate) fn expect(&mut self, asked: &Asked) {
        assert_eq!(self.receive(), Answer::Reply(asked.reply.clone()));
    }

    /// Requires the right reply or an explicit "no", never something else.
    #[track_caller]
    pub(crate) fn expect_reply_or_refusal(&mut self, asked: &Asked) -> Answer {
        let answer = self.receive();
        if let Answer::Reply(reply) = &answer {
            assert_eq!(*reply, asked.reply);
        }
        answer
    }

    /// Reads exactly so many bytes of whatever comes.
    pub(crate) fn read_exact(&self, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        (&self.stream).read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Reads to the end; tells what came before it, and whether the end was a clean one.
    pub(crate) fn read_to_end(&self) -> (Vec<u8>, io::Result<usize>) {
        let mut bytes = Vec::new();
        let result = (&self.stream).read_to_end(&mut bytes);
        (bytes, result)
    }

    pub(crate) fn finish_sending(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }
}

/// A new connection with one request that gets its right reply.
#[track_caller]
pub(crate) fn call(address: &str, wire: Wire, verb: &str) -> Client {
    let mut client = Client::connect(address, wire);
    let asked = client.ask(verb);
    client.expect(&asked);
    client
}

/// Asks until it is served: each time the right reply or an explicit "no".
pub(crate) fn call_until_served(address: &str, wire: Wire) {
    eventually("served again", || {
        let mut client = Client::connect(address, wire);
        let asked = client.ask("echo");
        matches!(client.expect_reply_or_refusal(&asked), Answer::Reply(_)).then_some(())
    });
}

/// Whether the client was told "no", by a message or by a close.
pub(crate) fn is_refused(answer: &Answer) -> bool {
    matches!(answer, Answer::Refused | Answer::Closed)
}
