//! Layouts of well-known protocols, as starting points.
//!
//! Each is what the protocol's own documentation says; `max_message` is warmline's. Read by `config`.

use super::settings::{Length, Settings, Size};
use crate::frame::Endian;

/// The names of the presets.
pub const PRESETS: [&str; 4] = ["swoole", "netty4", "tars", "brpc"];

/// The settings of the preset called `name`.
pub fn preset(name: &str) -> Option<Settings> {
    match name {
        // `open_length_check` as its documentation shows it: `package_length_type` N,
        // `package_length_offset` 0, `package_body_offset` 4.
        // `LengthFieldPrepender(4)` with `LengthFieldBasedFrameDecoder(max, 0, 4, 0, 4)`.
        "swoole" | "netty4" => Some(Settings::new(be32(0, 4))),
        // TarsProtocol: the length counts itself. Servers answer in any order, by an id inside the body.
        "tars" => Some(Settings { in_order: false, ..Settings::new(be32(0, 0)) }),
        // baidu_std: "PRPC", the size of the body, the size of the metadata at its beginning. Servers
        // answer in any order, by an id inside the metadata.
        "brpc" => Some(Settings { in_order: false, ..Settings::new(be32(4, 12)) }),
        _ => None,
    }
}

/// A length of four bytes, most significant first.
fn be32(offset: usize, adjust: i64) -> Length {
    Length { offset, size: Size::Bytes(4), endian: Endian::Big, adjust }
}
