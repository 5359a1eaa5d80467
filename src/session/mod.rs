//! One client: reads its requests, brings them to the pool and writes the answers.
//!
//! Invariant: every request read is answered by its reply, by a refusal in the protocol's words, or by a
//! close. Reading and writing advance together. A FIN abandons nothing; only an RST or a socket error does.
//! Spawned by the listener.
//! Long because it holds the state that all its parts work on.

mod clock;
mod end;
mod hand_over;
mod idle;
mod parts;
mod refuse;
mod settings;
mod wait;

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::events;
use crate::exchange::{Answer, Ticket};
use crate::lifecycle::{Alarm, Hold, Watch};
use crate::pool::{Pool, Sender};
use crate::protocol::{BadRequest, Downstream, Id, Need, Protocol, Received, Request};
use crate::wire::{Budget, CHUNK, Input, Output, Purpose, Wire};
use end::End;
use hand_over::Handed;
pub use idle::IdleClients;
use idle::IdlePlace;
use parts::{Download, Upload};
pub use settings::{ClientClose, Settings};

/// Reads in a row before others get their turn.
const READS: usize = 16;
/// Messages in a row before others get their turn: a client that never stops asking would never have to wait.
const MESSAGES: u8 = 64;
/// Bytes waiting for the client above which nothing more is read from it.
const MAX_UNWRITTEN: usize = CHUNK;
/// Bytes that a client must take for `client_write` to start anew: a trickle does not count as progress.
const PROGRESS: u64 = 64 * 1024;

/// What all sessions of an upstream share.
#[derive(Debug)]
pub struct Shared {
    /// The upstream's settings for sessions.
    pub settings: Settings,
    /// The protocol spoken.
    pub protocol: Arc<dyn Protocol>,
    /// Where requests go.
    pub pool: Arc<Pool>,
    /// Memory for requests.
    pub budget: Budget,
    /// Who is idle.
    pub idle: IdleClients,
    /// The front half's switch.
    pub front: Watch,
    /// Keeps the back half from draining as long as there are sessions, or may be.
    pub back: Hold,
}

/// Requests without an answer yet, oldest first. Most clients have one.
type Outstanding = SmallVec<[(Id, Ticket); 1]>;

/// A client's session.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    codec: Box<dyn Downstream>,
    input: Input,
    output: Output,
    outstanding: Outstanding,
    /// The request being read in parts.
    upload: Option<Upload>,
    /// The reply being written in parts. In a box, as few clients have one.
    download: Option<Box<Download>>,
    /// What waits for a connection of its own; nothing more is taken in.
    handed: Option<Box<Handed>>,
    shared: Arc<Shared>,
    front: Watch,
    /// No more requests are read, and when everything is written the session ends like this.
    ending: Option<End>,
    /// The client has sent FIN, and this is how the session ends when everything is answered.
    fin: Option<End>,
    /// In a box, as a client that comes for one request never has it.
    idle: Option<Box<IdlePlace>>,
    requests: u32,
    /// The last round in which a request of it that had to wait was answered.
    round: u64,
    /// Messages decoded since others last had their turn.
    decoded: u8,
    /// There may be more to take in: only others came first.
    goes_on: bool,
    /// The time of this turn: looking at the clock costs as much as some of its steps.
    now: Instant,
    /// The kernel is to be asked, whatever waits to be written: a further request or a FIN makes a difference.
    asks: bool,
    /// The last message was one that a one-shot client waits no reply for.
    unanswered: bool,
    /// Since when the session has been in its present state of reading: see [`Session::read_deadline`].
    reading_since: Instant,
    /// While there is something to write: when the client has last taken enough, and how much it had then.
    writing_since: Option<(Instant, u64)>,
    /// The next look at the outstanding exchanges.
    expiry: Option<Instant>,
    /// The next look at what waits for the client.
    next_look: Option<Instant>,
    /// When the client was last seen to have taken enough, and how much it had then.
    taken: (Instant, u64),
}

