//! The connections of a pool as the queue sees them, and the rule that picks one.
//!
//! The endpoint with the fewest in flight (ties rotate), but none that is left out while another is better; within
//! it the most recently used connection below `grow_at`, then the least loaded. A request in parts needs one with
//! nothing in flight, which then takes nothing else until the request is whole. Plain data: the queue's lock is
//! around it.

use std::collections::VecDeque;
use std::task::Waker;

use slab::Slab;

use super::endpoint::{Endpoint, Verdict};
use super::{EndpointDemand, EndpointDemands, Settings, Woken};
use crate::events::CloseReason;
use crate::exchange::Exchange;

/// One connection's seat.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) endpoint: usize,
    /// Given and not done yet, the inbox included.
    pub(super) in_flight: usize,
    /// Given and not taken yet.
    pub(super) inbox: VecDeque<Exchange>,
    pub(super) waker: Option<Waker>,
    pub(super) standing: Standing,
    pub(super) hold: Hold,
    /// It is to look at the time again.
    pub(super) nudged: bool,
    /// It was given a request in parts, of which it does not have the last one yet.
    uploading: bool,
    used: u64,
}

/// Whether a connection takes exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    Open,
    /// Not for now.
    Resting,
    /// Not any more: it finishes what it has.
    Retiring,
}

/// Whether a connection's room is of use to anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// It is, as far as is known.
    Useful,
    /// Everything it has room for is owed to nobody.
    Stuck,
    /// So it is, and because others wait it was asked to close.
    GivesWay,
    /// It is to close when it has nothing in flight, for this reason.
    CalledOff(CloseReason),
}

/// All seats of one pool.
#[derive(Debug)]
pub(super) struct Roster {
    pub(super) members: Slab<Member>,
    pub(super) endpoints: Vec<Endpoint>,
    room: usize,
    grow_at: usize,
    /// Connections that may still take a request in parts.
    uploads_left: usize,
    /// A busy connection that takes nothing more, so that it becomes free for a request in parts.
    reserved: Option<usize>,
    /// The cap is reached, and no socket has closed since.
    pub(super) full: bool,
    /// The endpoint that wins the next tie.
    turn: usize,
    clock: u64,
    /// Whom to wake after the lock.
    pub(super) woken: Woken,
}

