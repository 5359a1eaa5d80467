//! Clients: each follows its script over a connection of its own, and holds what it reads against its book.

use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::Notify;
use tokio::time::sleep;
use warmline::wire::Wire;

use crate::book::{Book, Rules};
use crate::dialect::{self, CLOSING, Dialect, HEARTBEAT, ONEWAY};
use crate::oracle::Oracle;
use crate::plan::{Sizes, chance, filling, millis, pick};
use crate::trace::{Who, hash};

/// What one client does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) start: Duration,
    pub(crate) messages: Vec<Sending>,
    /// Calls without an answer, at most, when the next message is sent.
    pub(crate) window: usize,
    /// The byte of all that it would send at which something else happens.
    pub(crate) cut: Option<(usize, Cut)>,
    /// Bytes written at a time, and the pause after them.
    pub(crate) writing: (usize, Duration),
    /// When reading begins, bytes read at a time, and the pause after them.
    pub(crate) reading: (Duration, usize, Duration),
    pub(crate) leave: Leave,
}

/// One message of a client.
#[derive(Clone, Debug)]
pub(crate) struct Sending {
    pub(crate) what: What,
    pub(crate) nonce: u64,
    pub(crate) id: u64,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Call,
    Oneway,
    Heartbeat,
    Closing,
    /// No message of the protocol.
    Nonsense,
    /// The front of one over the limit.
    TooLarge,
}

/// What happens in the middle of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    Close,
    Reset,
    /// Nothing more.
    Stall,
}

/// What a client does after its last message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leave {
    /// Waits for its answers, then closes.
    Close,
    /// Closes its half at once, and reads on.
    HalfClose,
    /// Closes at once, whatever is due.
    Abruptly,
    Reset,
    /// Until the proxy closes.
    Stay,
}

/// Who writes the messages of client `n`.
struct Author<'a> {
    rng: &'a mut Rng,
    n: usize,
    dialect: Dialect,
    sizes: Sizes,
    /// The id of the first message.
    base: u64,
    messages: Vec<Sending>,
}

impl Author<'_> {
    fn add(&mut self, what: What) {
        let seq = self.messages.len() as u64;
        let nonce = ((self.n as u64 + 1) << 16 | seq).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let (dialect, id) = (self.dialect, self.base.wrapping_add(seq) & self.dialect.last_id());
        let mut request =
            |flags| dialect.encode(flags, id, &dialect::body(b'Q', nonce, filling(self.rng, self.sizes)));
        let bytes = match what {
            What::Call => request(0),
            What::Oneway => request(ONEWAY),
            What::Heartbeat => dialect.encode(HEARTBEAT, id, b""),
            What::Closing => dialect.encode(CLOSING, id, b""),
            What::Nonsense => dialect.nonsense(),
            What::TooLarge => dialect.too_large(id),
        };
        self.messages.push(Sending { what, nonce, id, bytes });
    }
}

/// The script of client `n`, who starts before `calm`.
pub(crate) fn draw(rng: &mut Rng, n: usize, dialect: Dialect, sizes: Sizes, calm: Duration) -> Script {
    let frames = dialect != Dialect::Line;
    let (base, count) = (rng.u64(0..=dialect.last_id()), pick(rng, &[1, 1, 2, 3, 6, 12]));
    let mut author = Author { rng, n, dialect, sizes, base, messages: Vec::new() };
    for _ in 0..count {
        let what = match author.rng.u8(0..100) {
            0..10 if frames => What::Oneway,
            10..16 if frames => What::Heartbeat,
            _ => What::Call,
        };
        author.add(what);
    }
    match author.rng.u8(0..100) {
        0..4 => author.add(What::Nonsense),
        4..8 => author.add(What::TooLarge),
        8..12 if frames => author.add(What::Closing),
        _ => {}
    }
    let messages = author.messages;
    let total: usize = messages.iter().map(|m| m.bytes.len()).sum();
    let cut =
        chance(rng, 20).then(|| (rng.usize(0..=total), pick(rng, &[Cut::Close, Cut::Reset, Cut::Stall])));
    let window = if rng.bool() { 1 } else { pick(rng, &[2, 5, 100]) };
    let mut pace = || {
        if chance(rng, 15) { (100 + total / 8, millis(rng, 1, 900)) } else { (1 << 16, Duration::ZERO) }
    };
    let (writing, (chunk, pause)) = (pace(), pace());
    let late = if chance(rng, 5) { millis(rng, 100, 12_000) } else { Duration::ZERO };
    let leave = match rng.u8(0..10) {
        0..5 => Leave::Close,
        5..7 => Leave::HalfClose,
        7 => Leave::Abruptly,
        8 => Leave::Reset,
        _ => Leave::Stay,
    };
    let start = calm.mul_f64(rng.f64() * rng.f64());
    Script { start, messages, window, cut, writing, reading: (late, chunk, pause), leave }
}

