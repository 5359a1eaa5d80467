//! Messages that are none: refused where they say so, without work or memory beyond their bytes.

use super::*;
use crate::protocol::Malformed;

/// How the codec of a client ends that says these fields after a good envelope, on its own and in a frame.
fn outcomes(encoding: Encoding, fields: &[u8]) -> [Option<Malformed>; 2] {
    let message = [&envelope::write(encoding, envelope::CALL, b"m", 1)[..], fields].concat();
    [message.clone(), framed(&message)].map(|said| {
        let mut client = thrift(Transport::Framed, encoding).downstream(usize::MAX);
        let mut input = BytesMut::from(&said[..]);
        match client.decode(&mut input) {
            Ok(_) => None,
            Err(bad) => {
                assert_ne!(bad.id, Id::None, "the envelope was read");
                assert!(refused(&mut *client, &bad.id, &Refusal::Malformed).is_some());
                Some(bad.reason)
            }
        }
    })
}

const OVER: Option<Malformed> = Some(Malformed::TooLarge((1 << 20) + 1));

#[test]
fn what_is_declared_too_long_is_refused_at_once() {
    let short = Some(Malformed::Invalid("frame that ends before its message does"));
    let binary: [&[u8]; 6] = [
        // A text of 2^31 - 1 bytes, and of 1 MiB.
        &[11, 0, 1, 0x7f, 0xff, 0xff, 0xff],
        &[11, 0, 1, 0, 0x10, 0, 0],
        // Lists of so many bytes, texts, structs of nothing; a map of them.
        &[15, 0, 1, 3, 0x7f, 0xff, 0xff, 0xff],
        &[15, 0, 1, 11, 0x00, 0x04, 0x00, 0x00],
        &[15, 0, 1, 12, 0x7f, 0xff, 0xff, 0xff],
        &[13, 0, 1, 12, 12, 0x7f, 0xff, 0xff, 0xff],
    ];
    for fields in binary {
        assert_eq!(outcomes(Encoding::Binary, fields), [OVER, short], "{fields:x?}");
    }
    let compact: [&[u8]; 4] = [
        &[0x18, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x19, 0xf3, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x07],
        &[0x1b, 0xff, 0xff, 0xff, 0xff, 0x07, 0xcc],
    ];
    for fields in compact {
        assert_eq!(outcomes(Encoding::Compact, fields), [OVER, short], "{fields:x?}");
    }
}

#[test]
fn lengths_and_types_that_cannot_be() {
    let length = Some(Malformed::Invalid("length below 0 or above 2^31 - 1"));
    assert_eq!(outcomes(Encoding::Binary, &[11, 0, 1, 0xff, 0xff, 0xff, 0xff]), [length; 2]);
    assert_eq!(outcomes(Encoding::Binary, &[15, 0, 1, 3, 0x80, 0, 0, 0]), [length; 2]);
    assert_eq!(outcomes(Encoding::Binary, &[13, 0, 1, 3, 3, 0xff, 0, 0, 0]), [length; 2]);
    assert_eq!(outcomes(Encoding::Compact, &[0x18, 0xff, 0xff, 0xff, 0xff, 0x08]), [length; 2]);
    let kind = Some(Malformed::Invalid("type that Thrift does not have"));
    for wrong in [1, 5, 7, 9, 17, 0xff] {
        assert_eq!(outcomes(Encoding::Binary, &[wrong, 0, 1]), [kind; 2], "{wrong}");
        assert_eq!(outcomes(Encoding::Binary, &[15, 0, 1, wrong, 0, 0, 0, 1]), [kind; 2], "{wrong}");
    }
    assert_eq!(outcomes(Encoding::Compact, &[0x1e]), [kind; 2]);
    assert_eq!(outcomes(Encoding::Compact, &[0x19, 0x10]), [kind; 2]);
    let long = Some(Malformed::Invalid("varint longer than its type takes"));
    assert_eq!(outcomes(Encoding::Compact, &[&[0x16][..], &[0xff; 10]].concat()), [long; 2]);
}

