//! The server of the comparison: sends back what comes, or the replies to it, on any number of connections, and counts
//! them. What it reads waits in the kernel until the reply before it is sent.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use clap::Parser;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, SocketFlags, accept_with, recv, send};
use serde_json::json;
use warmline_compare::address::Address;
use warmline_compare::control::{self, Order};
use warmline_compare::message::Protocol;
use warmline_compare::poll::{BOTH, Poller, READ, Ready};

/// Accepted in a row before others get their turn.
const ACCEPTS: usize = 64;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    listen: Address,
    /// Whose messages are to be answered; without it, what comes goes back as it is.
    #[arg(long)]
    protocol: Option<Protocol>,
}

struct Connection {
    socket: OwnedFd,
    /// The beginning of a message to be answered.
    input: Vec<u8>,
    /// What the peer has not taken yet.
    unsent: Vec<u8>,
}

struct Server {
    protocol: Option<Protocol>,
    listener: OwnedFd,
    poller: Poller,
    /// By descriptor.
    connections: Vec<Option<Connection>>,
    accepted: u64,
    scratch: Box<[u8]>,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let listener = options.listen.listen()?;
    let poller = Poller::new()?;
    let stdin = io::stdin();
    poller.add(&stdin, 0, READ)?;
    let listening = usize::try_from(listener.as_raw_fd()).map_err(io::Error::other)?;
    poller.add(&listener, listening, READ)?;
    let scratch = vec![0; 64 * 1024].into();
    let protocol = options.protocol;
    let mut server = Server { protocol, listener, poller, connections: Vec::new(), accepted: 0, scratch };
    let mut ready = Ready::default();
    loop {
        server.poller.wait(&mut ready, None)?;
        for key in ready.keys() {
            if key == listening {
                server.accept()?;
            } else if key == 0 {
                match control::order() {
                    Order::Report => control::report(&json!({ "accepted": server.accepted })),
                    Order::End => return Ok(()),
                }
            } else {
                server.serve(key);
            }
        }
    }
}

impl Server {
    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..ACCEPTS {
            match accept_with(&self.listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    self.accepted += 1;
                    let key = usize::try_from(socket.as_raw_fd()).map_err(io::Error::other)?;
                    self.poller.add(&socket, key, READ)?;
                    if self.connections.len() <= key {
                        self.connections.resize_with(key + 1, || None);
                    }
                    self.connections[key] =
                        Some(Connection { socket, input: Vec::new(), unsent: Vec::new() });
                }
                Err(Errno::CONNABORTED) => {}
                Err(Errno::AGAIN) => break,
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }

    fn serve(&mut self, key: usize) {
        if let Some(Some(connection)) = self.connections.get_mut(key)
            && connection.serve(key, self.protocol, &self.poller, &mut self.scratch).is_err()
        {
            self.connections[key] = None;
        }
    }
}

impl Connection {
    /// An error is the end of the connection.
    fn serve(
        &mut self,
        key: usize,
        protocol: Option<Protocol>,
        poller: &Poller,
        scratch: &mut [u8],
    ) -> io::Result<()> {
        let waited = !self.unsent.is_empty();
        if waited {
            let sent = attempt(send(&self.socket, &self.unsent, SendFlags::NOSIGNAL))?.unwrap_or(0);
            self.unsent.drain(..sent);
            if !self.unsent.is_empty() {
                return Ok(());
            }
            poller.change(&self.socket, key, READ)?;
        }
        let Some(read) =
            attempt(recv(&self.socket, &mut *scratch, RecvFlags::empty()).map(|(read, _)| read))?
        else {
            return Ok(());
        };
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(protocol) = protocol else { return self.send(key, &scratch[..read], poller) };
        self.input.extend_from_slice(&scratch[..read]);
        let mut done = 0;
        while let Some(length) = protocol.whole(&self.input[done..]) {
            protocol.answer(&mut self.input[done..done + length]);
            done += length;
        }
        let rest = self.input.split_off(done);
        let replies = std::mem::replace(&mut self.input, rest);
        self.send(key, &replies, poller)
    }

    fn send(&mut self, key: usize, replies: &[u8], poller: &Poller) -> io::Result<()> {
        let sent = attempt(send(&self.socket, replies, SendFlags::NOSIGNAL))?.unwrap_or(0);
        if sent < replies.len() {
            self.unsent.extend_from_slice(&replies[sent..]);
            poller.change(&self.socket, key, BOTH)?;
        }
        Ok(())
    }
}

/// `None` where it would block.
fn attempt(result: Result<usize, Errno>) -> io::Result<Option<usize>> {
    match result {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
