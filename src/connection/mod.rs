//! One upstream connection: takes exchanges from its seat, writes them, reads replies and answers them.
//!
//! Nobody else touches its socket, and no client can cancel it, so no reply can go to the wrong one. Reading
//! and writing advance together; each turn reads first, so stray bytes are seen before the next request goes
//! out. Spawned by the pool's keeper.

mod clock;
mod dedicated;
mod dial;
mod fault;
mod idle;
mod idle_limit;
mod inflight;
mod leave;
mod parts;
mod settings;
mod shared;
mod spread;
mod tags;
mod wait;

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::events::{CloseReason, Unasked};
use crate::lifecycle::{Alarm, Watch};
use crate::protocol::{Answered, Need, Refusal, Reply, Tag, Upstream};
use crate::queue::{Call, Seat, Verdict};
use crate::wire::{Close, Input, Output, Purpose, Wire};
pub use dedicated::{Dedicated, Held, Over, Patience};
pub(crate) use dial::dial;
pub use dial::{Connecting, Connector, DialError, Network};
use idle::Idle;
pub use idle_limit::IdleLimit;
use inflight::{Entry, InFlight, OPEN_END};
pub use leave::Ended;
use parts::{Download, Upload};
pub use settings::{Idempotent, Preamble, Settings};
pub use shared::Shared;
pub use spread::Spread;

/// How long an unasked message may stay incomplete.
const STRAY: Duration = Duration::from_secs(1);
/// Reads in a row before writing gets its turn.
const READS: usize = 16;
/// Answers to heartbeats, in bytes, that a server may leave unread.
const MAX_CONTROL: usize = 64 * 1024;

/// A connection that stands.
#[derive(Debug)]
pub(crate) struct Connection {
    wire: Wire,
    codec: Box<dyn Upstream>,
    input: Input,
    output: Output,
    in_flight: InFlight,
    /// The request being sent in parts.
    upload: Option<Upload>,
    /// Control answers that wait for the end of the upload.
    aside: Output,
    /// The reply being read in parts.
    download: Option<Download>,
    /// The server does not take anything any more.
    unheard: bool,
    seat: Seat,
    shared: Arc<Shared>,
    back: Watch,
    endpoint: Arc<str>,
    /// Why it takes nothing new any more.
    retiring: Option<CloseReason>,
    /// Bytes of control answers since the output was last empty.
    control: usize,
    carried: u64,
    replies: u64,
    /// The time of this turn: looking at the clock costs as much as some of its steps.
    now: Instant,
    opened: Instant,
    retire_at: Instant,
    idle: Idle,
    /// Since when something has been owed without a pause.
    owing_since: Instant,
    last_read: Instant,
    /// While there is something to write: when some of it was last taken.
    writing_since: Option<Instant>,
    /// It has owed a reply for too long, but there is no other one: until the next look.
    spared_until: Option<Instant>,
    /// When the late reply is given up.
    stuck_until: Option<Instant>,
    /// When an incomplete unasked message is given up.
    stray_until: Option<Instant>,
}

impl Connection {
    pub(crate) fn new(
        wire: Wire,
        seat: Seat,
        endpoint: Arc<str>,
        limit: Arc<IdleLimit>,
        shared: Arc<Shared>,
    ) -> Self {
        let now = Instant::now();
        // Connections opened together do not retire together.
        let spread = shared.spread.next();
        let lifetime = shared.settings.max_lifetime.mul_f64(1.0 - spread / 10.0);
        Self {
            wire,
            codec: shared.protocol.upstream(shared.settings.max_buffered),
            input: Input::keeping(),
            output: Output::new(),
            in_flight: InFlight::new(shared.mode, shared.protocol.tags()),
            upload: None,
            aside: Output::new(),
            download: None,
            unheard: false,
            seat,
            back: shared.back.clone(),
            shared,
            endpoint,
            retiring: None,
            control: 0,
            carried: 0,
            replies: 0,
            now,
            opened: now,
            retire_at: now + lifetime,
            idle: Idle::new(now, limit, spread),
            owing_since: now,
            last_read: now,
            writing_since: None,
            spared_until: None,
            stuck_until: None,
            stray_until: None,
        }
    }

    /// Works until the connection ends.
    pub(crate) async fn run(mut self) -> Ended {
        let mut alarm = pin!(Alarm::default());
        let reason = loop {
            if let Err(reason) = self.turn() {
                break reason;
            }
            if let Err(reason) = self.wait(alarm.as_mut()).await {
                break reason;
            }
        };
        let ended =
            Ended { reason, carried: self.carried, replies: self.replies, lived: self.opened.elapsed() };
        self.close(reason);
        ended
    }

