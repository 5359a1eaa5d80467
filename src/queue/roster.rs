//! The connections of a pool as the queue sees them, and the rule that picks one.
//!
//! First the endpoint, by the rule of the configuration, but none that is left out while another is better; within
//! it the most recently used connection below `grow_at`, then the least loaded. A request in parts needs one with
//! nothing in flight, which then takes nothing else until the request is whole. Plain data: the queue's lock is
//! around it.

mod choice;
mod leave;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use super::endpoint::{Endpoint, Share, Verdict};
use super::waiting::Kind;
use super::{Settings, Woken};
use crate::events::CloseReason;
use crate::exchange::Exchange;
pub use choice::{Fitness, Rule};

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
    /// Since when nothing is in flight, if so; where that matters.
    idle_since: Instant,
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
    rule: Rule,
    slow_start: Duration,
    /// When the last of the endpoints that came back has its whole share again.
    warm_at: Option<Instant>,
    room: usize,
    grow_at: usize,
    eject_after: u32,
    max_uploads: usize,
    max_connections: usize,
    /// Connections that are sending a request in parts.
    uploads: usize,
    /// A busy connection that takes nothing more, so that it becomes free for a request in parts.
    reserved: Option<usize>,
    /// The cap is reached, and no socket has closed since.
    pub(super) full: bool,
    /// Others are under the same cap.
    has_rivals: bool,
    /// When a connection was last asked to leave for the sake of others.
    asked_at: Option<Instant>,
    /// Where the order of turns has come to.
    turn: u64,
    uses: u64,
    /// Whom to wake after the lock.
    pub(super) woken: Woken,
}

