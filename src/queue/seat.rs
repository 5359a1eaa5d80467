//! A connection's seat at the queue: the only way by which it comes to work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::roster::{Hold, Standing};
use super::{Inner, Queue, Verdict};
use crate::events::{CloseReason, Rung};
use crate::exchange::Exchange;
use crate::protocol::Refusal;

/// A place for a connection that is being opened. Dropped, it is free again.
#[derive(Debug)]
pub struct Connecting {
    queue: Arc<Queue>,
    endpoint: usize,
}

impl Connecting {
    pub(super) fn new(queue: Arc<Queue>, endpoint: usize) -> Self {
        Self { queue, endpoint }
    }

    /// The connection stands: it takes part from now on.
    pub fn join(self) -> Seat {
        let queue = self.queue.clone();
        let key = queue.locked(|inner| {
            inner.down = None;
            inner.roster.join(self.endpoint)
        });
        // Frees the place of the connecting socket before the new seat is filled: counted once, not twice.
        drop(self);
        queue.locked(Inner::dispatch);
        Seat { queue, key }
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.queue.locked(|inner| {
            inner.roster.endpoints[self.endpoint].connecting -= 1;
            inner.roster.full = false;
        });
        self.queue.changed.notify_one();
    }
}

/// What is wanted of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// There is something to take.
    pub work: bool,
    /// It takes nothing new any more, for this reason.
    pub leave: Option<CloseReason>,
}

/// A connection's seat. Dropped, the connection takes no part any more, and what it was given and has not
/// taken goes back in front of the queue.
#[derive(Debug)]
pub struct Seat {
    queue: Arc<Queue>,
    key: usize,
}

impl Seat {
    /// Completes when there is something to take, the connection is to give way, or what it knows of its endpoint
    /// has changed.
    pub fn poll_work(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.queue.inner();
        let member = &mut inner.roster.members[self.key];
        let nudged = std::mem::take(&mut member.nudged);
        if nudged || !member.inbox.is_empty() || matches!(member.hold, Hold::GivesWay | Hold::CalledOff(_)) {
            return Poll::Ready(());
        }
        if !member.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            member.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// What is wanted of the connection now.
    pub fn look(&self) -> Call {
        let member = &mut self.queue.inner().roster.members[self.key];
        let leave = match member.hold {
            Hold::CalledOff(reason) => Some(reason),
            Hold::Useful | Hold::Stuck | Hold::GivesWay => None,
        };
        if leave.is_some() {
            member.hold = Hold::Useful;
        }
        Call { work: !member.inbox.is_empty(), leave }
    }

    /// The next exchange. [`Seat::done`] must follow.
    pub fn take(&self) -> Option<Exchange> {
        self.queue.inner().roster.members[self.key].inbox.pop_front()
    }

    /// One exchange is over: its room is free.
    pub fn done(&self, verdict: Verdict) {
        let telling = self.queue.locked(|inner| {
            let telling = inner.roster.done(self.key, verdict);
            inner.dispatch();
            telling
        });
        if telling {
            self.queue.changed.notify_one();
        }
    }

    /// One exchange came to nothing: it is tried again at its old turn, or is over if that must not be.
    pub fn try_again(&self, mut exchange: Exchange, rung: Rung, verdict: Verdict) {
        self.queue.locked(|inner| {
            inner.roster.done(self.key, verdict);
            exchange.tried.endpoint = Some(inner.roster.members[self.key].endpoint);
            inner.try_again(exchange, rung, &Refusal::Lost);
        });
        self.queue.changed.notify_one();
    }

    /// A reply did not come in time.
    pub fn failed(&self) {
        self.queue.locked(|inner| {
            let endpoint = inner.roster.members[self.key].endpoint;
            inner.roster.fail(endpoint);
        });
        self.queue.changed.notify_one();
    }

    /// The last part of a request is on its way, or will never be: the room beside it is free again.
    pub fn uploaded(&self) {
        self.queue.locked(|inner| {
            inner.roster.uploaded(self.key);
            inner.dispatch();
        });
        self.queue.changed.notify_one();
    }

    /// Takes nothing until told otherwise; what it was given and has not begun goes back.
    pub fn rest(&self, resting: bool) {
        self.queue.locked(|inner| {
            let member = &mut inner.roster.members[self.key];
            match (resting, member.standing) {
                (true, Standing::Open) => member.standing = Standing::Resting,
                (false, Standing::Resting) => member.standing = Standing::Open,
                _ => {}
            }
            let inbox = if resting { inner.roster.take_back(self.key) } else { VecDeque::new() };
            inner.put_back(inbox);
        });
        self.queue.changed.notify_one();
    }

    /// Everything this connection has room for is owed to nobody, or no longer is.
    pub fn set_stuck(&self, stuck: bool) {
        self.queue.locked(|inner| {
            let hold = &mut inner.roster.members[self.key].hold;
            // That it was called off it has yet to hear.
            if !matches!(hold, Hold::CalledOff(_)) {
                *hold = if stuck { Hold::Stuck } else { Hold::Useful };
            }
            inner.dispatch();
        });
    }

    /// Whether a stuck connection is to close because others wait.
    pub fn gives_way(&self) -> bool {
        self.queue.inner().roster.members[self.key].hold == Hold::GivesWay
    }

    /// Whether enough others take what comes if this connection does not.
    pub fn is_spare(&self) -> bool {
        self.queue.inner().roster.can_spare_one()
    }

    /// Takes nothing new any more. The keeper may open another connection meanwhile.
    pub fn retire(&self) {
        self.queue.locked(|inner| {
            let inbox = inner.roster.retire(self.key);
            inner.put_back(inbox);
        });
        self.queue.changed.notify_one();
    }

    /// Retires an idle connection if the pool stays at its floor without it, and nothing has landed in the
    /// inbox meanwhile.
    pub fn retire_if_spare(&self) -> bool {
        self.retire_idle_if(|inner| inner.roster.open() > inner.settings.min_connections)
    }

    /// Retires a connection if it is idle, and nothing has landed in the inbox meanwhile.
    pub fn retire_if_idle(&self) -> bool {
        self.retire_idle_if(|_| true)
    }

    fn retire_idle_if(&self, condition: impl FnOnce(&Inner) -> bool) -> bool {
        let retires = self.queue.locked(|inner| {
            let retires = inner.roster.members[self.key].in_flight == 0 && condition(inner);
            if retires {
                let inbox = inner.roster.retire(self.key);
                debug_assert!(inbox.is_empty());
            }
            retires
        });
        if retires {
            self.queue.changed.notify_one();
        }
        retires
    }

    /// Something about its endpoint has changed: its connections look at the time again.
    pub fn wake_endpoint(&self) {
        self.queue.locked(|inner| {
            let roster = &mut inner.roster;
            let endpoint = roster.members[self.key].endpoint;
            for (_, member) in roster.members.iter_mut().filter(|(_, m)| m.endpoint == endpoint) {
                member.nudged = true;
                roster.woken.add(member.waker.take());
            }
        });
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.queue.locked(|inner| {
            let inbox = inner.roster.leave(self.key);
            inner.put_back(inbox);
        });
        self.queue.changed.notify_one();
    }
}
