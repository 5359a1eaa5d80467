//! The echo server: accepts, gives each connection a thread, obeys commands on standard input.
//!
//! Its first line on standard output tells its address; each command is answered by one line of JSON.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Write as _};
use std::net::Shutdown;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::conversation;
use crate::ledger::{Ended, Ledger};
use crate::message::{Message, flags};
use crate::say;
use crate::socket::{Listener, Stream};
use crate::verb::{End, Verb};
use crate::wire::Wire;

#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub(crate) struct Options {
    /// HOST:PORT or unix:PATH.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    #[arg(long, value_enum)]
    pub(crate) wire: Wire,
    /// Delayed replies let others pass, and replies read together leave in random order.
    #[arg(long)]
    pub(crate) out_of_order: bool,
    /// A request that comes while a reply is owed is a violation.
    #[arg(long)]
    pub(crate) exclusive: bool,
    /// Whatever a request asks for, it only gets its reply.
    #[arg(long)]
    pub(crate) sound: bool,
    /// serve, close, reset, hang, or greet:TEXT.
    #[arg(long, default_value = "serve")]
    on_connect: String,
    /// Close connections on which no byte has come for so many milliseconds, unless a reply is owed.
    #[arg(long)]
    idle: Option<u64>,
    /// Such closes are resets.
    #[arg(long)]
    pub(crate) idle_reset: bool,
    /// Where to write the nonce of each request, one a line: what is there outlives a `kill -9`.
    #[arg(long)]
    journal: Option<PathBuf>,
}

/// What all threads share.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) options: Options,
    ledger: Mutex<Ledger>,
    peers: Mutex<HashMap<u64, Arc<Peer>>>,
    on_connect: Mutex<String>,
    /// What happens to the next requests that only ask for an echo.
    fault: Mutex<Option<(Verb, u64)>>,
    journal: Option<File>,
}

/// One connection, for whoever writes to it or ends it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) stream: Stream,
    pub(crate) writing: Mutex<Writing>,
    ending: AtomicU8,
}

/// The replies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Writing {
    /// Waiting for `release`.
    pub(crate) held: Vec<Message>,
    /// Ids whose reply has not been sent.
    pub(crate) owed: Vec<u64>,
}

const NOT_ENDING: u8 = 0;
const ENDING: u8 = 1;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Peer {
    /// Writes bytes between two replies.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        let _writing = lock(&self.writing);
        (&self.stream).write_all(bytes)
    }

    /// Writes a reply and forgets that it was owed.
    pub(crate) fn reply(&self, wire: Wire, reply: &Message) -> io::Result<()> {
        let mut writing = lock(&self.writing);
        writing.owed.retain(|id| *id != reply.id);
        (&self.stream).write_all(&wire.reply(reply))
    }

    fn release(&self, wire: Wire) -> io::Result<()> {
        let held = std::mem::take(&mut lock(&self.writing).held);
        held.iter().try_for_each(|reply| self.reply(wire, reply))
    }

    /// Ends the connection; its thread sees the end and closes.
    pub(crate) fn end(&self, end: End) -> io::Result<()> {
        match end {
            End::Hang => return Ok(()),
            End::Half => return self.stream.shutdown(Shutdown::Write),
            End::Fin => {}
            End::Rst => self.stream.set_reset_on_close()?,
        }
        self.ending.store(ENDING, SeqCst);
        self.stream.shutdown(Shutdown::Read)
    }

    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(SeqCst) != NOT_ENDING
    }
}

impl Rig {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    /// Enters a request, before anything is done about it.
    pub(crate) fn note(&self, nonce: u128, oneway: bool) -> io::Result<()> {
        self.ledger().request(nonce, oneway);
        // One write a line: what is appended is never mixed.
        self.journal.as_ref().map_or(Ok(()), |mut file| file.write_all(format!("{nonce:032x}\n").as_bytes()))
    }

    /// What to do with a request that asks for an echo.
    pub(crate) fn take_fault(&self) -> Verb {
        let mut fault = lock(&self.fault);
        match &mut *fault {
            None | Some((_, 0)) => Verb::Echo,
            Some((verb, count)) => {
                *count -= 1;
                *verb
            }
        }
    }

    fn each_peer(&self, mut action: impl FnMut(&Peer) -> io::Result<()>) -> Value {
        let peers = lock(&self.peers).values().cloned().collect::<Vec<_>>();
        // A peer that is gone meanwhile is no concern of the one who commands.
        json!({ "done": peers.iter().filter(|peer| action(peer).is_ok()).count() })
    }

