//! One request and the one answer it gets.
//!
//! Invariant: an exchange ends once, and the first to end it wins - its connection, its deadline or its
//! client. Whoever comes later is told so. The session holds the [`Ticket`], queue and connection pass the
//! [`Exchange`] on; dropping an unfinished exchange answers "lost", so not even a panic leaves a client
//! without an answer. A reply in parts begins with its head, and the exchange ends with its last part.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use crate::events::{self, Outcome, Reason, Rung, Times};
use crate::protocol::{Refusal, Reply, Request};
use crate::wire::Parts;

/// What the session gets in the end: a reply, nothing for a one-way request, or the reason why not.
pub type Answer = Result<Option<Reply>, Refusal>;

/// Told to the loser of a race to end an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AlreadyEnded;

/// A request on its way to a connection, or on one.
#[derive(Debug)]
pub struct Exchange {
    /// What to send.
    pub request: Request,
    /// Whether it is its client's first one.
    pub first: bool,
    /// Its turn in the queue, which it keeps if a connection gives it back.
    pub turn: Turn,
    /// What leads it to its endpoint, where the pool goes by that.
    pub key: Option<u64>,
    /// The endpoint that it waits for, if others will not do.
    pub led_to: Option<usize>,
    /// The round before which it has no turn: its client has had one in each.
    pub not_before: u64,
    /// What its earlier attempts came to.
    pub tried: Tried,
    /// No other endpoint will do than the one it was given to.
    pub bound: bool,
    /// Where the answer goes.
    pub slot: ReplySlot,
}

/// A place in the order of those that wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The round: one later than that of the last one of its client that waits.
    pub round: u64,
    /// The number of its own arrival.
    pub arrival: u64,
}

/// Attempts that came to nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    /// How many.
    pub attempts: u32,
    /// The endpoint of the last one.
    pub endpoint: Option<usize>,
    /// A server may have some of it.
    pub begun: bool,
}

impl Exchange {
    /// Ends the exchange without a reply. What a server may have run is not told that it was refused.
    pub fn refuse(self, refusal: Refusal) {
        let _ = self.slot.refuse(if self.tried.begun { Refusal::Lost } else { refusal });
    }

    /// Whether its request travels in parts.
    pub fn is_in_parts(&self) -> bool {
        self.request.rest.is_some()
    }
}

/// The connection's side of an exchange: where its answer goes.
#[derive(Debug)]
pub struct ReplySlot(Arc<Shared>);

/// The session's side of an exchange. Dropping it does not end the exchange: see [`Ticket::abandon`].
#[derive(Debug)]
pub struct Ticket(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    events: Arc<events::Upstream>,
    admitted: Instant,
    oneway: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stage: Stage,
    /// Not known before the request is whole.
    deadline: Option<Instant>,
    /// Its turn, while it waits in the queue.
    /// Its turn, if it ever had to wait, and whether it waits now.
    turn: Option<Turn>,
    waiting: bool,
    given: Option<Instant>,
    written: Option<Instant>,
    /// When a connection last gave it back.
    retried: Option<Instant>,
    session: Option<Waker>,
}

#[derive(Debug, Default)]
enum Stage {
    #[default]
    Open,
    /// The head of its reply is there, and then with the session.
    Begun(Option<Reply>),
    Ended(Option<Answer>),
}

