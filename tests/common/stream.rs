//! Messages that nobody stores: a server and helpers that write and compare them as they travel.
//!
//! A request's payload starts with two words: the size of the reply's payload, and whether the server stops
//! reading there. All other bytes are those of [`chunk`]. A line only says the size of the reply, in digits; after `endless`, the end of
//! the reply never comes.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::OnceLock;

use super::{PATIENCE, Wire};

/// The pattern repeats after so many bytes: a prime, so that no part looks like another one.
const PERIOD: usize = 1_048_583;
/// Bytes written or compared at a time.
const STEP: usize = 256 << 10;
/// Bytes of the words in front of a request's payload.
const WORDS: usize = 16;

/// `size` bytes of what every message is filled with, from `at` on.
fn chunk(at: u64, size: usize) -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    let pattern = PATTERN.get_or_init(|| {
        let mut bytes = vec![0; PERIOD];
        fastrand::Rng::with_seed(7).fill(&mut bytes);
        bytes.extend_from_within(..STEP);
        bytes
    });
    let at = usize::try_from(at % PERIOD as u64).unwrap();
    &pattern[at..at + size]
}

/// The sizes of the steps in which `total` bytes are handled, each with where it starts.
fn steps(total: u64) -> impl Iterator<Item = (u64, usize)> {
    (0..total).step_by(STEP).map(move |at| (at, usize::try_from((total - at).min(STEP as u64)).unwrap()))
}

/// Writes `total` bytes of the pattern.
pub(crate) fn write(mut stream: impl Write, total: u64) -> io::Result<()> {
    steps(total).try_for_each(|(at, size)| stream.write_all(chunk(at, size)))
}

/// Reads `total` bytes and requires that they are the pattern's.
pub(crate) fn compare(mut stream: impl Read, total: u64) -> io::Result<()> {
    let mut buffer = vec![0; STEP];
    steps(total).try_for_each(|(at, size)| {
        stream.read_exact(&mut buffer[..size])?;
        if buffer[..size] == *chunk(at, size) {
            return Ok(());
        }
        Err(io::Error::other(format!("wrong bytes between {at} and {}", at + size as u64)))
    })
}

/// The front of a request whose payload is `size` bytes long, the words included.
pub(crate) fn request_head(wire: Wire, size: u64, reply: u64, deaf: bool) -> Vec<u8> {
    let mut head = wire.head(size, 0, 1);
    head.extend_from_slice(&reply.to_be_bytes());
    head.extend_from_slice(&u64::from(deaf).to_be_bytes());
    head
}

/// A whole request of `size` bytes on the wire.
pub(crate) fn request(wire: Wire, size: usize, reply: u64, deaf: bool) -> Vec<u8> {
    let payload = size - wire.header();
    let mut bytes = request_head(wire, payload as u64, reply, deaf);
    write(&mut bytes, (payload - WORDS) as u64).unwrap();
    bytes
}

/// Requires the reply to such a request.
#[track_caller]
pub(crate) fn expect_reply(mut stream: impl Read, wire: Wire, reply: u64) {
    let mut head = vec![0; wire.header()];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head, wire.head(reply, 0, 1));
    compare(stream, reply).unwrap();
}

/// One client's connection.
pub(crate) fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// The server; it ends with the test. Returns its address.
pub(crate) fn serve(wire: Wire) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let one =
                move || if wire == Wire::Line { serve_lines(stream) } else { serve_frames(stream, wire) };
            // How it ends is for its clients to notice.
            std::thread::spawn(one);
        }
    });
    address
}

fn serve_frames(mut stream: TcpStream, wire: Wire) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = vec![0; wire.header() + WORDS];
    loop {
        stream.read_exact(&mut head)?;
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let (header, words) = head.split_at(wire.header());
        let length = number(&header[..if wire == Wire::Wide { 8 } else { 4 }]);
        let (reply, deaf) = (number(&words[..8]), number(&words[8..]) == 1);
        if deaf {
            std::thread::park();
        }
        compare(&stream, length - WORDS as u64)?;
        let mut answer = wire.head(reply, 0, 0);
        if wire.has_id() {
            let at = wire.header() - 8;
            answer[at..].copy_from_slice(&header[at..]);
        }
        let first = usize::try_from(reply.min(STEP as u64)).unwrap();
        answer.extend_from_slice(chunk(0, first));
        stream.write_all(&answer)?;
        for (at, size) in steps(reply).skip(1) {
            stream.write_all(chunk(at, size))?;
        }
    }
}

fn serve_lines(mut stream: TcpStream) -> io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    while lines.read_line(&mut line)? > 0 {
        if let Some(size) = line.trim_end().strip_prefix("endless ") {
            stream.write_all(&vec![b'x'; size.parse().unwrap_or(0)])?;
            std::thread::park();
        }
        let mut reply = vec![b'x'; line.trim_end().parse().unwrap_or(0)];
        reply.push(b'\n');
        stream.write_all(&reply)?;
        line.clear();
    }
    Ok(())
}
