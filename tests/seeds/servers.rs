//! Servers: each connection has a fate, each reply one of its own, until the faults end.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};
use warmline::protocol::Mode;
use warmline::wire::Wire;

use crate::dialect::{self, CLOSING, Dialect, HEARTBEAT, Message, ONEWAY, PONG};
use crate::oracle::Oracle;
use crate::plan::{GREETING, Plan, chance, filling, millis, pick};
use crate::trace::{Who, hash};

/// Longer than any run.
const NEVER: Duration = Duration::from_secs(100_000);

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Good,
    /// Falls once it has read so many bytes.
    CutRead(usize, Fall),
    /// Falls once it has written so many bytes.
    CutWrite(usize, Fall),
    /// Sends bytes that are no message.
    Nonsense,
    /// Sends a whole reply to nothing, or the front of one.
    Stray(bool),
    /// Says that it will close, and does when it has replied to what it got.
    Closing,
    Heartbeats,
    /// Closes after silence.
    IdleLimit,
    /// Says the wrong thing first, or nothing.
    Rude(bool),
}

/// How a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fall {
    Close,
    Reset,
    /// It stays open, and nothing happens any more.
    Silence,
}

/// What becomes of a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    After(Duration),
    /// Before the request is there.
    Early,
    Hang,
    Twice,
    /// To nobody's request.
    WrongTag,
}

/// A reply that is due.
#[derive(Debug)]
struct Due {
    /// `None` = it hangs.
    at: Option<Instant>,
    nonce: u64,
    bytes: Vec<u8>,
}

/// The server's side of a connection.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they do not depend on each other")]
pub(crate) struct Server {
    who: Who,
    wire: Wire,
    rng: Rng,
    plan: Arc<Plan>,
    oracle: Oracle,
    fate: Fate,
    /// When a fate that has a time takes its course.
    strikes: Instant,
    calm: Instant,
    is_calm: bool,
    greeted: bool,
    deaf: bool,
    /// The stream that it writes cannot go on.
    broken: bool,
    input: Vec<u8>,
    /// What becomes of the request at the front of the input.
    front: Option<Verdict>,
    due: Vec<Due>,
    read: usize,
    written: usize,
}

impl Server {
    pub(crate) fn new(
        n: usize,
        wire: Wire,
        rude: bool,
        mut rng: Rng,
        plan: Arc<Plan>,
        calm: Instant,
        oracle: Oracle,
    ) -> Self {
        let is_calm = Instant::now() >= calm;
        let fate = match rude {
            true if !is_calm => Fate::Rude(rng.bool()),
            _ if is_calm => Fate::Good,
            _ if chance(&mut rng, plan.mischief.0) => fate(&mut rng, plan.dialect),
            _ if plan.idle_limit.is_some() => Fate::IdleLimit,
            _ => Fate::Good,
        };
        let who = Who::Server(n);
        oracle.trace.note(who, format_args!("connected: {fate:?}"));
        Self {
            who,
            wire,
            strikes: Instant::now() + plan.idle_limit.unwrap_or_else(|| millis(&mut rng, 0, 4_000)),
            greeted: plan.pool.connection.preamble.is_none(),
            rng,
            plan,
            oracle,
            fate,
            calm,
            is_calm,
            deaf: false,
            broken: false,
            input: Vec::new(),
            front: None,
            due: Vec::new(),
            read: 0,
            written: 0,
        }
    }

    /// What a rude server says is there before anybody can ask anything.
    pub(crate) async fn speak_first(&mut self) {
        if self.fate == Fate::Rude(true) {
            let said = self.plan.dialect.nonsense();
            let _ = tokio::time::timeout(Duration::ZERO, self.wire.write_all(&said)).await;
        }
    }

    pub(crate) async fn serve(mut self) {
        if !self.greeted && self.fate == Fate::Good {
            let _ = self.wire.write_all(GREETING.0).await;
        }
        let fall = loop {
            if let Err(fall) = self.act().await {
                break fall;
            }
            let room = match self.fate {
                Fate::CutRead(at, _) => at - self.read,
                _ => 4096,
            };
            let (mut buffer, wake) = ([0; 4096], self.next_act());
            // Cancel-safe: a read that is given up has read nothing.
            let read = tokio::select! {
                biased;
                read = self.wire.read(&mut buffer[..room]), if !self.deaf => read,
                () = sleep_until(wake) => continue,
            };
            match read {
                Ok(count) if count > 0 => {
                    self.read += count;
                    self.input.extend_from_slice(&buffer[..count]);
                    if self.fate == Fate::IdleLimit {
                        self.rest();
                    }
                    self.digest();
                }
                end => {
                    self.oracle
                        .trace
                        .note(self.who, format_args!("reads the end: {:?}", end.err().map(|e| e.kind())));
                    return;
                }
            }
        };
        self.fall(fall);
    }

