//! What a connection waits for, and what it does about it at once: everything else waits for the next turn.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::Connection;
use crate::events::CloseReason;
use crate::lifecycle::Alarm;
use crate::wire::Interest;

/// What a connection waits for, as it was when the wait began.
#[derive(Clone, Copy)]
struct Wait {
    interest: Interest,
    deadline: Option<Instant>,
}

impl Connection {
    pub(super) async fn wait(&mut self, mut alarm: Pin<&mut Alarm>) -> Result<(), CloseReason> {
        let deadline = self.next_deadline();
        let write = !self.output.is_empty() && !self.unheard;
        let interest = Interest { read: self.may_read(), write, reset: false };
        poll_fn(|cx| self.poll_event(cx, alarm.as_mut(), Wait { interest, deadline })).await
    }

    /// Completes when there is something to do. First what is learnt only here, once; the rest each turn sees for
    /// itself.
    fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        alarm: Pin<&mut Alarm>,
        wait: Wait,
    ) -> Poll<Result<(), CloseReason>> {
        // Other threads may bring work for ever: this one's tasks must get their turn all the same.
        ready!(tokio::task::coop::poll_proceed(cx)).made_progress();
        if self.input.poll_granted(cx).is_ready() {
            self.last_read = Instant::now();
            return Poll::Ready(Ok(()));
        }
        if self.download.as_ref().is_some_and(|download| download.poll_room(cx).is_ready()) {
            self.resume();
            return Poll::Ready(Ok(()));
        }
        if self.seat.poll_work(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if let Poll::Ready(ready) = self.wire.poll_ready(cx, wait.interest) {
            return Poll::Ready(ready.map_err(|_| self.lost()));
        }
        let more = self.upload.as_ref().map(|upload| upload.rest.poll_more(cx, &self.output));
        let is_due = more.is_some_and(|more| more.is_ready())
            || alarm.poll_reached(cx, wait.deadline).is_ready()
            || self.back.poll_moved(cx).is_ready();
        if is_due { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}
