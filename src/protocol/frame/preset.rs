//! Layouts of well-known protocols, as starting points.
//!
//! Each is what the protocol's own documentation says, `dubbo` and `bolt` byte for byte what its libraries write;
//! `max_message` is warmline's unless said otherwise. Read by `config`.

use super::settings::{Condition, Field, Heartbeat, Length, Overrides, Settings, Size};
use super::template::Template;
use crate::frame::Endian;

/// The names of the presets.
pub const PRESETS: [&str; 6] = ["swoole", "netty4", "dubbo", "bolt", "tars", "brpc"];

/// The settings of the preset called `name`.
pub fn preset(name: &str) -> Option<Settings> {
    match name {
        // `open_length_check` as its documentation shows it: `package_length_type` N,
        // `package_length_offset` 0, `package_body_offset` 4.
        // `LengthFieldPrepender(4)` with `LengthFieldBasedFrameDecoder(max, 0, 4, 0, 4)`.
        "swoole" | "netty4" => Some(Settings::new(be32(0, 4))),
        "dubbo" => Some(dubbo()),
        "bolt" => Some(bolt()),
        // TarsProtocol: the length counts itself. Servers answer in any order, by an id inside the body.
        "tars" => Some(Settings { in_order: false, ..Settings::new(be32(0, 0)) }),
        // baidu_std: "PRPC", the size of the body, the size of the metadata at its beginning. Servers
        // answer in any order, by an id inside the metadata.
        "brpc" => Some(Settings { in_order: false, ..Settings::new(be32(4, 12)) }),
        _ => None,
    }
}

/// Dubbo 2: magic, flags (80 request, 40 wants a reply, 20 event, the rest the serialization), status, 8 bytes of
/// id, the size of the body. The body is left alone, whatever its serialization.
fn dubbo() -> Settings {
    let flags = |mask, equals| vec![byte(0, 0xda), byte(1, 0xbb), Condition { offset: 2, mask, equals }];
    Settings {
        id: Some(id(4, 8)),
        message: flags(0xe0, 0xc0),
        oneway: flags(0xe0, 0x80),
        // An event that wants an answer is a heartbeat; one that wants none says READONLY: nothing new here.
        heartbeat: Some(Heartbeat {
            conditions: flags(0xe0, 0xe0),
            reply: Template::parse("da bb 22 14 {id} 00 00 00 01 4e").ok(),
            is_request: false,
        }),
        closing: flags(0xe0, 0xa0),
        // SERVER_ERROR, and a string of Hessian 2: "warmline: no reply from server".
        error: Template::parse(
            "da bb 02 50 {id} 00 00 00 1f \
             1e 77 61 72 6d 6c 69 6e 65 3a 20 6e 6f 20 72 65 70 6c 79 20 66 72 6f 6d 20 73 65 72 76 65 72",
        )
        .ok(),
        reply: Overrides { message: Some(flags(0xe0, 0x00)), ..Overrides::default() },
        // What servers take by default (`payload`): more could break a connection that others share.
        max_message: 16 + (8 << 20),
        in_order: false,
        ..Settings::new(be32(12, 16))
    }
}

/// Bolt 1: protocol, type (0 reply, 1 request, 2 one-way), 2 bytes of command (0 heartbeat, 1 request, 2 reply),
/// version, 4 bytes of id, codec; then 4 bytes of timeout in requests and 2 of status in replies, and the sizes of
/// class, header and content. Bolt 2 begins with another byte, and its checksum covers the id.
fn bolt() -> Settings {
    let begin = |kind, command| vec![byte(0, 1), byte(1, kind), byte(2, 0), byte(3, command)];
    // Servers read the sizes of class and header as signed numbers.
    let not_negative = [14, 16].map(|offset| Condition { offset, mask: 0x80, equals: 0 });
    let request = |kind| [begin(kind, 1).as_slice(), &not_negative].concat();
    let sizes = |at, header| vec![be16(at, header), be16(at + 2, 0), be32(at + 4, 0)];
    Settings {
        length: sizes(14, 22),
        id: Some(id(5, 4)),
        message: request(1),
        oneway: request(2),
        heartbeat: Some(Heartbeat {
            conditions: begin(1, 0),
            reply: Template::parse("01 00 0000 01 {id} 01 0000 0000 0000 00000000").ok(),
            is_request: true,
        }),
        // The status ERROR, without a word: what a client makes of words depends on its codec.
        error: Template::parse("01 00 0002 01 {id} 01 0001 0000 0000 00000000").ok(),
        reply: Overrides { length: Some(sizes(12, 20)), message: Some(begin(0, 2)), ..Overrides::default() },
        in_order: false,
        ..Settings::new(be16(14, 22))
    }
}

fn byte(offset: usize, equals: u8) -> Condition {
    Condition { offset, mask: 0xff, equals }
}

fn id(offset: usize, size: usize) -> Field {
    Field { offset, size, endian: Endian::Big, avoid: Vec::new() }
}

/// A length of two bytes, most significant first.
fn be16(offset: usize, adjust: i64) -> Length {
    Length { offset, size: Size::Bytes(2), endian: Endian::Big, adjust }
}

/// A length of four bytes, most significant first.
fn be32(offset: usize, adjust: i64) -> Length {
    Length { offset, size: Size::Bytes(4), endian: Endian::Big, adjust }
}
