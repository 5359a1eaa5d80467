//! The floor: a pooling proxy with nothing but the data path, as a limit to measure others against.
//!
//! It has no features: no time-outs, limits, metrics, logs or reconnects. One request of a client is under way at a
//! time, a client that does not take its reply at once is dropped, and a lost upstream connection is the end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use clap::{Parser, ValueEnum};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send, sockopt};
use warmline_compare::address::{Address, reset, reset_when_finished};
use warmline_compare::control::{self, Order};
use warmline_compare::message::{ID, Protocol};
use warmline_compare::poll::{BOTH, Poller, READ, Ready};

/// Accepted in a row before others get their turn.
const ACCEPTS: usize = 64;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: Address,
    #[arg(long)]
    to: Address,
    #[arg(long)]
    protocol: Protocol,
    #[arg(long)]
    mode: Mode,
    #[arg(long, default_value_t = 1)]
    connections: usize,
    #[arg(long)]
    close: Close,
}

/// How requests share a connection.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One at a time.
    Exclusive,
    /// Replies come in order.
    Pipeline,
    /// Replies carry a number of ours.
    Multiplex,
}

/// Who closes a client's connection.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Close {
    /// The floor, after one reply: FIN+RST, asked for once on the listener, from which clients inherit it.
    Reset,
    /// The client; its FIN is answered by RST.
    Client,
}

struct Client {
    socket: OwnedFd,
    registered: bool,
    /// Tells it from an earlier one with the same descriptor.
    number: u64,
    input: Vec<u8>,
}

/// Who waits for a reply.
struct Waiting {
    key: usize,
    number: u64,
    id: [u8; 8],
}

struct Upstream {
    socket: OwnedFd,
    output: Vec<u8>,
    /// `output` has grown since it was last written.
    dirty: bool,
    blocked: bool,
    input: Vec<u8>,
    /// In order, for exclusive and pipeline.
    line: VecDeque<Waiting>,
    /// By tag, for multiplex, and which tags are free.
    tagged: Vec<Option<Waiting>>,
    tags: Vec<usize>,
}

enum Source {
    Nobody,
    Client(Client),
    Upstream(usize),
}

struct Floor {
    options: Options,
    listener: OwnedFd,
    poller: Poller,
    /// By descriptor.
    sources: Vec<Source>,
    upstreams: Vec<Upstream>,
    /// Connections with room.
    free: Vec<usize>,
    dirty: Vec<usize>,
    /// Requests that found no room.
    queue: VecDeque<(Waiting, Vec<u8>)>,
    accepted: u64,
    scratch: Vec<u8>,
}

fn main() -> io::Result<()> {
    Floor::new(Options::parse())?.run()
}

fn key_of(socket: &OwnedFd) -> usize {
    usize::try_from(socket.as_raw_fd()).unwrap_or(0)
}

impl Floor {
    fn new(options: Options) -> io::Result<Self> {
        let poller = Poller::new()?;
        let listener = options.listen.listen()?;
        if options.close == Close::Reset && options.listen.is_tcp() {
            reset_when_finished(&listener);
        }
        let (mut sources, mut upstreams) = (Vec::new(), Vec::new());
        for index in 0..options.connections {
            let socket = options.to.connect()?;
            if options.to.is_tcp() {
                sockopt::set_tcp_nodelay(&socket, true)?;
            }
            rustix::io::ioctl_fionbio(&socket, true)?;
            poller.add(&socket, key_of(&socket), READ)?;
            put(&mut sources, key_of(&socket), Source::Upstream(index));
            upstreams.push(Upstream::new(socket));
        }
        let free = (0..options.connections).collect();
        Ok(Self {
            options,
            listener,
            poller,
            sources,
            upstreams,
            free,
            dirty: Vec::new(),
            queue: VecDeque::new(),
            accepted: 0,
            scratch: vec![0; 64 * 1024],
        })
    }

