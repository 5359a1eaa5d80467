//! The calls that a server owes a reply, by their names.
//!
//! A name is forgotten with its reply, or with the word that there will be none. Used by the half that speaks to a
//! server: a seqid alone does not say whose a reply is, if a server writes none or ran what a client had hidden in its
//! bytes.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use super::envelope::EXCEPTION;
use crate::protocol::Malformed;

const NAME: &str = "reply whose name is not that of its call";
const NUMBER: &str = "reply without the seqid of its call, although `echoes_seqid` says that replies have it";
const WHOSE: &str = "reply without a seqid that may be to another call";

/// What is owed on one connection. Hashes stand for names: nobody can make two that are alike.
#[derive(Debug, Default)]
pub(super) struct Calls {
    hasher: RandomState,
    owed: HashMap<i32, u64>,
    has_oneways: bool,
}

impl Calls {
    /// A call is sent under `number`.
    pub(super) fn sent(&mut self, number: i32, name: &[u8]) {
        let hash = self.hash(name);
        self.owed.insert(number, hash);
    }

    /// A one-way request is sent.
    pub(super) fn sent_oneway(&mut self) {
        self.has_oneways = true;
    }

    /// The call sent under `number` gets no reply.
    pub(super) fn forget(&mut self, number: i32) {
        self.owed.remove(&number);
    }

    /// Whether a one-way request was sent.
    pub(super) fn has_oneways(&self) -> bool {
        self.has_oneways
    }

    /// A message of `kind` came that says `number`, or 0 as servers do that do not echo it: whether it can be the reply
    /// to what it seems to answer. What answers nothing is for the connection to see.
    ///
    /// The name of an exception may be another: a server that did not get so far as to read it has none. 0 is believed
    /// only of a server that is said to write it: a client can bring about such a reply, by a call that it hides in the
    /// bytes of another.
    pub(super) fn answered(
        &mut self,
        number: i32,
        kind: u8,
        name: &[u8],
        echoes_seqid: bool,
    ) -> Result<(), Malformed> {
        let owed = match number {
            0 if echoes_seqid => return Err(Malformed::Invalid(NUMBER)),
            0 if self.owed.len() > 1 || self.has_oneways => return Err(Malformed::Invalid(WHOSE)),
            0 => self.owed.drain().next().map(|(_, call)| call),
            number => self.owed.remove(&number),
        };
        match owed {
            Some(call) if call != self.hash(name) && kind != EXCEPTION => Err(Malformed::Invalid(NAME)),
            _ => Ok(()),
        }
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
