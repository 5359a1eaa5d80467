//! The load generator: short connections with some requests on each, so many in flight, as fast as they are answered
//! or at a fixed rate. Compares every reply with the one its request is due, byte by byte. At a fixed rate latency counts from the
//! moment a request was due, so a stall is paid for by all that it delays.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::json;
use warmline_compare::address::Address;
use warmline_compare::histogram::Histogram;
use warmline_compare::message::Protocol;
use warmline_compare::poll::{BOTH, Poller, READ, Ready};

#[derive(Parser)]
struct Options {
    /// May be repeated: connections take turns.
    #[arg(long, required = true)]
    to: Vec<Address>,
    #[arg(long)]
    protocol: Protocol,
    /// Bytes of a request on the wire.
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long)]
    requests: u64,
    #[arg(long, default_value_t = 1)]
    per_connection: u64,
    /// At most; at a fixed rate what is due and finds no place waits.
    #[arg(long, default_value_t = 32)]
    in_flight: usize,
    /// Requests a second; 0 = as fast as they are answered.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    #[arg(long, value_enum, default_value_t = Close::First)]
    close: Close,
    /// Milliseconds until right replies count as goodput, which they do until the last request is due.
    #[arg(long, default_value_t = 0)]
    settle: u64,
    /// What is not answered by then is an error.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// What a client does after its last reply.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Close {
    /// Closes.
    First,
    /// Waits for the other side to close.
    Eof,
}

/// One client at a time.
#[derive(Default)]
struct Place {
    socket: Option<OwnedFd>,
    registered: bool,
    /// Requests that its connection may still make.
    left: u64,
    request: Vec<u8>,
    sent: usize,
    reply: Vec<u8>,
    due: Option<Instant>,
}

/// How far a client got.
enum Step {
    Waits,
    Answered,
    Closed,
}

struct Load {
    options: Options,
    poller: Poller,
    places: Vec<Place>,
    free: Vec<usize>,
    start: Instant,
    issued: u64,
    ended: u64,
    connections: u64,
    wrong: u64,
    /// By words.
    refused: BTreeMap<String, u64>,
    errors: BTreeMap<String, u64>,
    /// Right replies that are goodput.
    good: u64,
    latencies: Histogram,
    scratch: Box<[u8]>,
}

fn main() -> io::Result<()> {
    // The kernel may not wake a thread up to 50 us late, its default.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let options = Options::parse();
    let mut load = Load {
        poller: Poller::new()?,
        places: (0..options.in_flight).map(|_| Place::default()).collect(),
        free: (0..options.in_flight).rev().collect(),
        start: Instant::now(),
        issued: 0,
        ended: 0,
        connections: 0,
        wrong: 0,
        refused: BTreeMap::new(),
        errors: BTreeMap::new(),
        good: 0,
        latencies: Histogram::default(),
        scratch: vec![0; 64 * 1024].into(),
        options,
    };
    load.run()?;
    load.report();
    Ok(())
}

impl Load {
    fn run(&mut self) -> io::Result<()> {
        let deadline = self.start + Duration::from_secs(self.options.seconds);
        let mut ready = Ready::default();
        loop {
            let next = self.issue();
            if self.ended >= self.options.requests {
                return Ok(());
            }
            let now = Instant::now();
            if now >= deadline {
                let late = self.options.requests - self.ended;
                self.errors.insert("not answered in time".into(), late);
                return Ok(());
            }
            let until = next.unwrap_or(deadline).min(deadline);
            self.poller.wait(&mut ready, Some(until.saturating_duration_since(now)))?;
            for key in ready.keys() {
                self.advance(key);
            }
        }
    }

    /// Starts what is due, as far as there are places. The time of the next one, if only that is waited for.
    fn issue(&mut self) -> Option<Instant> {
        while self.issued < self.options.requests {
            let due = self.due();
            if due > Instant::now() {
                return Some(due);
            }
            let key = self.free.pop()?;
            self.issued += 1;
            let result = self.begin(key, due);
            self.settle(key, result);
        }
        None
    }

    fn due(&self) -> Instant {
        match self.options.rate {
            0 => Instant::now(),
            rate => self.start + Duration::from_nanos(self.issued.saturating_mul(1_000_000_000) / rate),
        }
    }

    /// Between which moments right replies are goodput.
    fn counted(&self) -> (Duration, Duration) {
        let last = self.options.requests.saturating_mul(1_000_000_000).checked_div(self.options.rate);
        (Duration::from_millis(self.options.settle), last.map_or(Duration::MAX, Duration::from_nanos))
    }

