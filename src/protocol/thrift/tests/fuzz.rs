//! Each half on its own, fed with a corpus and with what a seed makes of it: no panic, progress with every message, no
//! more held than a message may have, and the same outcome in whatever pieces the bytes come.

use fastrand::Rng;

use super::forms::forms;
use super::*;
use crate::protocol::Malformed;

/// Streams that were written by hand.
const CORPUS: &str = include_str!("../../../../tests/fixtures/thrift-corpus.txt");
/// Small, so that corpus and mutations reach it.
const MAX_MESSAGE: usize = 1500;
/// What is longer travels in parts; no head is shorter.
const MAX_BUFFERED: usize = 1300;
/// Streams made of the corpus, for each form.
const MUTATIONS: usize = 400;
const STEPS: [usize; 3] = [1, 7, usize::MAX];

/// What the front of a stream was.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Event {
    /// A whole message, in parts or not, with its id or tag and whether it is one-way.
    Message(Option<Id>, Option<Tag>, bool, Vec<u8>),
    Control,
    Bad(Malformed),
}

/// A message whose parts are on their way.
type Open = Option<(Event, usize)>;

fn corpus() -> Vec<Vec<u8>> {
    let hex = |line: &str| {
        let pairs = line.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    };
    let mut seeds: Vec<Vec<u8>> = CORPUS.lines().filter(|line| !line.starts_with('#')).map(hex).collect();
    // Between the longest message that comes whole and the longest there may be.
    for kind in [1, 2] {
        let large = message(Encoding::Binary, kind, "m", 1, &"x".repeat(1380));
        seeds.extend([framed(&large), large]);
    }
    seeds
}

/// What a seed makes of a stream.
fn mutated(seeds: &[Vec<u8>], rng: &mut Rng) -> Vec<u8> {
    let pick = |rng: &mut Rng| seeds[rng.usize(..seeds.len())].clone();
    let mut bytes = pick(rng);
    for _ in 0..rng.usize(0..4) {
        let at = rng.usize(..=bytes.len());
        match rng.u8(..6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, rng.u8(..)),
            2 => bytes.extend(pick(rng)),
            3 => drop(bytes.splice(at.., pick(rng).split_off(0))),
            _ => {
                // What lengths, types and kinds are made of.
                let byte = [0, 1, 2, 4, 0x0c, 0x0f, 0x19, 0x7f, 0x80, 0x82, 0xff, rng.u8(..)];
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte[rng.usize(..byte.len())];
                }
            }
        }
    }
    bytes.truncate(3 * MAX_MESSAGE);
    bytes
}

/// Feeds `stream` piece by piece to `next`, which takes what is at the front; gives what was whole, and the end.
fn feed(
    stream: &[u8],
    step: usize,
    mut next: impl FnMut(&mut BytesMut, &mut Open) -> Result<Option<Event>, Need>,
) -> Vec<Event> {
    let (mut input, mut events, mut open) = (BytesMut::new(), Vec::new(), None);
    for piece in stream.chunks(step.min(stream.len()).max(1)) {
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            match next(&mut input, &mut open) {
                Ok(Some(event @ Event::Bad(_))) => {
                    events.push(event);
                    return events;
                }
                Ok(event) => {
                    assert!(input.len() < before, "no progress");
                    events.extend(event);
                }
                Err(need) => {
                    assert_eq!(input.len(), before, "more, and yet it took some");
                    // Whoever holds a whole message must say so; a head holds no more than it may.
                    let most = if matches!(need, Need::Head { .. }) { MAX_BUFFERED } else { MAX_MESSAGE };
                    assert!(before < most, "{before} bytes are held, and {need:?}");
                    assert!(
                        need.total().is_none_or(|total| before < total && total <= MAX_MESSAGE),
                        "{need:?}"
                    );
                    break;
                }
            }
        }
    }
    events
}

/// Adds a part to the message that is open; gives it if it is whole.
fn part(open: &mut Open, part: &[u8], last: bool) -> Option<Event> {
    let (event, rest) = open.as_mut().expect("a part of something");
    let Event::Message(.., bytes) = event else { unreachable!("only messages have parts") };
    bytes.extend_from_slice(part);
    *rest -= part.len();
    assert_eq!(*rest == 0, last, "{rest} bytes are left");
    last.then(|| open.take().map(|(event, _)| event)).flatten()
}

