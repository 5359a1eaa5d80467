//! A connection that one client has for itself: bytes go both ways as they are, until either side ends.
//!
//! Invariant: it is never used again. What one side does not take, the other does not get to send: a connection with
//! one client may be slowed by it. Opened by `pool`, run by `session`.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::events::{self, CloseReason};
use crate::lifecycle::{Alarm, Permit, Phase, Watch, earliest};
use crate::wire::{CHUNK, Close, Interest, Output, Wire};

/// Reads of one side in a row before others get their turn.
const READS: usize = 16;

/// A server that has spoken last, and says nothing for so long, owes nothing as far as anybody can tell.
const QUIET: Duration = Duration::from_secs(1);

/// How long nothing may move.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While neither side has anything to say.
    pub idle: Duration,
    /// While one side does not take what the other has said.
    pub write: Duration,
    /// For the server, once the client has spoken last or has ended.
    pub end: Duration,
}

/// Who ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The client, and after it the server.
    Client,
    /// The server, which was told in a drain that nothing more comes.
    Drained,
    /// The client's socket failed.
    ClientGone,
    /// The server, in good order.
    Server,
    /// The server's socket failed: the client may have a part of something.
    ServerGone,
    /// Nothing moved for too long.
    Idle,
    /// One side did not take what it was sent.
    Slow,
    /// warmline stops.
    Stopped,
}

/// Counts one connection for as long as it stands.
#[derive(Debug)]
pub struct Held([Arc<AtomicUsize>; 2]);