    fn begin(&mut self, key: usize, due: Instant) -> io::Result<Step> {
        let place = &mut self.places[key];
        self.options.protocol.write(self.issued, self.options.size, &mut place.request);
        place.sent = 0;
        place.reply.clear();
        place.due = Some(due);
        if place.socket.is_none() {
            let turn = usize::try_from(self.connections).unwrap_or(0) % self.options.to.len();
            place.socket = Some(self.options.to[turn].start_connect()?);
            place.registered = false;
            place.left = self.options.per_connection;
            self.connections += 1;
        }
        place.send(key, &self.poller)?;
        Ok(Step::Waits)
    }

    fn advance(&mut self, key: usize) {
        let result = self.places[key].advance(key, &self.poller, self.options.protocol, &mut self.scratch);
        self.settle(key, result);
    }

    fn settle(&mut self, key: usize, result: io::Result<Step>) {
        let (settled, last) = self.counted();
        let place = &mut self.places[key];
        match result {
            Ok(Step::Waits) => return,
            Ok(Step::Answered) => {
                let due = place.due.take().unwrap_or(self.start);
                self.ended += 1;
                if self.options.protocol.answers(&place.request, &place.reply) {
                    self.latencies.record(due.elapsed());
                    let at = self.start.elapsed();
                    self.good += u64::from(at >= settled && at < last);
                } else if let Some(words) = self.options.protocol.refusal(&place.request, &place.reply) {
                    *self.refused.entry(words.to_owned()).or_default() += 1;
                } else {
                    self.wrong += 1;
                }
                place.left -= 1;
                if place.left == 0 && self.options.close == Close::Eof {
                    return;
                }
                if place.left == 0 {
                    place.socket = None;
                }
            }
            Ok(Step::Closed) => place.socket = None,
            Err(error) => {
                place.socket = None;
                // A connection that fails between two requests fails none.
                if place.due.take().is_some() {
                    self.ended += 1;
                    *self.errors.entry(error.kind().to_string()).or_default() += 1;
                } else if place.left > 0 {
                    return;
                }
            }
        }
        self.free.push(key);
    }

    fn report(&self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let errors: u64 = self.errors.values().sum();
        let refused: u64 = self.refused.values().sum();
        let right = self.ended.saturating_sub(self.wrong + refused + errors);
        let (settled, last) = self.counted();
        let counted = last.min(self.start.elapsed()).saturating_sub(settled);
        println!(
            "{}",
            json!({
                "requests": self.options.requests,
                "right": right,
                "wrong": self.wrong,
                "refused": self.refused,
                "errors": self.errors,
                "connections": self.connections,
                "seconds": seconds,
                "per_second": right as f64 / seconds,
                "goodput": self.good as f64 / counted.as_secs_f64(),
                "latency_us": self.latencies.report(),
            })
        );
    }
}

impl Place {
    /// Sends what is left of the request, and waits for the reply or for room.
    fn send(&mut self, key: usize, poller: &Poller) -> io::Result<()> {
        let Some(socket) = &self.socket else { return Ok(()) };
        let before = self.sent;
        match send(socket, &self.request[self.sent..], SendFlags::NOSIGNAL) {
            Ok(sent) => self.sent += sent,
            Err(Errno::AGAIN) => {}
            Err(e) => return Err(e.into()),
        }
        let whole = self.sent == self.request.len();
        let interest = if whole { READ } else { BOTH };
        if !self.registered {
            self.registered = true;
            poller.add(socket, key, interest)?;
        } else if !whole || before > 0 {
            poller.change(socket, key, interest)?;
        }
        Ok(())
    }

    fn advance(
        &mut self,
        key: usize,
        poller: &Poller,
        protocol: Protocol,
        scratch: &mut [u8],
    ) -> io::Result<Step> {
        if self.socket.is_some() && self.sent < self.request.len() {
            self.send(key, poller)?;
        }
        let Some(socket) = &self.socket else { return Ok(Step::Waits) };
        match recv(socket, &mut *scratch, RecvFlags::empty()) {
            Ok((0, _)) if self.due.is_none() && self.left == 0 => Ok(Step::Closed),
            Ok((0, _)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((read, _)) => {
                self.reply.extend_from_slice(&scratch[..read]);
                let over = self.reply.len() >= self.request.len() || protocol.whole(&self.reply).is_some();
                Ok(if over && self.due.is_some() { Step::Answered } else { Step::Waits })
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Step::Waits),
            Err(e) => Err(e.into()),
        }
    }
}
