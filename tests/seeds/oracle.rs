//! The judge: what clients and servers saw must fit together. It knows nothing of the proxy's insides.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use warmline::wire::memory::Witness;

use crate::dialect::{self, Message};
use crate::trace::{Trace, Who};

/// Everything that peers report. Clones are the same judge.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    pub(crate) trace: Trace,
    /// How often a request that expects a reply may run.
    runs: u32,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Vec<String>,
    nonces: HashMap<u64, Nonce>,
    sockets: Vec<Witness>,
    dialling: usize,
    tally: Tally,
}

/// What became of one request.
#[derive(Debug, Default)]
struct Nonce {
    oneway: bool,
    /// Servers that saw it.
    seen: u32,
    /// Replies that servers began to send.
    replies: u32,
}

/// Totals to hold against the proxy's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Requests of clients, whole or not.
    pub(crate) issued: u64,
    /// Seen by servers.
    pub(crate) seen: u64,
    /// One-way requests among them.
    pub(crate) oneways: u64,
    /// Replies that clients read.
    pub(crate) replies: u64,
    /// Errors that clients read.
    pub(crate) errors: u64,
}

/// An attempt to connect, counted as an open socket.
#[derive(Debug)]
pub(crate) struct Dialling(Oracle);

impl Drop for Dialling {
    fn drop(&mut self) {
        self.0.state.lock().unwrap().dialling -= 1;
    }
}

impl Oracle {
    pub(crate) fn new(trace: Trace, runs: u32) -> Self {
        Self { trace, runs, state: Arc::default() }
    }

    pub(crate) fn fault(&self, who: Who, what: fmt::Arguments<'_>) {
        self.trace.note(who, format_args!("FAULT {what}"));
        self.state.lock().unwrap().faults.push(format!("{who}: {what}"));
    }

    pub(crate) fn faults(&self) -> Vec<String> {
        self.state.lock().unwrap().faults.clone()
    }

    pub(crate) fn tally(&self) -> Tally {
        self.state.lock().unwrap().tally
    }

    /// A client is going to send it.
    pub(crate) fn issue(&self, nonce: u64, oneway: bool) {
        let mut state = self.state.lock().unwrap();
        state.tally.issued += 1;
        let known = state.nonces.insert(nonce, Nonce { oneway, ..Nonce::default() });
        assert!(known.is_none(), "the simulation calls two requests {nonce:x}");
    }

    /// A server sees the front of it.
    pub(crate) fn seen(&self, who: Who, nonce: u64) {
        let mut state = self.state.lock().unwrap();
        state.tally.seen += 1;
        let mut oneway = false;
        let fault = match state.nonces.get_mut(&nonce) {
            None => Some("a request that nobody sent"),
            Some(known) => {
                known.seen += 1;
                oneway = known.oneway;
                let most = if oneway { 1 } else { self.runs };
                (known.seen > most).then_some("a request that ran too often")
            }
        };
        state.tally.oneways += u64::from(oneway);
        drop(state);
        if let Some(fault) = fault {
            self.fault(who, format_args!("{fault}: {nonce:x}"));
        }
    }

    /// A server has the whole of it.
    pub(crate) fn arrived(&self, who: Who, message: &Message) {
        match dialect::read_body(&message.body) {
            Ok((b'Q', _)) => {}
            Ok((kind, nonce)) => self.fault(who, format_args!("{} {nonce:x} is no request", kind as char)),
            Err(broken) => self.fault(who, format_args!("{broken}")),
        }
    }

    /// A server begins to reply to it.
    pub(crate) fn replied(&self, nonce: u64) {
        if let Some(known) = self.state.lock().unwrap().nonces.get_mut(&nonce) {
            known.replies += 1;
        }
    }

    /// A client has the reply to its request `nonce`.
    pub(crate) fn got_reply(&self, who: Who, nonce: u64, message: &Message) {
        let fits = dialect::read_body(&message.body).and_then(|(kind, found)| {
            if (kind, found) == (b'R', nonce) { Ok(()) } else { Err(format!("{} {found:x}", kind as char)) }
        });
        let mut state = self.state.lock().unwrap();
        state.tally.replies += 1;
        let known = &state.nonces[&nonce];
        let (sent, oneway) = (known.replies > 0, known.oneway);
        drop(state);
        if let Err(found) = fits {
            self.fault(who, format_args!("asked {nonce:x} and got {found}"));
        } else if !sent || oneway {
            self.fault(who, format_args!("a reply to {nonce:x} that no server sent"));
        }
    }

    /// A client was told an error.
    pub(crate) fn got_error(&self) {
        self.state.lock().unwrap().tally.errors += 1;
    }

    /// The pool asks for a socket, of which it may have `cap`.
    pub(crate) fn dials(&self, cap: usize) -> Dialling {
        self.state.lock().unwrap().dialling += 1;
        let open = self.open();
        if open > cap {
            self.fault(Who::World, format_args!("{open} upstream sockets, {cap} are allowed"));
        }
        Dialling(self.clone())
    }

    /// The pool has a socket.
    pub(crate) fn connected(&self, near: Witness) {
        self.state.lock().unwrap().sockets.push(near);
    }

    /// Sockets that the pool holds now.
    pub(crate) fn open(&self) -> usize {
        let mut state = self.state.lock().unwrap();
        state.sockets.retain(Witness::is_open);
        state.sockets.len() + state.dialling
    }
}
