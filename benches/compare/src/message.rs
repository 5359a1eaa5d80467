//! The protocols of the comparison: how a message is written, and where it ends. A new one is one more arm in each
//! function.

use std::io::Write;
use std::ops::Range;

/// How messages are delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Protocol {
    /// 4 bytes of length (big endian), then so many bytes.
    Frame,
    /// The same, and the first 8 of these bytes are an id.
    FrameId,
    /// Up to a newline.
    Line,
    /// Thrift in its framed transport and strict binary encoding: a call of `echo` with one string, and the reply to it.
    Thrift,
}

/// Where the id of [`Protocol::FrameId`] is.
pub const ID: Range<usize> = 4..12;

/// Ids that clients use: few, so that different clients use the same one at the same time.
const IDS: u64 = 5;

/// Of a call in Thrift: version 1, type 1.
const CALL: [u8; 4] = [0x80, 1, 0, 1];
/// The type of its reply, and where it is.
const REPLY: (u8, usize) = (2, 7);
const METHOD: &[u8] = b"echo";
/// The argument: a string, field 1.
const ARGUMENT: [u8; 3] = [11, 0, 1];
/// The low byte of the field's number; a result is field 0.
const FIELD: usize = THRIFT - 5;
/// What is before the string's bytes: lengths of frame, name and string, and the above with a sequence number.
const THRIFT: usize = 4 + CALL.len() + 4 + METHOD.len() + 4 + ARGUMENT.len() + 4;

impl Protocol {
    /// The length of the first message, once it is whole.
    pub fn whole(self, bytes: &[u8]) -> Option<usize> {
        let length = match self {
            Self::Frame | Self::FrameId | Self::Thrift => {
                let header: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
                usize::try_from(u32::from_be_bytes(header)).ok()?.checked_add(4)?
            }
            Self::Line => bytes.iter().position(|&b| b == b'\n')? + 1,
        };
        (length <= bytes.len()).then_some(length)
    }

    /// In which words `reply` refuses `request`, if it does. They are those of `configs/overload.toml`.
    pub fn refusal<'r>(self, request: &[u8], reply: &'r [u8]) -> Option<&'r str> {
        let body = match self {
            Self::Frame => reply.strip_prefix(&[0, 0, 0, 7])?,
            Self::FrameId => reply.strip_prefix(&[0, 0, 0, 15])?.strip_prefix(request.get(ID)?)?,
            Self::Thrift => return None,
            Self::Line => return std::str::from_utf8(reply).ok()?.strip_prefix("ERR ")?.strip_suffix('\n'),
        };
        (body == b"refused").then_some("refused")
    }

    /// Makes the reply of a request, in its place. Only in Thrift they differ, and are as long.
    pub fn answer(self, message: &mut [u8]) {
        if self == Self::Thrift && message.len() > THRIFT {
            message[REPLY.1] = REPLY.0;
            message[FIELD] = 0;
        }
    }

    /// Whether `reply` is the one to `request`, to the byte: in Thrift sequence number, name and string.
    pub fn answers(self, request: &[u8], reply: &[u8]) -> bool {
        if self != Self::Thrift {
            return reply == request;
        }
        let mut due = request.to_vec();
        self.answer(&mut due);
        reply == due
    }

    /// Puts a request of `size` bytes that carries `nonce` in place of what is in `into`.
    pub fn write(self, nonce: u64, size: usize, into: &mut Vec<u8>) {
        into.clear();
        match self {
            Self::Frame => into.extend([0; 4]),
            Self::FrameId => {
                into.extend([0; 4]);
                into.extend((nonce % IDS + 1).to_be_bytes());
            }
            Self::Line => {}
            Self::Thrift => {
                let id = u32::try_from(nonce % IDS + 1).unwrap_or_default();
                into.extend([0; 4]);
                into.extend(CALL);
                into.extend(length(METHOD));
                into.extend(METHOD);
                into.extend(id.to_be_bytes());
                into.extend(ARGUMENT);
                into.extend([0; 4]);
            }
        }
        // Writing to a vector does not fail.
        let _ = write!(into, "{nonce:016x}");
        let body =
            size.saturating_sub(usize::from(matches!(self, Self::Line | Self::Thrift))).max(into.len());
        into.resize(body, b'.');
        match self {
            Self::Frame | Self::FrameId => {}
            Self::Line => into.push(b'\n'),
            Self::Thrift => {
                let string = length(&into[THRIFT..]);
                into[THRIFT - 4..THRIFT].copy_from_slice(&string);
                // The end of the arguments.
                into.push(0);
            }
        }
        if self != Self::Line {
            let frame = length(&into[4..]);
            into[..4].copy_from_slice(&frame);
        }
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_from_replies() {
        let said = |protocol: Protocol, reply: &'static [u8]| {
            let mut request = Vec::new();
            protocol.write(7, 64, &mut request);
            assert_eq!(protocol.refusal(&request, &request), None);
            protocol.refusal(&request, reply)
        };
        assert_eq!(said(Protocol::Frame, b"\0\0\0\x07refused"), Some("refused"));
        assert_eq!(said(Protocol::Frame, b"\0\0\0\x08refused!"), None);
        assert_eq!(said(Protocol::FrameId, b"\0\0\0\x0f\0\0\0\0\0\0\0\x03refused"), Some("refused"));
        assert_eq!(said(Protocol::FrameId, b"\0\0\0\x0f\0\0\0\0\0\0\0\x04refused"), None);
        assert_eq!(said(Protocol::Line, b"ERR shutting down\n"), Some("shutting down"));
        assert_eq!(said(Protocol::Line, b"ERR shutting"), None);
    }

    #[test]
    fn a_call_in_thrift_has_one_reply() {
        let (mut call, mut other) = (Vec::new(), Vec::new());
        Protocol::Thrift.write(7, 48, &mut call);
        assert_eq!(
            call,
            b"\0\0\0\x2c\x80\x01\0\x01\0\0\0\x04echo\0\0\0\x03\x0b\0\x01\0\0\0\x140000000000000007....\0"
        );
        let mut reply = call.clone();
        Protocol::Thrift.answer(&mut reply);
        assert_eq!(
            reply,
            b"\0\0\0\x2c\x80\x01\0\x02\0\0\0\x04echo\0\0\0\x03\x0b\0\0\0\0\0\x140000000000000007....\0"
        );
        assert!(Protocol::Thrift.answers(&call, &reply));
        assert!(!Protocol::Thrift.answers(&call, &call));
        for at in 0..reply.len() {
            let mut wrong = reply.clone();
            wrong[at] ^= 1;
            assert!(!Protocol::Thrift.answers(&call, &wrong), "byte {at}");
        }
        // The same sequence number, another string.
        Protocol::Thrift.write(12, 48, &mut other);
        Protocol::Thrift.answer(&mut other);
        assert!(!Protocol::Thrift.answers(&call, &other));
    }

    #[test]
    fn what_is_written_is_whole_and_no_shorter_part_is() {
        for protocol in [Protocol::Frame, Protocol::FrameId, Protocol::Line, Protocol::Thrift] {
            let mut message = Vec::new();
            protocol.write(7, 64, &mut message);
            assert_eq!(message.len(), 64);
            assert_eq!(protocol.whole(&message), Some(64));
            assert!((0..64).all(|cut| protocol.whole(&message[..cut]).is_none()));
        }
    }
}