/// An exchange for `request`, to end by `deadline`, and the session's ticket for it. It counts as accepted
/// from here on. The deadline of a request in parts comes with its end: [`Ticket::set_deadline`].
pub fn open(
    request: Request,
    first: bool,
    admitted: Instant,
    deadline: Option<Instant>,
    events: &Arc<events::Upstream>,
) -> (Exchange, Ticket) {
    events.accepted();
    let (oneway, state) = (request.oneway, Mutex::new(State { deadline, ..State::default() }));
    let shared = Arc::new(Shared { events: events.clone(), admitted, oneway, state });
    let slot = ReplySlot(shared.clone());
    let exchange = Exchange {
        request,
        first,
        turn: Turn::default(),
        key: None,
        led_to: None,
        not_before: 0,
        tried: Tried::default(),
        bound: false,
        slot,
    };
    (exchange, Ticket(shared))
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_ended(&self) -> bool {
        matches!(self.state().stage, Stage::Ended(_))
    }

    /// Ends the exchange; `answer` is `None` where nobody is left to read it.
    fn end(&self, outcome: Outcome, answer: Option<Answer>) -> Result<(), AlreadyEnded> {
        // A head that nobody gets is dropped after the lock: that wakes others.
        let _unread;
        let (session, times) = {
            let mut state = self.state();
            state.stage = match std::mem::take(&mut state.stage) {
                Stage::Begun(Some(head)) if outcome == Outcome::Ok => Stage::Ended(Some(Ok(Some(head)))),
                Stage::Open => Stage::Ended(answer),
                Stage::Begun(Some(head)) => {
                    _unread = head;
                    Stage::Ended(answer)
                }
                // The session hears of the end where it takes the parts.
                Stage::Begun(None) => Stage::Ended(None),
                ended @ Stage::Ended(_) => {
                    state.stage = ended;
                    return Err(AlreadyEnded);
                }
            };
            let now = Instant::now();
            let times = Times {
                total: now - self.admitted,
                waited: state.given.map(|given| given - self.admitted),
                upstream: state.written.map(|written| now - written),
            };
            (state.session.take(), times)
        };
        self.events.ended(outcome, times);
        if let Some(session) = session {
            session.wake();
        }
        Ok(())
    }

    fn refuse(&self, refusal: Refusal) -> Result<(), AlreadyEnded> {
        let (outcome, reason) = counted_as(&refusal);
        let text = refusal.clone();
        self.end(outcome, Some(Err(refusal)))?;
        if let Some(reason) = reason {
            self.events.refused(reason, &text);
        }
        Ok(())
    }
}

/// Accounts for a request that is refused before it becomes an exchange: accepted, and ended.
pub fn refuse_unopened(refusal: &Refusal, events: &events::Upstream) {
    let (outcome, reason) = counted_as(refusal);
    events.accepted();
    events.ended(outcome, Times::default());
    if let Some(reason) = reason {
        events.refused(reason, refusal);
    }
}

/// The outcome of an exchange that ended in `refusal`, and the reason where no connection had it.
fn counted_as(refusal: &Refusal) -> (Outcome, Option<Reason>) {
    match refusal {
        Refusal::Timeout => (Outcome::Timeout, None),
        Refusal::Lost => (Outcome::Lost, None),
        Refusal::NotTaken => (Outcome::ClientGone, None),
        Refusal::Desync => (Outcome::Desync, None),
        Refusal::TooLarge => (Outcome::TooLarge, Some(Reason::TooLarge)),
        Refusal::QueueFull => (Outcome::Refused, Some(Reason::QueueFull)),
        Refusal::AcquireTimeout => (Outcome::Refused, Some(Reason::AcquireTimeout)),
        Refusal::Down(_) => (Outcome::Refused, Some(Reason::Down)),
        Refusal::Malformed => (Outcome::Refused, Some(Reason::Malformed)),
        Refusal::Draining => (Outcome::Refused, Some(Reason::Draining)),
        Refusal::DedicatedFull => (Outcome::Refused, Some(Reason::DedicatedFull)),
    }
}

impl ReplySlot {
    /// Ends the exchange with its reply.
    pub fn finish(&self, reply: Reply) -> Result<(), AlreadyEnded> {
        self.0.end(Outcome::Ok, Some(Ok(Some(reply))))
    }

    /// Begins the reply with its head; [`ReplySlot::finish_begun`] must follow its last part.
    pub fn begin(&self, head: Reply) -> Result<(), AlreadyEnded> {
        let session = {
            let mut state = self.0.state();
            if !matches!(state.stage, Stage::Open) {
                return Err(AlreadyEnded);
            }
            state.stage = Stage::Begun(Some(head));
            state.session.take()
        };
        if let Some(session) = session {
            session.wake();
        }
        Ok(())
    }

    /// Ends the exchange with the last part of the reply that was begun.
    pub fn finish_begun(&self) -> Result<(), AlreadyEnded> {
        self.0.end(Outcome::Ok, None)
    }

    /// Ends a one-way exchange: the kernel has its last byte.
    pub fn sent(&self) -> Result<(), AlreadyEnded> {
        self.0.end(Outcome::Sent, Some(Ok(None)))
    }

    /// Ends the exchange without a reply.
    pub fn refuse(&self, refusal: Refusal) -> Result<(), AlreadyEnded> {
        self.0.refuse(refusal)
    }

    /// Whether the exchange has ended, so that a reply would be owed to nobody.
    pub fn is_ended(&self) -> bool {
        self.0.is_ended()
    }

