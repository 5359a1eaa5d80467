//! What the rig's server has seen, for a test to judge by. Written by `server` and `conversation`.

use std::collections::HashMap;

use serde_json::{Value, json};

/// Violations kept as text; more are only counted.
const TEXTS: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    accepted: u64,
    open: u64,
    /// Connections that the peer had at a time, at most.
    max_open: u64,
    ended_fin: u64,
    ended_rst: u64,
    ended_here: u64,
    /// Connections that ended in the middle of a message.
    truncated: u64,
    /// How often each nonce came, one-way ones included.
    nonces: HashMap<u128, u32>,
    requests: u64,
    oneway: u64,
    probes: u64,
    heartbeats_answered: u64,
    /// Batches whose replies left in another order.
    shuffled: u64,
    violations: u64,
    texts: Vec<String>,
}

/// How a connection came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The peer closed.
    Fin,
    /// The peer reset, or the socket failed.
    Rst,
    /// This server closed.
    Here,
}

impl Ledger {
    /// A connection was accepted; the peer has not closed so many, this one included.
    pub(crate) fn opened(&mut self, held_by_peer: u64) {
        self.accepted += 1;
        self.open += 1;
        self.max_open = self.max_open.max(held_by_peer);
    }

    pub(crate) fn closed(&mut self, ended: Ended, truncated: bool) {
        self.open -= 1;
        self.truncated += u64::from(truncated);
        match ended {
            Ended::Fin => self.ended_fin += 1,
            Ended::Rst => self.ended_rst += 1,
            Ended::Here => self.ended_here += 1,
        }
    }

    pub(crate) fn request(&mut self, nonce: u128, oneway: bool) {
        self.requests += 1;
        self.oneway += u64::from(oneway);
        *self.nonces.entry(nonce).or_default() += 1;
    }

    /// A request that only asks whether the server is well.
    pub(crate) fn probed(&mut self) {
        self.probes += 1;
    }

    pub(crate) fn heartbeat_answered(&mut self) {
        self.heartbeats_answered += 1;
    }

    pub(crate) fn shuffled(&mut self) {
        self.shuffled += 1;
    }

    pub(crate) fn violation(&mut self, text: String) {
        self.violations += 1;
        if self.texts.len() < TEXTS {
            self.texts.push(text);
        }
    }

    /// How often `nonce` came.
    pub(crate) fn seen(&self, nonce: u128) -> u32 {
        self.nonces.get(&nonce).copied().unwrap_or(0)
    }

    /// Everything, with `held` replies waiting for `release`.
    pub(crate) fn report(&self, held: usize) -> Value {
        json!({
            "accepted": self.accepted,
            "open": self.open,
            "max_open": self.max_open,
            "ended_fin": self.ended_fin,
            "ended_rst": self.ended_rst,
            "ended_here": self.ended_here,
            "truncated": self.truncated,
            "requests": self.requests,
            "distinct": self.nonces.len(),
            "seen_twice": self.nonces.values().filter(|count| **count > 1).count(),
            "oneway": self.oneway,
            "probes": self.probes,
            "heartbeats_answered": self.heartbeats_answered,
            "shuffled": self.shuffled,
            "held": held,
            "violations": self.violations,
            "violation_texts": self.texts,
        })
    }
}
