//! The load: many connections that ask and compare every byte of what they get.
//!
//! Bounded in connections and in time. Prints one line of JSON with the totals; `wrong` must be 0.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::message::{Message, Request, flags};
use crate::say;
use crate::socket::Stream;
use crate::wire::Wire;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// HOST:PORT or unix:PATH.
    #[arg(long)]
    target: String,
    #[arg(long, value_enum)]
    wire: Wire,
    /// Connections in all.
    #[arg(long, default_value_t = 1000)]
    connections: u32,
    /// Threads, each with one connection at a time.
    #[arg(long, default_value_t = 4)]
    concurrency: u32,
    #[arg(long, default_value_t = 1)]
    requests_per_connection: u32,
    /// Requests sent before the first reply is awaited.
    #[arg(long, default_value_t = 1)]
    depth: u32,
    /// Bytes of payload; drawn between `size` and `max-size`.
    #[arg(long, default_value_t = 128)]
    size: usize,
    #[arg(long, default_value_t = 0)]
    max_size: usize,
    #[arg(long, default_value = "echo")]
    verb: String,
    /// Share of requests that expect no reply.
    #[arg(long, default_value_t = 0.0)]
    oneway: f64,
    #[arg(long, value_enum, default_value_t = Close::Fin)]
    close: Close,
    /// Send only so many bytes of each request, then close.
    #[arg(long)]
    abort_at: Option<usize>,
    /// Longest wait for a reply.
    #[arg(long, default_value_t = 30.0)]
    patience: f64,
    /// Stop opening connections after this.
    #[arg(long, default_value_t = 60.0)]
    max_seconds: f64,
    /// Open all connections, say so, wait for a line on standard input, then ask on each.
    #[arg(long)]
    hold: bool,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Close {
    /// At once, in both directions.
    Fin,
    /// After the peer has closed.
    Eof,
    /// No more sending after the last request; closed after the peer.
    Half,
    /// At once, by a reset.
    Rst,
}

/// What came of it.
#[derive(Debug, Default)]
struct Totals {
    connected: u64,
    ok: u64,
    oneway: u64,
    refused: u64,
    /// Requests whose connection ended before their reply.
    closed: u64,
    aborted: u64,
    wrong: u64,
    wrong_texts: Vec<String>,
    errors: BTreeMap<String, u64>,
    micros: Vec<u32>,
}

/// Why a connection was given up.
enum Fault {
    Socket(&'static str, io::Error),
    Wrong(String),
}

struct Client<'a> {
    options: &'a Options,
    totals: &'a mut Totals,
    number: u32,
    stream: Stream,
    input: Vec<u8>,
}

/// Runs the load and prints its totals.
pub(crate) fn run(options: &Options) {
    let start = Instant::now();
    let next = AtomicU32::new(0);
    let threads = options.concurrency.clamp(1, 256);
    let opened = Barrier::new(threads as usize + 1);
    let asked = Barrier::new(threads as usize + 1);
    let done = Barrier::new(threads as usize);
    let totals = std::thread::scope(|scope| {
        let work = || {
            let mut totals = Totals::default();
            if options.hold {
                hold_clients(options, &next, [&opened, &asked, &done], &mut totals);
            } else {
                short_clients(options, &next, start, &mut totals);
            }
            totals
        };
        let workers = (0..threads).map(|_| scope.spawn(work)).collect::<Vec<_>>();
        if options.hold {
            opened.wait();
            say(&json!({ "open": options.connections }));
            let _ = io::stdin().read_line(&mut String::new());
            asked.wait();
        }
        workers.into_iter().filter_map(|worker| worker.join().ok()).fold(Totals::default(), Totals::plus)
    });
    say(&totals.report(start.elapsed()));
}

