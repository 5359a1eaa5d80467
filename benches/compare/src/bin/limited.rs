//! A server of limited capacity: so many messages in work at a time, each for the same time, over all connections; the
//! others wait, first come, first served. Each is answered when it is done. What nobody waits for any more is work all
//! the same.

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use serde_json::json;
use warmline_compare::address::Address;
use warmline_compare::control::{self, Order};
use warmline_compare::message::Protocol;
use warmline_compare::poll::{Poller, READ, Ready};

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: Address,
    #[arg(long)]
    protocol: Protocol,
    /// Messages in work at a time.
    #[arg(long)]
    slots: usize,
    /// Milliseconds that each takes.
    #[arg(long)]
    service: u64,
}

struct Connection {
    socket: OwnedFd,
    /// Which connection of its descriptor it is.
    number: u64,
    input: Vec<u8>,
}

struct Job {
    key: usize,
    connection: u64,
    message: Vec<u8>,
    came: Instant,
}

struct Server {
    options: Options,
    listener: OwnedFd,
    poller: Poller,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    accepted: u64,
    waiting: VecDeque<Job>,
    /// With the moment at which each is done, the first one in front.
    working: VecDeque<(Instant, Job)>,
    /// Since when each slot is free.
    free: VecDeque<Instant>,
    scratch: Box<[u8]>,
}

fn main() -> io::Result<()> {
    // The kernel may not wake a thread up to 50 us late, its default.
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let options = Options::parse();
    let listener = options.listen.listen()?;
    let poller = Poller::new()?;
    let stdin = io::stdin();
    poller.add(&stdin, 0, READ)?;
    let listening = usize::try_from(listener.as_raw_fd()).map_err(io::Error::other)?;
    poller.add(&listener, listening, READ)?;
    let mut server = Server {
        free: std::iter::repeat_n(Instant::now(), options.slots).collect(),
        options,
        listener,
        poller,
        connections: Vec::new(),
        accepted: 0,
        waiting: VecDeque::new(),
        working: VecDeque::new(),
        scratch: vec![0; 64 * 1024].into(),
    };
    let mut ready = Ready::default();
    loop {
        let next = server.finish();
        server.poller.wait(&mut ready, next.map(|at| at.saturating_duration_since(Instant::now())))?;
        for key in ready.keys() {
            if key == listening {
                server.accept()?;
            } else if key == 0 {
                match control::order() {
                    Order::Report => control::report(&json!({ "accepted": server.accepted })),
                    Order::End => return Ok(()),
                }
            } else if server.read(key).is_err() {
                server.connections[key] = None;
            }
        }
        server.begin();
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        loop {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    self.accepted += 1;
                    let key = usize::try_from(socket.as_raw_fd()).map_err(io::Error::other)?;
                    self.poller.add(&socket, key, READ)?;
                    if self.connections.len() <= key {
                        self.connections.resize_with(key + 1, || None);
                    }
                    self.connections[key] =
                        Some(Connection { socket, number: self.accepted, input: Vec::new() });
                }
                Err(Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// An error is the end of the connection.
    fn read(&mut self, key: usize) -> io::Result<()> {
        let Some(Some(connection)) = self.connections.get_mut(key) else { return Ok(()) };
        match recv(&connection.socket, &mut *self.scratch, RecvFlags::empty()) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((read, _)) => connection.input.extend_from_slice(&self.scratch[..read]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        while let Some(length) = self.options.protocol.whole(&connection.input) {
            let mut message: Vec<u8> = connection.input.drain(..length).collect();
            self.options.protocol.answer(&mut message);
            let came = Instant::now();
            self.waiting.push_back(Job { key, connection: connection.number, message, came });
        }
        Ok(())
    }

    /// Takes into work what there are slots for. A slot that became free before this program saw it loses nothing.
    fn begin(&mut self) {
        while let (Some(free), Some(job)) = (self.free.front(), self.waiting.front()) {
            let done = job.came.max(*free) + Duration::from_millis(self.options.service);
            self.free.pop_front();
            self.working.extend(self.waiting.pop_front().map(|job| (done, job)));
        }
    }

    /// Sends back what is done. The moment at which the next one is.
    fn finish(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while self.working.front().is_some_and(|(done, _)| *done <= now) {
            let Some((done, job)) = self.working.pop_front() else { break };
            self.free.push_back(done);
            self.begin();
            let open = self.connections.get_mut(job.key);
            if let Some(place @ Some(_)) = open
                && let Some(connection) = place
                && connection.number == job.connection
                && send(&connection.socket, &job.message, SendFlags::NOSIGNAL) != Ok(job.message.len())
            {
                *place = None;
            }
        }
        self.working.front().map(|(done, _)| *done)
    }
}
