//! What can be said about a length-prefixed protocol: plain values, as `config` reads them.
//!
//! Nothing here is checked; [`super::Frame::new`] does that, and says which key is wrong. Offsets are
//! bytes from the front of the frame.

use super::template::Template;
use crate::frame::Endian;
use crate::protocol::MAX_MESSAGE;

/// The options of `frame`. The fields have the names of the keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The length fields. A frame is as long as the sum of their values and their adjustments says, and
    /// a varint's own bytes count in addition.
    pub length: Vec<Length>,
    /// The correlation id. With one, `multiplex` is possible.
    pub id: Option<Field>,
    /// What makes a request one without a reply; no conditions, no such requests.
    pub oneway: Vec<Condition>,
    /// Frames answered in place, in either direction.
    pub heartbeat: Option<Heartbeat>,
    /// What makes a frame say that its sender is about to close; no conditions, no such frames.
    pub closing: Vec<Condition>,
    /// What makes a frame a request with a reply. No conditions, whatever is nothing else; with them, what is
    /// nothing at all is refused.
    pub message: Vec<Condition>,
    /// The reply of a request that gets none, in the layout of replies.
    pub error: Option<Template>,
    /// Where a request says what it calls.
    pub method: Option<Method>,
    /// Where replies differ.
    pub reply: Overrides,
    /// The longest frame in bytes, either way.
    pub max_message: usize,
    /// Whether servers answer the requests of one connection in their order; without that there is no
    /// `pipeline`. Not a key: presets of protocols that do not have it false.
    pub in_order: bool,
}

impl Settings {
    /// Frames with this one length field and nothing else.
    pub fn new(length: Length) -> Self {
        Self {
            length: vec![length],
            id: None,
            oneway: Vec::new(),
            heartbeat: None,
            closing: Vec::new(),
            message: Vec::new(),
            error: None,
            method: None,
            reply: Overrides::default(),
            max_message: MAX_MESSAGE,
            in_order: true,
        }
    }
}

/// A length field. Its share of the frame's length is its value + `adjust`; for a varint, + the bytes
/// the varint itself takes, so that `{ offset = 0, size = "varint" }` is protobuf's delimited format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Length {
    /// Where it begins.
    pub offset: usize,
    /// How wide it is.
    pub size: Size,
    /// The order of its bytes; a varint has its own.
    pub endian: Endian,
    /// Added to its value.
    pub adjust: i64,
}

/// The width of a length field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// So many bytes: 1, 2, 3, 4 or 8.
    Bytes(usize),
    /// Unsigned LEB128 of 1 to 10 bytes, as in protobuf.
    Varint,
}

/// The id field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Where it begins.
    pub offset: usize,
    /// Its width: 1 to 8 bytes.
    pub size: usize,
    /// The order of its bytes.
    pub endian: Endian,
    /// Values never used as a tag.
    pub avoid: Vec<u64>,
}

/// The name of what a request calls: all bytes of the field, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Where it begins.
    pub offset: usize,
    /// Its width.
    pub size: usize,
}

/// What one byte has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Where it is.
    pub offset: usize,
    /// The bits that count.
    pub mask: u8,
    /// Their value.
    pub equals: u8,
}

/// Frames that are answered in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// What makes a frame one: all must hold. The key is `match`.
    pub conditions: Vec<Condition>,
    /// The answer, in the layout of the other direction, with the heartbeat's id; absent, there is none.
    pub reply: Option<Template>,
    /// Whoever sends it, it is laid out as requests are, and its answer as replies are.
    pub is_request: bool,
}

/// What overrides the settings for replies. What is absent here is as in requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The length fields.
    pub length: Option<Vec<Length>>,
    /// The id; as wide as in requests. Its `avoid` adds to that of requests.
    pub id: Option<Field>,
    /// Frames answered in place.
    pub heartbeat: Option<Heartbeat>,
    /// What makes a frame say that the server is about to close.
    pub closing: Option<Vec<Condition>>,
    /// What makes a frame a reply.
    pub message: Option<Vec<Condition>>,
}