#[test]
fn depth_is_bounded() {
    let deep = |encoding, levels: usize| {
        let (open, close): (&[u8], &[u8]) = match encoding {
            Encoding::Binary => (&[12, 0, 1], &[0]),
            Encoding::Compact => (&[0x1c], &[0]),
            Encoding::Json => (b"{\"1\":{\"rec\":", b"}}"),
        };
        let (first, last): (&[u8], &[u8]) =
            if encoding == Encoding::Json { (b"{", b"}]") } else { (b"", &[0]) };
        let inner = if encoding == Encoding::Json { &b"{}"[..] } else { b"" };
        let inner = if levels == 0 { &b""[..] } else { inner };
        let opens = if encoding == Encoding::Json && levels > 0 {
            // The first brace is that of the arguments.
            [&open[1..], &open.repeat(levels - 1)].concat()
        } else {
            open.repeat(levels)
        };
        let closes = close.repeat(levels);
        let closes = if encoding == Encoding::Json { closes[..closes.len() - 1].to_vec() } else { closes };
        outcomes(encoding, &[first, &opens[..], inner, &closes[..], last].concat())
    };
    let too_deep = Some(Malformed::Invalid("values too deep within each other"));
    for encoding in [Encoding::Binary, Encoding::Compact] {
        assert_eq!(deep(encoding, 63), [None; 2], "{encoding:?}");
        assert_eq!(deep(encoding, 64), [too_deep; 2], "{encoding:?}");
        assert_eq!(deep(encoding, 5000), [too_deep; 2], "{encoding:?}");
    }
    assert_eq!(deep(Encoding::Json, 60), [None; 2]);
    assert_eq!(deep(Encoding::Json, 5000), [too_deep; 2]);
    // Lists of one list each.
    let lists = [&[15, 0, 1][..], &[15, 0, 0, 0, 1].repeat(70)].concat();
    assert_eq!(outcomes(Encoding::Binary, &lists), [too_deep; 2]);
}

#[test]
fn varints_are_no_longer_than_their_type_takes() {
    let long = Some(Malformed::Invalid("varint longer than its type takes"));
    let varint = |size: usize| [&vec![0x80; size - 1][..], &[0]].concat();
    // Fields of 16, 32 and 64 bits; the id of one; the lengths of a text, a list and a map.
    let cases: [(&[u8], usize, &[u8]); 7] = [
        (&[0x14], 3, &[0]),
        (&[0x15], 5, &[0]),
        (&[0x16], 10, &[0]),
        (&[0x03], 3, &[7, 0]),
        (&[0x18], 5, &[0]),
        (&[0x19, 0xf3], 5, &[0]),
        (&[0x1b], 5, &[0]),
    ];
    for (before, most, after) in cases {
        let fields = |size| [before, &varint(size), after].concat();
        assert_eq!(outcomes(Encoding::Compact, &fields(most)), [None; 2], "{before:x?}");
        assert_eq!(outcomes(Encoding::Compact, &fields(most + 1)), [long; 2], "{before:x?}");
    }
    // The length of a name.
    let named =
        |size: usize| [&[0x82, 0x21, 1][..], &[&[0x81][..], &varint(size - 1)].concat(), &[b'm', 0]].concat();
    let accepts = |said: &[u8]| {
        thrift(Transport::Framed, Encoding::Compact)
            .downstream(usize::MAX)
            .decode(&mut BytesMut::from(said))
            .is_ok()
    };
    assert!(accepts(&framed(&named(5))));
    assert!(!accepts(&framed(&named(6))));
}

#[test]
fn no_deeper_than_the_libraries_skip() {
    // So many structs in the arguments, and in the innermost what is given.
    let nested = |structs: usize, inner: &[u8]| {
        [&[12, 0, 9].repeat(structs)[..], inner, &vec![0; structs + 1]].concat()
    };
    let too_deep = Some(Malformed::Invalid("values too deep within each other"));
    let number = [3, 0, 1, 7];
    let (list, none) = ([15, 0, 1, 3, 0, 0, 0, 1, 7], [15, 0, 1, 3, 0, 0, 0, 0]);
    let map = [13, 0, 1, 3, 3, 0, 0, 0, 1, 7, 7];
    for (structs, inner) in [(62, &number[..]), (61, &list), (61, &map), (62, &none)] {
        assert_eq!(outcomes(Encoding::Binary, &nested(structs, inner)), [None; 2], "{inner:?}");
        assert_eq!(outcomes(Encoding::Binary, &nested(structs + 1, inner)), [too_deep; 2], "{inner:?}");
    }
}

#[test]
fn a_name_that_is_no_text_is_refused() {
    for encoding in [Encoding::Binary, Encoding::Compact] {
        let said = [&envelope::write(encoding, envelope::CALL, b"m\xff", 1)[..], &[0]].concat();
        let mut client = thrift(Transport::Framed, encoding).downstream(usize::MAX);
        let bad = client.decode(&mut BytesMut::from(&framed(&said)[..])).unwrap_err();
        assert_eq!(bad.reason, Malformed::Invalid("name of a method that is no UTF-8"));
    }
}

