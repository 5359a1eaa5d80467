//! What a protocol is to warmline: two sans-IO halves and a handful of facts.
//!
//! A [`Downstream`] speaks to one client, an [`Upstream`] to one server connection. Neither sees a
//! socket, a clock or the other half: a request decoded by one is encoded by any of the other.
//! Called by `session` and `connection`; a new protocol is one file here and one line in `config`.

pub mod frame;
pub mod jsonrpc;
pub mod line;
mod refusal;
pub mod thrift;

use std::fmt;

use bytes::{Bytes, BytesMut};

use crate::events::HandOver;
use crate::wire::{Charge, Output, Parts};
pub use refusal::Refusal;

/// The default of `max_message`, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// An option of a protocol that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}; {remedy}")]
pub struct SettingsError {
    /// The option as a path of keys from the protocol's own table; the items of a list go by their place,
    /// from 0: `oneway.2.mask`. What may be written as a list or as its only item is a list here:
    /// `length.0.size`.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// What would do.
    pub remedy: String,
}

/// How a pool shares its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// One request at a time per connection; its reply is the next message.
    Exclusive,
    /// Several requests per connection; replies come in the order of the requests.
    Pipeline,
    /// Several requests per connection; replies are matched by [`Tag`].
    Multiplex,
}

impl Mode {
    /// The word used in configuration, logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exclusive => "exclusive",
            Self::Pipeline => "pipeline",
            Self::Multiplex => "multiplex",
        }
    }
}

/// The number warmline gives a request on one upstream connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// The numbers a protocol has room for: `1 ..= last`, without those in `avoid`.
///
/// `last` is what the width of the id field can hold; `avoid` are values that mean something else
/// to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagSpace {
    /// The largest tag.
    pub last: u64,
    /// Values never used as a tag.
    pub avoid: Vec<u64>,
}

/// What a client calls its request. It never leaves the session: upstream there are only tags.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Id {
    /// The protocol has none.
    None,
    /// A fixed-width field, as its unsigned value.
    Bits(u64),
    /// As its protocol keeps it: whatever an answer must bring back to the client.
    Bytes(Bytes),
}

/// One request, meaningful on any connection.
#[derive(Debug)]
pub struct Request {
    /// The message as the client sent it, or the head of one that travels in parts. An id inside is a
    /// placeholder that [`Upstream::encode`] overwrites.
    pub bytes: Bytes,
    /// No reply will come; the request is complete once the kernel has its last byte.
    pub oneway: bool,
    /// What the message takes from the memory budget; set by the session.
    pub charge: Charge,
    /// What follows `bytes`, if that is a head; set by the session.
    pub rest: Option<Parts>,
}

impl Request {
    /// The request in `bytes`, or its head.
    pub fn new(bytes: Bytes, oneway: bool) -> Self {
        Self { bytes, oneway, charge: Charge::none(), rest: None }
    }

    /// It will not be sent again: its memory is free.
    pub fn forget(&mut self) {
        (self.bytes, self.charge) = (Bytes::new(), Charge::none());
    }
}

/// One reply.
#[derive(Debug)]
pub struct Reply {
    /// The message as the server sent it, or the head of one that travels in parts. An id inside is a
    /// placeholder that [`Downstream::encode`] overwrites.
    pub bytes: Bytes,
    /// What the message takes from the memory budget; set by the connection.
    pub charge: Charge,
    /// What follows `bytes`, if that is a head; set by the connection.
    pub rest: Option<Parts>,
}

impl Reply {
    /// The reply in `bytes`, or its head.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, charge: Charge::none(), rest: None }
    }
}

