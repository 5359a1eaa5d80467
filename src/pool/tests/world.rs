//! A pool in paused time, its endpoints played by the test.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::{Cap, Means, Pool, Sender, Settings, balance, health};
use crate::connection::{self, Connecting, Connector, Idempotent};
use crate::events::{self, Outcome};
use crate::exchange::{Answer, Ticket};
use crate::frame::Endian;
use crate::lifecycle::Switch;
use crate::net::{Address, Lookup, Tuning};
use crate::protocol::frame::{Condition, Field, Frame, Heartbeat, Length, Size, Template};
use crate::protocol::{Id, Mode, Protocol, Request, frame};
use crate::queue::Retry;
use crate::wire::{Budget, Wire, memory};

pub(crate) const ONEWAY: u8 = 1;
pub(crate) const HEARTBEAT: u8 = 2;
pub(crate) const CLOSING: u8 = 4;
pub(crate) const ERROR: u8 = 0x80;

/// Frames of the tests: length (1 byte, of the whole), flags (1), id (2), payload.
pub(crate) fn message(flags: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(4 + payload.len()).unwrap();
    [&[length, flags], &id.to_be_bytes()[..], payload].concat()
}

/// The protocol of those frames.
pub(crate) fn protocol() -> Arc<dyn Protocol> {
    let bit = |flag| vec![Condition { offset: 1, mask: flag, equals: flag }];
    let mut settings =
        frame::Settings::new(Length { offset: 0, size: Size::Bytes(1), endian: Endian::Big, adjust: 0 });
    settings.id = Some(Field { offset: 2, size: 2, endian: Endian::Big, avoid: vec![] });
    settings.oneway = bit(ONEWAY);
    settings.closing = bit(CLOSING);
    let pong = Some(Template::parse("05 40 {id} 21").unwrap());
    settings.heartbeat = Some(Heartbeat { conditions: bit(HEARTBEAT), reply: pong, is_request: false });
    settings.error = Some(Template::parse("05 80 {id} 21").unwrap());
    Arc::new(Frame::new(settings).unwrap())
}

/// Who sends requests here.
pub(crate) const ANYBODY: Sender<'static> = Sender { first: false, id: &Id::None, not_before: 0 };

/// Endpoints that connect, or fail as told.
#[derive(Debug)]
struct Script {
    doors: mpsc::Sender<(usize, Wire)>,
    failures: Mutex<VecDeque<(usize, io::ErrorKind)>>,
    /// Endpoints that refuse.
    closed: Mutex<Vec<usize>>,
}

impl Connector for Script {
    fn connect(&self, endpoint: usize, _: &Address, _: Duration) -> Connecting {
        let mut failures = self.failures.lock().unwrap();
        if failures.front().is_some_and(|(e, _)| *e == endpoint) {
            let (_, kind) = failures.pop_front().unwrap();
            return Box::pin(async move { Err(kind.into()) });
        }
        if self.closed.lock().unwrap().contains(&endpoint) {
            return Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) });
        }
        let (near, far) = memory::pair(4096);
        let doors = self.doors.clone();
        Box::pin(async move {
            doors.send((endpoint, far.into())).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(near.into())
        })
    }
}

/// Connections from `connector`, and names that nobody knows.
pub(crate) fn means(connector: Arc<dyn Connector>, cap: usize) -> Means {
    Means { connector, resolver: Arc::new(Lookup), cap: Cap::new(cap, cap) }
}

/// A pool and its surroundings.
pub(crate) struct World {
    pub(crate) pool: Arc<Pool>,
    pub(crate) events: Arc<events::Upstream>,
    pub(crate) back: Switch,
    pub(crate) keeper: JoinHandle<()>,
    script: Arc<Script>,
    doors: mpsc::Receiver<(usize, Wire)>,
}