fn short_clients(options: &Options, next: &AtomicU32, start: Instant, totals: &mut Totals) {
    while start.elapsed().as_secs_f64() < options.max_seconds {
        let number = next.fetch_add(1, Relaxed);
        if number >= options.connections {
            break;
        }
        let result = open(options, number, totals).and_then(|mut client| {
            client.ask_all()?;
            client.close()
        });
        totals.note(result);
    }
}

fn hold_clients(options: &Options, next: &AtomicU32, barriers: [&Barrier; 3], totals: &mut Totals) {
    let mut held = Vec::new();
    loop {
        let number = next.fetch_add(1, Relaxed);
        if number >= options.connections {
            break;
        }
        match connect(options) {
            Ok(stream) => {
                totals.connected += 1;
                held.push((number, stream));
            }
            Err(fault) => totals.note(Err(fault)),
        }
    }
    barriers[0].wait();
    barriers[1].wait();
    let mut served = Vec::with_capacity(held.len());
    for (number, stream) in held {
        let mut client = Client { options, totals, number, stream, input: Vec::new() };
        let result = client.ask_all();
        served.push(client.stream);
        totals.note(result);
    }
    // Nobody leaves before the last one is served.
    barriers[2].wait();
}

fn connect(options: &Options) -> Result<Stream, Fault> {
    let stream = Stream::connect(&options.target).map_err(|error| Fault::Socket("connect", error))?;
    stream
        .set_patience(Duration::from_secs_f64(options.patience))
        .map_err(|error| Fault::Socket("setsockopt", error))?;
    Ok(stream)
}

fn open<'a>(options: &'a Options, number: u32, totals: &'a mut Totals) -> Result<Client<'a>, Fault> {
    let stream = connect(options)?;
    totals.connected += 1;
    Ok(Client { options, totals, number, stream, input: Vec::new() })
}

impl Client<'_> {
    fn ask_all(&mut self) -> Result<(), Fault> {
        let mut sequence = 0;
        while sequence < self.options.requests_per_connection {
            let depth = self.options.depth.clamp(1, self.options.requests_per_connection - sequence);
            let last = sequence + depth == self.options.requests_per_connection;
            self.ask(sequence..sequence + depth, last)?;
            sequence += depth;
        }
        Ok(())
    }

    /// Sends some requests at once, then reads their replies.
    fn ask(&mut self, sequences: std::ops::Range<u32>, last: bool) -> Result<(), Fault> {
        let options = self.options;
        let mut owed = Vec::new();
        let mut bytes = Vec::new();
        for sequence in sequences {
            let mut request = Request::new(&options.verb, self.number, sequence);
            let size = fastrand::usize(options.size..=options.max_size.max(options.size));
            let payload = request.payload(size, options.wire.is_binary());
            let oneway = options.oneway > 0.0 && fastrand::f64() < options.oneway;
            let reply = request.reply(&payload);
            // Every client counts from 1: equal ids must not meet.
            let id = if options.wire.has_id() { u64::from(sequence) + 1 } else { 0 };
            let flags = if oneway { flags::ONEWAY } else { 0 };
            bytes.extend(options.wire.request(&Message { flags, id, payload }));
            if oneway {
                self.totals.oneway += 1;
            } else {
                owed.push(Message { flags: 0, id, payload: reply });
            }
        }
        let whole = options.abort_at.is_none_or(|limit| limit >= bytes.len());
        bytes.truncate(options.abort_at.unwrap_or(bytes.len()));
        let begin = Instant::now();
        (&self.stream).write_all(&bytes).map_err(|error| self.lost("write", owed.len(), error))?;
        if !whole {
            self.totals.aborted += owed.len() as u64;
            return Ok(());
        }
        if last && options.close == Close::Half {
            self.stream
                .shutdown(Shutdown::Write)
                .map_err(|error| self.lost("shutdown", owed.len(), error))?;
        }
        while !owed.is_empty() {
            let reply = self.receive(owed.len())?;
            self.compare(&reply, &mut owed)?;
            self.totals.micros.push(u32::try_from(begin.elapsed().as_micros()).unwrap_or(u32::MAX));
        }
        Ok(())
    }

    fn receive(&mut self, owed: usize) -> Result<Message, Fault> {
        let mut buffer = [0; 16 << 10];
        loop {
            if let Some(message) = self.options.wire.decode(&mut self.input).map_err(Fault::Wrong)? {
                return Ok(message);
            }
            match (&self.stream).read(&mut buffer) {
                Ok(0) => return Err(self.lost("read", owed, io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => self.input.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.lost("read", owed, error)),
            }
        }
    }

    fn compare(&mut self, reply: &Message, owed: &mut Vec<Message>) -> Result<(), Fault> {
        let by_id = self.options.wire.has_id();
        let at = if by_id { owed.iter().position(|o| o.id == reply.id) } else { Some(0) };
        let Some(at) = at else { return Err(Fault::Wrong(format!("reply with unknown id {}", reply.id))) };
        let expected = owed.remove(at);
        if self.options.wire.is_refusal(reply, expected.id) {
            self.totals.refused += 1;
        } else if *reply == expected {
            self.totals.ok += 1;
        } else {
            let shown = |payload: &[u8]| payload[..payload.len().min(60)].escape_ascii().to_string();
            let (got, expected) = (shown(&reply.payload), shown(&expected.payload));
            return Err(Fault::Wrong(format!("got {got} instead of {expected}")));
        }
        Ok(())
    }

    fn close(mut self) -> Result<(), Fault> {
        match self.options.close {
            Close::Fin => {}
            Close::Rst => {
                self.stream.reset().map_err(|error| Fault::Socket("reset", error))?;
                return Ok(());
            }
            Close::Eof | Close::Half => loop {
                match (&self.stream).read(&mut [0; 64]) {
                    Ok(0) => break,
                    Ok(read) => self.input.resize(self.input.len() + read, 0),
                    Err(error) => return Err(Fault::Socket("close", error)),
                }
            },
        }
        if self.input.is_empty() { Ok(()) } else { Err(Fault::Wrong("bytes after the last reply".into())) }
    }

    fn lost(&mut self, what: &'static str, owed: usize, error: io::Error) -> Fault {
        self.totals.closed += owed as u64;
        Fault::Socket(what, error)
    }
}