    fn run(mut self) -> io::Result<()> {
        let stdin = io::stdin();
        self.poller.add(&stdin, 0, READ)?;
        let listening = key_of(&self.listener);
        self.poller.add(&self.listener, listening, READ)?;
        let mut ready = Ready::default();
        loop {
            self.poller.wait(&mut ready, None)?;
            for key in ready.keys() {
                if key == listening {
                    self.accept()?;
                } else if key == 0 {
                    let Order::Report = control::order() else { return Ok(()) };
                } else if let Source::Upstream(index) = self.sources[key] {
                    self.answer(index)?;
                } else {
                    self.read(key)?;
                }
            }
            self.flush()?;
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    self.accepted += 1;
                    let key = key_of(&socket);
                    let client =
                        Client { socket, registered: false, number: self.accepted, input: Vec::new() };
                    put(&mut self.sources, key, Source::Client(client));
                    // Most requests are here already.
                    self.read(key)?;
                }
                Err(Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn read(&mut self, key: usize) -> io::Result<()> {
        let Some(Source::Client(client)) = self.sources.get_mut(key) else { return Ok(()) };
        match recv(&client.socket, &mut *self.scratch, RecvFlags::empty()) {
            Ok((0, _)) => {
                self.drop_client(key, reset);
                return Ok(());
            }
            Ok((read, _)) => {
                client.input.extend_from_slice(&self.scratch[..read]);
                if let Some(length) = self.options.protocol.whole(&client.input) {
                    let number = client.number;
                    // Its memory is not kept while it waits.
                    let mut request = std::mem::take(&mut client.input);
                    client.input = request.split_off(length);
                    self.submit(key, number, &request);
                    return Ok(());
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.drop_client(key, drop);
                return Ok(());
            }
        }
        self.register(key)
    }

    fn register(&mut self, key: usize) -> io::Result<()> {
        if let Some(Source::Client(client)) = self.sources.get_mut(key)
            && !client.registered
        {
            client.registered = true;
            self.poller.add(&client.socket, key, READ)?;
        }
        Ok(())
    }

    fn submit(&mut self, key: usize, number: u64, request: &[u8]) {
        let mut waiting = Waiting { key, number, id: [0; 8] };
        if self.options.mode == Mode::Multiplex {
            waiting.id.copy_from_slice(&request[ID]);
        }
        match self.free.last() {
            Some(&index) => self.send(index, waiting, request),
            None => self.queue.push_back((waiting, request.to_vec())),
        }
    }

    fn send(&mut self, index: usize, waiting: Waiting, request: &[u8]) {
        let upstream = &mut self.upstreams[index];
        let start = upstream.output.len();
        upstream.output.extend_from_slice(request);
        match self.options.mode {
            Mode::Exclusive => {
                self.free.pop();
                upstream.line.push_back(waiting);
            }
            Mode::Pipeline => upstream.line.push_back(waiting),
            Mode::Multiplex => {
                let tag = upstream.tag(waiting) as u64;
                upstream.output[start..][ID].copy_from_slice(&tag.to_be_bytes());
            }
        }
        if !upstream.dirty {
            upstream.dirty = true;
            self.dirty.push(index);
        }
    }

    /// One write for all requests of a turn.
    fn flush(&mut self) -> io::Result<()> {
        for index in self.dirty.drain(..) {
            self.upstreams[index].flush(&self.poller)?;
        }
        Ok(())
    }

    fn answer(&mut self, index: usize) -> io::Result<()> {
        let upstream = &mut self.upstreams[index];
        if upstream.blocked {
            upstream.flush(&self.poller)?;
        }
        match recv(&upstream.socket, &mut *self.scratch, RecvFlags::empty()) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((read, _)) => upstream.input.extend_from_slice(&self.scratch[..read]),
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
        let mut input = std::mem::take(&mut upstream.input);
        let mut done = 0;
        while let Some(length) = self.options.protocol.whole(&input[done..]) {
            self.reply(index, &mut input[done..done + length])?;
            done += length;
        }
        input.drain(..done);
        self.upstreams[index].input = input;
        Ok(())
    }

    fn reply(&mut self, index: usize, reply: &mut [u8]) -> io::Result<()> {
        let upstream = &mut self.upstreams[index];
        let waiting = match self.options.mode {
            Mode::Multiplex => {
                let waiting = upstream.untag(&reply[ID]);
                if let Some(waiting) = &waiting {
                    reply[ID].copy_from_slice(&waiting.id);
                }
                waiting
            }
            Mode::Exclusive | Mode::Pipeline => upstream.line.pop_front(),
        };
        let waiting = waiting.ok_or_else(|| io::Error::other("a reply to nothing"))?;
        if self.options.mode == Mode::Exclusive {
            self.free.push(index);
            if let Some((next, request)) = self.queue.pop_front() {
                self.send(index, next, &request);
            }
        }
        self.deliver(&waiting, reply)
    }

    fn deliver(&mut self, waiting: &Waiting, reply: &[u8]) -> io::Result<()> {
        let key = waiting.key;
        let Some(Source::Client(client)) = self.sources.get_mut(key) else { return Ok(()) };
        if client.number != waiting.number {
            return Ok(());
        }
        let tcp = self.options.listen.is_tcp();
        let last = self.options.close != Close::Client;
        // With the last bytes goes the FIN.
        let flags = SendFlags::NOSIGNAL | if last && tcp { SendFlags::MORE } else { SendFlags::empty() };
        if send(&client.socket, reply, flags) != Ok(reply.len()) {
            self.drop_client(key, drop);
            return Ok(());
        }
        match self.options.close {
            Close::Reset => self.drop_client(key, drop),
            Close::Client => return self.register(key),
        }
        Ok(())
    }

    fn drop_client(&mut self, key: usize, close: impl FnOnce(OwnedFd)) {
        if let Source::Client(client) = std::mem::replace(&mut self.sources[key], Source::Nobody) {
            close(client.socket);
        }
    }
}

impl Upstream {
    fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            output: Vec::new(),
            dirty: false,
            blocked: false,
            input: Vec::new(),
            line: VecDeque::new(),
            tagged: Vec::new(),
            tags: Vec::new(),
        }
    }

    fn tag(&mut self, waiting: Waiting) -> usize {
        let tag = self.tags.pop().unwrap_or_else(|| {
            self.tagged.push(None);
            self.tagged.len() - 1
        });
        self.tagged[tag] = Some(waiting);
        tag
    }

    fn untag(&mut self, id: &[u8]) -> Option<Waiting> {
        let tag = usize::try_from(u64::from_be_bytes(id.try_into().ok()?)).ok()?;
        let waiting = self.tagged.get_mut(tag)?.take()?;
        self.tags.push(tag);
        Some(waiting)
    }

    fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        self.dirty = false;
        match send(&self.socket, &self.output, SendFlags::NOSIGNAL) {
            Ok(sent) => drop(self.output.drain(..sent)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let blocked = !self.output.is_empty();
        if blocked != self.blocked {
            self.blocked = blocked;
            poller.change(&self.socket, key_of(&self.socket), if blocked { BOTH } else { READ })?;
        }
        Ok(())
    }
}

fn put(sources: &mut Vec<Source>, key: usize, source: Source) {
    if sources.len() <= key {
        sources.resize_with(key + 1, || Source::Nobody);
    }
    sources[key] = source;
}