impl Session {
    /// A session for the client behind `wire`.
    pub fn new(wire: Wire, shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            wire,
            codec: shared.protocol.downstream(shared.settings.max_buffered),
            input: Input::new(),
            output: Output::new(),
            outstanding: Outstanding::new(),
            upload: None,
            download: None,
            handed: None,
            front: shared.front.clone(),
            shared,
            ending: None,
            fin: None,
            idle: None,
            requests: 0,
            round: 0,
            decoded: 0,
            goes_on: false,
            now,
            asks: false,
            unanswered: false,
            reading_since: now,
            writing_since: None,
            expiry: None,
            next_look: None,
            taken: (now, 0),
        }
    }

    /// Serves the client until the session ends; `places` are given back after that.
    #[expect(clippy::manual_async_fn, reason = "an async function would hold the session twice")]
    pub fn run<P: Send>(mut self, places: P) -> impl Future<Output = ()> + Send {
        async move {
            let _counted = self.shared.pool.events().client_opened();
            let mut end = self.serve().await;
            // What is rare is kept out of the memory of every session.
            if self.has_unfinished() {
                end = Box::pin(self.finish(end)).await;
            }
            if self.lingers(end) {
                Box::pin(self.linger(end)).await;
            }
            self.close(end);
            drop(places);
        }
    }

    fn events(&self) -> &Arc<events::Upstream> {
        self.shared.pool.events()
    }

    async fn serve(&mut self) -> End {
        let mut alarm = pin!(Alarm::default());
        loop {
            match self.turn() {
                Ok(()) => {}
                Err(End::HandOver) => {
                    if let Err(end) = Box::pin(self.hand_over()).await {
                        return end;
                    }
                    continue;
                }
                Err(end) => return end,
            }
            if self.gives_way() {
                (self.decoded, self.goes_on) = (0, true);
                tokio::task::yield_now().await;
            }
            if let Err(end) = self.wait(alarm.as_mut()).await {
                return end;
            }
        }
    }

    fn turn(&mut self) -> Result<(), End> {
        self.now = Instant::now();
        self.read()?;
        // Answers make room for requests that wait in the buffer, and writing makes room for answers.
        loop {
            let starved = self.decode();
            self.write()?;
            if starved || !self.may_decode() {
                break;
            }
        }
        self.keep_time(self.now)?;
        if self.gives_way() { Ok(()) } else { self.look_for_end() }
    }

    /// Others get their turn before more is taken in.
    fn gives_way(&self) -> bool {
        self.decoded >= MESSAGES
    }

    fn read(&mut self) -> Result<(), End> {
        self.look_at_upload();
        for _ in 0..READS {
            if !self.wants_input() {
                break;
            }
            let starts = self.input.bytes.is_empty();
            match self.input.read(&mut self.wire) {
                Ok(0) => self.note_fin(),
                Ok(read) => {
                    self.idle.iter().for_each(|place| place.set_busy());
                    if let Some(upload) = &mut self.upload {
                        upload.note_progress(read);
                    }
                    self.decode();
                    // What is no part of a message does not begin one.
                    if starts && !self.input.bytes.is_empty() {
                        self.reading_since = self.now;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Gone),
            }
        }
        self.asks = false;
        Ok(())
    }

    /// After everything was answered and acknowledged, a FIN is the end. Before that it may as well be a
    /// half-close by a client that still reads.
    fn note_fin(&mut self) {
        let in_parts = self.upload.is_some() || self.download.is_some();
        let buffered = !self.input.bytes.is_empty() || !self.output.is_empty();
        let over = self.outstanding.is_empty() && !in_parts && !buffered;
        let late = over && self.requests > 0 && !self.unanswered && self.wire.is_drained();
        self.fin = Some(if late { End::LateFin } else { End::EarlyFin });
        self.decode();
    }

    /// Bytes beyond the requests that may be outstanding wait in the buffer, and beyond the buffer with the
    /// client.
    fn wants_input(&self) -> bool {
        let takes_more = match &self.upload {
            Some(upload) => upload.has_room(),
            None => self.asks || self.output.len() < MAX_UNWRITTEN,
        };
        self.fin.is_none() && self.takes_in() && self.input.has_room() && takes_more
    }

    fn may_decode(&self) -> bool {
        let takes_more = if let Some(upload) = &self.upload {
            upload.has_room()
        } else {
            let (begun, aside) = self.download.as_ref().map_or((0, 0), |download| (1, download.aside.len()));
            self.outstanding.len() + begun < self.shared.settings.max_per_client
                && self.output.len() + aside < MAX_UNWRITTEN
        };
        self.takes_in() && !self.input.is_waiting() && takes_more
    }

    /// What is told to end still takes in the rest of a request that is on its way.
    fn takes_in(&self) -> bool {
        if self.handed.is_some() {
            return false;
        }
        let wants_more = self.ending.is_none() || self.upload.as_ref().is_some_and(Upload::is_wanted);
        wants_more && !self.gives_way()
    }

    /// Takes in what there is, as far as it may. True if only more bytes would lead further.
    fn decode(&mut self) -> bool {
        while self.may_decode() && !self.input.bytes.is_empty() {
            // A request in parts has bounds of its own.
            self.decoded += u8::from(self.upload.is_none());
            match self.codec.decode(&mut self.input.bytes) {
                Ok(Received::Request { id, request }) => self.admit(id, request),
                Ok(Received::Head { id, request, rest }) => self.admit_head(id, request, rest),
                Ok(Received::Part { bytes, last }) => self.pass_on(bytes, last),
                Ok(Received::Control(answer)) => self.answer_in_place(answer.as_deref().unwrap_or_default()),
                Ok(Received::Dropped) => self.answer_in_place(&[]),
                Ok(Received::Refused { reason, front, answer }) => {
                    // Its memory goes with what follows it, or with the buffer.
                    self.refuse_and_go_on(reason, &front, answer.as_deref().unwrap_or_default());
                }
                Ok(Received::HandOver { id, reason, front }) => self.begin_hand_over(id, reason, front),
                Ok(Received::Closing) => {
                    self.input.take_charge();
                    self.ending = Some(End::EarlyFin);
                }
                Ok(Received::More(need)) => {
                    self.expect_more(need);
                    return true;
                }
                Err(bad) => self.refuse_malformed(&bad),
            }
        }
        self.input.shrink();
        if self.fin.is_some() && self.input.bytes.is_empty() && self.upload.is_some() {
            self.events().request_truncated(&self.wire.peer(), 0);
            self.cut_upload();
        }
        self.input.bytes.is_empty()
    }

    fn admit(&mut self, id: Id, mut request: Request) {
        if request.rest.is_none() {
            request.charge = self.input.take_charge();
        }
        self.unanswered = request.oneway;
        let sender = Sender { first: self.requests == 0, id: &id, not_before: self.next_round() };
        let ticket = self.shared.pool.admit(request, sender, self.now);
        self.requests = self.requests.saturating_add(1);
        self.reading_since = self.now;
        self.expiry = None;
        self.outstanding.push((id, ticket));
    }

    fn expect_more(&mut self, need: Need) {
        let filled = self.input.bytes.len();
        if filled == 0 {
            // What was there is no part of a message.
            return;
        }
        if self.fin.is_some() {
            self.events().request_truncated(&self.wire.peer(), filled);
            return self.input.clear();
        }
        match need.beyond(filled, self.input.limit(), self.shared.protocol.max_message()) {
            Ok(None) => {}
            Ok(Some(total)) => {
                let window = need.window(parts::WINDOW);
                if !self.input.ask(total, window, &self.shared.budget, Purpose::Request) {
                    self.events().memory_waited(total + window);
                }
            }
            Err(reason) => self.refuse_malformed(&BadRequest { id: Id::None, reason }),
        }
    }

    fn answer(&mut self, id: &Id, ticket: Ticket, answer: Answer) {
        match answer {
            Ok(Some(mut reply)) => {
                if let Some(rest) = reply.rest.take() {
                    self.download = Some(Box::new(Download::new(rest, ticket)));
                }
                self.codec.encode(id, reply, &mut self.output);
            }
            Ok(None) => {}
            Err(refusal) => {
                // An error message about a one-way request would pass for the reply to another one.
                if ticket.is_oneway() || !self.codec.refuse(id, &refusal, &mut self.output) {
                    self.ending = self.ending.or(Some(End::NoWords));
                }
            }
        }
    }

    fn write(&mut self) -> Result<(), End> {
        loop {
            let more = self.take_parts()?;
            if self.asks {
                // A reply in parts ends: before its last bytes are written, or a FIN would seem to come after them.
                self.read()?;
            }
            self.flush()?;
            if !more || !self.output.is_empty() {
                return Ok(());
            }
        }
    }

    fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let (_, before) = *self.writing_since.get_or_insert((self.now, self.output.written()));
        if self.is_served() && self.shared.settings.client_close != ClientClose::Fin {
            if self.wire.try_flush_last(&mut self.output).map_err(|_| End::Gone)? {
                return Err(End::Served);
            }
        } else {
            self.wire.try_flush(&mut self.output).map_err(|_| End::Gone)?;
        }
        if self.output.is_empty() {
            self.writing_since = None;
        } else if self.output.written() - before >= PROGRESS {
            self.writing_since = Some((self.now, self.output.written()));
        }
        Ok(())
    }

    /// Whether a one-shot client has all it came for. A further byte, if there was one, has been read: the kernel is
    /// asked after the last answer.
    fn is_served(&self) -> bool {
        self.shared.settings.one_shot
            && self.requests > 0
            && !self.unanswered
            && self.outstanding.is_empty()
            && self.upload.is_none()
            && self.download.is_none()
            && self.input.bytes.is_empty()
            && !self.asks
            && self.ending.or(self.fin).is_none()
    }

    fn look_for_end(&mut self) -> Result<(), End> {
        if !self.outstanding.is_empty() || !self.output.is_empty() || self.download.is_some() {
            return Ok(());
        }
        if self.handed.is_some() {
            return Err(End::HandOver);
        }
        if let Some(end) = self.ending {
            return Err(end);
        }
        if self.upload.is_some() {
            return Ok(());
        }
        if let Some(end) = self.fin {
            return Err(end);
        }
        if self.is_served() {
            return Err(End::Served);
        }
        if self.is_between_requests() {
            match &self.idle {
                Some(place) if place.is_idle() => {}
                Some(place) => place.set_idle(),
                None => self.idle = Some(Box::new(self.shared.idle.enter())),
            }
        }
        Ok(())
    }
}

/// Where words of our own go: in the middle of a reply in parts they wait for its end.
fn words<'o>(download: &'o mut Option<Box<Download>>, output: &'o mut Output) -> &'o mut Output {
    match download {
        Some(download) => &mut download.aside,
        None => output,
    }
}

#[cfg(test)]
mod tests;
