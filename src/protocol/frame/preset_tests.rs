//! What the presets make of their protocols' bytes.

use super::*;

/// How long a request of the preset `name` is that begins with `bytes`.
fn needed(name: &str, bytes: &[u8]) -> Option<usize> {
    let frame = Frame::new(preset(name).unwrap()).unwrap();
    match frame.downstream(usize::MAX).decode(&mut bytes.into()).unwrap() {
        Received::More(need) => need.total(),
        Received::Request { request, .. } => Some(request.bytes.len()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn presets_are_valid() {
    for name in PRESETS {
        let frame = Frame::new(preset(name).unwrap()).unwrap();
        assert_eq!(frame.modes()[0], Mode::Exclusive, "{name}");
        let most = if name == "dubbo" { (8 << 20) + 16 } else { 16 << 20 };
        assert_eq!(frame.max_message(), most, "{name}");
    }
    assert_eq!(preset("http"), None);
    assert_eq!(needed("swoole", &[0, 0, 0, 5]), Some(9));
    assert_eq!(needed("netty4", &[0, 0, 0, 0]), Some(4));
    assert_eq!(needed("tars", &[0, 0, 1, 0]), Some(256));
    assert_eq!(needed("brpc", b"PRPC\x00\x00\x00\x20\x00\x00\x00\x10"), Some(44));
}

/// What a client and a server of the preset `name` are taken to say with `bytes`.
fn said(name: &str, bytes: &[u8]) -> [Result<&'static str, Malformed>; 2] {
    let frame = Frame::new(preset(name).unwrap()).unwrap();
    let request = match frame.downstream(usize::MAX).decode(&mut bytes.into()) {
        Ok(Received::Request { request, .. }) => Ok(if request.oneway { "oneway" } else { "request" }),
        Ok(Received::Control(_)) => Ok("heartbeat"),
        Ok(Received::Closing) => Ok("closing"),
        Ok(_) => Ok("more"),
        Err(bad) => Err(bad.reason),
    };
    let reply = match frame.upstream(usize::MAX).decode(&mut bytes.into()) {
        Ok(Answered::Reply { .. }) => Ok("reply"),
        Ok(Answered::Control(_)) => Ok("heartbeat"),
        Ok(Answered::Closing) => Ok("closing"),
        Ok(_) => Ok("more"),
        Err(reason) => Err(reason),
    };
    [request, reply]
}

const NOTHING: Result<&str, Malformed> = Err(Malformed::Invalid(NO_KIND));

#[test]
fn dubbo_is_told_by_its_flags() {
    let frame = |flags: u8| [&[0xda, 0xbb, flags, 0][..], &[0; 11], b"\x01N"].concat();
    for serialization in [2, 6, 21, 31] {
        let said = |flags: u8| said("dubbo", &frame(flags | serialization));
        assert_eq!(said(0xc0), [Ok("request"), NOTHING]);
        assert_eq!(said(0x80), [Ok("oneway"), NOTHING]);
        assert_eq!(said(0xe0), [Ok("heartbeat"), Ok("heartbeat")]);
        assert_eq!(said(0xa0), [Ok("closing"), Ok("closing")]);
        assert_eq!(said(0x00), [NOTHING, Ok("reply")]);
        assert_eq!(said(0x20), [NOTHING, NOTHING]);
        assert_eq!(said(0x40), [NOTHING, NOTHING]);
    }
}

#[test]
fn bolt_is_told_by_type_and_command() {
    let frame = |kind: u8, command: u8| [&[1, kind, 0, command, 1][..], &[0; 17]].concat();
    assert_eq!(said("bolt", &frame(1, 1)), [Ok("request"), NOTHING]);
    assert_eq!(said("bolt", &frame(2, 1)), [Ok("oneway"), NOTHING]);
    assert_eq!(said("bolt", &frame(1, 0)), [Ok("heartbeat"), Ok("heartbeat")]);
    assert_eq!(said("bolt", &frame(0, 2)), [NOTHING, Ok("reply")]);
    assert_eq!(said("bolt", &frame(0, 0)), [NOTHING, NOTHING]);
    assert_eq!(said("bolt", &frame(2, 0)), [NOTHING, NOTHING]);
    assert_eq!(said("bolt", &frame(0, 1)), [NOTHING, NOTHING]);
    assert_eq!(said("bolt", &frame(3, 1)), [NOTHING, NOTHING]);
    // A size that servers would read as negative.
    for size in [14, 16] {
        let mut bytes = frame(1, 1);
        bytes[size] = 0x80;
        bytes.resize(22 + 0x8000, 0);
        assert_eq!(said("bolt", &bytes)[0], NOTHING);
    }
}

#[test]
fn what_no_frame_begins_with_is_refused_at_its_first_byte() {
    for name in ["dubbo", "bolt"] {
        for wrong in [b'G', 0x02, 0x00, 0xbb] {
            assert_eq!(said(name, &[wrong]), [NOTHING, NOTHING], "{name}");
        }
        let begin: &[u8] = if name == "dubbo" { &[0xda] } else { &[1] };
        assert_eq!(said(name, begin), [Ok("more"), Ok("more")], "{name}");
        assert_eq!(said(name, b""), [Ok("more"), Ok("more")], "{name}");
    }
}
