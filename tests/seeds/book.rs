//! One client's book: what it asked for, and whether what it reads is the answer to that, in time.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use crate::clients::{Script, Sending, What};
use crate::dialect::{Dialect, ERROR, Message, PONG};
use crate::oracle::Oracle;
use crate::trace::{Who, hash};

/// Time that the proxy may take for what has no timeout of its own.
const SLACK: Duration = Duration::from_millis(200);
/// A message up to this size needs no memory of the budget.
const SMALL: usize = 4096;

/// What a client may expect.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a rule of its own")]
pub(crate) struct Rules {
    pub(crate) dialect: Dialect,
    pub(crate) words: bool,
    pub(crate) in_order: bool,
    pub(crate) request_timeout: Duration,
    /// Memory is never short.
    pub(crate) ample: bool,
    /// Nobody stops the proxy while this client is there.
    pub(crate) undisturbed: bool,
}

#[derive(Debug)]
pub(crate) struct Book {
    who: Who,
    rules: Rules,
    oracle: Oracle,
    calls: VecDeque<Call>,
    pongs: VecDeque<u64>,
    replies: usize,
    asked: usize,
    /// When the proxy last did something for this client.
    progress: Instant,
    /// How long it may take until it does something more; `None` where that is not known.
    patience: Option<Duration>,
    lockstep: bool,
    over: bool,
}

/// A call without an answer.
#[derive(Debug)]
struct Call {
    nonce: u64,
    id: u64,
    what: What,
    whole: Option<Instant>,
}

impl Book {
    pub(crate) fn new(who: Who, rules: Rules, script: &Script, oracle: Oracle) -> Self {
        let eager = script.reading.0.is_zero() && script.reading.2.is_zero();
        let small = rules.ample || script.messages.iter().all(|m| m.bytes.len() < SMALL);
        // A one-way request takes a call's place until it is sent or given up. Without words a client sees an
        // error only when all else is answered.
        let oneways = script.messages.iter().filter(|m| m.what == What::Oneway).count();
        let turns = u32::try_from(1 + oneways).unwrap() * if rules.words { 1 } else { 2 };
        Self {
            who,
            rules,
            oracle,
            calls: VecDeque::new(),
            pongs: VecDeque::new(),
            replies: 0,
            asked: 0,
            progress: Instant::now(),
            patience: (eager && small).then(|| rules.request_timeout * turns + SLACK),
            lockstep: script.window == 1 && oneways == 0,
            over: false,
        }
    }

    /// The first byte of `message` is about to be sent.
    pub(crate) fn begin(&mut self, message: &Sending) {
        let Sending { what, nonce, id, .. } = *message;
        match what {
            What::Call | What::Nonsense | What::TooLarge => {
                self.asked += 1;
                self.calls.push_back(Call { nonce, id, what, whole: None });
                self.oracle.issue(nonce, false);
            }
            What::Oneway => self.oracle.issue(nonce, true),
            What::Heartbeat => self.pongs.push_back(id),
            What::Closing => {}
        }
    }

    /// Its last byte was sent.
    pub(crate) fn whole(&mut self, message: &Sending) {
        for call in self.calls.iter_mut().filter(|c| c.nonce == message.nonce) {
            call.whole = Some(Instant::now());
        }
    }

    /// Calls without an answer.
    pub(crate) fn open(&self) -> usize {
        self.calls.len()
    }

    /// Whether nothing is due.
    pub(crate) fn is_settled(&self) -> bool {
        self.calls.is_empty() && self.pongs.is_empty()
    }

    /// Whether nothing more comes.
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    pub(crate) fn all_replied(&self) -> bool {
        self.replies == self.asked
    }

    /// Takes the messages off the front of `input`.
    pub(crate) fn read(&mut self, input: &mut Vec<u8>) {
        loop {
            match self.rules.dialect.cut(input) {
                Ok(None) => return,
                Ok(Some(message)) => self.take(&message),
                Err(fault) => {
                    self.oracle.fault(self.who, format_args!("cannot read: {fault}"));
                    return input.clear();
                }
            }
        }
    }

    fn take(&mut self, message: &Message) {
        let Message { flags, id, body } = message;
        let (length, hash) = (body.len(), hash(body));
        self.oracle.trace.note(self.who, format_args!("got {flags:02x} {id} {length} {hash:016x}"));
        if *flags == PONG {
            if self.pongs.pop_front() != Some(*id) {
                self.oracle.fault(self.who, format_args!("answer {id} to no heartbeat"));
            }
            return;
        }
        self.judge_time();
        self.progress = Instant::now();
        let at = if self.rules.in_order { Some(0) } else { self.calls.iter().position(|c| c.id == *id) };
        let call = at.and_then(|at| self.calls.remove(at));
        match call {
            Some(call) if call.id != *id && self.rules.dialect.has_id() => {
                self.oracle.fault(self.who, format_args!("answer {id}, but {} is next", call.id));
            }
            Some(_) if *flags == ERROR => self.oracle.got_error(),
            Some(call) if *flags == 0 && call.what == What::Call => {
                self.replies += 1;
                self.oracle.got_reply(self.who, call.nonce, message);
            }
            call => self.oracle.fault(self.who, format_args!("{flags:02x} {id} is no answer to {call:?}")),
        }
    }

    /// The proxy has closed (`end` tells how), or the client leaves; `rest` is what came of a next message.
    pub(crate) fn end(&mut self, end: Option<&str>, rest: &[u8]) {
        self.over = true;
        if end.is_none() {
            return;
        }
        self.judge_time();
        if end == Some("FIN") && !rest.is_empty() {
            self.oracle.fault(self.who, format_args!("a clean end, {} bytes into a message", rest.len()));
        }
        let explained = !self.rules.words || !self.rules.undisturbed || !self.lockstep;
        let silent = self.calls.iter().any(|call| {
            let read = call.whole.is_some_and(|whole| whole + SLACK / 4 < Instant::now());
            call.what == What::Call && read
        });
        if self.patience.is_some() && !explained && silent {
            self.oracle.fault(self.who, format_args!("closed without a word"));
        }
    }

    fn judge_time(&self) {
        let Some(patience) = self.patience else { return };
        let since = self.calls.iter().filter_map(|c| c.whole).min().map(|whole| whole.max(self.progress));
        if let Some(waited) = since.map(|since| since.elapsed()).filter(|waited| *waited > patience) {
            self.oracle.fault(self.who, format_args!("waited {waited:?}, {patience:?} at most"));
        }
    }
}