    fn turn(&mut self) -> Result<(), CloseReason> {
        self.now = Instant::now();
        let Call { work, leave } = self.seat.look();
        if let Some(reason) = leave {
            self.retiring.get_or_insert(reason);
        }
        if work && self.in_flight.is_empty() {
            // Stray bytes or a FIN that the reactor has not been asked for yet must not meet a request.
            self.wire.ask_kernel();
        }
        self.read()?;
        if work {
            self.note_alive();
            // What has come after that look is for the next turn.
            self.take();
        }
        self.write().or_else(|reason| self.not_heard(reason))?;
        if self.unheard && self.download.is_none() {
            return Err(self.retiring.unwrap_or(CloseReason::Lost));
        }
        self.keep_time(self.now)
    }

    fn lost(&self) -> CloseReason {
        if self.in_flight.is_empty() { CloseReason::Peer } else { CloseReason::Lost }
    }

    fn may_read(&self) -> bool {
        !self.input.is_waiting() && !self.is_held_up()
    }

    fn read(&mut self) -> Result<(), CloseReason> {
        if self.download.is_some() {
            self.look_after_download();
            // What was held up has been read already.
            self.decode()?;
        }
        for _ in 0..READS {
            if !self.may_read() {
                break;
            }
            match self.input.read(&mut self.wire) {
                Ok(0) => return Err(self.ended_by_server()),
                Ok(_) => {
                    self.last_read = self.now;
                    self.decode()?;
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(self.ended_by_server()),
                Err(_) => return Err(self.lost()),
            }
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<(), CloseReason> {
        while !self.is_held_up() {
            match self.codec.decode(&mut self.input.bytes) {
                Ok(Answered::Reply { tag, mut reply }) => {
                    reply.charge = self.input.take_charge();
                    self.answer(tag, reply)?;
                }
                Ok(Answered::Head { tag, reply, rest }) => self.begin(tag, reply, rest)?,
                Ok(Answered::Part { bytes, last }) => self.pass_on(bytes, last),
                Ok(Answered::Control(answer)) => {
                    self.input.take_charge();
                    self.control(answer.as_deref().unwrap_or_default())?;
                }
                Ok(Answered::Unasked(answer)) => {
                    self.input.take_charge();
                    let action = if answer.is_some() { Unasked::Answered } else { Unasked::Dropped };
                    self.shared.events.unasked(&self.endpoint, action);
                    self.control(answer.as_deref().unwrap_or_default())?;
                }
                Ok(Answered::Unclaimed) => {
                    self.input.take_charge();
                    self.shared.events.unclaimed(&self.endpoint);
                }
                Ok(Answered::Closing) => {
                    self.input.take_charge();
                    self.retire(CloseReason::Closing);
                }
                Ok(Answered::More(need)) => {
                    self.expect_more(need)?;
                    break;
                }
                Err(fault) => return Err(self.desync(&fault)),
            }
        }
        self.input.shrink();
        Ok(())
    }

    fn answer(&mut self, tag: Option<Tag>, reply: Reply) -> Result<(), CloseReason> {
        let Some(entry) = self.answered(tag, &reply)? else {
            return Ok(());
        };
        if entry.exchange.slot.finish(reply).is_err() {
            self.shared.events.late_reply(&self.endpoint);
        }
        self.replied(entry.is_telling());
        Ok(())
    }

    /// The request that `reply` answers; `None` if that is a one-way request, and the reply nobody's.
    fn answered(&mut self, tag: Option<Tag>, reply: &Reply) -> Result<Option<Entry>, CloseReason> {
        for entry in self.in_flight.overtaken(tag, self.output.written()) {
            let _ = entry.exchange.slot.refuse(Refusal::Desync);
            self.codec.forget(entry.tag);
            self.finished(Verdict::Neutral);
        }
        let Some(mut entry) = self.in_flight.answer(tag) else {
            if self.in_flight.answers_oneway(tag) {
                self.shared.events.late_reply(&self.endpoint);
                return Ok(None);
            }
            return Err(self.unasked(&reply.bytes));
        };
        if entry.is_unwritten(self.output.written()) {
            // The rest of a request that is here goes out for the sake of the others, and nothing after it.
            if self.upload.take().is_some() {
                self.seat.uploaded();
                // From here on the reply is due.
                entry.since = self.now;
                self.owing_since = entry.since;
            }
            self.retire(CloseReason::Early);
            // Whatever else it was to close for: half a request ends with a reset.
            self.retiring = Some(CloseReason::Early);
        }
        Ok(Some(entry))
    }

    /// A reply is over; it may be `telling` that all is well.
    fn replied(&mut self, telling: bool) {
        self.replies += 1;
        if self.stuck_until.take().is_some() {
            self.seat.set_stuck(false);
        }
        self.finished(if telling { Verdict::Replied } else { Verdict::Neutral });
    }

    fn finished(&mut self, verdict: Verdict) {
        if self.in_flight.is_empty() {
            self.idle.since = self.now;
        }
        self.seat.done(verdict);
    }

    fn control(&mut self, answer: &[u8]) -> Result<(), CloseReason> {
        let output = if self.upload.is_some() { &mut self.aside } else { &mut self.output };
        output.put(answer);
        self.control += answer.len();
        if self.control > MAX_CONTROL {
            return Err(self.desync(&"messages sent, the answers to them not read"));
        }
        Ok(())
    }

    /// What follows is the front of a message: of a reply, or of something nobody asked for.
    fn expect_more(&mut self, need: Need) -> Result<(), CloseReason> {
        let filled = self.input.bytes.len();
        let is_due = self.in_flight.owed() > 0 || self.download.is_some();
        if !is_due && filled > 0 {
            if !self.codec.speaks_unasked() && !self.in_flight.may_answer_oneways() {
                return Err(self.desync(&"bytes that answer nothing"));
            }
            if self.stray_until.is_none() {
                self.stray_until = Some(self.now + STRAY);
                self.seat.rest(true);
            }
        } else if self.stray_until.take().is_some() {
            self.seat.rest(false);
        }
        let max = self.shared.protocol.max_message();
        match need.beyond(filled, self.input.limit(), max) {
            Ok(None) => {}
            Ok(Some(total)) => {
                let window = need.window(self.window());
                if !self.input.ask(total, window, &self.shared.budget, Purpose::Reply) {
                    self.shared.events.memory_waited(total + window);
                }
            }
            Err(fault) => return Err(self.desync(&fault)),
        }
        Ok(())
    }

    fn take(&mut self) {
        while let Some(mut exchange) = self.seat.take() {
            if exchange.slot.is_ended() {
                if exchange.is_in_parts() {
                    self.seat.uploaded();
                }
                self.seat.done(Verdict::Neutral);
                continue;
            }
            let Some(tag) = self.in_flight.next_tag() else {
                // Room is at most half the tags, so there is one as long as the connection is not retired.
                self.retire(CloseReason::Requests);
                self.seat.done(Verdict::Neutral);
                continue;
            };
            let again = self.shared.again(&exchange.request);
            let start = self.output.end();
            self.codec.encode(&exchange.request, tag, &mut self.output);
            self.carried += 1;
            if self.carried > 1 && std::mem::take(&mut exchange.first) {
                self.shared.events.handshake_saved();
            }
            let now = self.now;
            if self.in_flight.owed() == 0 {
                self.owing_since = now;
            }
            let mut end = self.output.end();
            if let Some(rest) = exchange.request.rest.take() {
                self.upload = Some(Upload { rest });
                end = OPEN_END;
            }
            self.in_flight.push(Entry::new(exchange, tag, start..end, now, again));
            if self.carried == self.shared.settings.max_requests
                || !self.in_flight.has_tags()
                || self.codec.is_worn()
            {
                self.retire(CloseReason::Requests);
            }
        }
    }

    fn write(&mut self) -> Result<(), CloseReason> {
        loop {
            let more = self.send_parts()?;
            self.flush()?;
            if !more || !self.output.is_empty() {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), CloseReason> {
        if self.output.is_empty() || self.unheard {
            return Ok(());
        }
        let before = self.output.written();
        let flushed = self.wire.try_flush(&mut self.output);
        if self.output.is_empty() {
            self.writing_since = None;
        } else if self.output.written() > before || self.writing_since.is_none() {
            self.writing_since = Some(self.now);
        }
        self.note_written();
        if flushed.map_err(|_| self.lost())? {
            self.control = self.aside.len();
        }
        Ok(())
    }

    /// Ends the one-way requests that the kernel has whole.
    fn note_written(&mut self) {
        for exchange in self.in_flight.written(self.output.written()) {
            let _ = exchange.slot.sent();
            self.finished(Verdict::Neutral);
        }
    }

    fn retire(&mut self, reason: CloseReason) {
        if self.retiring.is_none() {
            self.retiring = Some(reason);
            self.seat.retire();
        }
    }

    fn close(mut self, reason: CloseReason) {
        let owed = self.in_flight.owed();
        // A reset would destroy a one-way request that the server has not read yet; after half a request it must
        // be one.
        let over = self.in_flight.owes_nobody() && self.upload.is_none();
        let clean = over && self.output.is_empty() && self.input.bytes.is_empty();
        self.leave(reason);
        self.shared.events.connection_closed(&self.endpoint, reason, self.carried, owed);
        match reason {
            CloseReason::Peer => self.wire.close(Close::Fin),
            CloseReason::Desync
            | CloseReason::Lost
            | CloseReason::Stalled
            | CloseReason::Early
            | CloseReason::Cut => self.wire.reset(),
            _ if clean => self.wire.close(Close::FinReset),
            _ => self.wire.reset(),
        }
    }
}
