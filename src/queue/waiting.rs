//! What waits for a connection, in lines: messages that any room will do for apart from messages in parts, which
//! need a connection with nothing else in flight and must not hold up the others; and what was led to one endpoint
//! apart from what any will do for.

use std::collections::BTreeMap;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use crate::exchange::{Exchange, Turn};

/// The waiting exchanges.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Those with somebody in them.
    lines: SmallVec<[Line; 2]>,
    len: usize,
}

/// Exchanges of one kind, by turn.
#[derive(Debug)]
struct Line {
    kind: Kind,
    entries: BTreeMap<Turn, Entry>,
}

/// What exchanges wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The endpoint that they were led to; `None` = any will do.
    pub(super) endpoint: Option<usize>,
    pub(super) in_parts: bool,
}

impl Kind {
    pub(super) fn of(exchange: &Exchange) -> Self {
        Self { endpoint: exchange.led_to, in_parts: exchange.is_in_parts() }
    }

    /// The same without parts.
    pub(super) fn whole(self) -> Self {
        Self { in_parts: false, ..self }
    }
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    exchange: Exchange,
}

impl Entry {
    /// It waits no more.
    fn end(self) -> Exchange {
        self.exchange.slot.end_waiting();
        self.exchange
    }
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many wait for the same.
    pub(super) fn count(&self, endpoint: Option<usize>, in_parts: bool) -> usize {
        let kind = Kind { endpoint, in_parts };
        self.lines.iter().find(|line| line.kind == kind).map_or(0, |line| line.entries.len())
    }

    /// How many have their turn in `round` or before.
    pub(super) fn count_until(&self, round: u64) -> usize {
        let end = Turn { round, arrival: u64::MAX };
        self.lines.iter().map(|line| line.entries.range(..=end).count()).sum()
    }

    /// How many were led to each of so many endpoints, of those in parts at most `uploads`. Empty if none were.
    pub(super) fn led(&self, endpoints: usize, uploads: usize) -> Vec<usize> {
        let mut led = Vec::new();
        for line in &self.lines {
            let Some(endpoint) = line.kind.endpoint else { continue };
            led.resize(endpoints, 0);
            let most = if line.kind.in_parts { uploads } else { usize::MAX };
            led[endpoint] += line.entries.len().min(most);
        }
        led
    }

    /// Whether somebody waits for the same.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.lines.iter().any(|line| line.kind == kind)
    }

    /// Gives it back if it has ended.
    #[must_use]
    pub(super) fn insert(&mut self, exchange: Exchange) -> Option<Exchange> {
        let (turn, kind) = (exchange.turn, Kind::of(&exchange));
        let Some(since) = exchange.slot.begin_waiting(turn) else { return Some(exchange) };
        let place = self.lines.iter().position(|line| line.kind == kind).unwrap_or_else(|| {
            self.lines.push(Line { kind, entries: BTreeMap::new() });
            self.lines.len() - 1
        });
        self.lines[place].entries.insert(turn, Entry { since, exchange });
        self.len += 1;
        None
    }

    /// Takes out the one whose turn this is.
    pub(super) fn remove(&mut self, turn: Turn) -> Option<Exchange> {
        let place = self.lines.iter().position(|line| line.entries.contains_key(&turn))?;
        self.take(place, turn)
    }

    fn take(&mut self, place: usize, turn: Turn) -> Option<Exchange> {
        let entry = self.lines[place].entries.remove(&turn)?;
        if self.lines[place].entries.is_empty() {
            self.lines.swap_remove(place);
        }
        self.len -= 1;
        Some(entry.end())
    }

    /// The first of all.
    pub(super) fn first(&self) -> Option<&Exchange> {
        let firsts = self.lines.iter().filter_map(|line| line.entries.first_key_value());
        firsts.min_by_key(|(turn, _)| **turn).map(|(_, entry)| &entry.exchange)
    }

    /// The last of all.
    pub(super) fn last(&self) -> Option<&Exchange> {
        let lasts = self.lines.iter().filter_map(|line| line.entries.last_key_value());
        lasts.max_by_key(|(turn, _)| **turn).map(|(_, entry)| &entry.exchange)
    }

    /// The last of those that were led to one endpoint, if they are more than those who wait for something else and
    /// one more.
    pub(super) fn longer_than(&self, kind: Kind) -> Option<&Exchange> {
        let led = self.lines.iter().filter(|line| line.kind.endpoint.is_some() && line.kind != kind);
        let longest = led.max_by_key(|line| line.entries.len())?;
        let is_longer = longest.entries.len() > self.count(kind.endpoint, kind.in_parts) + 1;
        longest.entries.values().next_back().filter(|_| is_longer).map(|entry| &entry.exchange)
    }

    /// The first of each line that `may` be served, in their turn.
    pub(super) fn firsts(&self, may: impl Fn(Option<usize>) -> bool) -> impl Iterator<Item = &Exchange> {
        let lines = self.lines.iter().filter(|line| may(line.kind.endpoint));
        let firsts = lines.filter_map(|line| line.entries.values().next());
        let mut firsts: SmallVec<[&Exchange; 4]> = firsts.map(|entry| &entry.exchange).collect();
        firsts.sort_unstable_by_key(|exchange| exchange.turn);
        firsts.into_iter()
    }

    /// Takes out what was led to endpoints that are not worth waiting for.
    pub(super) fn misled(&mut self, can_wait_for: impl Fn(usize) -> bool) -> Vec<Exchange> {
        let mut misled = Vec::new();
        let mut place = 0;
        while let Some(line) = self.lines.get(place) {
            if line.kind.endpoint.is_none_or(&can_wait_for) {
                place += 1;
                continue;
            }
            let line = self.lines.swap_remove(place);
            self.len -= line.entries.len();
            misled.extend(line.entries.into_values().map(Entry::end));
        }
        misled
    }

    /// How long the oldest has waited.
    pub(super) fn oldest_wait(&self, now: Instant) -> Duration {
        // Neither a retried one nor one of a client with many is where its age would put it.
        let entries = self.lines.iter().flat_map(|line| line.entries.values());
        entries.map(|entry| now.saturating_duration_since(entry.since)).max().unwrap_or_default()
    }

    /// Those with or without parts, in their turn.
    #[cfg(test)]
    pub(super) fn exchanges(&self, in_parts: bool) -> impl Iterator<Item = &Exchange> {
        let lines = self.lines.iter().filter(move |line| line.kind.in_parts == in_parts);
        lines.flat_map(|line| line.entries.values()).map(|entry| &entry.exchange)
    }

    /// Takes out all, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Exchange> + use<> {
        let lines = std::mem::take(self).lines;
        lines.into_iter().flat_map(|line| line.entries.into_values()).map(|entry| entry.exchange)
    }
}
