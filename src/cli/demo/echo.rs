//! The server of the demo: sends every message back. Plain threads, one connection at a time on each.
//!
//! A message is 4 bytes of length, 8 bytes of id, and so many bytes as the length says; big-endian. Started
//! by the demo itself.

use std::io::{self, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use socket2::{Domain, SockRef, Socket, Type};

/// Bytes before the payload of a message.
pub(super) const HEADER: usize = 12;
/// The longest payload, in bytes.
pub(super) const MAX_PAYLOAD: usize = 4096;
/// Of each thread, in bytes.
pub(super) const STACK: usize = 128 * 1024;
/// Clients that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// What is done to a reply before it is sent: the number of the request, counted from 0, and the whole
/// message. An honest server does nothing.
pub(super) type Tamper = fn(u64, &mut [u8]);

/// A server at work. It accepts no more when it is dropped.
#[derive(Debug)]
pub(super) struct Echo {
    shared: Arc<Shared>,
    address: SocketAddr,
}

#[derive(Debug)]
struct Shared {
    listener: TcpListener,
    accepted: AtomicU64,
    served: AtomicU64,
    tamper: Tamper,
}

impl Echo {
    /// Serves on a free port of this host, up to `threads` connections at a time.
    ///
    /// # Errors
    /// If there is no port or no thread.
    pub(super) fn start(threads: usize, tamper: Tamper) -> io::Result<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        let (accepted, served) = (AtomicU64::new(0), AtomicU64::new(0));
        let echo = Self { shared: Arc::new(Shared { listener, accepted, served, tamper }), address };
        for _ in 0..threads {
            let shared = echo.shared.clone();
            thread::Builder::new().stack_size(STACK).spawn(move || shared.work())?;
        }
        Ok(echo)
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted.
    pub(super) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Relaxed)
    }

    /// Requests read whole.
    pub(super) fn served(&self) -> u64 {
        self.shared.served.load(Relaxed)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Wakes every thread that waits for a client; without it they wait until the process ends.
        let _ = SockRef::from(&self.shared.listener).shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn work(&self) {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    self.accepted.fetch_add(1, Relaxed);
                    // A client that fails counts its failure itself.
                    let _ = self.serve(&stream);
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return,
            }
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut input, mut output) = (BufReader::new(stream), stream);
        let mut message = Vec::new();
        loop {
            let mut header = [0; HEADER];
            input.read_exact(&mut header)?;
            let [a, b, c, d, ..] = header;
            let payload = u32::from_be_bytes([a, b, c, d]) as usize;
            if payload > MAX_PAYLOAD {
                return Err(io::ErrorKind::InvalidData.into());
            }
            message.clear();
            message.extend_from_slice(&header);
            message.resize(HEADER + payload, 0);
            input.read_exact(&mut message[HEADER..])?;
            let nth = self.served.fetch_add(1, Relaxed);
            (self.tamper)(nth, &mut message);
            output.write_all(&message)?;
        }
    }
}