pub(crate) fn settings(mode: Mode, min: usize, max: usize) -> Settings {
    Settings {
        endpoints: vec![Address::Tcp { host: "10.0.0.1".into(), port: 1 }.into()],
        balance: balance::Settings { slow_start: Duration::ZERO, ..Default::default() },
        mode,
        min_connections: min,
        max_connections: max,
        max_dedicated: max,
        max_connecting: 4,
        max_in_flight: 128,
        max_waiting: 1024,
        acquire_timeout: Duration::from_secs(3),
        request_timeout: Duration::from_secs(15),
        health: health::Settings {
            probe: health::Probe::Connect,
            interval: None,
            timeout: Duration::from_secs(1),
            unhealthy_after: 3,
            healthy_after: 1,
            eject_after: 5,
            eject_for: Duration::from_secs(1),
        },
        retry: Retry { attempts: 2, per_thousand: 200 },
        connection: connection::Settings {
            connect_timeout: Duration::from_secs(1),
            stall: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(1800),
            max_requests: 0,
            max_buffered: 64 << 10,
            max_reply_buffered: 1 << 20,
            idempotent: Idempotent::None,
            preamble: None,
            tuning: Tuning { nodelay: true, keepalive: None, user_timeout: None, source: None },
        },
    }
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        Self::with(settings, protocol())
    }

    pub(crate) fn with(settings: Settings, protocol: Arc<dyn Protocol>) -> Self {
        Self::within(settings, protocol, Budget::new(1 << 20))
    }

    pub(crate) fn within(settings: Settings, protocol: Arc<dyn Protocol>, budget: Budget) -> Self {
        let cap = Cap::new(settings.max_connections, settings.max_dedicated);
        Self::under(&cap, settings, protocol, budget)
    }

    /// A pool that shares its cap with others.
    pub(crate) fn under(
        cap: &Arc<Cap>,
        settings: Settings,
        protocol: Arc<dyn Protocol>,
        budget: Budget,
    ) -> Self {
        let events = Arc::new(events::Upstream::new("u"));
        let back = Switch::new();
        let (doors, receiver) = mpsc::channel(64);
        let script = Arc::new(Script { doors, failures: Mutex::default(), closed: Mutex::default() });
        let means = Means { cap: cap.clone(), ..means(script.clone(), 0) };
        let (pool, keeper) = Pool::new(settings, protocol, events.clone(), budget, back.watch(), means);
        let keeper = tokio::spawn(keeper.run());
        Self { pool, events, back, keeper, script, doors: receiver }
    }

    /// The endpoint refuses connections from now on, or no longer.
    pub(crate) fn refuse(&self, endpoint: usize, refuse: bool) {
        let mut closed = self.script.closed.lock().unwrap();
        closed.retain(|e| *e != endpoint);
        if refuse {
            closed.push(endpoint);
        }
    }

    /// The next connection, and to which endpoint.
    pub(crate) async fn accept_at(&mut self) -> (usize, Server) {
        let (endpoint, wire) = self.doors.recv().await.unwrap();
        (endpoint, Server { wire })
    }

    /// The next connection.
    pub(crate) async fn accept(&mut self) -> Server {
        self.accept_at().await.1
    }

    /// Whether nobody connects within `time`.
    pub(crate) async fn nobody_connects(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.doors.recv()).await.is_err()
    }

    pub(crate) fn call(&self, payload: &[u8]) -> Call {
        self.send(0, payload)
    }

    pub(crate) fn send(&self, flags: u8, payload: &[u8]) -> Call {
        let bytes = Bytes::from(message(flags, 7, payload));
        let request = Request::new(bytes, flags & ONEWAY != 0);
        Call {
            pool: self.pool.clone(),
            ticket: self.pool.admit(request, ANYBODY, tokio::time::Instant::now()),
        }
    }

    pub(crate) fn outcomes(&self, outcome: Outcome) -> u64 {
        self.events.outcomes.of(outcome).get()
    }

    pub(crate) fn assert_conserved(&self) {
        assert_eq!(self.events.accepted.get(), self.events.outcomes.sum());
    }
}

/// A session with one request.
#[derive(Debug)]
pub(crate) struct Call {
    pool: Arc<Pool>,
    pub(crate) ticket: Ticket,
}

impl Call {
    /// The answer, no later than its deadline.
    pub(crate) async fn answer(&mut self) -> Answer {
        loop {
            let look_again = self.pool.expire(&self.ticket, tokio::time::Instant::now());
            let answer = std::future::poll_fn(|cx| self.ticket.poll_answer(cx));
            tokio::select! {
                biased;
                answer = answer => return answer,
                () = async { match look_again {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                } } => {}
            }
        }
    }

    /// The payload of the reply.
    pub(crate) async fn reply(&mut self) -> Vec<u8> {
        self.answer().await.unwrap().unwrap().bytes[4..].to_vec()
    }

    /// Whether there is no answer yet.
    pub(crate) async fn is_open(&mut self) -> bool {
        settle().await;
        std::future::poll_fn(|cx| Poll::Ready(self.ticket.poll_answer(cx).is_pending())).await
    }

    pub(crate) fn abandon(&self) {
        self.pool.abandon(&self.ticket);
    }
}

/// Lets everything that can happen now happen.
pub(crate) async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// A server's side of a connection.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) wire: Wire,
}

impl Server {
    /// The next message: flags, id, payload.
    pub(crate) async fn receive(&mut self) -> (u8, u16, Vec<u8>) {
        self.try_receive().await.unwrap()
    }

    /// The same, if the connection does not end before.
    pub(crate) async fn try_receive(&mut self) -> Option<(u8, u16, Vec<u8>)> {
        let mut head = [0; 4];
        self.wire.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; usize::from(head[0]) - 4];
        self.wire.read_exact(&mut payload).await.ok()?;
        Some((head[1], u16::from_be_bytes([head[2], head[3]]), payload))
    }

    /// Whether nothing arrives now.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        settle().await;
        let mut byte = [0; 1];
        matches!(self.wire.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }

    pub(crate) async fn send(&mut self, flags: u8, id: u16, payload: &[u8]) {
        self.wire.write_all(&message(flags, id, payload)).await.unwrap();
    }

    /// Answers the next request with its own payload; returns the payload.
    pub(crate) async fn echo(&mut self) -> Vec<u8> {
        let (flags, id, payload) = self.receive().await;
        assert_eq!(flags, 0);
        self.send(0, id, &payload).await;
        payload
    }

    /// How the connection ends: `Ok` for FIN, an error for RST.
    pub(crate) async fn end(&mut self) -> io::Result<()> {
        let mut rest = Vec::new();
        self.wire.read_to_end(&mut rest).await?;
        assert_eq!(rest, b"", "bytes before the end");
        Ok(())
    }
}