/// What the front of a client's bytes turned out to be.
#[derive(Debug)]
pub enum Received {
    /// A request, removed from the input.
    Request {
        /// What the client calls it.
        id: Id,
        /// The request itself.
        request: Request,
    },
    /// The head of a request that travels in parts, removed from the input. Its parts follow.
    Head {
        /// What the client calls it.
        id: Id,
        /// The head.
        request: Request,
        /// Bytes that follow it.
        rest: usize,
    },
    /// The next bytes of the request whose head came before, removed from the input.
    Part {
        /// As they are; at least one.
        bytes: Bytes,
        /// The request ends with them.
        last: bool,
    },
    /// A message answered in place (a heartbeat), removed from the input; these bytes go back.
    Control(Option<Bytes>),
    /// A message that no server is to see, removed from the input; nothing goes back.
    Dropped,
    /// Something that is no request although what follows it can be understood, removed from the input.
    Refused {
        /// What is wrong with it.
        reason: Malformed,
        /// How it begins.
        front: Bytes,
        /// The error that goes back, if it goes back by itself.
        answer: Option<Bytes>,
    },
    /// What the client says from here on needs a connection of its own, and there it goes as it is.
    HandOver {
        /// What the client calls the request that comes first, in case that it is refused.
        id: Id,
        /// Why.
        reason: HandOver,
        /// What the server must get before the rest of the input; removed from the input.
        front: Bytes,
    },
    /// The client says that it will send nothing more; removed from the input.
    Closing,
    /// Not a whole message yet.
    More(Need),
}

/// What the front of a server's bytes turned out to be.
#[derive(Debug)]
pub enum Answered {
    /// A reply, removed from the input, with the tag it carries if the protocol has tags.
    Reply {
        /// The tag that the server echoed.
        tag: Option<Tag>,
        /// The reply itself.
        reply: Reply,
    },
    /// The head of a reply that travels in parts, removed from the input. Its parts follow.
    Head {
        /// The tag that the server echoed.
        tag: Option<Tag>,
        /// The head.
        reply: Reply,
        /// Bytes that follow it.
        rest: usize,
    },
    /// The next bytes of the reply whose head came before, removed from the input.
    Part {
        /// As they are; at least one.
        bytes: Bytes,
        /// The reply ends with them.
        last: bool,
    },
    /// A message answered in place (a heartbeat), removed from the input; these bytes go back.
    Control(Option<Bytes>),
    /// A message that answers no request, removed from the input and dropped; these bytes go back.
    Unasked(Option<Bytes>),
    /// A reply that does not say what it answers, removed from the input and dropped.
    Unclaimed,
    /// The server is about to close: nothing new on this connection. Removed from the input.
    Closing,
    /// Not a whole message yet.
    More(Need),
}

/// How much is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// At least one byte more; where the message ends is not known yet.
    Unknown,
    /// The message, counted from the front of the input, is this many bytes long. Never more than
    /// the protocol's `max_message`.
    Total(usize),
    /// The message travels in parts.
    Head {
        /// Its head, counted from the front of the input, is this many bytes long.
        head: usize,
        /// So many bytes follow it.
        rest: usize,
    },
}

impl Need {
    /// The length of the whole message, if it is known.
    pub fn total(self) -> Option<usize> {
        match self {
            Self::Unknown => None,
            Self::Total(total) => Some(total),
            Self::Head { head, rest } => Some(head.saturating_add(rest)),
        }
    }

    /// What of a message in parts may have to be held besides its head, at most `window` bytes.
    pub fn window(self, window: usize) -> usize {
        match self {
            Self::Head { rest, .. } => rest.min(window),
            Self::Unknown | Self::Total(_) => 0,
        }
    }

    /// The size a buffer must grow to that holds `filled` bytes and may hold `limit`; `None` if it is large
    /// enough for the next read.
    ///
    /// # Errors
    /// [`Malformed::TooLarge`] if `max` bytes are there and still no end.
    pub fn beyond(self, filled: usize, limit: usize, max: usize) -> Result<Option<usize>, Malformed> {
        match self {
            Self::Total(size) | Self::Head { head: size, .. } if size > limit => Ok(Some(size)),
            Self::Unknown if filled >= max => Err(Malformed::TooLarge(filled as u64)),
            Self::Unknown if filled >= limit => Ok(Some(filled.saturating_mul(2).min(max))),
            _ => Ok(None),
        }
    }
}

