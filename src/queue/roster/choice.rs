//! The rule of choice: which endpoint is next, and which of its connections.
//!
//! Endpoints take turns in proportion to their weights: each has a place in the order, and every turn moves it back,
//! the less the larger its weight is (stride scheduling, Waldspurger and Weihl 1995). By `round_robin` that order
//! decides; by `least_in_flight` only among those with the fewest in flight for their weight; by `hash` the key of
//! the exchange does, and the order where it has none.

use std::cmp::Reverse;

use tokio::time::Instant;

use super::{Member, Roster};
use crate::queue::endpoint::Endpoint;
use crate::queue::rendezvous::score;
use crate::queue::{EndpointDemand, EndpointDemands};

/// Who gets the next exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The endpoint with the fewest in flight, for its weight.
    LeastInFlight,
    /// Each endpoint in turn.
    RoundRobin,
    /// The endpoint that the key of the exchange leads to.
    Hash,
}

/// What is thought of connecting to an endpoint; more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fitness {
    /// Others are better.
    LeftOut,
    /// The last attempt failed.
    Unreachable,
    /// Nothing speaks against it.
    Fit,
}

/// A weight of 1, in the parts that it is counted in.
const WHOLE: u64 = 1024;
/// What an endpoint that comes back has at least of each `WHOLE`.
const COLD: u64 = WHOLE / 10;
/// How far a turn moves an endpoint back whose weight is one part.
const STRIDE: u64 = 1 << 52;
/// Turns that an endpoint makes up for which had no room when they came.
const MADE_UP: u64 = 64;
/// Turns that an endpoint must have missed to need another connection.
const MISSED: u64 = 2;

/// What is asked of an endpoint, as those there are allow it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standards {
    /// One that is no backup can serve.
    primary: bool,
    /// One of those that may be used is good.
    good: bool,
}

impl Standards {
    /// Whether it is not kept back for worse times.
    fn reach(self, endpoint: &Endpoint) -> bool {
        !(self.primary && endpoint.share.backup)
    }

    /// Whether it gets anything. With nobody better about, throttling the last endpoint helps no one.
    fn admit(self, endpoint: &Endpoint) -> bool {
        let one_too_many = endpoint.is_failing() && endpoint.in_flight > 0;
        !endpoint.removed && self.reach(endpoint) && !(self.good && (endpoint.is_left_out() || one_too_many))
    }

    /// Whether it gets nothing, however little it has.
    pub(super) fn leave_out(self, endpoint: &Endpoint) -> bool {
        endpoint.removed || !self.reach(endpoint) || (self.good && endpoint.is_left_out())
    }
}

impl Roster {
    /// Who gets the next exchange, or the next one in parts; if it can be, not the endpoint to `avoid`. What was led
    /// to an endpoint is for that one `only`.
    pub(in crate::queue) fn choose(
        &self,
        only: Option<usize>,
        in_parts: bool,
        avoid: Option<usize>,
    ) -> Option<usize> {
        if in_parts && self.uploads_left() == 0 {
            return None;
        }
        let (standards, now) = (self.standards(), self.clock());
        let candidates = self.members.iter().filter(|(key, m)| {
            let fits = if in_parts { m.takes(1) } else { m.takes(self.room) && self.reserved != Some(*key) };
            fits && only.is_none_or(|only| only == m.endpoint) && standards.admit(&self.endpoints[m.endpoint])
        });
        let level = self.level(standards, now);
        let preference =
            |m: &Member| (Some(m.endpoint) == avoid, self.rank(m.endpoint, level, now), self.preference(m));
        candidates.min_by_key(|(_, m)| preference(m)).map(|(key, _)| key)
    }

    /// Who gets an exchange that is about `endpoint`, whatever is thought of it.
    pub(in crate::queue) fn choose_at(&self, endpoint: usize) -> Option<usize> {
        let fits =
            |key, m: &Member| m.endpoint == endpoint && m.takes(self.room) && self.reserved != Some(key);
        let candidates = self.members.iter().filter(|(key, m)| fits(*key, m));
        candidates.min_by_key(|(_, m)| self.preference(m)).map(|(key, _)| key)
    }