impl Roster {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            members: Slab::new(),
            endpoints: vec![Endpoint::new(settings.eject_after); settings.endpoints],
            room: settings.room,
            grow_at: settings.grow_at,
            uploads_left: settings.max_uploads,
            reserved: None,
            full: false,
            turn: 0,
            clock: 0,
            woken: Woken::default(),
        }
    }

    pub(super) fn join(&mut self, endpoint: usize) -> usize {
        self.endpoints[endpoint].open += 1;
        (self.endpoints[endpoint].unreachable, self.endpoints[endpoint].paused) = (false, false);
        self.clock += 1;
        self.members.insert(Member {
            endpoint,
            in_flight: 0,
            inbox: VecDeque::new(),
            waker: None,
            standing: Standing::Open,
            hold: Hold::Useful,
            nudged: false,
            uploading: false,
            used: self.clock,
        })
    }

    /// Nothing new for this one. Returns what it had been given and not taken.
    pub(super) fn retire(&mut self, key: usize) -> VecDeque<Exchange> {
        let member = &mut self.members[key];
        let endpoint = &mut self.endpoints[member.endpoint];
        if matches!(member.standing, Standing::Open | Standing::Resting) {
            member.standing = Standing::Retiring;
            endpoint.open -= 1;
        }
        self.take_back(key)
    }

    /// What a connection was given and has not taken.
    pub(super) fn take_back(&mut self, key: usize) -> VecDeque<Exchange> {
        self.reserved = self.reserved.filter(|reserved| *reserved != key);
        let member = &mut self.members[key];
        member.in_flight -= member.inbox.len();
        self.endpoints[member.endpoint].in_flight -= member.inbox.len();
        let inbox = std::mem::take(&mut member.inbox);
        if inbox.iter().any(Exchange::is_in_parts) {
            self.uploaded(key);
        }
        inbox
    }

    /// A connection has the last part of a request, or will never take it.
    pub(super) fn uploaded(&mut self, key: usize) {
        if std::mem::take(&mut self.members[key].uploading) {
            self.uploads_left += 1;
        }
    }

    /// Connections that may still take a request in parts.
    pub(super) fn uploads_left(&self) -> usize {
        self.uploads_left
    }

    /// What is in flight on each connection that is sending a request in parts.
    #[cfg(test)]
    pub(super) fn uploads(&self) -> Vec<usize> {
        self.members.iter().filter(|(_, m)| m.uploading).map(|(_, m)| m.in_flight).collect()
    }

    pub(super) fn leave(&mut self, key: usize) -> VecDeque<Exchange> {
        let inbox = self.retire(key);
        self.uploaded(key);
        let member = self.members.remove(key);
        self.full = false;
        let endpoint = &mut self.endpoints[member.endpoint];
        endpoint.in_flight -= member.in_flight;
        inbox
    }

    pub(super) fn give(&mut self, key: usize, exchange: Exchange) {
        self.clock += 1;
        let member = &mut self.members[key];
        member.used = self.clock;
        member.in_flight += 1;
        if exchange.is_in_parts() {
            member.uploading = true;
            self.uploads_left -= 1;
            self.reserved = None;
        }
        self.endpoints[member.endpoint].in_flight += 1;
        self.turn = (member.endpoint + 1) % self.endpoints.len();
        member.inbox.push_back(exchange);
        self.woken.add(member.waker.take());
    }

    /// One exchange is over. True if that changes what is thought of the endpoint.
    pub(super) fn done(&mut self, key: usize, verdict: Verdict) -> bool {
        let member = &mut self.members[key];
        member.in_flight -= 1;
        let (idle, endpoint) = (member.in_flight == 0, member.endpoint);
        self.endpoints[endpoint].in_flight -= 1;
        let was_failing = self.endpoints[endpoint].is_failing();
        match verdict {
            Verdict::Replied => self.endpoints[endpoint].replied(),
            Verdict::Failed => self.fail(endpoint),
            Verdict::Neutral => {}
        }
        if idle && self.endpoints[endpoint].ejected && self.has_better() {
            self.call_off(key, CloseReason::Ejected);
        }
        was_failing || self.endpoints[endpoint].is_failing()
    }

    /// An endpoint did not reply. After too many failures in a row it is ejected, but never the last one.
    pub(super) fn fail(&mut self, endpoint: usize) {
        if !self.endpoints[endpoint].failed() {
            return;
        }
        let mut others = self.endpoints.iter().enumerate().filter(|(other, _)| *other != endpoint);
        if others.any(|(_, other)| other.is_good()) {
            self.endpoints[endpoint].ejected = true;
            let idle = |m: &Member| m.endpoint == endpoint && m.in_flight == 0;
            let idle: Vec<_> = self.members.iter().filter(|(_, m)| idle(m)).map(|(key, _)| key).collect();
            for key in idle {
                self.call_off(key, CloseReason::Ejected);
            }
        }
    }

    /// Has a connection close as soon as nothing is lost by it. Returns what it had been given and not taken.
    fn call_off(&mut self, key: usize, reason: CloseReason) -> VecDeque<Exchange> {
        if self.members[key].standing == Standing::Retiring {
            return VecDeque::new();
        }
        let inbox = self.retire(key);
        let member = &mut self.members[key];
        member.hold = Hold::CalledOff(reason);
        self.woken.add(member.waker.take());
        inbox
    }

    /// Makes room under the cap for an endpoint that has no connection, at the cost of one that has several. Returns
    /// what that connection had been given and not taken.
    pub(super) fn make_room(&mut self) -> VecDeque<Exchange> {
        if self.members.iter().any(|(_, m)| m.standing == Standing::Retiring) {
            // Room is on its way, if who only waits for something gives way.
            self.evict_stuck(1);
            return VecDeque::new();
        }
        let spare = self.members.iter().filter(|(_, m)| self.endpoints[m.endpoint].open > 1);
        let least_used = spare.min_by_key(|(_, m)| (m.in_flight, m.used)).map(|(key, _)| key);
        least_used.map_or_else(VecDeque::new, |key| self.call_off(key, CloseReason::Idle))
    }

    /// Has an idle connection close whose endpoint is left out, if there is one, and none is on its way out already.
    pub(super) fn call_off_left_out(&mut self) {
        if !self.has_better() || self.members.iter().any(|(_, m)| m.standing == Standing::Retiring) {
            return;
        }
        let unused = |m: &Member| m.in_flight == 0 && self.endpoints[m.endpoint].is_left_out();
        let unused = self.members.iter().find(|(_, m)| unused(m)).map(|(key, _)| key);
        if let Some(key) = unused {
            self.call_off(key, CloseReason::Idle);
        }
    }

    /// Who gets the next exchange, or the next one in parts; if it can be, not the endpoint to `avoid`.
    pub(super) fn choose(&self, in_parts: bool, avoid: Option<usize>) -> Option<usize> {
        if in_parts && self.uploads_left == 0 {
            return None;
        }
        let has_better = self.has_better();
        let candidates = self.members.iter().filter(|(key, m)| {
            let fits = if in_parts { m.takes(1) } else { m.takes(self.room) && self.reserved != Some(*key) };
            let endpoint = &self.endpoints[m.endpoint];
            let one_too_many = endpoint.is_failing() && endpoint.in_flight > 0;
            fits && !(has_better && (endpoint.is_left_out() || one_too_many))
        });
        let preference = |m: &Member| (Some(m.endpoint) == avoid, self.preference(m));
        candidates.min_by_key(|(_, m)| preference(m)).map(|(key, _)| key)
    }

    /// Who gets an exchange that only `endpoint` will do for.
    pub(super) fn choose_at(&self, endpoint: usize) -> Option<usize> {
        let fits =
            |key, m: &Member| m.endpoint == endpoint && m.takes(self.room) && self.reserved != Some(key);
        let candidates = self.members.iter().filter(|(key, m)| fits(*key, m));
        candidates.min_by_key(|(_, m)| self.preference(m)).map(|(key, _)| key)
    }

    /// Keeps the least busy connection from taking more while it is the turn of a request in parts: among many
    /// small ones it would never be free.
    pub(super) fn reserve(&mut self, wanted: bool) {
        if !wanted || self.uploads_left == 0 {
            self.reserved = None;
        } else if self.reserved.is_none() {
            let busy = self.members.iter().filter(|(_, m)| m.takes(usize::MAX));
            self.reserved = busy.min_by_key(|(_, m)| m.in_flight).map(|(key, _)| key);
        }
    }

    /// Smaller is better.
    fn preference(&self, member: &Member) -> impl Ord + use<> {
        let count = self.endpoints.len();
        let turns_away = (member.endpoint + count - self.turn) % count;
        let crowded = member.in_flight >= self.grow_at;
        let load = if crowded { member.in_flight } else { 0 };
        let recency = std::cmp::Reverse(member.used);
        (self.endpoints[member.endpoint].in_flight, turns_away, crowded, load, recency)
    }

    /// Whether an endpoint can be left out, or get one at a time if it is failing. With nobody better about it is
    /// not: throttling the last endpoint helps no one.
    pub(super) fn has_better(&self) -> bool {
        self.endpoints.iter().any(Endpoint::is_good)
    }

    /// What the keeper needs to know of each endpoint.
    pub(super) fn demands(&self) -> EndpointDemands {
        let has_better = self.has_better();
        self.endpoints.iter().map(|endpoint| EndpointDemand::of(endpoint, has_better)).collect()
    }

    /// Connections that take new exchanges.
    pub(super) fn open(&self) -> usize {
        self.endpoints.iter().map(|e| e.open).sum()
    }

    /// Sockets being opened.
    pub(super) fn connecting(&self) -> usize {
        self.endpoints.iter().map(|e| e.connecting).sum()
    }

    /// Exchanges that more connections would carry better.
    pub(super) fn overload(&self) -> usize {
        self.members.iter().map(|(_, m)| m.in_flight.saturating_sub(self.grow_at)).sum()
    }

    /// Whether a connection has more than another one should be opened for.
    pub(super) fn is_crowded(&self, key: usize) -> bool {
        self.members[key].in_flight > self.grow_at
    }

    /// Asks up to `count` stuck connections to give way.
    pub(super) fn evict_stuck(&mut self, count: usize) {
        let mut left = count;
        for (_, member) in &mut self.members {
            if left == 0 {
                return;
            }
            if member.hold != Hold::Useful {
                left -= 1;
            }
            if member.hold == Hold::Stuck {
                member.hold = Hold::GivesWay;
                self.woken.add(member.waker.take());
            }
        }
    }
}

impl Member {
    fn takes(&self, room: usize) -> bool {
        self.in_flight < room && self.standing == Standing::Open && !self.uploading
    }
}

#[cfg(test)]
mod tests;