/// One client: what it says goes on to a server under a tag, and comes back under its own id.
fn client_body(protocol: &Thrift, stream: &[u8], step: usize) -> Vec<Event> {
    let mut codec = protocol.downstream(MAX_BUFFERED);
    feed(stream, step, |input, open| {
        let (id, request, rest) = match codec.decode(input) {
            Ok(Received::Request { id, request }) => (id, request, 0),
            Ok(Received::Head { id, request, rest }) => (id, request, rest),
            Ok(Received::Part { bytes, last }) => return Ok(part(open, &bytes, last)),
            Ok(Received::More(need)) => return Err(need),
            Ok(other) => panic!("{other:?}"),
            Err(bad) => {
                refused(&mut *codec, &bad.id, &Refusal::Malformed);
                return Ok(Some(Event::Bad(bad.reason)));
            }
        };
        assert!(
            protocol.method(&request.bytes).is_some() && matches!(protocol.shown(id.clone()), Id::Bits(_))
        );
        let tagged = sent(&mut *protocol.upstream(MAX_BUFFERED), &request, 70_000);
        answered(&mut *codec, &id, Reply::new(tagged.into()));
        assert_ne!(refused(&mut *codec, &id, &Refusal::Lost).is_some(), request.oneway);
        let event = Event::Message(Some(id), None, request.oneway, request.bytes.to_vec());
        Ok(if rest > 0 { open.replace((event, rest)).map(|(event, _)| event) } else { Some(event) })
    })
}

/// One server, before or after a one-way request: what it says goes back to a client.
fn server_body(protocol: &Thrift, has_sent_oneway: bool, stream: &[u8], step: usize) -> Vec<Event> {
    let mut codec = protocol.upstream(MAX_BUFFERED);
    if has_sent_oneway {
        let call = protocol.call(b"log").unwrap();
        sent(&mut *codec, &Request::new(call, true), 1);
    }
    let mut client = protocol.downstream(MAX_BUFFERED);
    let (id, _) = request(&mut *client, &protocol.call(b"m").unwrap());
    feed(stream, step, |input, open| {
        let (tag, reply, rest) = match codec.decode(input) {
            Ok(Answered::Reply { tag, reply }) => (tag, reply, 0),
            Ok(Answered::Head { tag, reply, rest }) => (tag, reply, rest),
            Ok(Answered::Part { bytes, last }) => return Ok(part(open, &bytes, last)),
            Ok(Answered::More(need)) => return Err(need),
            Ok(Answered::Control(None)) if has_sent_oneway => return Ok(Some(Event::Control)),
            Ok(other) => panic!("{other:?}"),
            Err(reason) => return Ok(Some(Event::Bad(reason))),
        };
        let event = Event::Message(None, tag, false, reply.bytes.to_vec());
        answered(&mut *client, &id, reply);
        Ok(if rest > 0 { open.replace((event, rest)).map(|(event, _)| event) } else { Some(event) })
    })
}

/// The corpus and its mutations through `body`, for each form; how many messages there were and how many bad ends.
fn fuzz(seed: u64, body: impl Fn(&Thrift, &[u8], usize) -> Vec<Event>) -> (usize, usize) {
    let seeds = corpus();
    let (mut messages, mut bad) = (0, 0);
    for (transport, encoding) in forms() {
        let settings = Settings { transport, encoding, max_message: MAX_MESSAGE, ..Settings::default() };
        let protocol = Thrift::new(settings).unwrap();
        let mut rng = Rng::with_seed(seed);
        let made = (0..MUTATIONS).map(|_| mutated(&seeds, &mut rng)).collect::<Vec<_>>();
        for stream in seeds.iter().chain(&made) {
            let [one, some, all] = STEPS.map(|step| body(&protocol, stream, step));
            assert_eq!(one, all, "{transport:?} {encoding:?} byte by byte: {}", stream.escape_ascii());
            assert_eq!(some, all, "{transport:?} {encoding:?} in pieces: {}", stream.escape_ascii());
            messages += all.iter().filter(|event| matches!(event, Event::Message(..))).count();
            bad += all.iter().filter(|event| matches!(event, Event::Bad(_))).count();
        }
    }
    (messages, bad)
}

#[test]
fn clients_may_say_anything() {
    let (messages, bad) = fuzz(1, client_body);
    assert!(messages > 100 && bad > 500, "the corpus lost its edge: {messages} messages, {bad} bad");
}

#[test]
fn servers_may_say_anything() {
    for has_sent_oneway in [false, true] {
        let body =
            |protocol: &Thrift, stream: &[u8], step| server_body(protocol, has_sent_oneway, stream, step);
        let (messages, bad) = fuzz(2, body);
        assert!(messages > 20 && bad > 500, "the corpus lost its edge: {messages} messages, {bad} bad");
    }
}