    /// Does what is to be done now.
    async fn act(&mut self) -> Result<(), Fall> {
        if !self.is_calm && Instant::now() >= self.calm {
            self.calm_down();
        }
        if let Fate::CutRead(at, fall) = self.fate
            && self.read == at
        {
            self.strike(fall)?;
        }
        if Instant::now() >= self.strikes {
            self.strike_in_time().await?;
        }
        while let Some(at) =
            self.next_due().filter(|at| self.due[*at].at.is_some_and(|at| at <= Instant::now()))
        {
            let due = self.due.remove(at);
            self.oracle.replied(due.nonce);
            self.write(&due.bytes).await?;
            if self.fate == Fate::IdleLimit {
                self.rest();
            }
        }
        Ok(())
    }

    /// What follows is idleness.
    fn rest(&mut self) {
        let limit = self.plan.idle_limit.unwrap_or_else(|| millis(&mut self.rng, 100, 3_000));
        self.strikes = Instant::now() + limit;
    }

    fn calm_down(&mut self) {
        self.is_calm = true;
        if !matches!(self.fate, Fate::Rude(_)) {
            self.fate = Fate::Good;
        }
        self.deaf = false;
        for due in self.due.iter_mut().filter(|due| due.at.is_none() && self.plan.wakes) {
            due.at = Some(self.calm);
        }
    }

    fn strike(&mut self, fall: Fall) -> Result<(), Fall> {
        if fall != Fall::Silence {
            return Err(fall);
        }
        self.oracle.trace.note(self.who, format_args!("falls silent"));
        self.deaf = matches!(self.fate, Fate::CutRead(..));
        self.broken = !self.deaf;
        self.fate = Fate::Good;
        Ok(())
    }

