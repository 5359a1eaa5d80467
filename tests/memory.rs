//! The bound on memory that `warmline check` prints, held against ten thousand clients that all stall at the
//! same moment, for each moment that costs memory.
//!
//! The daemon's peak of resident memory stays below the figure for exactly its configuration; a small request
//! is served meanwhile where no connection is kept busy; when the clients leave, all memory is given back.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what went wrong by failing")]

mod common;

use std::io::{self, Read as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{Daemon, Folder, PATIENCE, Plan, Wire, becomes, stream};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

const CLIENTS: usize = 10_000;
/// Descriptors of the test beside those of its clients.
const OTHER_FDS: u64 = 500;
const WIRE: Wire = Wire::Tagged;
const KIB: usize = 1 << 10;
/// The payload of a reply that is just small enough not to be counted.
const SMALL: usize = 4079;
/// Clients that connect before the daemon is seen to have taken them in.
const ACCEPT_QUEUE: usize = 1000;
/// The smallest segment size there is, in bytes: the kernel sizes a sender's buffer by it.
const SEGMENT: u32 = 88;

/// Ten thousand sockets are enough at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Where clients stall.
struct Moment {
    name: &'static str,
    wire: Wire,
    mode: &'static str,
    memory: &'static str,
    /// What each client sends, piece by piece: all of them have sent one before the first sends the next.
    pieces: Vec<Vec<u8>>,
    /// Clients that send before others come: so many requests may wait.
    at_a_time: usize,
    /// A unix socket counts what is on its way against its sender: what a client gets rid of is with warmline. A
    /// reply needs TCP, where the segment size keeps the kernel from taking all of it.
    unix: bool,
    /// Whether a connection is left for others.
    serves: bool,
    /// What the daemon must at least have come to, in MiB, or its clients have not stalled there.
    least: u64,
}

impl Moment {
    /// Clients that do not send the rest of a request.
    fn sending(name: &'static str, pieces: Vec<Vec<u8>>, least: u64) -> Self {
        let (wire, mode, memory, at_a_time) = (WIRE, "exclusive", "256MiB", CLIENTS);
        Self { name, wire, mode, memory, pieces, at_a_time, unix: true, serves: true, least }
    }

    /// Clients that do not read the replies to these requests.
    fn reading(name: &'static str, mode: &'static str, requests: Vec<u8>, least: u64) -> Self {
        Self { unix: false, mode, ..Self::sending(name, vec![requests], least) }
    }

    fn start(&self, folder: &Folder) -> Daemon {
        let clients = (CLIENTS + 100).to_string();
        let max_message = if self.wire == Wire::Line { "protocol.line" } else { "protocol.frame" };
        let mut plan = Plan::new(self.wire, self.mode, &stream::serve(self.wire))
            .global("limits.memory", &format!("{:?}", self.memory))
            .global("limits.max_clients", &clients)
            .set("max_clients", &clients)
            .set(&format!("{max_message}.max_message"), "\"4MiB\"")
            .set("pool.max_waiting", &CLIENTS.to_string())
            .set("pool.acquire_timeout", "\"10m\"");
        for timeout in ["request", "client_read", "client_progress", "client_write"] {
            plan = plan.set(&format!("timeouts.{timeout}"), "\"10m\"");
        }
        if self.unix {
            plan = plan.listen(&format!("unix:{}", folder.path().join("clients.sock").display()));
        }
        plan.start_ready()
    }

    /// Lets all clients stall, and holds the daemon's peak against what `check` says.
    #[track_caller]
    fn holds(&self) {
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        raise_fd_limit();
        let folder = Folder::new();
        let daemon = self.start(&folder);
        let clients = self.stall(&daemon);
        let used = daemon.metric("memory_used_bytes", &[]);
        if self.serves {
            self.call(&daemon);
        }
        let (peak, bound) = (daemon.peak_memory(), daemon.memory_bound());
        let Self { name, mode, memory, least, .. } = self;
        eprintln!("| {name} | {mode} | {memory} | {} | {} | {} |", used >> 20, peak >> 20, bound >> 20);
        drop(clients);
        becomes("clients", 0, || daemon.metric("client_connections", &[]));
        becomes("memory used", 0, || daemon.metric("memory_used_bytes", &[]));
        daemon.assert_conserved();
        assert!(peak <= bound, "{name}: {peak} bytes are more than {bound}");
        assert!(peak >> 20 >= *least, "{name}: {peak} bytes are so little that nothing has stalled");
    }

    fn stall(&self, daemon: &Daemon) -> Vec<Socket> {
        let mut clients = Vec::with_capacity(CLIENTS);
        while clients.len() < CLIENTS {
            let from = clients.len();
            for _ in 0..self.at_a_time.div_ceil(ACCEPT_QUEUE) {
                let some = self.at_a_time.min(ACCEPT_QUEUE);
                clients.extend((0..some).map(|_| connect(&daemon.address)));
                becomes("clients", clients.len() as u64, || daemon.metric("client_connections", &[]));
            }
            self.send(daemon, &clients[from..]);
        }
        daemon.wait_still();
        clients
    }

    fn send(&self, daemon: &Daemon, clients: &[Socket]) {
        for (number, piece) in self.pieces.iter().enumerate() {
            if number > 0 {
                daemon.wait_still();
            }
            let mut left = clients.iter().map(|client| (client, &piece[..])).collect::<Vec<_>>();
            let mut total = usize::MAX;
            // As far as it goes: until nobody gets rid of another byte although the daemon has had its turn.
            loop {
                left.retain_mut(|(client, bytes)| push(client, bytes));
                let now = left.iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
                if now == 0 || now == total {
                    break;
                }
                total = now;
                daemon.wait_still();
            }
        }
        if self.at_a_time < CLIENTS {
            becomes("requests in flight", 0, || daemon.metric("requests_in_flight", &[]));
        }
    }

    /// A client that has its small request answered.
    fn call(&self, daemon: &Daemon) {
        let client = Socket::new(domain(&daemon.address), Type::STREAM, None).unwrap();
        client.connect(&address(&daemon.address)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = &client;
        if self.wire == Wire::Line {
            client.write_all(b"100\n").unwrap();
            let mut reply = [0; 101];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(reply[100], b'\n');
        } else {
            client.write_all(&stream::request(self.wire, 100, 100, false)).unwrap();
            stream::expect_reply(client, self.wire, 100);
        }
    }
}

/// Sends what goes. True if something is left.
fn push(client: &Socket, bytes: &mut &[u8]) -> bool {
    while !bytes.is_empty() {
        match client.send(bytes) {
            Ok(sent) => *bytes = &bytes[sent..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) => panic!("a client was cut: {error}"),
        }
    }
    false
}

fn domain(address: &str) -> Domain {
    if address.starts_with("unix:") { Domain::UNIX } else { Domain::IPV4 }
}

fn address(text: &str) -> SockAddr {
    match text.strip_prefix("unix:") {
        Some(path) => SockAddr::unix(path).unwrap(),
        None => text.parse::<std::net::SocketAddr>().unwrap().into(),
    }
}

/// A client that reads nothing and leaves with a reset.
fn connect(to: &str) -> Socket {
    let socket = Socket::new(domain(to), Type::STREAM, None).unwrap();
    if domain(to) == Domain::UNIX {
        socket.set_send_buffer_size(16 * KIB).unwrap();
    } else {
        socket.set_recv_buffer_size(1).unwrap();
        socket.set_tcp_mss(SEGMENT).unwrap();
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    socket.connect(&address(to)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn raise_fd_limit() {
    let needed = CLIENTS as u64 + OTHER_FDS;
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let maximum = maximum.map(|maximum| maximum.max(needed));
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
        .unwrap_or_else(|error| panic!("{needed} file descriptors are needed: raise `ulimit -Hn`: {error}"));
}

/// Two pieces: all but the last byte, in a first piece that makes the buffer grow late.
fn all_but_the_last(bytes: &[u8]) -> Vec<Vec<u8>> {
    let first = (bytes.len() - 1).min(4094);
    vec![bytes[..first].to_vec(), bytes[first..bytes.len() - 1].to_vec()]
}

fn request(size: usize, reply: usize) -> Vec<u8> {
    stream::request(WIRE, size, reply as u64, false)
}

#[test]
fn a_small_request_but_for_a_byte() {
    let pieces = all_but_the_last(&request(4096, 0));
    Moment::sending("4095 bytes of a request of 4096", pieces, 40).holds();
}

#[test]
fn a_stored_request_but_for_a_byte() {
    let pieces = all_but_the_last(&request(64 * KIB, 0));
    Moment::sending("all but a byte of a request of 64 KiB", pieces, 192).holds();
}

#[test]
fn a_request_in_parts_that_the_server_does_not_read() {
    let pieces = vec![stream::request(WIRE, 264 * KIB, 0, true)];
    Moment::sending("a request of 264 KiB, not read by the server", pieces, 128).holds();
}

#[test]
fn half_a_line() {
    let moment = Moment::sending("6000 bytes of a line", all_but_the_last(&[b'x'; 6001]), 78);
    Moment { wire: Wire::Line, ..moment }.holds();
}

#[test]
fn small_replies() {
    let requests = request(100, SMALL).repeat(100);
    Moment::reading("replies of 4 KiB unread, more asked for", "exclusive", requests, 120).holds();
}

#[test]
fn many_small_replies() {
    let requests = request(100, SMALL).repeat(100);
    let moment = Moment::reading("32 replies of 4 KiB unread, more asked for", "multiplex", requests, 800);
    Moment { at_a_time: 250, ..moment }.holds();
}

#[test]
fn stored_replies_and_a_small_budget() {
    let moment = Moment::reading("a reply of 60 KiB unread", "exclusive", request(100, 60 * KIB), 36);
    Moment { memory: "16MiB", serves: false, ..moment }.holds();
}

/// The worst of all: what is free is used up as well as what is counted.
#[test]
fn small_replies_and_a_stored_one() {
    let small = request(100, SMALL);
    let requests = [small.repeat(until_one_is_unread()), request(100, 60 * KIB), small.repeat(50)].concat();
    let name = "replies of 4 KiB and one of 60 KiB unread, more asked for";
    Moment { serves: false, ..Moment::reading(name, "exclusive", requests, 150) }.holds();
}

/// The number of small replies of which the kernel does not take the last one.
fn until_one_is_unread() -> usize {
    let moment = Moment::reading("", "exclusive", request(100, SMALL).repeat(100), 0);
    let daemon = moment.start(&Folder::new());
    let client = connect(&daemon.address);
    moment.send(&daemon, &[client.try_clone().unwrap()]);
    daemon.wait_still();
    // One more was asked for, and then no other.
    usize::try_from(daemon.metric("accepted_total", &[])).unwrap() - 1
}

/// Its own connection waits for a client that does not read.
#[test]
fn replies_in_parts_exclusive() {
    let moment = Moment::reading("a reply of 300 KiB unread", "exclusive", request(100, 300 * KIB), 24);
    Moment { serves: false, ..moment }.holds();
}

#[test]
fn replies_in_parts_multiplex() {
    let moment = Moment::reading("a reply of 300 KiB unread", "multiplex", request(100, 300 * KIB), 256);
    Moment { serves: false, ..moment }.holds();
}

/// Replies whose length nobody knows give back what they hold of the budget before they ask for more, or they
/// would wait for each other: so each connection may hold half a message that is not counted.
#[test]
fn growing_replies_that_wait_for_memory() {
    const SIZE: usize = (16 << 20) - 2;
    let daemon = Plan::new(Wire::Line, "exclusive", &stream::serve(Wire::Line))
        .global("limits.memory", "\"64MiB\"")
        .global("limits.max_clients", "100")
        .set("timeouts.request", "\"10m\"")
        .start_ready();
    let clients = (0..32).map(|_| stream::connect(&daemon.address)).collect::<Vec<_>>();
    for mut client in &clients {
        SockRef::from(client).set_linger(Some(Duration::ZERO)).unwrap();
        client.write_all(format!("endless {SIZE}\n").as_bytes()).unwrap();
    }
    becomes("waiting for memory", true, || daemon.metric("memory_waits_total", &[]) >= 28);
    daemon.wait_still();
    let (peak, bound) = (daemon.peak_memory(), daemon.memory_bound());
    eprintln!(
        "| a line of 16 MiB without its end | exclusive | 64MiB | | {} | {} |",
        peak >> 20,
        bound >> 20
    );
    assert!(peak <= bound, "{peak} bytes are more than {bound}");
    drop(clients);
    becomes("clients", 0, || daemon.metric("client_connections", &[]));
    daemon.assert_conserved();
}
