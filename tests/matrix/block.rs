//! A block: one protocol and one fault, in processes of their own, against all cells.
//!
//! Cells run in waves. In each, every cell has two clients: one that leaves, and one that stays, asks for the
//! fault or for an echo in turns, and compares every byte. Driven by the matrix and by the chaos.

use std::fmt::{self, Display};

use crate::cell::{Cell, Guest, Tally, cells};
use crate::common::{Asked, Daemon, Load, Message, Protocol, eventually};
use crate::fault::{Event, Fault, May};
use crate::oracle::Rest;
use crate::upstream::Upstream;

/// What beside the fault makes a difference to what may come of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variant {
    /// One endpoint, and nothing runs twice.
    Plain,
    /// One endpoint, and everything may run so many times.
    Idempotent,
    /// Two endpoints, of which one has the fault.
    Beside,
}

impl Variant {
    pub(crate) const ATTEMPTS: u32 = 3;

    /// How often a request may run.
    fn runs(self) -> u32 {
        if self == Self::Idempotent { Self::ATTEMPTS } else { 1 }
    }

    fn settings(self, fault: &Fault) -> Vec<(&'static str, String)> {
        match self {
            Self::Plain => Vec::new(),
            Self::Idempotent => vec![
                ("retry.attempts", Self::ATTEMPTS.to_string()),
                ("retry.idempotent", "[\"*\"]".into()),
                ("retry.budget", "1".into()),
            ],
            Self::Beside => {
                let mut set =
                    vec![("health.interval", "\"0s\"".into()), ("health.eject_for", "\"300ms\"".into())];
                if matches!(fault.event, Event::Idle(_)) {
                    set.push(("pool.idle_timeout", "\"10s\"".into()));
                }
                if fault.is_awaited_in_vain {
                    // Whoever waits behind the fault is not to be late because of that.
                    set.push(("timeouts.request", "\"1s\"".into()));
                }
                set
            }
        }
    }

    /// What may come of a request, given what may come of it where nothing is tried again.
    fn relax(self, may: May) -> May {
        if self == Self::Plain || may == May::Reply { may } else { May::Either }
    }
}

/// How a block is run.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) variant: Variant,
    /// Cells that happen at the same time.
    pub(crate) width: usize,
    /// Threads of the daemon.
    pub(crate) workers: usize,
    /// Keys of the upstream that are not the matrix' own.
    pub(crate) settings: Vec<(&'static str, String)>,
    /// Further clients, as arguments of `rig load`.
    pub(crate) load: Option<String>,
    pub(crate) cells: Vec<Cell>,
    /// Where the places of a fault begin.
    pub(crate) first_place: usize,
    /// One of so many places has a request of its own.
    pub(crate) step: usize,
}

impl Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { variant, width, workers, settings, load, .. } = self;
        write!(f, "{variant:?}, in waves of {width}, workers {workers}, {settings:?}, load {load:?}")
    }
}

#[derive(Debug)]
pub(crate) struct Block {
    protocol: Protocol,
    fault: Fault,
    shape: Shape,
    upstream: Upstream,
    daemon: Daemon,
    rest: Rest,
    /// Bytes of a reply.
    reply: usize,
    turn: usize,
    tally: Tally,
}

/// Every cell of a protocol and a fault.
pub(crate) fn all_cells(protocol: &Protocol, fault: &Fault) -> Vec<Cell> {
    let asked = short(protocol, fault, 0);
    cells(asked.bytes.len(), protocol.wire.reply(&asked.reply).len())
}

/// The request of a client that leaves.
fn short(protocol: &Protocol, fault: &Fault, place: usize) -> Asked {
    if fault.size > 0 { protocol.request("echo") } else { protocol.request(&fault.verb(place)) }
}

impl Block {
    pub(crate) fn new(protocol: Protocol, fault: Fault, shape: Shape) -> Self {
        let variant = shape.variant;
        let upstream = Upstream::new(protocol, variant == Variant::Beside);
        let connections = match () {
            () if fault.is_slow() => 32,
            () if protocol.is_exclusive() => 16,
            () => 4,
        };
        let (message, memory) = if fault.size > 0 { ("16MiB", "64MiB") } else { ("64KiB", "1MiB") };
        let mut plan = protocol
            .plan(upstream.addresses()[0])
            .endpoints(&upstream.addresses())
            .level("info")
            .workers(shape.workers)
            .global("limits.max_clients", "512")
            .global("limits.memory", &format!("{memory:?}"))
            .set(protocol.max_message(), &format!("{message:?}"))
            .set("timeouts.client_read", "\"1s\"");
        let mut set = vec![("pool.max_connections", connections.to_string())];
        if !matches!(fault.event, Event::Idle(_)) {
            set.push(("pool.idle_timeout", "\"500ms\"".into()));
        }
        if fault.is_awaited_in_vain {
            set.push(("timeouts.connect", "\"300ms\"".into()));
            set.push(("timeouts.request", "\"200ms\"".into()));
        }
        if fault.is_slow() && !protocol.is_exclusive() {
            set.push(("pool.max_in_flight", "2".into()));
        }
        // What comes later counts.
        set.extend(shape.settings.iter().cloned());
        set.extend(variant.settings(&fault));
        for (at, (key, value)) in set.iter().enumerate() {
            if set[at + 1..].iter().all(|(other, _)| key != other) {
                plan = plan.set(key, value);
            }
        }
        let daemon = plan.start_ready();
        let rest = Rest::of(&daemon, &upstream, variant.runs());
        let reply = protocol.wire.reply(&short(&protocol, &fault, 0).reply).len();
        let (turn, tally) = (shape.first_place, Tally::default());
        Self { protocol, fault, shape, upstream, daemon, rest, reply, turn, tally }
    }