    /// The endpoint that `key` leads to; if it can be, not the one to `avoid`. `None` where no endpoint can serve.
    pub(in crate::queue) fn lead(&self, key: u64, avoid: Option<usize>) -> Option<usize> {
        let (standards, now) = (self.standards(), self.clock());
        let candidates = self.endpoints.iter().enumerate().filter(|(_, it)| can_wait(standards, it));
        let scored = candidates.map(|(endpoint, it)| {
            (endpoint, Some(endpoint) != avoid, score(key, it.share.seed, self.weight(it, now)))
        });
        let best = scored.max_by(|(_, a, x), (_, b, y)| a.cmp(b).then(x.total_cmp(y)));
        best.map(|(endpoint, ..)| endpoint)
    }

    /// Tells whether what was led to an endpoint is to wait for it.
    pub(in crate::queue) fn can_wait_for(&self) -> impl Fn(usize) -> bool {
        let standards = self.standards();
        move |endpoint| can_wait(standards, &self.endpoints[endpoint])
    }

    /// How fit each endpoint is to be connected to.
    pub(in crate::queue) fn fitness(&self) -> Vec<Fitness> {
        let standards = self.standards();
        let fitness = |it: &Endpoint| match (standards.leave_out(it), it.unreachable) {
            (false, false) => Fitness::Fit,
            (false, true) => Fitness::Unreachable,
            (true, _) => Fitness::LeftOut,
        };
        self.endpoints.iter().map(fitness).collect()
    }

    /// Whether a connection may have room for what waits for `only` one endpoint.
    pub(in crate::queue) fn may_have_room(&self, only: Option<usize>) -> bool {
        only.is_none_or(|only| {
            let it = &self.endpoints[only];
            it.in_flight < it.open.saturating_mul(self.room)
        })
    }

    /// The least that an endpoint would have in flight for its weight with one more. Who has less than that has not had
    /// more than its share: among those, turns decide, so that weights hold where few are in flight as well.
    fn level(&self, standards: Standards, now: Option<Instant>) -> u64 {
        if self.endpoints.len() == 1 || self.rule == Rule::RoundRobin {
            return 0;
        }
        let usable = self.endpoints.iter().filter(|it| it.open > 0 && standards.admit(it));
        usable.map(|it| (it.in_flight as u64 + 1).saturating_mul(self.stride(it, now))).min().unwrap_or(0)
    }

    /// Of one endpoint; smaller is better.
    fn rank(&self, endpoint: usize, level: u64, now: Option<Instant>) -> (u64, i64, usize) {
        if self.endpoints.len() == 1 {
            return (0, 0, endpoint);
        }
        let it = &self.endpoints[endpoint];
        let load = match self.rule {
            Rule::LeastInFlight | Rule::Hash => (it.in_flight as u64).saturating_mul(self.stride(it, now)),
            Rule::RoundRobin => 0,
        };
        let load = if load < level { 0 } else { load };
        (load, self.ahead(it, now), endpoint)
    }

    /// Of the connections of one endpoint; smaller is better.
    fn preference(&self, member: &Member) -> impl Ord + use<> {
        let crowded = member.in_flight >= self.grow_at;
        let load = if crowded { member.in_flight } else { 0 };
        (crowded, load, Reverse(member.used))
    }

    /// An endpoint has its turn. True if another one was before it in the order and had no room: it needs another
    /// connection.
    pub(super) fn take_turn(&mut self, endpoint: usize) -> bool {
        if self.endpoints.len() == 1 {
            return false;
        }
        let now = self.clock();
        let missed = self.note_missed(endpoint, now);
        let it = &self.endpoints[endpoint];
        let place = self.turn.wrapping_add_signed(self.ahead(it, now));
        let pass = place.wrapping_add(self.stride(it, now));
        self.endpoints[endpoint].pass = pass;
        self.turn = if distance(place, self.turn) > 0 { place } else { self.turn };
        self.end_warming(now);
        missed
    }

    fn note_missed(&mut self, endpoint: usize, now: Option<Instant>) -> bool {
        if self.room > 1 || self.rule == Rule::Hash {
            return false;
        }
        let standards = self.standards();
        let level = self.level(standards, now);
        let given = self.rank(endpoint, level, now);
        let missed = (0..self.endpoints.len()).find(|other| {
            let it = &self.endpoints[*other];
            let (load, mut ahead, _) = self.rank(*other, level, now);
            if self.rule == Rule::RoundRobin {
                ahead = ahead.saturating_add_unsigned(MISSED * self.stride(it, now));
            }
            let is_full = it.open > 0 && it.in_flight >= it.open && !it.short;
            is_full && (load, ahead, *other) < given && standards.admit(it)
        });
        missed.inspect(|missed| self.endpoints[*missed].short = true).is_some()
    }

