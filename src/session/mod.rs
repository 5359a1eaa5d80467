//! One client: reads its requests, brings them to the pool and writes the answers.
//!
//! Invariant: every request read is answered by its reply, by a refusal in the protocol's words, or by a
//! close. Reading and writing advance together. A FIN abandons nothing; only an RST or a socket error does.
//! Spawned by the listener.

mod clock;
mod end;
mod idle;
mod parts;
mod settings;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::Poll;

use tokio::time::Instant;

use crate::events;
use crate::exchange::{self, Answer, Ticket};
use crate::lifecycle::{Alarm, Phase, Watch};
use crate::pool::Pool;
use crate::protocol::{BadRequest, Downstream, Id, Malformed, Need, Protocol, Received, Refusal, Request};
use crate::wire::parts::more;
use crate::wire::{Budget, CHUNK, Input, Interest, Output, Purpose, Wire};
use end::End;
pub use idle::IdleClients;
use idle::IdlePlace;
use parts::{Download, Upload};
pub use settings::{ClientClose, Settings};

/// Reads in a row before others get their turn.
const READS: usize = 16;
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
}

/// A client's session.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    codec: Box<dyn Downstream>,
    input: Input,
    output: Output,
    /// Requests without an answer yet, oldest first.
    outstanding: VecDeque<(Id, Ticket)>,
    /// The request being read in parts.
    upload: Option<Upload>,
    /// The reply being written in parts.
    download: Option<Download>,
    /// Words of our own that wait for the end of the download.
    aside: Output,
    shared: Arc<Shared>,
    events: Arc<events::Upstream>,
    front: Watch,
    /// No more requests are read, and when everything is written the session ends like this.
    ending: Option<End>,
    /// The client has sent FIN, and this is how the session ends when everything is answered.
    fin: Option<End>,
    idle: Option<IdlePlace>,
    requests: u64,
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
            outstanding: VecDeque::new(),
            upload: None,
            download: None,
            aside: Output::new(),
            events: shared.pool.events().clone(),
            front: shared.front.clone(),
            shared,
            ending: None,
            fin: None,
            idle: None,
            requests: 0,
            unanswered: false,
            reading_since: now,
            writing_since: None,
            expiry: None,
            next_look: None,
            taken: (now, 0),
        }
    }

    /// Serves the client until the session ends.
    pub async fn run(mut self) {
        let _counted = self.events.client_opened();
        let mut alarm = Alarm::default();
        let end = loop {
            if let Err(end) = self.turn() {
                break end;
            }
            if let Err(end) = self.wait(&mut alarm).await {
                break end;
            }
        };
        let end = self.outlive_oneways(end).await;
        self.close(end).await;
    }

    fn turn(&mut self) -> Result<(), End> {
        self.read()?;
        // Answers make room for requests that wait in the buffer, and writing makes room for answers.
        loop {
            let starved = self.decode();
            self.write()?;
            if starved || !self.may_decode() {
                break;
            }
        }
        self.keep_time(Instant::now())?;
        self.look_for_end()
    }

    fn read(&mut self) -> Result<(), End> {
        for _ in 0..READS {
            if !self.wants_input() {
                break;
            }
            let starts = self.input.bytes.is_empty();
            match self.input.read(&mut self.wire) {
                Ok(0) => self.note_fin(),
                Ok(read) => {
                    self.idle = None;
                    if starts {
                        self.reading_since = Instant::now();
                    }
                    if let Some(upload) = &mut self.upload {
                        upload.note_progress(read);
                    }
                    self.decode();
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return Err(End::Gone),
            }
        }
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
            None => self.output.len() < MAX_UNWRITTEN,
        };
        self.fin.is_none() && self.takes_in() && self.input.has_room() && takes_more
    }

    fn may_decode(&self) -> bool {
        let takes_more = match &self.upload {
            Some(upload) => upload.has_room(),
            None => {
                self.outstanding.len() + usize::from(self.download.is_some())
                    < self.shared.settings.max_per_client
                    && self.output.len() + self.aside.len() < MAX_UNWRITTEN
            }
        };
        self.takes_in() && !self.input.is_waiting() && takes_more
    }

    /// What is told to end still takes in the rest of a request that is on its way.
    fn takes_in(&self) -> bool {
        self.ending.is_none() || self.upload.as_ref().is_some_and(Upload::is_wanted)
    }

    /// Takes in what there is, as far as it may. True if only more bytes would lead further.
    fn decode(&mut self) -> bool {
        while self.may_decode() && !self.input.bytes.is_empty() {
            match self.codec.decode(&mut self.input.bytes) {
                Ok(Received::Request { id, request }) => self.admit(id, request),
                Ok(Received::Head { id, request, rest }) => self.admit_head(id, request, rest),
                Ok(Received::Part { bytes, last }) => self.pass_on(bytes, last),
                Ok(Received::Control(answer)) => {
                    self.input.take_charge();
                    self.reading_since = Instant::now();
                    self.unanswered = true;
                    let words = if self.download.is_some() { &mut self.aside } else { &mut self.output };
                    words.put(answer.as_deref().unwrap_or_default());
                }
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
            self.events.request_truncated(&self.wire.peer(), 0);
            self.cut_upload();
        }
        self.input.bytes.is_empty()
    }

    fn admit(&mut self, id: Id, mut request: Request) {
        if request.rest.is_none() {
            request.charge = self.input.take_charge();
        }
        self.unanswered = request.oneway;
        let ticket = self.shared.pool.admit(request, self.requests == 0);
        self.requests += 1;
        self.reading_since = Instant::now();
        self.expiry = None;
        self.outstanding.push_back((id, ticket));
    }

    fn expect_more(&mut self, need: Need) {
        let filled = self.input.bytes.len();
        if self.fin.is_some() {
            self.events.request_truncated(&self.wire.peer(), filled);
            return self.input.clear();
        }
        match need.beyond(filled, self.input.limit(), self.shared.protocol.max_message()) {
            Ok(None) => {}
            Ok(Some(total)) => {
                let window = need.window(parts::WINDOW);
                if !self.input.ask(total, window, &self.shared.budget, Purpose::Request) {
                    self.events.memory_waited(total + window);
                }
            }
            Err(reason) => self.refuse_malformed(&BadRequest { id: Id::None, reason }),
        }
    }

    /// What follows a malformed request cannot be understood either: the client is told, and cut off.
    fn refuse_malformed(&mut self, bad: &BadRequest) {
        let refusal = match bad.reason {
            Malformed::TooLarge(_) => Refusal::TooLarge,
            Malformed::Invalid(_) => Refusal::Malformed,
        };
        self.events.malformed(&self.wire.peer(), &bad.reason, &self.input.bytes);
        exchange::refuse_unopened(&refusal, &self.events);
        let words = if self.download.is_some() { &mut self.aside } else { &mut self.output };
        self.codec.refuse(&bad.id, &refusal, words);
        self.input.clear();
        self.ending = Some(End::CutOff);
    }

    fn answer(&mut self, id: &Id, ticket: Ticket, answer: Answer) {
        match answer {
            Ok(Some(mut reply)) => {
                if let Some(rest) = reply.rest.take() {
                    self.download = Some(Download::new(rest, ticket));
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
        let (_, before) = *self.writing_since.get_or_insert((Instant::now(), self.output.written()));
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
            self.writing_since = Some((Instant::now(), self.output.written()));
        }
        Ok(())
    }

    /// Whether a one-shot client has all it came for. A further byte, if there was one, has been read: each
    /// turn reads first.
    fn is_served(&self) -> bool {
        self.shared.settings.one_shot
            && self.requests > 0
            && !self.unanswered
            && self.outstanding.is_empty()
            && self.upload.is_none()
            && self.download.is_none()
            && self.input.bytes.is_empty()
            && self.ending.or(self.fin).is_none()
    }

    fn look_for_end(&mut self) -> Result<(), End> {
        if !self.outstanding.is_empty() || !self.output.is_empty() || self.download.is_some() {
            return Ok(());
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
        if self.is_between_requests() && self.idle.is_none() {
            self.idle = Some(self.shared.idle.enter());
        }
        Ok(())
    }

    async fn wait(&mut self, alarm: &mut Alarm) -> Result<(), End> {
        let unwatched = self.unwatched_until().filter(|until| *until > Instant::now());
        let times = [self.expiry, self.write_deadline(), self.read_deadline(), self.next_look, unwatched];
        let deadline = times.into_iter().flatten().min();
        let read = self.wants_input();
        let interest = Interest { read, write: !self.output.is_empty(), reset: !read };
        let next_phase = if self.front.phase() == Phase::Running { Phase::Draining } else { Phase::Stopped };
        let mut answered = None;
        // Every branch is cancel-safe: each only tells that there is something to do, or moves what it got out
        // of itself at once. First what is learnt only here, once; the rest each turn sees for itself.
        tokio::select! {
            biased;
            () = parts::room(self.upload.as_ref()) => self.resume_upload(),
            () = self.input.granted() => self.reading_since = Instant::now(),
            found = next_answer(&mut self.outstanding), if self.download.is_none() => answered = Some(found),
            () = async { match &self.idle {
                Some(place) => place.evicted().await,
                None => std::future::pending().await,
            } } => return self.evicted(),
            ready = self.wire.ready(interest), if unwatched.is_none() => ready.map_err(|_| End::Gone)?,
            () = more(self.download.as_ref().map(|download| &download.rest), &self.output) => {}
            () = alarm.reached(deadline) => {}
            () = self.front.reached(next_phase) => {}
        }
        if let Some((index, answer)) = answered
            && let Some((id, ticket)) = self.outstanding.remove(index)
        {
            self.reading_since = Instant::now();
            self.expiry = None;
            self.answer(&id, ticket, answer);
            if self.outstanding.is_empty() {
                // A FIN that came before the last answer means something else than one that comes after it.
                self.wire.ask_kernel();
            }
        }
        Ok(())
    }

    /// Gives way to a new client, unless a request has come meanwhile.
    fn evicted(&mut self) -> Result<(), End> {
        self.read()?;
        let unasked = self.outstanding.is_empty() && self.upload.is_none() && self.input.bytes.is_empty();
        if unasked && self.output.is_empty() && self.ending.is_none() {
            self.events.client_evicted();
            return Err(End::Idle);
        }
        Ok(())
    }
}

/// The next answer, and which of the outstanding exchanges it is for. Cancel-safe.
async fn next_answer(outstanding: &mut VecDeque<(Id, Ticket)>) -> (usize, Answer) {
    std::future::poll_fn(|cx| {
        for (index, (_, ticket)) in outstanding.iter_mut().enumerate() {
            if let Poll::Ready(answer) = ticket.poll_answer(cx) {
                return Poll::Ready((index, answer));
            }
        }
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests;