    /// Runs all cells, then asks the oracle.
    pub(crate) fn run(mut self) -> Tally {
        let cells = std::mem::take(&mut self.shape.cells);
        for wave in cells.chunks(self.shape.width) {
            self.wave(wave);
        }
        if self.fault.has_places() && self.shape.variant == Variant::Plain {
            self.every_place();
        }
        let loaded = self.shape.load.is_some();
        self.rest.judge(&mut self.daemon, &mut self.upstream, &mut self.tally, loaded);
        let is_asked_for = self.fault.event == Event::Asked;
        assert!(self.tally.met > 0 || !is_asked_for, "no server was ever asked for the fault");
        self.tally
    }

    fn wave(&mut self, cells: &[Cell]) {
        let load = self.shape.load.as_ref().map(|args| {
            Load::start(&self.daemon.address, self.protocol.wire, &format!("{args} --patience 60"))
        });
        self.upstream.arm(self.fault.event);
        let mut guests = Vec::new();
        for (at, cell) in cells.iter().enumerate() {
            let stays = self.stay(at);
            guests.push((stays, *cell, self.leave(*cell)));
        }
        self.upstream.strike(self.fault.event);
        self.rest.sample(&self.daemon, &self.upstream);
        for (stays, cell, leaves) in guests {
            stays.finish(&mut self.tally);
            if let Some(leaves) = leaves {
                cell.finish(leaves, &mut self.tally);
            }
        }
        if let Some(load) = load {
            load.finish();
        }
        self.tally.cells += cells.len() as u64;
        self.upstream.relent(self.fault.event, &self.daemon);
        self.is_served_again();
    }

    /// A place in the reply, another one each time, in no step with the cells.
    fn next_place(&mut self) -> usize {
        self.turn += 1;
        (self.turn * 37 + self.turn / (self.reply + 1)) % (self.reply + 1)
    }

    fn stay(&mut self, at: usize) -> Guest {
        let place = self.next_place();
        // Large requests are dear: one a wave will do.
        let asks = if self.fault.size > 0 { at == 0 } else { at % 2 == 1 };
        let (asked, may) = if asks {
            let asked = Asked::new(self.protocol.wire, &self.fault.verb(place), self.fault.size);
            self.tally.asked.push(asked.request.nonce);
            (asked, self.fault.asked(place, self.reply, &self.protocol))
        } else {
            (self.protocol.request("echo"), self.fault.beside(&self.protocol))
        };
        let may = self.shape.variant.relax(may);
        Guest::stay(self.protocol, &self.daemon.address, asked, may, &mut self.tally)
    }

    fn leave(&mut self, cell: Cell) -> Option<Guest> {
        let place = self.next_place();
        let asked = short(&self.protocol, &self.fault, place);
        let may = if self.fault.size > 0 {
            self.fault.beside(&self.protocol)
        } else {
            self.fault.asked(place, self.reply, &self.protocol)
        };
        let may = self.shape.variant.relax(may);
        cell.begin(self.protocol, &self.daemon.address, asked, may, &mut self.tally)
    }

    /// The fault after each byte of the reply, as often as it takes until the server has met it.
    fn every_place(&mut self) {
        // What hangs costs time, so it hangs at the same time; what ends a connection needs a sound one.
        let width = if self.fault.hangs() && self.protocol.is_exclusive() { 16 } else { 1 };
        let places = (0..=self.reply).rev().step_by(self.shape.step).collect::<Vec<_>>();
        self.tally.cells += places.len() as u64;
        for places in places.chunks(width) {
            let mut left = places.to_vec();
            eventually("every place met", || {
                left = self.missed(&left);
                left.is_empty().then_some(())
            });
        }
    }

    /// Asks for the fault at these places; gives those where the server has not met it.
    fn missed(&mut self, places: &[usize]) -> Vec<usize> {
        self.is_served_again();
        let ask = |place: &usize| {
            let asked = self.protocol.request(&self.fault.verb(*place));
            let nonce = asked.request.nonce;
            self.tally.asked.push(nonce);
            // A request may cross the end of the connection before.
            let may = if *place < self.reply { May::Refusal } else { May::Either };
            (nonce, Guest::stay(self.protocol, &self.daemon.address, asked, may, &mut self.tally))
        };
        let guests = places.iter().map(ask).collect::<Vec<_>>();
        let nonces = guests.into_iter().map(|(nonce, guest)| {
            guest.finish(&mut self.tally);
            nonce
        });
        let nonces = nonces.collect::<Vec<_>>();
        let seen = self.upstream.journal();
        let missed = places.iter().zip(nonces).filter(|(_, nonce)| !seen.contains_key(nonce));
        missed.map(|(place, _)| *place).collect()
    }

    /// Asks until it is served: each time the right reply or an explicit "no".
    fn is_served_again(&mut self) {
        eventually("served again", || {
            let asked = self.protocol.request("echo");
            let wanted: Option<Message> = Some(asked.reply.clone());
            let mut client = self.protocol.client(&self.daemon.address);
            client.send(&asked.bytes);
            self.tally.whole += 1;
            let answer = client.message();
            let refused = match &answer {
                None => !self.protocol.has_words,
                Some(message) => self.protocol.is_refusal(message, 1),
            };
            assert!(refused || answer == wanted, "{answer:?} instead of {wanted:?}");
            (answer == wanted).then_some(())
        });
    }
}