impl Roster {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            members: Slab::new(),
            endpoints: Vec::new(),
            rule: settings.rule,
            slow_start: settings.slow_start,
            warm_at: None,
            room: settings.room,
            grow_at: settings.grow_at,
            eject_after: settings.eject_after,
            max_uploads: settings.max_uploads,
            max_connections: settings.max_connections,
            uploads: 0,
            reserved: None,
            full: false,
            has_rivals: false,
            asked_at: None,
            turn: 0,
            uses: 0,
            woken: Woken::default(),
        }
    }

    /// The same endpoints and connections under other settings.
    pub(super) fn retune(&mut self, settings: &Settings) {
        (self.rule, self.slow_start) = (settings.rule, settings.slow_start);
        (self.max_uploads, self.max_connections) = (settings.max_uploads, settings.max_connections);
        self.eject_after = settings.eject_after;
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.eject_after = settings.eject_after);
    }

    /// There is an endpoint at this place, with this share.
    pub(super) fn set_endpoint(&mut self, place: usize, share: Share) {
        match self.endpoints.get_mut(place) {
            Some(it) if !it.removed => {
                it.share = share;
                return;
            }
            Some(it) => *it = Endpoint::new(share, self.eject_after),
            None => self.endpoints.push(Endpoint::new(share, self.eject_after)),
        }
        self.come_back(place);
    }

    /// The endpoint at this place is one no longer. Returns what its connections had been given and not taken.
    pub(super) fn remove_endpoint(&mut self, place: usize) -> VecDeque<Exchange> {
        self.endpoints[place].removed = true;
        self.call_off_all(CloseReason::Removed, |m| m.endpoint == place)
    }

    pub(super) fn join(&mut self, endpoint: usize) -> usize {
        let it = &mut self.endpoints[endpoint];
        let came_back = it.open == 0 && it.unreachable;
        it.open += 1;
        (it.unreachable, it.paused, it.short) = (false, false, false);
        if came_back {
            self.come_back(endpoint);
        }
        self.uses += 1;
        let key = self.members.insert(Member {
            endpoint,
            in_flight: 0,
            inbox: VecDeque::new(),
            waker: None,
            standing: Standing::Open,
            hold: Hold::Useful,
            nudged: false,
            uploading: false,
            used: self.uses,
            idle_since: Instant::now(),
        });
        if self.endpoints[endpoint].removed {
            self.call_off(key, CloseReason::Removed);
        }
        key
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
            self.uploads -= 1;
        }
    }

    /// Connections that may still take a request in parts.
    pub(super) fn uploads_left(&self) -> usize {
        self.max_uploads.saturating_sub(self.uploads)
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
        self.endpoints.iter_mut().for_each(|endpoint| endpoint.short = false);
        let endpoint = &mut self.endpoints[member.endpoint];
        endpoint.in_flight -= member.in_flight;
        inbox
    }

    /// Gives `exchange` to a connection. True if another endpoint needs one more.
    pub(super) fn give(&mut self, key: usize, exchange: Exchange) -> bool {
        let missed = self.take_turn(self.members[key].endpoint);
        self.uses += 1;
        let member = &mut self.members[key];
        member.used = self.uses;
        member.in_flight += 1;
        if exchange.is_in_parts() {
            member.uploading = true;
            self.uploads += 1;
            self.reserved = None;
        }
        self.endpoints[member.endpoint].in_flight += 1;
        member.inbox.push_back(exchange);
        self.woken.add(member.waker.take());
        missed
    }

    /// One exchange is over. True if that changes what is thought of the endpoint.
    pub(super) fn done(&mut self, key: usize, verdict: Verdict) -> bool {
        let member = &mut self.members[key];
        member.in_flight -= 1;
        let (idle, endpoint) = (member.in_flight == 0, member.endpoint);
        if idle && (self.has_rivals || self.rule == Rule::Hash) {
            member.idle_since = Instant::now();
        }
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
        let stands_in =
            |it: &Endpoint| it.is_good() || (it.share.backup && it.may_serve() && !it.is_failing());
        let mut others = self.endpoints.iter().enumerate().filter(|(other, _)| *other != endpoint);
        if others.any(|(_, other)| stands_in(other)) {
            self.endpoints[endpoint].ejected = true;
            self.call_off_all(CloseReason::Ejected, |m| m.endpoint == endpoint && m.in_flight == 0);
        }
    }

    /// Calls connections off until at most `most` are open, the least used first.
    pub(super) fn shed(&mut self, most: usize) -> VecDeque<Exchange> {
        let mut keys: Vec<_> =
            self.members.iter().filter(|(_, m)| m.standing != Standing::Retiring).collect();
        keys.sort_unstable_by_key(|(_, m)| (m.in_flight, m.used));
        let excess = keys.len().saturating_sub(most);
        let keys: Vec<_> = keys.into_iter().take(excess).map(|(key, _)| key).collect();
        keys.into_iter().flat_map(|key| self.call_off(key, CloseReason::Retuned)).collect()
    }

    /// Has connections close as soon as nothing is lost by it. Returns what they had been given and not taken.
    fn call_off_all(&mut self, reason: CloseReason, which: impl Fn(&Member) -> bool) -> VecDeque<Exchange> {
        let keys: Vec<_> = self.members.iter().filter(|(_, m)| which(m)).map(|(key, _)| key).collect();
        keys.into_iter().flat_map(|key| self.call_off(key, reason)).collect()
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

    /// Keeps the least busy connection from taking more while it is the turn of a request in parts: among many
    /// small ones it would never be free.
    pub(super) fn reserve(&mut self, for_one: Option<Kind>) {
        let Some(Kind { endpoint: only, .. }) = for_one.filter(|_| self.uploads_left() > 0) else {
            self.reserved = None;
            return;
        };
        let fits = |m: &Member| m.takes(usize::MAX) && only.is_none_or(|only| only == m.endpoint);
        let kept = self.reserved.and_then(|key| self.members.get(key));
        if !kept.is_some_and(fits) {
            let busy = self.members.iter().filter(|(_, m)| fits(m));
            self.reserved = busy.min_by_key(|(_, m)| m.in_flight).map(|(key, _)| key);
        }
    }

    /// Connections that take new exchanges.
    pub(super) fn open(&self) -> usize {
        self.endpoints.iter().map(|e| e.open).sum()
    }

    /// Whether enough others take what comes if an open connection does not: one may be opened in its place, or it is
    /// the only one that is missing.
    pub(super) fn can_spare_one(&self) -> bool {
        let (open, all) = (self.open(), self.members.len());
        all + self.connecting() < self.max_connections || (open == all && open > 1)
    }

    /// Sockets being opened.
    pub(super) fn connecting(&self) -> usize {
        self.endpoints.iter().map(|e| e.connecting).sum()
    }

    /// Exchanges that more connections would carry better: those above `grow_at` that would have no place below it.
    pub(super) fn overload(&self) -> usize {
        let staying = self.members.iter().filter(|(_, m)| m.standing != Standing::Retiring);
        let (in_flight, connections) =
            staying.fold((0, 0), |(sum, count), (_, m)| (sum + m.in_flight, count + 1));
        in_flight.saturating_sub(self.grow_at.saturating_mul(connections))
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
mod balance_tests;
#[cfg(test)]
mod tests;
