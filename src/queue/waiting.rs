//! What waits for a connection, each in its turn: messages that any room will do for, and messages in parts,
//! which need a connection with nothing else in flight and must not hold up the others.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::exchange::Exchange;

/// The waiting exchanges, by turn.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    whole: BTreeMap<u64, Entry>,
    in_parts: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    since: Instant,
    exchange: Exchange,
}

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.in_parts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.whole.is_empty() && self.in_parts.is_empty()
    }

    /// Those of one kind.
    pub(super) fn count(&self, in_parts: bool) -> usize {
        if in_parts { self.in_parts.len() } else { self.whole.len() }
    }

    fn kind(&mut self, in_parts: bool) -> &mut BTreeMap<u64, Entry> {
        if in_parts { &mut self.in_parts } else { &mut self.whole }
    }

    /// Gives it back if it has ended.
    #[must_use]
    pub(super) fn insert(&mut self, exchange: Exchange) -> Option<Exchange> {
        let turn = exchange.turn;
        if !exchange.slot.begin_waiting(turn) {
            return Some(exchange);
        }
        let kind = self.kind(exchange.is_in_parts());
        kind.insert(turn, Entry { since: Instant::now(), exchange });
        None
    }

    /// Takes out the one whose turn this is.
    pub(super) fn remove(&mut self, turn: u64) -> Option<Exchange> {
        let entry = self.whole.remove(&turn).or_else(|| self.in_parts.remove(&turn))?;
        entry.exchange.slot.end_waiting();
        Some(entry.exchange)
    }

    /// The first of one kind.
    pub(super) fn first_of(&self, in_parts: bool) -> Option<&Exchange> {
        let kind = if in_parts { &self.in_parts } else { &self.whole };
        kind.first_key_value().map(|(_, entry)| &entry.exchange)
    }

    /// The first of all.
    pub(super) fn first(&self) -> Option<&Exchange> {
        self.first_of(self.first_is_in_parts())
    }

    /// Takes out the first of one kind.
    pub(super) fn pop(&mut self, in_parts: bool) -> Option<Exchange> {
        let (_, entry) = self.kind(in_parts).pop_first()?;
        entry.exchange.slot.end_waiting();
        Some(entry.exchange)
    }

    /// Whether the first of all is one in parts.
    pub(super) fn first_is_in_parts(&self) -> bool {
        let first = |kind: &BTreeMap<u64, Entry>| kind.first_key_value().map_or(u64::MAX, |(turn, _)| *turn);
        first(&self.in_parts) < first(&self.whole)
    }

    /// How long the oldest has waited.
    pub(super) fn oldest_wait(&self, now: Instant) -> Duration {
        let firsts = [&self.whole, &self.in_parts].into_iter().filter_map(|kind| kind.values().next());
        firsts.map(|entry| now - entry.since).max().unwrap_or_default()
    }

    /// Those of one kind, in their turn.
    #[cfg(test)]
    pub(super) fn exchanges(&self, in_parts: bool) -> impl Iterator<Item = &Exchange> {
        let kind = if in_parts { &self.in_parts } else { &self.whole };
        kind.values().map(|entry| &entry.exchange)
    }

    /// Takes out all, in no order.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Exchange> + use<> {
        let Self { whole, in_parts } = std::mem::take(self);
        whole.into_values().chain(in_parts.into_values()).map(|entry| entry.exchange)
    }
}
