//! The clients of the demo: each connects, asks once, compares every byte of the reply, and closes.
//!
//! Invariant: no two requests of a run are the same, and many have the same id at the same time, so a reply
//! that went to the wrong client is always seen. Driven by the demo itself.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::echo::{HEADER, MAX_PAYLOAD, STACK};

/// Longest time for each step of a request.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at the progress.
const TICK: Duration = Duration::from_millis(100);
/// Ids that clients use. Fewer than clients, so that they collide.
const IDS: u64 = 8;
/// Bytes that follow the nonce, at most.
const MAX_FILLING: u64 = 200;

/// What there is to do.
#[derive(Debug)]
pub(super) struct Work {
    /// Where to connect.
    pub(super) target: SocketAddr,
    /// First half of every nonce.
    pub(super) run: u64,
    /// Second half of the nonces: one for each request.
    pub(super) numbers: Range<u64>,
    /// Clients at a time.
    pub(super) clients: u16,
    /// When nothing new is begun.
    pub(super) deadline: Instant,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// From the connect to the last byte of the reply, of every request that was answered right.
    pub(super) times: Vec<Duration>,
    /// Replies that were not what was asked for.
    pub(super) wrong: u64,
    /// Connects that failed because this host had no port left.
    pub(super) out_of_ports: u64,
    /// Requests without a whole reply for another reason.
    pub(super) failed: u64,
    /// The reason of one of those.
    pub(super) fault: Option<io::Error>,
}

impl Tally {
    /// Requests answered right.
    pub(super) fn right(&self) -> u64 {
        self.times.len() as u64
    }

    /// Requests begun.
    pub(super) fn asked(&self) -> u64 {
        self.right() + self.wrong + self.out_of_ports + self.failed
    }

    /// Counts `other` in.
    pub(super) fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.wrong += other.wrong;
        self.out_of_ports += other.out_of_ports;
        self.failed += other.failed;
        self.fault = self.fault.take().or(other.fault);
    }

    fn note(&mut self, result: io::Result<bool>, took: Duration) {
        match result {
            Ok(true) => self.times.push(took),
            Ok(false) => self.wrong += 1,
            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => self.out_of_ports += 1,
            Err(error) => {
                self.failed += 1;
                self.fault = Some(error);
            }
        }
    }
}

/// Does the work, and calls `progress` now and then with how much of it has begun.
///
/// # Errors
/// If there are not enough threads.
pub(super) fn drive(work: &Work, progress: &mut dyn FnMut(u64)) -> io::Result<Tally> {
    let next = AtomicU64::new(work.numbers.start);
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(usize::from(work.clients));
        for _ in 0..work.clients {
            let (sender, next) = (sender.clone(), &next);
            thread::Builder::new().stack_size(STACK).spawn_scoped(scope, move || {
                // Nobody receives if another client could not be started.
                let _ = sender.send(client(work, next));
            })?;
        }
        drop(sender);
        let mut total = Tally::default();
        loop {
            match receiver.recv_timeout(TICK) {
                Ok(tally) => total.add(tally),
                Err(RecvTimeoutError::Timeout) => {
                    progress(next.load(Relaxed).min(work.numbers.end) - work.numbers.start);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(total),
            }
        }
    })
}

/// One request after the other, each on its own connection.
fn client(work: &Work, next: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    loop {
        let number = next.fetch_add(1, Relaxed);
        let start = Instant::now();
        if number >= work.numbers.end || start >= work.deadline {
            return tally;
        }
        let result = ask(work.target, &request(work.run, number));
        tally.note(result, start.elapsed());
    }
}

/// A message that no other request of any run is.
fn request(run: u64, number: u64) -> Vec<u8> {
    let nonce = [run.to_be_bytes(), number.to_be_bytes()].concat();
    let filling = usize::try_from(number % (MAX_FILLING + 1)).unwrap_or(0);
    let payload: Vec<u8> = nonce.iter().copied().cycle().take(nonce.len() + filling).collect();
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let length = u32::try_from(payload.len()).unwrap_or(0);
    let id = number % IDS;
    [&length.to_be_bytes()[..], &id.to_be_bytes(), &payload].concat()
}

/// Whether `target` sends `request` back. What differs is not read to its end.
fn ask(target: SocketAddr, request: &[u8]) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(request)?;
    let mut reply = vec![0; request.len()];
    // The length stands in the header: where that is right, so many bytes will come.
    let (header, payload) = reply.split_at_mut(HEADER);
    stream.read_exact(header)?;
    if *header != request[..HEADER] {
        return Ok(false);
    }
    stream.read_exact(payload)?;
    Ok(*payload == request[HEADER..])
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn no_two_requests_are_the_same() {
        let all: HashSet<Vec<u8>> =
            (0..2).flat_map(|run| (0..1000).map(move |number| request(run, number))).collect();
        assert_eq!(all.len(), 2000);
        let ids: HashSet<&[u8]> = all.iter().map(|request| &request[4..HEADER]).collect();
        assert_eq!(ids.len() as u64, IDS);
        assert!(all.iter().all(|it| it[..4] == u32::try_from(it.len() - HEADER).unwrap().to_be_bytes()));
    }

    fn work(target: SocketAddr, deadline: Duration) -> Work {
        Work { target, run: 1, numbers: 5..25, clients: 3, deadline: Instant::now() + deadline }
    }

    #[test]
    fn a_close_instead_of_a_reply_is_a_failure() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let target = listener.local_addr().unwrap();
        thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                drop(stream);
            }
        });
        let tally = drive(&work(target, PATIENCE), &mut |_| {}).unwrap();
        assert_eq!((tally.asked(), tally.failed, tally.right(), tally.wrong), (20, 20, 0, 0));
        assert!(tally.fault.is_some());
    }

    #[test]
    fn nothing_is_begun_after_the_deadline() {
        let tally = drive(&work(([127, 0, 0, 1], 1).into(), Duration::ZERO), &mut |_| {}).unwrap();
        assert_eq!(tally.asked(), 0);
    }

    #[test]
    fn a_lack_of_ports_is_counted_apart() {
        let mut tally = Tally::default();
        tally.note(Err(io::Error::from_raw_os_error(libc::EADDRNOTAVAIL)), PATIENCE);
        tally.note(Err(io::Error::from_raw_os_error(libc::ECONNREFUSED)), PATIENCE);
        tally.note(Ok(true), PATIENCE);
        tally.note(Ok(false), PATIENCE);
        assert_eq!((tally.out_of_ports, tally.failed, tally.right(), tally.wrong), (1, 1, 1, 1));
        assert_eq!(tally.asked(), 4);
    }
}