    /// When the client gets an answer at the latest; `None` as long as the request is not whole.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.state().deadline
    }

    /// Remembers its turn while it waits in the queue; returns since when it waits. `None` if it has ended: then it
    /// must not wait, because nobody would take it out again.
    pub fn begin_waiting(&self, turn: Turn) -> Option<Instant> {
        let mut state = self.0.state();
        let open = !matches!(state.stage, Stage::Ended(_));
        (state.turn, state.waiting) = (Some(turn), open);
        open.then_some(state.retried.unwrap_or(self.0.admitted))
    }

    /// It waits no more.
    pub fn end_waiting(&self) {
        self.0.state().waiting = false;
    }

    /// It was given to a connection.
    pub fn mark_given(&self, now: Instant) {
        self.0.state().given = Some(now);
    }

    /// It was given to a connection as soon as it was admitted.
    pub fn mark_given_at_once(&self) {
        self.mark_given(self.0.admitted);
    }

    /// It came to nothing, and is tried again.
    pub fn mark_retried(&self, rung: Rung, now: Instant) {
        if rung != Rung::Connect {
            let mut state = self.0.state();
            (state.written, state.retried) = (None, Some(now));
        }
        self.0.events.retried(rung);
    }

    /// When it was admitted.
    pub fn admitted(&self) -> Instant {
        self.0.admitted
    }

    /// Its last byte is in the kernel.
    pub fn mark_written(&self, now: Instant) {
        self.0.state().written = Some(now);
    }
}

impl Drop for ReplySlot {
    fn drop(&mut self) {
        let _ = self.0.refuse(Refusal::Lost);
    }
}

impl Ticket {
    /// The answer or its head, once there is one; after it, never again.
    pub fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        let mut state = self.0.state();
        match &mut state.stage {
            Stage::Ended(answer) => match answer.take() {
                Some(answer) => Poll::Ready(answer),
                None => Poll::Pending,
            },
            Stage::Begun(head) if head.is_some() => Poll::Ready(Ok(head.take())),
            Stage::Open | Stage::Begun(_) => {
                state.session = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// When the client gets an answer at the latest; `None` as long as the request is not whole.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.state().deadline
    }

    /// The request is whole now.
    pub fn set_deadline(&self, deadline: Instant) {
        self.0.state().deadline = Some(deadline);
    }

    /// Whether the exchange has ended.
    pub fn is_ended(&self) -> bool {
        self.0.is_ended()
    }

    /// The session works on another reply, and this one waits its turn.
    pub fn note_progress(&self) {
        if let Stage::Begun(Some(Reply { rest: Some(rest), .. })) = &self.0.state().stage {
            rest.note_progress();
        }
    }

    /// Whether its reply has begun, or it has ended.
    pub fn has_answer(&self) -> bool {
        !matches!(self.0.state().stage, Stage::Open)
    }

    /// Bytes of its reply that wait for the session.
    pub fn held(&self) -> usize {
        let size = |reply: &Reply| reply.bytes.len() + reply.rest.as_ref().map_or(0, Parts::held);
        match &self.0.state().stage {
            Stage::Begun(Some(head)) | Stage::Ended(Some(Ok(Some(head)))) => size(head),
            _ => 0,
        }
    }

    /// Whether no reply will come.
    pub fn is_oneway(&self) -> bool {
        self.0.oneway
    }

    /// Since when it has waited, if it waits: since it was admitted, or a connection gave it back.
    pub fn waits_since(&self) -> Instant {
        self.0.state().retried.unwrap_or(self.0.admitted)
    }

    /// Its turn, while it waits in the queue.
    pub fn waiting(&self) -> Option<Turn> {
        let state = self.0.state();
        state.turn.filter(|_| state.waiting)
    }

    /// The round of its turn, if it ever had to wait.
    pub fn round(&self) -> Option<u64> {
        self.0.state().turn.map(|turn| turn.round)
    }

    /// Ends the exchange for the session: the deadline has come, or the wait was too long.
    pub fn refuse(&self, refusal: Refusal) -> Result<(), AlreadyEnded> {
        self.0.refuse(refusal)
    }

    /// Ends the exchange because its client is gone.
    pub fn abandon(&self) -> Result<(), AlreadyEnded> {
        self.0.end(Outcome::ClientGone, None)
    }
}

#[cfg(test)]
pub(crate) mod tests;
