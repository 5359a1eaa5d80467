//! The calls that a server owes a reply, by their names.
//!
//! A name is forgotten with its reply, or with the word that there will be none. Used by the half that speaks to a
//! server: a seqid alone does not say whose a reply is, if a server writes none or ran what a client had hidden in its
//! bytes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};

use super::envelope::{EXCEPTION, REPLY};
use crate::protocol::Malformed;

/// The most names of one-way requests that are remembered; beyond, any may have been one.
const MAX_ONEWAYS: usize = 64;

const NAME: &str = "reply whose name is not that of its call";
const WHOSE: &str = "reply without a seqid that may be to another call";

/// What is owed on one connection. Hashes stand for names: nobody can make two that are alike.
#[derive(Debug, Default)]
pub(super) struct Calls {
    hasher: RandomState,
    owed: HashMap<i32, u64>,
    /// Those of the one-way requests that were sent.
    oneways: Vec<u64>,
}

impl Calls {
    /// A call is sent under `number`.
    pub(super) fn sent(&mut self, number: i32, name: &[u8]) {
        let hash = self.hash(name);
        self.owed.insert(number, hash);
    }

    /// A one-way request is sent.
    pub(super) fn sent_oneway(&mut self, name: &[u8]) {
        let hash = self.hash(name);
        if self.oneways.len() <= MAX_ONEWAYS && !self.oneways.contains(&hash) {
            self.oneways.push(hash);
        }
    }

    /// The call sent under `number` gets no reply.
    pub(super) fn forget(&mut self, number: i32) {
        self.owed.remove(&number);
    }

    /// Whether a one-way request was sent.
    pub(super) fn has_oneways(&self) -> bool {
        !self.oneways.is_empty()
    }

    /// A message of `kind` came that says `number`, or 0 as servers do that do not bring it back: whether it can
    /// be the reply to what it seems to answer. What answers nothing is for the connection to see.
    ///
    /// The name of an exception may be another: a server that did not get so far as to read it has none.
    ///
    /// 0 is believed behind a one-way request only where a server `writes_zero`, as it has shown before any: that request
    /// leaves no reply to tell by, and what was hidden in its bytes may be what is answered.
    pub(super) fn answered(
        &mut self,
        number: i32,
        kind: u8,
        name: &[u8],
        writes_zero: &AtomicBool,
    ) -> Result<(), Malformed> {
        let hash = self.hash(name);
        if number != 0 {
            let owed = self.owed.remove(&number);
            return match owed {
                Some(call) if call != hash && kind != EXCEPTION => Err(Malformed::Invalid(NAME)),
                _ => Ok(()),
            };
        }
        if self.owed.len() > 1 {
            return Err(Malformed::Invalid(WHOSE));
        }
        let Some(call) = self.owed.drain().next().map(|(_, call)| call) else { return Ok(()) };
        let is_known = writes_zero.load(Ordering::Relaxed);
        if call != hash && (kind != EXCEPTION || !is_known) {
            return Err(Malformed::Invalid(NAME));
        }
        // It could be to the one-way request.
        let may_be_oneway = self.oneways.len() > MAX_ONEWAYS || self.oneways.contains(&hash);
        if self.has_oneways() && (call != hash || may_be_oneway || !is_known) {
            return Err(Malformed::Invalid(WHOSE));
        }
        if kind == REPLY && !self.has_oneways() {
            writes_zero.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Of the method alone: servers of multiplexed services leave the service out. In any case: PHP finds methods so.
    fn hash(&self, name: &[u8]) -> u64 {
        let method = name.rsplit(|byte| *byte == b':').next().unwrap_or(name);
        let mut hasher = self.hasher.build_hasher();
        for byte in method {
            hasher.write_u8(byte.to_ascii_lowercase());
        }
        hasher.finish()
    }
}