impl Totals {
    fn note(&mut self, result: Result<(), Fault>) {
        match result {
            Ok(()) => {}
            Err(Fault::Socket(what, error)) => {
                *self.errors.entry(format!("{what}: {:?}", error.kind())).or_default() += 1;
            }
            Err(Fault::Wrong(text)) => {
                self.wrong += 1;
                self.wrong_texts.push(text);
                self.wrong_texts.truncate(8);
            }
        }
    }

    fn plus(mut self, other: Self) -> Self {
        self.connected += other.connected;
        self.ok += other.ok;
        self.oneway += other.oneway;
        self.refused += other.refused;
        self.closed += other.closed;
        self.aborted += other.aborted;
        self.wrong += other.wrong;
        self.wrong_texts.extend(other.wrong_texts);
        for (text, count) in other.errors {
            *self.errors.entry(text).or_default() += count;
        }
        self.micros.extend(other.micros);
        self
    }

    fn report(mut self, elapsed: Duration) -> serde_json::Value {
        self.micros.sort_unstable();
        let percentile = |percent: usize| {
            let last = self.micros.len().saturating_sub(1);
            self.micros.get(last * percent / 100).copied().unwrap_or(0)
        };
        json!({
            "connected": self.connected,
            "ok": self.ok,
            "oneway": self.oneway,
            "refused": self.refused,
            "closed": self.closed,
            "aborted": self.aborted,
            "wrong": self.wrong,
            "wrong_texts": self.wrong_texts,
            "errors": self.errors,
            "seconds": elapsed.as_secs_f64(),
            "p50_us": percentile(50),
            "p99_us": percentile(99),
            "max_us": percentile(100),
        })
    }
}
