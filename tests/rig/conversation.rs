//! One connection of the rig's server: reads requests, enters them in the ledger, does what they ask.
//!
//! The thread of a connection never waits for anything but the socket, or a delay that a verb names, so an
//! end of the connection is always seen. Called by `server`.

use std::io::{self, Read as _};
use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::ledger::Ended;
use crate::message::{Message, Request, flags};
use crate::server::{Peer, Rig, lock};
use crate::verb::{End, Verb};
use crate::wire::Wire;

/// Enough of a request to know all its words.
const WORDS: usize = 256;

struct Conversation<'a> {
    rig: &'a Rig,
    wire: Wire,
    peer: &'a Arc<Peer>,
    input: Vec<u8>,
    /// Replies to requests that were read together.
    batch: Vec<Message>,
    /// Replies that wait for the answer to a heartbeat.
    behind_heartbeat: Vec<Message>,
    /// The request being read has its reply already.
    answered_early: bool,
    /// Nothing is sent any more.
    mute: bool,
}

/// Reads and throws away until the end.
pub(crate) fn ignore(peer: &Peer) -> (Ended, bool) {
    let mut buffer = [0; 4096];
    loop {
        match (&peer.stream).read(&mut buffer) {
            Ok(0) => return (Ended::Fin, false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return (Ended::Rst, false),
        }
    }
}

/// Serves until the end; tells whether it came in the middle of a request.
pub(crate) fn hold(rig: &Rig, peer: &Arc<Peer>) -> (Ended, bool) {
    let mut conversation = Conversation {
        rig,
        wire: rig.options.wire,
        peer,
        input: Vec::new(),
        batch: Vec::new(),
        behind_heartbeat: Vec::new(),
        answered_early: false,
        mute: false,
    };
    let ended = conversation.run();
    (ended, !conversation.input.is_empty())
}

impl Conversation<'_> {
    fn run(&mut self) -> Ended {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match (&self.peer.stream).read(&mut buffer) {
                _ if self.peer.is_ending() => return Ended::Here,
                Ok(0) => return Ended::Fin,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.input.is_empty() && lock(&self.peer.writing).owed.is_empty() {
                        return self.end_idle();
                    }
                    continue;
                }
                Err(_) => return Ended::Rst,
            };
            self.input.extend_from_slice(&buffer[..read]);
            let taken = self.take_messages();
            if self.peer.is_ending() {
                return Ended::Here;
            }
            match taken {
                Ok(()) => {}
                Err(Fault::Socket) => return Ended::Rst,
                Err(Fault::Violation(text)) => {
                    self.rig.ledger().violation(text);
                    return Ended::Here;
                }
            }
        }
    }

    fn end_idle(&self) -> Ended {
        if self.rig.options.idle_reset {
            let _ = self.peer.stream.set_reset_on_close();
        }
        Ended::Here
    }

    fn take_messages(&mut self) -> Result<(), Fault> {
        while let Some(message) = self.wire.decode(&mut self.input).map_err(Fault::Violation)? {
            self.take(message)?;
            if self.peer.is_ending() {
                return Ok(());
            }
        }
        if self.batch.len() > 1 {
            fastrand::shuffle(&mut self.batch);
            self.rig.ledger().shuffled();
        }
        for reply in std::mem::take(&mut self.batch) {
            self.peer.reply(self.wire, &reply)?;
        }
        self.answer_early()
    }

    fn take(&mut self, message: Message) -> Result<(), Fault> {
        if message.flags == flags::HEARTBEAT {
            let answer = Message { flags: flags::HEARTBEAT | flags::ANSWER, ..message };
            return Ok(self.peer.send(&self.wire.reply(&answer))?);
        }
        if message.flags == flags::HEARTBEAT | flags::ANSWER {
            self.rig.ledger().heartbeat_answered();
            for reply in std::mem::take(&mut self.behind_heartbeat) {
                self.peer.reply(self.wire, &reply)?;
            }
            return Ok(());
        }
        if message.flags & !flags::ONEWAY != 0 {
            return Err(Fault::Violation(format!("flags {:#04x}", message.flags)));
        }
        let request = Request::verify(&message.payload).map_err(Fault::Violation)?;
        let oneway = message.flags == flags::ONEWAY;
        if request.verb == "probe" {
            self.rig.ledger().probed();
        } else if !self.answered_early {
            self.rig.note(request.nonce, oneway)?;
        }
        if oneway {
            return Ok(());
        }
        self.owe(message.id);
        if std::mem::take(&mut self.answered_early) {
            lock(&self.peer.writing).owed.retain(|id| *id != message.id);
            return Ok(());
        }
        let payload = request.reply(&message.payload);
        let reply = Message { flags: 0, id: message.id, payload };
        if self.rig.options.sound {
            return self.answer(Verb::Echo, reply);
        }
        match request.verb.parse().map_err(Fault::Violation)? {
            Verb::Echo | Verb::Probe => self.answer(self.rig.take_fault(), reply),
            verb => self.answer(verb, reply),
        }
    }

    /// Notes that `id` has no reply yet, and what is wrong with that.
    fn owe(&mut self, id: u64) {
        let mut writing = lock(&self.peer.writing);
        // After an early reply the next request may follow at once.
        let ahead = !self.input.is_empty() && !self.answered_early;
        if self.rig.options.exclusive && (ahead || !writing.owed.is_empty()) {
            self.rig.ledger().violation(format!("{} owed, and a request ahead: {ahead}", writing.owed.len()));
        }
        if self.wire.has_id() && self.rig.options.out_of_order && writing.owed.contains(&id) {
            self.rig.ledger().violation(format!("id {id} again while its reply is owed"));
        }
        writing.owed.push(id);
    }

    fn answer(&mut self, verb: Verb, reply: Message) -> Result<(), Fault> {
        let out_of_order = self.rig.options.out_of_order;
        if self.mute {
            return Ok(());
        }
        if !out_of_order {
            let mut writing = lock(&self.peer.writing);
            if verb == Verb::Hold || !writing.held.is_empty() {
                writing.held.push(reply);
                return Ok(());
            }
        }
        let (wire, peer) = (self.wire, self.peer);
        match verb {
            Verb::Echo | Verb::Probe | Verb::Big | Verb::Early(_) => {
                if out_of_order {
                    self.batch.push(reply);
                    return Ok(());
                }
                peer.reply(wire, &reply)?;
            }
            Verb::Delay(millis) if out_of_order => later(peer, millis, move |p| p.reply(wire, &reply)),
            Verb::Delay(millis) => {
                sleep(Duration::from_millis(millis));
                peer.reply(wire, &reply)?;
            }
            Verb::Hold => lock(&peer.writing).held.push(reply),
            Verb::Hang => self.mute = !out_of_order,
            Verb::End(end) => self.end(end)?,
            Verb::Partial(size, end) => {
                // Nothing may follow in the middle of a message.
                for reply in std::mem::take(&mut self.batch) {
                    peer.reply(wire, &reply)?;
                }
                let bytes = wire.reply(&reply);
                peer.send(&bytes[..size.min(bytes.len())])?;
                if size >= bytes.len() {
                    lock(&peer.writing).owed.retain(|id| *id != reply.id);
                }
                self.mute = true;
                self.end(end)?;
            }
            Verb::After(end) => {
                peer.reply(wire, &reply)?;
                self.end(end)?;
            }
            Verb::Garbage => peer.send(&[0xff; 64])?,
            Verb::Dup => {
                // In one piece: without ids, a copy that comes later is the reply to the next request.
                lock(&peer.writing).owed.retain(|id| *id != reply.id);
                peer.send(&wire.reply(&reply).repeat(2))?;
            }
            Verb::Stray(size, millis) => {
                peer.reply(wire, &reply)?;
                later(peer, millis, move |peer| peer.send(&vec![0x55; size]));
            }
            Verb::Slow => {
                for byte in wire.reply(&reply) {
                    sleep(Duration::from_millis(10));
                    peer.send(&[byte])?;
                }
                lock(&peer.writing).owed.retain(|id| *id != reply.id);
            }
            Verb::Heartbeat => {
                self.behind_heartbeat.push(reply);
                peer.send(&wire.reply(&Message { flags: flags::HEARTBEAT, id: 77, payload: vec![] }))?;
            }
            Verb::Closing => {
                peer.reply(wire, &reply)?;
                peer.send(&wire.reply(&Message { flags: flags::CLOSING, ..Message::default() }))?;
            }
        }
        Ok(())
    }

    fn end(&mut self, end: End) -> io::Result<()> {
        self.mute = true;
        self.peer.end(end)
    }

    /// Replies to a request that asks for it before it is whole.
    fn answer_early(&mut self) -> Result<(), Fault> {
        if self.answered_early || self.rig.options.sound {
            return Ok(());
        }
        let Some((Message { id, .. }, start)) = self.wire.front(&self.input) else { return Ok(()) };
        let Some(words) = self.input.get(start..).filter(|words| words.len() >= WORDS) else { return Ok(()) };
        let Some(request) = Request::parse(words) else { return Ok(()) };
        let Ok(Verb::Early(millis)) = request.verb.parse() else { return Ok(()) };
        let payload = request.reply(words);
        self.rig.note(request.nonce, false)?;
        self.peer.send(&self.wire.reply(&Message { flags: 0, id, payload }))?;
        self.answered_early = true;
        sleep(Duration::from_millis(millis));
        Ok(())
    }
}

/// Why a conversation ends early.
enum Fault {
    Socket,
    Violation(String),
}

impl From<io::Error> for Fault {
    fn from(_: io::Error) -> Self {
        Self::Socket
    }
}

/// Does something to the connection after a time, if it is still there.
fn later(peer: &Arc<Peer>, millis: u64, action: impl FnOnce(&Peer) -> io::Result<()> + Send + 'static) {
    let peer = Arc::downgrade(peer);
    std::thread::spawn(move || {
        sleep(Duration::from_millis(millis));
        if let Some(peer) = peer.upgrade() {
            let _ = action(&peer);
        }
    });
}