impl Held {
    /// Counts it in each of `counts`.
    pub fn new(counts: [Arc<AtomicUsize>; 2]) -> Self {
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Self(counts)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// A connection for one client.
#[derive(Debug)]
pub struct Dedicated {
    server: Wire,
    endpoint: Arc<str>,
    events: Arc<events::Upstream>,
    _held: Held,
    /// Its place among its like.
    _place: Permit,
}

impl Dedicated {
    /// The connection to `endpoint` behind `server`, which is counted in `held`.
    pub(crate) fn new(
        server: Wire,
        endpoint: Arc<str>,
        events: Arc<events::Upstream>,
        (held, place): (Held, Permit),
    ) -> Self {
        Self { server, endpoint, events, _held: held, _place: place }
    }

    /// Sends `first`, and then whatever comes, either way. When the front half drains, the server is told that the
    /// client sends nothing more, once it seems to owe nothing: many take that for the end of all.
    pub async fn carry(
        mut self,
        client: &mut Wire,
        first: Output,
        front: &mut Watch,
        patience: Patience,
    ) -> Over {
        let over = self.relay(client, first, front, patience).await;
        let reason = match over {
            Over::Client | Over::ClientGone => CloseReason::Client,
            Over::Server => CloseReason::Peer,
            Over::ServerGone => CloseReason::Lost,
            Over::Idle => CloseReason::Idle,
            Over::Slow => CloseReason::Stalled,
            Over::Drained | Over::Stopped => CloseReason::Shutdown,
        };
        self.events.connection_closed(&self.endpoint, reason, 0, 0);
        match over {
            Over::Client | Over::Drained => self.server.close(Close::Fin),
            Over::Idle => self.server.close(Close::FinReset),
            _ => self.server.reset(),
        }
        over
    }

    async fn relay(
        &mut self,
        client: &mut Wire,
        first: Output,
        front: &mut Watch,
        patience: Patience,
    ) -> Over {
        let (mut up, mut down) = (Lane::new(first), Lane::new(Output::new()));
        let mut alarm = pin!(Alarm::default());
        let (mut moved_at, mut client_last, mut drained) = (Instant::now(), true, false);
        loop {
            let phase = front.look();
            if phase == Phase::Stopped {
                return Over::Stopped;
            }
            let now = Instant::now();
            let sent = up.advance(client, &mut self.server, now);
            let heard = down.advance(&mut self.server, client, now);
            let (sent, heard) = match (sent, heard) {
                (Err(Side::From), _) | (_, Err(Side::To)) => return Over::ClientGone,
                // What the server said before it failed was passed on as far as the client took it.
                (Err(Side::To), _) | (_, Err(Side::From)) => return Over::ServerGone,
                (Ok(sent), Ok(heard)) => (sent, heard),
            };
            if sent || heard {
                (moved_at, client_last) = (now, sent && !heard);
            }
            let quiet = if client_last { patience.end } else { QUIET };
            let drains = phase == Phase::Draining && !up.from_ended;
            if drains && now >= moved_at + quiet {
                (up.from_ended, drained, moved_at) = (true, true, now);
            }
            if up.is_over() && !std::mem::replace(&mut up.told, true) {
                self.server.shut_down();
            }
            if down.is_over() {
                return match (up.is_over(), drained) {
                    (false, _) => Over::Server,
                    (true, false) => Over::Client,
                    (true, true) => Over::Drained,
                };
            }
            let idle = match (up.from_ended, client_last) {
                (true, _) => patience.end,
                (false, true) => patience.idle.max(patience.end),
                (false, false) => patience.idle,
            };
            let (late, due) = match earliest([up.stuck_since, down.stuck_since]) {
                Some(since) => (Over::Slow, since + patience.write),
                None => (Over::Idle, moved_at + idle),
            };
            if due <= now {
                return late;
            }
            let due =
                if phase == Phase::Draining && !up.from_ended { due.min(moved_at + quiet) } else { due };
            if up.has_more || down.has_more {
                tokio::task::yield_now().await;
                continue;
            }
            if let Err(over) = self.wait(client, (&up, &down), front, alarm.as_mut(), due).await {
                return over;
            }
        }
    }

    /// Waits until something can be moved, or until `due`.
    async fn wait(
        &mut self,
        client: &mut Wire,
        (up, down): (&Lane, &Lane),
        front: &mut Watch,
        mut alarm: Pin<&mut Alarm>,
        due: Instant,
    ) -> Result<(), Over> {
        poll_fn(|cx| {
            let client_ready = client.poll_ready(cx, up.wants(down));
            let server_ready = self.server.poll_ready(cx, down.wants(up));
            match (client_ready, server_ready) {
                (Poll::Ready(Err(_)), _) => return Poll::Ready(Err(Over::ClientGone)),
                (_, Poll::Ready(Err(_))) => return Poll::Ready(Err(Over::ServerGone)),
                (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) => return Poll::Ready(Ok(())),
                (Poll::Pending, Poll::Pending) => {}
            }
            let is_due = alarm.as_mut().poll_reached(cx, Some(due)).is_ready();
            if is_due || front.poll_moved(cx).is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }
}

/// Which socket failed.
#[derive(Clone, Copy, Debug)]
enum Side {
    From,
    To,
}

/// One direction.
#[derive(Debug)]
struct Lane {
    /// Read and not yet written: nothing is read as long as there is some.
    output: Output,
    /// Since when the other side has taken nothing of it.
    stuck_since: Option<Instant>,
    /// Nothing more comes.
    from_ended: bool,
    /// The other side was told so.
    told: bool,
    /// There may be more to read: only others come first.
    has_more: bool,
}

impl Lane {
    fn new(output: Output) -> Self {
        Self { output, stuck_since: None, from_ended: false, told: false, has_more: false }
    }

    /// Moves what can be moved `now`. True if anything was.
    fn advance(&mut self, from: &mut Wire, to: &mut Wire, now: Instant) -> Result<bool, Side> {
        let written = self.output.written();
        let moved = self.pump(from, to)?;
        if self.output.is_empty() {
            self.stuck_since = None;
        } else if self.output.written() > written || self.stuck_since.is_none() {
            self.stuck_since = Some(now);
        }
        Ok(moved)
    }

    fn pump(&mut self, from: &mut Wire, to: &mut Wire) -> Result<bool, Side> {
        let before = (self.output.written(), self.from_ended);
        self.has_more = false;
        let mut scratch = [0; CHUNK];
        for _ in 0..READS {
            if !to.try_flush(&mut self.output).map_err(|_| Side::To)? || self.from_ended {
                return Ok(before != (self.output.written(), self.from_ended));
            }
            match from.try_read(&mut scratch) {
                Ok(0) => self.from_ended = true,
                Ok(read) => self.output.put(&scratch[..read]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(before != (self.output.written(), self.from_ended));
                }
                Err(_) => return Err(Side::From),
            }
        }
        self.has_more = true;
        Ok(true)
    }

    fn is_over(&self) -> bool {
        self.from_ended && self.output.is_empty()
    }

    /// What the socket that this one reads, and `other` writes, is watched for.
    fn wants(&self, other: &Self) -> Interest {
        let read = !self.from_ended && self.output.is_empty();
        Interest { read, write: !other.output.is_empty(), reset: !read }
    }
}
