//! What a seed stands for: all that is chosen before anything runs.

use std::io::ErrorKind;
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use warmline::connection::{self, Idempotent, Preamble};
use warmline::net::{Address, Tuning};
use warmline::pool;
use warmline::pool::health::{self, Probe};
use warmline::protocol::Mode;
use warmline::queue::Retry;
use warmline::session::{self, ClientClose};
use warmline::wire::Budget;

use crate::clients::{self, Script};
use crate::dialect::{Dialect, MAX_MESSAGE};

/// What a server that speaks first says, and what it is told.
pub(crate) const GREETING: (&[u8], &[u8]) = (b"220 sim\n", b"hello\n");

/// A budget that is never short, in bytes.
pub(crate) const AMPLE: u64 = 8 << 20;

/// Larger messages travel in parts, in bytes: none, or many.
const WHOLE: usize = 1 << 20;
const IN_PARTS: usize = 4097;
const REPLY_BUFFERED: usize = 4 << 10;

/// The plan of one seed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) dialect: Dialect,
    /// Whether the proxy has words for an error.
    pub(crate) words: bool,
    pub(crate) pool: pool::Settings,
    pub(crate) session: session::Settings,
    pub(crate) budget: u64,
    /// Bytes on their way in each direction: of a client's connection, and of a server's.
    pub(crate) capacity: (usize, usize),
    pub(crate) sizes: Sizes,
    /// How the endpoints take connects, each from a time on.
    pub(crate) weather: Vec<Vec<(Duration, Weather)>>,
    /// How likely it is that a server's connection, and each of its replies, go wrong; in percent.
    pub(crate) mischief: (u8, u8),
    /// When servers close an idle connection, if all of them do.
    pub(crate) idle_limit: Option<Duration>,
    /// Whether replies that hang come when the faults end.
    pub(crate) wakes: bool,
    /// When the faults end.
    pub(crate) calm: Duration,
    pub(crate) drain: Option<Drain>,
    pub(crate) clients: Vec<Script>,
    /// When the listener would make room.
    pub(crate) evictions: Vec<Duration>,
}

/// A drain in the middle of it all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain {
    pub(crate) at: Duration,
    pub(crate) timeout: Duration,
}

/// How an endpoint takes connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Weather {
    Up,
    Slow(Duration),
    Fails(ErrorKind),
    Hangs,
    /// Connects, and says something else than it should, or nothing.
    Rude,
}

/// Between `from` and `to` milliseconds.
pub(crate) fn millis(rng: &mut Rng, from: u64, to: u64) -> Duration {
    Duration::from_millis(rng.u64(from..=to))
}

/// True in so many of a hundred cases.
pub(crate) fn chance(rng: &mut Rng, percent: u8) -> bool {
    rng.u8(0..100) < percent
}

pub(crate) fn pick<T: Copy>(rng: &mut Rng, items: &[T]) -> T {
    items[rng.usize(0..items.len())]
}

/// How long messages are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sizes {
    /// The least bytes on their way in any direction.
    pub(crate) capacity: usize,
    /// Mostly large.
    pub(crate) heavy: bool,
}

/// Bytes of a filling.
pub(crate) fn filling(rng: &mut Rng, sizes: Sizes) -> usize {
    let size = match rng.u8(0..10) + if sizes.heavy { 6 } else { 0 } {
        0..6 => rng.usize(0..60),
        6..8 => rng.usize(60..4000),
        _ => rng.usize(4000..MAX_MESSAGE - 100),
    };
    // A large message through a tiny pipe takes many steps and shows nothing new.
    size.min(sizes.capacity * 100)
}

impl Plan {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let mode = pick(rng, &[Mode::Exclusive, Mode::Pipeline, Mode::Multiplex]);
        let dialect = match mode {
            Mode::Multiplex => Dialect::Frame { id: pick(rng, &[1, 2, 4]) },
            _ if chance(rng, 25) => Dialect::Line,
            _ => Dialect::Frame { id: pick(rng, &[0, 1, 2, 4]) },
        };
        let mut pool = pool_settings(rng, mode);
        let mut session = session_settings(rng, mode);
        let tiny = chance(rng, 30);
        let sizes: &[usize] = if tiny { &[1, 2, 3, 5, 9, 17] } else { &[40, 300, 4096, 5000, 65_536] };
        let capacity = (pick(rng, sizes), pick(rng, sizes));
        let heavy = !tiny && chance(rng, 25);
        let fillings = Sizes { capacity: capacity.0.min(capacity.1), heavy };
        let small = Budget::floor(MAX_MESSAGE as u64);
        let budget = if chance(rng, if heavy { 70 } else { 30 }) { small } else { AMPLE };
        if budget == AMPLE && rng.bool() {
            pool.connection.max_buffered = IN_PARTS;
            session.max_buffered = IN_PARTS;
        }
        let mischief = pick(rng, &[(0, 0), (15, 5), (40, 10), (70, 25)]);
        let idle_limit = (mischief.0 > 0 && chance(rng, 25)).then(|| millis(rng, 150, 1_500));
        let calm = millis(rng, 3_000, 15_000);
        let weather = pool.endpoints.iter().map(|_| weather(rng, mischief.0, calm)).collect();
        let clients = (0..rng.usize(2..14)).map(|n| clients::draw(rng, n, dialect, fillings, calm)).collect();
        let drain =
            chance(rng, 30).then(|| Drain { at: millis(rng, 10, 12_000), timeout: millis(rng, 200, 12_000) });
        let evictions = (0..rng.usize(0..3)).map(|_| millis(rng, 0, 10_000)).collect();
        let (words, wakes) = (chance(rng, 75), rng.bool());
        Self {
            dialect,
            words,
            pool,
            session,
            budget,
            capacity,
            sizes: fillings,
            weather,
            mischief,
            idle_limit,
            wakes,
            calm,
            drain,
            clients,
            evictions,
        }
    }

    /// Whether large messages travel in parts.
    pub(crate) fn in_parts(&self) -> bool {
        self.session.max_buffered == IN_PARTS
    }

    /// How often a request may run.
    pub(crate) fn runs(&self) -> u32 {
        if self.pool.connection.idempotent == Idempotent::All { self.pool.retry.attempts } else { 1 }
    }

    /// Whether servers do nothing wrong.
    pub(crate) fn is_gentle(&self) -> bool {
        self.mischief == (0, 0)
    }
}

