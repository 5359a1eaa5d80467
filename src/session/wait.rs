//! What a session waits for, and what it does about it at once: everything else waits for the next turn.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{End, Outstanding, Session};
use crate::exchange::{Answer, Ticket};
use crate::lifecycle::{Alarm, earliest};
use crate::protocol::Id;
use crate::wire::Interest;

/// Who has asked more often is not one of those that close their half behind their last request; if it is, what
/// the reactor knows is enough but for a few microseconds.
const FEW: u32 = 8;

/// What a session waits for, as it was when the wait began.
#[derive(Clone, Copy)]
struct Wait {
    /// `None` while the socket is not watched.
    interest: Option<Interest>,
    deadline: Option<Instant>,
}

impl Session {
    pub(super) async fn wait(&mut self, mut alarm: Pin<&mut Alarm>) -> Result<(), End> {
        // Asked once and first: another thread may make room at any time, and then somebody must hear of it.
        self.look_at_upload();
        let unwatched = self.unwatched_until().filter(|until| *until > self.now);
        let deadline =
            earliest([self.expiry, self.write_deadline(), self.read_deadline(), self.next_look, unwatched]);
        let read = self.wants_input();
        let watched = Interest { read, write: !self.output.is_empty(), reset: !read };
        let interest = unwatched.is_none().then_some(watched);
        let wait = Wait { interest, deadline };
        poll_fn(|cx| self.poll_event(cx, alarm.as_mut(), wait)).await
    }

    /// Completes when there is something to do. First what is learnt only here, once; the rest each turn sees for
    /// itself.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        alarm: Pin<&mut Alarm>,
        wait: Wait,
    ) -> Poll<Result<(), End>> {
        // What is answered at once never waits for the runtime: others must get their turn all the same.
        ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        if self.upload.as_ref().is_some_and(|upload| upload.full && upload.poll_room(cx).is_ready()) {
            self.look_at_upload();
            return Poll::Ready(Ok(()));
        }
        if self.input.poll_granted(cx).is_ready() {
            self.reading_since = Instant::now();
            return Poll::Ready(Ok(()));
        }
        if self.take_answers(cx) {
            return Poll::Ready(Ok(()));
        }
        if self.idle.as_ref().is_some_and(|place| place.is_idle() && place.poll_evicted(cx).is_ready()) {
            return Poll::Ready(self.evicted());
        }
        if let Some(interest) = wait.interest
            && let Poll::Ready(ready) = self.wire.poll_ready(cx, interest)
        {
            return Poll::Ready(ready.map_err(|_| End::Gone));
        }
        let more = self.download.as_ref().map(|download| download.rest.poll_more(cx, &self.output));
        let is_due = more.is_some_and(|more| more.is_ready())
            || alarm.poll_reached(cx, wait.deadline).is_ready()
            || self.front.poll_moved(cx).is_ready()
            || std::mem::take(&mut self.goes_on);
        if is_due { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    /// Takes the answers that are there, up to one that comes in parts. False if there are none.
    fn take_answers(&mut self, cx: &mut Context<'_>) -> bool {
        let mut found = false;
        while self.download.is_none()
            && let Poll::Ready((id, ticket, answer)) = poll_next_answer(&mut self.outstanding, cx)
        {
            found = true;
            if answer.is_ok() && !self.outstanding.is_empty() {
                self.round = self.round.max(ticket.round().unwrap_or(0));
            }
            self.answer(&id, ticket, answer);
        }
        if found {
            self.now = Instant::now();
            self.reading_since = self.now;
            self.expiry = None;
            if self.outstanding.is_empty() {
                self.ask_for_fin();
            }
        }
        found
    }

    /// The first round in which it has had no turn and has none to come: what was refused leaves its place to the next.
    pub(super) fn next_round(&self) -> u64 {
        let mut rounds: SmallVec<[u64; 32]> =
            self.outstanding.iter().filter_map(|(_, ticket)| ticket.round()).collect();
        if rounds.is_empty() {
            return 0;
        }
        rounds.sort_unstable();
        let first = self.shared.pool.round().max(self.round + 1);
        rounds.into_iter().fold(first, |free, round| if round == free { free + 1 } else { free })
    }

    /// A FIN that came before the last answer means something else than one that comes after it, and the reactor
    /// may not know of it yet.
    pub(super) fn ask_for_fin(&mut self) {
        if self.shared.settings.one_shot || self.requests <= FEW {
            self.asks = true;
            self.wire.ask_kernel();
        }
    }

    /// Gives way to a new client, unless a request has come meanwhile.
    fn evicted(&mut self) -> Result<(), End> {
        self.now = Instant::now();
        // The reactor may not know of its request yet.
        self.asks = true;
        self.wire.ask_kernel();
        self.read()?;
        let unasked = self.outstanding.is_empty() && self.upload.is_none() && self.input.bytes.is_empty();
        if unasked && self.output.is_empty() && self.ending.is_none() {
            self.events().client_evicted();
            return Err(End::Idle);
        }
        Ok(())
    }
}

/// The next answer, and the request it is for.
pub(super) fn poll_next_answer(
    outstanding: &mut Outstanding,
    cx: &mut Context<'_>,
) -> Poll<(Id, Ticket, Answer)> {
    for index in 0..outstanding.len() {
        if let Poll::Ready(answer) = outstanding[index].1.poll_answer(cx) {
            let (id, ticket) = outstanding.remove(index);
            return Poll::Ready((id, ticket, answer));
        }
    }
    Poll::Pending
}