    fn obey(&self, line: &str) -> Result<Value, String> {
        let wire = self.options.wire;
        let words = line.split_whitespace().collect::<Vec<_>>();
        Ok(match words[..] {
            ["ledger"] => {
                let peers = lock(&self.peers);
                let held = peers.values().map(|peer| lock(&peer.writing).held.len()).sum();
                self.ledger().report(held)
            }
            ["seen", nonce] => {
                let nonce = u128::from_str_radix(nonce, 16).map_err(|error| error.to_string())?;
                json!({ "seen": self.ledger().seen(nonce) })
            }
            ["release"] => self.each_peer(|peer| peer.release(wire)),
            ["end", how] => {
                let end = how.parse()?;
                self.each_peer(|peer| peer.end(end))
            }
            ["stray", size] => {
                let size = size.parse().map_err(|_| "stray SIZE")?;
                self.each_peer(|peer| peer.send(&vec![0x55; size]))
            }
            ["unsolicited"] => {
                let message = Message { flags: 0, id: 1, payload: b"unsolicited".into() };
                self.each_peer(|peer| peer.send(&wire.reply(&message)))
            }
            ["heartbeat"] => {
                let message = Message { flags: flags::HEARTBEAT, id: 77, payload: vec![] };
                self.each_peer(|peer| peer.send(&wire.reply(&message)))
            }
            ["closing"] => {
                let message = Message { flags: flags::CLOSING, ..Message::default() };
                self.each_peer(|peer| peer.send(&wire.reply(&message)))
            }
            ["fault", verb, count] => {
                let count = count.parse().map_err(|_| "fault VERB COUNT")?;
                *lock(&self.fault) = Some((verb.parse()?, count));
                json!({ "done": 1 })
            }
            ["on-connect", behaviour] => {
                *lock(&self.on_connect) = behaviour.into();
                json!({ "done": 1 })
            }
            _ => return Err(format!("`{line}` is no command")),
        })
    }

    fn welcome(self: Arc<Self>, number: u64, stream: Stream) -> io::Result<()> {
        let peer = Arc::new(Peer { stream, writing: Mutex::default(), ending: AtomicU8::new(NOT_ENDING) });
        let held_by_peer = {
            let mut peers = lock(&self.peers);
            peers.insert(number, peer.clone());
            // Whoever has not closed by now was there when this one was accepted.
            peers.values().filter(|peer| peer.stream.is_held_by_peer()).count()
        };
        self.ledger().opened(held_by_peer as u64);
        if let Some(millis) = self.options.idle {
            peer.stream.set_patience(Duration::from_millis(millis))?;
        }
        let behaviour = lock(&self.on_connect).clone();
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        thread.spawn(move || {
            let (ended, truncated) = match behaviour.split_once(':').unwrap_or((&behaviour, "")) {
                ("close", _) => (Ended::Here, false),
                ("reset", _) => {
                    let _ = peer.stream.set_reset_on_close();
                    (Ended::Here, false)
                }
                ("hang", _) => conversation::ignore(&peer),
                ("greet", text) => {
                    let _ = peer.send(text.replace("\\n", "\n").as_bytes());
                    conversation::hold(&self, &peer)
                }
                _ => conversation::hold(&self, &peer),
            };
            lock(&self.peers).remove(&number);
            // Counted after the close, so that nobody is told of an end that has not happened.
            drop(peer);
            self.ledger().closed(ended, truncated);
        })?;
        Ok(())
    }
}

/// Serves until standard input ends.
pub(crate) fn run(options: Options) -> io::Result<()> {
    let listener = Listener::bind(&options.listen)?;
    say(&json!({ "address": listener.address(&options.listen)? }));
    let open = |path| File::options().create(true).append(true).open(path);
    let rig = Arc::new(Rig {
        journal: options.journal.as_ref().map(open).transpose()?,
        on_connect: Mutex::new(options.on_connect.clone()),
        options,
        ledger: Mutex::default(),
        peers: Mutex::default(),
        fault: Mutex::default(),
    });
    let accepting = rig.clone();
    std::thread::spawn(move || {
        for number in 0.. {
            let welcomed = listener.accept().and_then(|stream| accepting.clone().welcome(number, stream));
            if let Err(error) = welcomed {
                accepting.ledger().violation(format!("accept: {error}"));
            }
        }
    });
    for line in io::stdin().lock().lines() {
        say(&rig.obey(&line?).unwrap_or_else(|error| json!({ "error": error })));
    }
    Ok(())
}