#[test]
fn a_reply_may_be_deeper_than_a_request() {
    let binary = |levels: usize| [&[12, 0, 1].repeat(levels)[..], &vec![0; levels + 1]].concat();
    let json =
        |levels| [&b"{\"1\":{\"rec\":".repeat(levels)[..], b"{}", &b"}}".repeat(levels), b"]"].concat();
    let answer = |encoding, fields: &[u8]| {
        let said = framed(&[&envelope::write(encoding, envelope::REPLY, b"m", 1)[..], fields].concat());
        thrift(Transport::Framed, encoding)
            .upstream(usize::MAX)
            .decode(&mut BytesMut::from(&said[..]))
            .map(drop)
    };
    assert_eq!(answer(Encoding::Binary, &binary(999)), Ok(()));
    let too_deep = Malformed::Invalid("values too deep within each other");
    assert_eq!(answer(Encoding::Binary, &binary(1000)), Err(too_deep));
    assert_eq!(answer(Encoding::Binary, &[12, 0, 1].repeat(100_000)), Err(too_deep));
    assert_eq!(answer(Encoding::Json, &json(900)), Ok(()));
    assert_eq!(answer(Encoding::Json, &json(1000)), Err(too_deep));
}

#[test]
fn a_frame_holds_one_message() {
    for encoding in Encoding::ALL {
        let one = message(encoding, 1, "m", 1, "x");
        let mut client = thrift(Transport::Framed, encoding).downstream(usize::MAX);
        let (_, bad) = requests(&mut *client, &framed(&[&one[..], &one].concat()), &[]);
        let bad = bad.unwrap();
        assert_eq!(bad.reason, Malformed::Invalid("frame with more in it than one message"));
        assert!(refused(&mut *client, &bad.id, &Refusal::Malformed).is_some());
    }
}

#[test]
fn fronts_that_are_no_message() {
    let cases: [&[u8]; 9] = [
        &[0, 0, 0, 0, 0x80, 1],
        &[0xff, 0xff, 0xff, 0xff, 0x80, 1],
        &[0x80, 2, 0, 1, 0, 0, 0, 1],
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        &[0x82, 0x22, 0],
        &[0x80, 1, 0, 1, 0xff, 0xff, 0xff, 0xff],
        b"[2,\"m\",1,0,{}]",
        b"[1,\"m\",1,99999999999,{}]",
    ];
    for case in cases {
        let mut client = thrift(Transport::Framed, Encoding::Binary).downstream(usize::MAX);
        let bad = client.decode(&mut BytesMut::from(case)).unwrap_err();
        assert_eq!(bad.id, Id::None, "{case:x?}");
    }
}

#[test]
fn only_calls_are_requests_and_only_answers_are_replies() {
    let said = |kind| framed(&message(Encoding::Binary, kind, "m", 1, "x"));
    for kind in [2, 3] {
        let mut client = thrift(Transport::Framed, Encoding::Binary).downstream(usize::MAX);
        let bad = client.decode(&mut BytesMut::from(&said(kind)[..])).unwrap_err();
        assert_eq!(bad.reason, Malformed::Invalid("message that is neither a call nor one-way"));
    }
    for kind in [1, 4] {
        let mut server = thrift(Transport::Framed, Encoding::Binary).upstream(usize::MAX);
        assert!(server.decode(&mut BytesMut::from(&said(kind)[..])).is_err());
    }
}

#[test]
fn too_large_is_refused_by_name_as_soon_as_it_is_known() {
    for encoding in Encoding::ALL {
        let large = message(encoding, 1, "m", 7, &"x".repeat(1 << 20));
        for said in [framed(&large), large] {
            let mut client = thrift(Transport::Framed, encoding).downstream(usize::MAX);
            let mut input = BytesMut::new();
            let mut pieces = said.chunks(5);
            let bad = loop {
                input.extend_from_slice(pieces.next().unwrap());
                match client.decode(&mut input) {
                    Ok(Received::More(need)) => assert_eq!(need, Need::Unknown),
                    Ok(other) => panic!("{other:?}"),
                    Err(bad) => break bad,
                }
            };
            assert!(matches!(bad.reason, Malformed::TooLarge(_)));
            assert!(encoding == Encoding::Json || input.len() < 50, "{} bytes read", input.len());
            assert!(refused(&mut *client, &bad.id, &Refusal::TooLarge).is_some());
        }
    }
}

#[test]
fn what_cannot_begin_a_message_is_refused_at_once() {
    let none = Malformed::Invalid("no message of Thrift begins like this");
    for (wrong, right) in [
        (&b"\xff\xff\xff\xff"[..], &b"\x80"[..]),
        (b"\x7f\xff\xff\xff", b"\x3f\xff\xff\xff"),
        (&[0; 4], &[0; 3]),
    ] {
        let decode = |bytes: &[u8]| {
            let mut client = thrift(Transport::Framed, Encoding::Binary).downstream(usize::MAX);
            client.decode(&mut BytesMut::from(bytes))
        };
        assert_eq!(decode(wrong).unwrap_err().reason, none, "{wrong:x?}");
        assert!(matches!(decode(right), Ok(Received::More(_))), "{right:x?}");
    }
}
