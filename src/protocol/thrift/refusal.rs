//! `TApplicationException`: what a client is told where there is no reply.

use super::envelope::{self, EXCEPTION, Envelope};
use super::settings::Encoding;

/// The types of exception, as the libraries number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Internal = 6,
    Protocol = 7,
    InvalidTransform = 8,
    InvalidProtocol = 9,
    UnsupportedClient = 10,
}

/// The exception that answers the request with this envelope.
pub(super) fn exception(
    encoding: Encoding,
    (written, envelope): (&[u8], &Envelope),
    code: Code,
    text: &str,
) -> Vec<u8> {
    let mut message = written.to_vec();
    message[envelope.kind_at] = envelope::kind_byte(encoding, EXCEPTION);
    put_fields(encoding, &mut message, code, text);
    message
}

/// The fields of the exception: 1, its text, and 2, its type.
fn put_fields(encoding: Encoding, message: &mut Vec<u8>, code: Code, text: &str) {
    let size = u32::try_from(text.len()).unwrap_or(u32::MAX);
    let code = code as u8;
    match encoding {
        Encoding::Binary => {
            message.extend_from_slice(&[11, 0, 1]);
            message.extend_from_slice(&size.to_be_bytes());
            message.extend_from_slice(text.as_bytes());
            message.extend_from_slice(&[8, 0, 2, 0, 0, 0, code, 0]);
        }
        Encoding::Compact => {
            message.push(0x18);
            envelope::put_varint(size, |byte| message.push(byte));
            message.extend_from_slice(text.as_bytes());
            // Zigzag.
            message.extend_from_slice(&[0x15, code << 1, 0]);
        }
        Encoding::Json => {
            let text = serde_json::Value::from(text);
            let fields = format!("{{\"1\":{{\"str\":{text}}},\"2\":{{\"i32\":{code}}}}}]");
            message.extend_from_slice(fields.as_bytes());
        }
    }
}
