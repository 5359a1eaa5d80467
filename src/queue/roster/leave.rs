//! Which connection leaves for the sake of others, where the cap is reached.
//!
//! Invariant: one that has just been used leaves only for who has fewer, and busy ones one after the other: nothing
//! moves back and forth.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::{Member, Roster, Rule, Standing};
use crate::events::CloseReason;
use crate::exchange::Exchange;
use crate::queue::TURN;

impl Roster {
    /// Makes room under the cap for another connection to `endpoint`, at the cost of an endpoint that has more for its
    /// weight, or of one of those where things are led: an idle one, or the `last` one. Returns what that connection
    /// had been given and not taken.
    pub(in crate::queue) fn make_room(&mut self, endpoint: usize, last: bool) -> VecDeque<Exchange> {
        if self.room_is_coming() {
            return VecDeque::new();
        }
        let is_last = |m: &Member| self.endpoints[m.endpoint].open == 1;
        let busy = self.may_ask_busy();
        let may_go =
            |m: &Member| m.endpoint != endpoint && self.may_go(m, endpoint, last) && m.may_leave(busy);
        let spare = self.members.iter().filter(|(_, m)| may_go(m));
        let first = spare.min_by_key(|(_, m)| (is_last(m), m.gone_last())).map(|(key, _)| key);
        first.map_or_else(VecDeque::new, |key| self.ask_to_leave(key))
    }

    /// Makes room under the cap for another roster that has `theirs`, if it can be by an `idle` one only. Who has none, or
    /// fewer also after that, gets a busy one or one that has just been used. Returns what the connection had been given
    /// and not taken, if there is one to leave.
    pub(in crate::queue) fn give_way(&mut self, idle: bool, theirs: usize) -> Option<VecDeque<Exchange>> {
        self.has_rivals = true;
        if self.room_is_coming() {
            return Some(VecDeque::new());
        }
        let has_more = theirs == 0 || self.open() >= theirs + 2;
        let busy = has_more && !idle && self.may_ask_busy();
        let may_go = self.members.iter().filter(|(_, m)| m.may_leave(busy) && (has_more || m.is_unused()));
        let first = may_go.min_by_key(|(_, m)| m.gone_last()).map(|(key, _)| key)?;
        Some(self.ask_to_leave(first))
    }

    fn ask_to_leave(&mut self, key: usize) -> VecDeque<Exchange> {
        self.asked_at = Some(Instant::now());
        self.call_off(key, CloseReason::Balance)
    }

    /// Whether a busy connection may be asked to leave: one after the other, but what is long in going holds up nobody
    /// else, as long as no more are on their way than stay.
    fn may_ask_busy(&self) -> bool {
        let leaving = self.members.iter().filter(|(_, m)| m.standing == Standing::Retiring).count();
        let is_slow = self.asked_at.is_none_or(|asked| asked + TURN <= Instant::now());
        leaving == 0 || (is_slow && leaving * 2 <= self.members.len())
    }

    /// A connection is about to be gone. Who only waits for something gives way.
    fn room_is_coming(&mut self) -> bool {
        if self.is_losing_one() {
            self.evict_stuck(1);
        }
        self.members.iter().any(|(_, m)| m.standing == Standing::Retiring && m.in_flight == 0)
    }

    /// Whether a connection is leaving, however long that takes.
    fn is_losing_one(&self) -> bool {
        self.members.iter().any(|(_, m)| m.standing == Standing::Retiring)
    }

    /// Whether the endpoint of a connection can do without it better than `endpoint` without another one.
    fn may_go(&self, member: &Member, endpoint: usize, last: bool) -> bool {
        let (from, to) = (&self.endpoints[member.endpoint], &self.endpoints[endpoint]);
        if self.rule == Rule::Hash {
            // What is led there can go nowhere else.
            return match to.open {
                0 => from.open > 1 || last,
                _ => from.open > 1 && (self.has_more(member.endpoint, endpoint) || member.is_unused()),
            };
        }
        from.open > 1 && (to.open == 0 || self.has_more(member.endpoint, endpoint))
    }

    /// Has an idle connection close whose endpoint is left out, or a backup that is not to be used, if there is one,
    /// and none is on its way out already.
    pub(in crate::queue) fn call_off_left_out(&mut self) {
        if self.room_is_coming() {
            return;
        }
        let standards = self.standards();
        let unused = |m: &Member| m.in_flight == 0 && standards.leave_out(&self.endpoints[m.endpoint]);
        let unused = self.members.iter().find(|(_, m)| unused(m)).map(|(key, _)| key);
        if let Some(key) = unused {
            self.call_off(key, CloseReason::Idle);
        }
    }
}

impl Member {
    /// Whether it may be asked to leave, even if it is `busy`.
    fn may_leave(&self, busy: bool) -> bool {
        self.standing != Standing::Retiring && (busy || self.in_flight == 0)
    }

    /// Idle for so long that it may well stay so.
    fn is_unused(&self) -> bool {
        self.in_flight == 0 && self.idle_since + TURN <= Instant::now()
    }

    /// Smaller for who is sooner gone or less missed: the longest idle, then, as a request that takes long is mostly an
    /// old one, who was given something last.
    fn gone_last(&self) -> impl Ord + use<> {
        (self.in_flight, if self.in_flight == 0 { self.used } else { u64::MAX - self.used })
    }
}
