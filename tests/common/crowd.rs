//! Clients that ask all the time, each request on a connection of its own, and remember what became of it.
//!
//! They are few, pause after each answer, and end after so many requests: an outage is no flood.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Asked, Client, Protocol, eventually};

/// Pauses after a reply and after a refusal.
const PAUSES: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(5));
/// Requests at most.
const MOST: u64 = 100_000;

#[derive(Debug)]
pub(crate) struct Crowd {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Call>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    asked: AtomicU64,
    replied: AtomicU64,
    refused: AtomicU64,
    /// Orders what happens.
    clock: AtomicU64,
}

/// A request and what became of it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Which of the clients asked.
    pub(crate) client: usize,
    pub(crate) nonce: u128,
    pub(crate) verb: String,
    pub(crate) end: End,
    /// When it began and ended, by the clock of the crowd.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Replied,
    /// In the words of the protocol.
    Refused,
    /// Without a word.
    Closed,
}

impl Crowd {
    /// So many clients, which ask for these verbs in turns, each under an id of its own.
    pub(crate) fn start(protocol: Protocol, address: &str, clients: usize, verbs: &[&str]) -> Self {
        let shared = Arc::<Shared>::default();
        let start = |client| {
            let (shared, address) = (shared.clone(), address.to_owned());
            let verbs = verbs.iter().map(|verb| (*verb).to_owned()).collect::<Vec<_>>();
            std::thread::spawn(move || shared.keep_asking(client, protocol, &address, &verbs))
        };
        let threads = (0..clients).map(start).collect();
        Self { shared, threads }
    }

    /// When it is now, by the clock of the crowd.
    pub(crate) fn now(&self) -> u64 {
        self.shared.tick()
    }

    pub(crate) fn refused(&self) -> u64 {
        self.shared.refused.load(SeqCst)
    }

    /// Waits for so many further replies.
    pub(crate) fn is_served(&self, count: u64) {
        self.counts("replies to a crowd", &self.shared.replied, count);
    }

    /// Waits until so many further requests are refused.
    pub(crate) fn is_refused(&self, count: u64) {
        self.counts("refusals to a crowd", &self.shared.refused, count);
    }

    fn counts(&self, what: &str, counter: &AtomicU64, more: u64) {
        let until = counter.load(SeqCst) + more;
        eventually(what, || {
            let dead = self.threads.iter().any(JoinHandle::is_finished);
            assert!(!dead, "a client has ended");
            (counter.load(SeqCst) >= until).then_some(())
        });
    }

    /// Ends it. Each call had its own reply or was told that there is none.
    pub(crate) fn finish(self) -> Vec<Call> {
        self.shared.stop.store(true, SeqCst);
        self.threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    }
}

impl Shared {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    fn keep_asking(&self, client: usize, protocol: Protocol, address: &str, verbs: &[String]) -> Vec<Call> {
        let mut calls = Vec::new();
        while !self.stop.load(SeqCst) && self.asked.fetch_add(1, SeqCst) < MOST {
            let turn = calls.len() % verbs.len();
            let call = Call { client, ..self.ask(protocol, address, &verbs[turn], turn as u64 + 1) };
            let replied = call.end == End::Replied;
            let (counter, pause) =
                if replied { (&self.replied, PAUSES.0) } else { (&self.refused, PAUSES.1) };
            counter.fetch_add(1, SeqCst);
            calls.push(call);
            std::thread::sleep(pause);
        }
        calls
    }

    fn ask(&self, protocol: Protocol, address: &str, verb: &str, id: u64) -> Call {
        let began = self.tick();
        let mut client = Client::connect(address, protocol.wire);
        let asked = Asked::with_id(protocol.wire, verb, 100, id);
        client.send(&asked.bytes);
        let end = match client.message() {
            None => End::Closed,
            Some(message) if message == asked.reply => End::Replied,
            Some(message) => {
                let is_refusal = protocol.is_refusal(&message, asked.reply.id);
                assert!(is_refusal, "{verb} got {message:?}\ninstead of {:?}", asked.reply);
                End::Refused
            }
        };
        let (nonce, verb) = (asked.request.nonce, verb.to_owned());
        Call { client: 0, nonce, verb, end, began, ended: self.tick() }
    }
}