/// Why bytes are not a message. What follows them cannot be understood either.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Longer than `max_message`, in bytes as declared or as seen so far.
    #[error("message of {0} bytes or more is over max_message")]
    TooLarge(u64),
    /// A length field that no message can have.
    #[error("{0}")]
    Invalid(&'static str),
}

/// A malformed request, with its id where it could be read, so that the refusal can carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// What the client calls the request; [`Id::None`] where the id was not reached.
    pub id: Id,
    /// What is wrong with it.
    pub reason: Malformed,
}

/// A protocol with its options.
pub trait Protocol: fmt::Debug + Send + Sync {
    /// Its name in configuration, logs and metrics.
    fn name(&self) -> &'static str;

    /// The modes it allows, the default first.
    fn modes(&self) -> &'static [Mode];

    /// The tags it has room for; `None` where a message carries no id.
    fn tags(&self) -> Option<TagSpace>;

    /// The longest message in bytes, in either direction.
    fn max_message(&self) -> usize;

    /// Whether messages can travel in parts. If not, each is stored whole.
    fn has_parts(&self) -> bool {
        false
    }

    /// Whether messages are written anew, so that for a moment there are two of one.
    fn rewrites(&self) -> bool {
        false
    }

    /// The name of what `request`, whole or its head, calls: some of its bytes. `None` where requests have no name,
    /// or this one is too short to hold it.
    fn method<'m>(&self, request: &'m [u8]) -> Option<&'m [u8]> {
        let _ = request;
        None
    }

    /// A request that only asks whether the server is there, as a client would send it. `None` where the protocol has
    /// none.
    fn ping(&self) -> Option<Bytes> {
        None
    }

    /// A request that calls `method` with nothing more, as a client would send it. `None` where that cannot be.
    fn call(&self, method: &[u8]) -> Option<Bytes> {
        let _ = method;
        None
    }

    /// `id` as people are to see it, where a session keeps more of it than that.
    fn shown(&self, id: Id) -> Id {
        id
    }

    /// Which option to look at where bytes that should be messages are refused for `reason`.
    fn remedy(&self, reason: Malformed) -> &'static str;

    /// A codec for one client. Requests of more than `max_buffered` bytes travel in parts if they can, the
    /// first so many bytes being the head.
    fn downstream(&self, max_buffered: usize) -> Box<dyn Downstream>;

    /// A codec for requests that a configuration spells out, and for the replies to them: it holds them whole, and
    /// hands nothing over.
    fn configured(&self) -> Box<dyn Downstream> {
        self.downstream(usize::MAX)
    }

    /// A codec for one server connection. The same holds for replies.
    fn upstream(&self, max_buffered: usize) -> Box<dyn Upstream>;
}

/// The half that speaks to one client.
pub trait Downstream: fmt::Debug + Send {
    /// Takes one message off the front of `input`.
    ///
    /// Progress is remembered between calls, so bytes once looked at are not scanned again; between
    /// two calls `input` only grows at its end.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Received, BadRequest>;

    /// Writes `reply`, or its head, as the answer to the request the client calls `id`. Parts follow as they
    /// are.
    fn encode(&mut self, id: &Id, reply: Reply, out: &mut Output);

    /// Writes a refusal in the protocol's own words. False if it has none: the client is then told by
    /// closing its connection.
    fn refuse(&mut self, id: &Id, refusal: &Refusal, out: &mut Output) -> bool;
}

/// The half that speaks to one server connection.
pub trait Upstream: fmt::Debug + Send {
    /// Writes `request`, or its head, under the number `tag`. Parts follow as they are.
    fn encode(&mut self, request: &Request, tag: Tag, out: &mut Output);

    /// Takes one message off the front of `input`. The rules of [`Downstream::decode`] hold.
    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed>;

    /// The request of `tag` gets no reply: whatever is known of it is of no use any more.
    fn forget(&mut self, tag: Tag) {
        let _ = tag;
    }

    /// Whether the connection is to take no more requests, as its stream has gathered too much.
    fn is_worn(&self) -> bool {
        false
    }

    /// Whether a server may send messages that answer nothing, such as heartbeats.
    fn speaks_unasked(&self) -> bool {
        false
    }
}