/// A client that asks once and waits for the answer.
pub(crate) fn probe(rng: &mut Rng, n: usize, dialect: Dialect, sizes: Sizes) -> Script {
    let mut author = Author { rng, n, dialect, sizes, base: 1, messages: Vec::new() };
    author.add(What::Call);
    let all = (1 << 16, Duration::ZERO);
    Script {
        start: Duration::ZERO,
        messages: author.messages,
        window: 1,
        cut: None,
        writing: all,
        reading: (Duration::ZERO, all.0, all.1),
        leave: Leave::Close,
    }
}

/// Follows `script` on `wire` to its end; true if every call was answered by its reply.
pub(crate) async fn talk(who: Who, script: Script, wire: Wire, rules: Rules, oracle: Oracle) -> bool {
    let book = Mutex::new(Book::new(who, rules, &script, oracle.clone()));
    let (changed, stop) = (Notify::new(), Notify::new());
    let (mut reader, mut writer) = tokio::io::split(wire);
    let peer = Peer { who, script: &script, book: &book, changed: &changed, stop: &stop, oracle: &oracle };
    let ((), leave) = tokio::join!(peer.read(&mut reader), peer.write(&mut writer));
    let wire = reader.unsplit(writer);
    oracle.trace.note(who, format_args!("leaves: {leave:?}"));
    match leave {
        Leave::Reset => wire.reset(),
        _ => drop(wire),
    }
    let book = book.into_inner().unwrap();
    book.all_replied()
}

struct Peer<'a> {
    who: Who,
    script: &'a Script,
    book: &'a Mutex<Book>,
    /// The book has a new line.
    changed: &'a Notify,
    /// The client reads no more.
    stop: &'a Notify,
    oracle: &'a Oracle,
}

impl Peer<'_> {
    async fn write(&self, half: &mut WriteHalf<Wire>) -> Leave {
        let leave = self.write_all(half).await;
        match leave {
            Leave::Close => self.until(Book::is_settled).await,
            Leave::HalfClose => half.shutdown().await.unwrap(),
            Leave::Abruptly | Leave::Reset | Leave::Stay => {}
        }
        if matches!(leave, Leave::HalfClose | Leave::Stay) {
            self.until(Book::is_over).await;
        }
        self.stop.notify_one();
        leave
    }

    async fn write_all(&self, half: &mut WriteHalf<Wire>) -> Leave {
        let mut left = self.script.cut.map(|(at, _)| at);
        for message in &self.script.messages {
            self.until(|book| book.open() < self.script.window).await;
            self.book.lock().unwrap().begin(message);
            let count = left.map_or(message.bytes.len(), |left| left.min(message.bytes.len()));
            let (piece, pause) = self.script.writing;
            for part in message.bytes[..count].chunks(piece) {
                if half.write_all(part).await.is_err() {
                    self.oracle.trace.note(self.who, format_args!("cannot send"));
                    return Leave::Stay;
                }
                if !pause.is_zero() {
                    sleep(pause).await;
                }
            }
            if count < message.bytes.len() || left == Some(count) {
                self.oracle.trace.note(self.who, format_args!("stops in {:?} at {count}", message.what));
                return match self.script.cut {
                    Some((_, Cut::Close)) => Leave::Abruptly,
                    Some((_, Cut::Reset)) => Leave::Reset,
                    _ => Leave::Stay,
                };
            }
            left = left.map(|left| left - count);
            let (length, hash) = (message.bytes.len(), hash(&message.bytes));
            self.oracle.trace.note(self.who, format_args!("sent {:?} {length} {hash:016x}", message.what));
            self.book.lock().unwrap().whole(message);
        }
        self.script.leave
    }

    /// Waits until the book says so, or nothing more comes.
    async fn until(&self, holds: impl Fn(&Book) -> bool) {
        loop {
            let done = {
                let book = self.book.lock().unwrap();
                holds(&book) || book.is_over()
            };
            if done {
                return;
            }
            self.changed.notified().await;
        }
    }

    async fn read(&self, half: &mut ReadHalf<Wire>) {
        let (after, chunk, pause) = self.script.reading;
        sleep(after).await;
        let mut input = Vec::new();
        let mut buffer = vec![0; chunk];
        let end = loop {
            // Cancel-safe: a read that is given up has read nothing.
            let read = tokio::select! {
                biased;
                () = self.stop.notified() => break None,
                read = half.read(&mut buffer) => read,
            };
            match read {
                Ok(0) => break Some("FIN"),
                Err(_) => break Some("RST"),
                Ok(count) => input.extend_from_slice(&buffer[..count]),
            }
            self.book.lock().unwrap().read(&mut input);
            self.changed.notify_one();
            if !pause.is_zero() {
                sleep(pause).await;
            }
        };
        if let Some(end) = end {
            self.oracle.trace.note(self.who, format_args!("reads {end} after {} bytes more", input.len()));
        }
        self.book.lock().unwrap().end(end, &input);
        self.changed.notify_one();
    }
}
