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
}

/// Where the id of [`Protocol::FrameId`] is.
pub const ID: Range<usize> = 4..12;

/// Ids that clients use: few, so that different clients use the same one at the same time.
const IDS: u64 = 5;

impl Protocol {
    /// The length of the first message, once it is whole.
    pub fn whole(self, bytes: &[u8]) -> Option<usize> {
        let length = match self {
            Self::Frame | Self::FrameId => {
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
            Self::Line => return std::str::from_utf8(reply).ok()?.strip_prefix("ERR ")?.strip_suffix('\n'),
        };
        (body == b"refused").then_some("refused")
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
        }
        // Writing to a vector does not fail.
        let _ = write!(into, "{nonce:016x}");
        let body = size.saturating_sub(usize::from(self == Self::Line)).max(into.len());
        into.resize(body, b'.');
        match self {
            Self::Frame | Self::FrameId => {
                let length = u32::try_from(into.len() - 4).unwrap_or(u32::MAX);
                into[..4].copy_from_slice(&length.to_be_bytes());
            }
            Self::Line => into.push(b'\n'),
        }
    }
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
    fn what_is_written_is_whole_and_no_shorter_part_is() {
        for protocol in [Protocol::Frame, Protocol::FrameId, Protocol::Line] {
            let mut message = Vec::new();
            protocol.write(7, 64, &mut message);
            assert_eq!(message.len(), 64);
            assert_eq!(protocol.whole(&message), Some(64));
            assert!((0..64).all(|cut| protocol.whole(&message[..cut]).is_none()));
        }
    }
}