    /// How far an endpoint is from its turn; below zero where it missed some that it may make up for.
    fn ahead(&self, endpoint: &Endpoint, now: Option<Instant>) -> i64 {
        let made_up = match self.rule {
            Rule::RoundRobin => MADE_UP * self.stride(endpoint, now),
            Rule::LeastInFlight | Rule::Hash => 0,
        };
        distance(endpoint.pass, self.turn).max(0i64.saturating_sub_unsigned(made_up))
    }

    fn stride(&self, endpoint: &Endpoint, now: Option<Instant>) -> u64 {
        STRIDE / self.weight(endpoint, now)
    }

    /// What an endpoint is to get beside the others: its weight, in parts, or less while it warms up.
    fn weight(&self, endpoint: &Endpoint, now: Option<Instant>) -> u64 {
        let parts = match (endpoint.warming, now) {
            (Some(since), Some(now)) if now < since + self.slow_start => {
                let warm = (now - since).as_millis() * u128::from(WHOLE) / self.slow_start.as_millis().max(1);
                u64::try_from(warm).unwrap_or(WHOLE).clamp(COLD, WHOLE)
            }
            _ => WHOLE,
        };
        u64::from(endpoint.share.weight.max(1)) * parts
    }

    /// Whether `one` would still have as many connections for its weight as `other` if it gave one to it.
    pub(super) fn has_more(&self, one: usize, other: usize) -> bool {
        let now = self.clock();
        let (one, other) = (&self.endpoints[one], &self.endpoints[other]);
        let share =
            |connections: usize, it: &Endpoint| (connections as u64).saturating_mul(self.stride(it, now));
        share(one.open.saturating_sub(1), one) >= share(other.open + other.connecting + 1, other)
    }

    /// The time, as long as it matters here.
    fn clock(&self) -> Option<Instant> {
        self.warm_at.map(|_| Instant::now())
    }

    /// An endpoint came back: among others that serve it gets its share bit by bit.
    pub(super) fn warm_up(&mut self, endpoint: usize) {
        let others = |(other, it): (usize, &Endpoint)| other != endpoint && it.open > 0;
        if self.slow_start.is_zero() || !self.endpoints.iter().enumerate().any(others) {
            return;
        }
        let now = Instant::now();
        self.endpoints[endpoint].warming = Some(now);
        self.warm_at = Some(now + self.slow_start);
    }

    /// An endpoint is trusted again: what it was left out of does not count as missed.
    pub(in crate::queue) fn come_back(&mut self, endpoint: usize) {
        self.endpoints[endpoint].pass = self.turn;
        self.warm_up(endpoint);
    }

    fn end_warming(&mut self, now: Option<Instant>) {
        if self.warm_at.is_some_and(|at| now.is_some_and(|now| now >= at)) {
            self.warm_at = None;
            self.endpoints.iter_mut().for_each(|endpoint| endpoint.warming = None);
        }
    }

    /// What is asked of endpoints now.
    pub(super) fn standards(&self) -> Standards {
        let primary = self.endpoints.iter().any(|it| !it.share.backup && it.may_serve());
        let good = self.endpoints.iter().any(|it| it.is_good() && !(primary && it.share.backup));
        Standards { primary, good }
    }

    /// Whether an endpoint that is to be left out can be.
    pub(super) fn has_better(&self) -> bool {
        self.standards().good
    }

    /// What the keeper needs to know of each endpoint; what was `led` to it waits.
    pub(in crate::queue) fn demands(&self, led: &[usize]) -> EndpointDemands {
        let (standards, now) = (self.standards(), self.clock());
        let demand = |(place, it): (usize, &Endpoint)| EndpointDemand {
            open: it.open,
            connecting: it.connecting,
            weight: self.weight(it, now),
            waiting: led.get(place).copied().unwrap_or(0),
            short: it.short,
            failing: it.is_failing(),
            ejected: it.ejected,
            left_out: standards.leave_out(it),
        };
        self.endpoints.iter().enumerate().map(demand).collect()
    }
}

/// Whether what was led to an endpoint is to wait for it.
fn can_wait(standards: Standards, endpoint: &Endpoint) -> bool {
    endpoint.may_serve() && standards.reach(endpoint)
}

/// From `to` to `from`, in an order that has no end.
fn distance(from: u64, to: u64) -> i64 {
    from.wrapping_sub(to).cast_signed()
}