    async fn strike_in_time(&mut self) -> Result<(), Fall> {
        self.strikes = Instant::now() + NEVER;
        let dialect = self.plan.dialect;
        // Without ids a stray reply must not meet a request: nobody could tell.
        let may_stray = dialect.has_id() || self.is_idle();
        match self.fate {
            Fate::Nonsense => self.write(&dialect.nonsense()).await?,
            Fate::Stray(_) if !may_stray => {
                self.strikes = Instant::now() + millis(&mut self.rng, 1, 500);
            }
            Fate::Stray(whole) => {
                let stray = dialect.encode(0, dialect.last_id(), &dialect::body(b'U', 0, 9));
                let count = if whole { stray.len() } else { self.rng.usize(1..stray.len()) };
                self.write(&stray[..count]).await?;
                self.broken = true;
            }
            Fate::Closing => {
                self.write(&dialect.encode(CLOSING, 0, b"")).await?;
                self.fate = Fate::IdleLimit;
                self.rest();
            }
            Fate::Heartbeats => {
                let id = self.rng.u64(0..=dialect.last_id());
                self.write(&dialect.encode(HEARTBEAT, id, b"")).await?;
                self.strikes = Instant::now() + millis(&mut self.rng, 50, 2_000);
            }
            Fate::IdleLimit if self.due.is_empty() => return Err(Fall::Close),
            Fate::IdleLimit => self.rest(),
            _ => {}
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fall> {
        if self.broken {
            return Ok(());
        }
        let left = match self.fate {
            Fate::CutWrite(at, _) => at - self.written,
            _ => usize::MAX,
        };
        let bytes = &bytes[..bytes.len().min(left)];
        self.oracle.trace.note(self.who, format_args!("sends {} {:016x}", bytes.len(), hash(bytes)));
        self.written += bytes.len();
        // The end of the connection is heard of by reading.
        let _ = self.wire.write_all(bytes).await;
        match self.fate {
            Fate::CutWrite(at, fall) if self.written == at => self.strike(fall),
            _ => Ok(()),
        }
    }

    /// The next reply to send: where replies have an order, only the first one.
    fn next_due(&self) -> Option<usize> {
        match self.plan.pool.mode {
            Mode::Multiplex => {
                let due = self.due.iter().enumerate().filter_map(|(n, due)| Some((due.at?, n)));
                due.min().map(|(_, n)| n)
            }
            _ => (!self.due.is_empty()).then_some(0),
        }
    }

    fn next_act(&self) -> Instant {
        let due = self.next_due().and_then(|n| self.due[n].at);
        let calm = (!self.is_calm).then_some(self.calm);
        [due, calm, Some(self.strikes)].into_iter().flatten().min().unwrap_or(self.strikes)
    }

    /// Takes the input apart.
    fn digest(&mut self) {
        if !self.greeted {
            if self.input.len() < GREETING.1.len() {
                return;
            }
            let said: Vec<u8> = self.input.drain(..GREETING.1.len()).collect();
            if said != GREETING.1 {
                self.oracle.fault(self.who, format_args!("greeted with {}", said.escape_ascii()));
            }
            self.greeted = true;
        }
        loop {
            if self.front.is_none()
                && let Some((id, nonce)) = self.plan.dialect.peek(&self.input)
            {
                self.oracle.seen(self.who, nonce);
                let verdict = self.judge();
                self.front = Some(verdict);
                let oneway = self.input.get(2).is_some_and(|flags| flags & ONEWAY != 0);
                if verdict == Verdict::Early && (self.plan.dialect == Dialect::Line || !oneway) {
                    self.reply(id, nonce, verdict);
                }
            }
            match self.plan.dialect.cut(&mut self.input) {
                Ok(None) => return,
                Ok(Some(message)) => self.take(&message),
                Err(fault) => {
                    self.oracle.fault(self.who, format_args!("cannot read: {fault}"));
                    return self.input.clear();
                }
            }
        }
    }

    fn take(&mut self, message: &Message) {
        let Message { flags, id, body } = message;
        self.oracle
            .trace
            .note(self.who, format_args!("got {flags:02x} {id} {} {:016x}", body.len(), hash(body)));
        if *flags == PONG {
            return;
        }
        self.oracle.arrived(self.who, message);
        let verdict = self.front.take().unwrap_or(Verdict::Hang);
        if let Ok((_, nonce)) = dialect::read_body(body)
            && flags & ONEWAY == 0
            && verdict != Verdict::Early
        {
            self.reply(*id, nonce, verdict);
        }
    }

    fn judge(&mut self) -> Verdict {
        let (rng, timeout) = (&mut self.rng, self.plan.pool.request_timeout);
        if self.is_calm {
            return Verdict::After(Duration::ZERO);
        }
        if !chance(rng, self.plan.mischief.1) {
            let most = u64::try_from(timeout.as_millis() / 4).unwrap_or(0).min(300);
            return Verdict::After(if rng.bool() { Duration::ZERO } else { millis(rng, 0, most) });
        }
        let late = Verdict::After(timeout.mul_f64(2.0 * rng.f64()));
        let verdicts = [late, Verdict::Hang, Verdict::Early, Verdict::Twice, Verdict::WrongTag];
        // Without ids, a further reply can be the next one's: nobody could tell.
        pick(rng, if self.plan.dialect.has_id() { &verdicts } else { &verdicts[..3] })
    }

    fn reply(&mut self, id: u64, nonce: u64, verdict: Verdict) {
        let body = dialect::body(b'R', nonce, filling(&mut self.rng, self.plan.sizes));
        let now = Instant::now();
        let (at, id, times) = match verdict {
            Verdict::After(time) => (Some(now + time), id, 1),
            Verdict::Early => (Some(now), id, 1),
            Verdict::Twice => (Some(now), id, 2),
            Verdict::WrongTag => (Some(now), id ^ 1 << 7, 1),
            Verdict::Hang => (None, id, 1),
        };
        let bytes = self.plan.dialect.encode(0, id, &body).repeat(times);
        self.due.push(Due { at, nonce, bytes });
    }

    /// Reads what is there; true if it owes nothing then.
    fn is_idle(&mut self) -> bool {
        let mut buffer = [0; 4096];
        while let Some(Ok(count @ 1..)) = poll_now(self.wire.read(&mut buffer)) {
            self.read += count;
            self.input.extend_from_slice(&buffer[..count]);
        }
        self.digest();
        self.greeted && self.due.is_empty() && self.input.is_empty()
    }

    fn fall(mut self, fall: Fall) {
        // What the proxy has written counts as sent, read or not.
        self.is_idle();
        self.oracle.trace.note(self.who, format_args!("falls: {fall:?}"));
        match fall {
            Fall::Reset => self.wire.reset(),
            Fall::Close | Fall::Silence => drop(self.wire),
        }
    }
}

/// The result of `future` if it is there at once.
fn poll_now<F: Future>(future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}

fn fate(rng: &mut Rng, dialect: Dialect) -> Fate {
    let fall = pick(rng, &[Fall::Close, Fall::Reset, Fall::Silence]);
    let most = pick(rng, &[10, 100, 3_000]);
    let at = rng.usize(1..most);
    match rng.u8(0..9) {
        0..2 => Fate::CutRead(at, fall),
        2..4 => Fate::CutWrite(at, fall),
        4 => Fate::Nonsense,
        5 => Fate::Stray(rng.bool()),
        6 if dialect != Dialect::Line => Fate::Closing,
        7 if dialect != Dialect::Line => Fate::Heartbeats,
        _ => Fate::IdleLimit,
    }
}