fn weather(rng: &mut Rng, mischief: u8, calm: Duration) -> Vec<(Duration, Weather)> {
    let mut changes = vec![(Duration::ZERO, Weather::Up)];
    if mischief > 0 {
        for _ in 0..rng.usize(0..5) {
            let at = calm.mul_f64(rng.f64());
            changes.push((at, cloud(rng)));
        }
        if rng.bool() {
            changes.push((Duration::ZERO, cloud(rng)));
        }
        changes.sort_by_key(|(at, _)| *at);
    }
    changes
}

fn cloud(rng: &mut Rng) -> Weather {
    let slow = Weather::Slow(millis(rng, 1, 900));
    let refuses = Weather::Fails(ErrorKind::ConnectionRefused);
    let other = [ErrorKind::NotFound, ErrorKind::TimedOut, ErrorKind::HostUnreachable];
    let fails = Weather::Fails(pick(rng, &other));
    pick(rng, &[Weather::Up, slow, refuses, fails, Weather::Hangs, Weather::Rude])
}

fn pool_settings(rng: &mut Rng, mode: Mode) -> pool::Settings {
    let endpoint = |port| Address::Tcp { host: "10.0.0.1".into(), port };
    let max_connections = rng.usize(1..=6);
    let request_timeout = millis(rng, 500, 8_000);
    let stall = request_timeout.mul_f64(1.0 + 2.0 * rng.f64());
    let spoken_to = chance(rng, 20);
    let (expect, send) = GREETING;
    pool::Settings {
        endpoints: (1..=rng.u16(1..=3)).map(endpoint).map(Into::into).collect(),
        balance: pool::balance::Settings::default(),
        mode,
        min_connections: rng.usize(0..=max_connections),
        max_connections,
        max_dedicated: 1,
        max_connecting: rng.usize(1..=4),
        max_in_flight: pick(rng, &[1, 2, 3, 8, 64, 127]),
        max_waiting: pick(rng, &[1, 3, 20, 1000]),
        acquire_timeout: millis(rng, 200, 4_000),
        request_timeout,
        health: health(rng),
        retry: Retry { attempts: rng.u32(1..=4), per_thousand: pick(rng, &[0, 200, 1000]) },
        connection: connection::Settings {
            connect_timeout: millis(rng, 100, 1_000),
            stall,
            idle_timeout: millis(rng, 500, 20_000),
            max_lifetime: pick(rng, &[2, 10, 1800]) * Duration::from_secs(1),
            max_requests: pick(rng, &[0, 0, 0, 1, 2, 7]),
            max_buffered: WHOLE,
            max_reply_buffered: REPLY_BUFFERED,
            idempotent: if chance(rng, 30) { Idempotent::All } else { Idempotent::None },
            preamble: spoken_to
                .then(|| Preamble { expect: Bytes::from_static(expect), send: Bytes::from_static(send) }),
            tuning: Tuning { nodelay: true, keepalive: None, user_timeout: None, source: None },
        },
    }
}

fn health(rng: &mut Rng) -> health::Settings {
    let interval = chance(rng, 60).then(|| millis(rng, 200, 5_000));
    health::Settings {
        probe: Probe::Connect,
        interval,
        timeout: interval.unwrap_or(Duration::from_secs(1)),
        unhealthy_after: rng.u32(1..=3),
        healthy_after: rng.u32(1..=2),
        eject_after: rng.u32(1..=6),
        eject_for: millis(rng, 100, 2_000),
    }
}

fn session_settings(rng: &mut Rng, mode: Mode) -> session::Settings {
    session::Settings {
        one_shot: chance(rng, 25),
        client_close: pick(
            rng,
            &[ClientClose::Auto, ClientClose::Auto, ClientClose::Fin, ClientClose::Reset],
        ),
        client_read: millis(rng, 500, 8_000),
        client_idle: millis(rng, 500, 10_000),
        client_write: millis(rng, 500, 8_000),
        client_progress: millis(rng, 500, 4_000),
        max_buffered: WHOLE,
        max_reply_buffered: (mode != Mode::Exclusive).then_some(REPLY_BUFFERED),
        max_per_client: if mode == Mode::Multiplex { rng.usize(1..8) } else { 1 },
    }
}
