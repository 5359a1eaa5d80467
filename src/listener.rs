//! Takes clients in: waits for one, takes the permits, accepts, spawns its session.
//!
//! Invariant: a client is accepted only while there is a place for it; until then it waits in the kernel's
//! queue, where nothing is lost. At the cap the longest idle client is asked to close.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep};

use crate::events;
use crate::lifecycle::{Alarm, Phase, Watch};
use crate::net::{self, Access, Address, Inherited, Stream};
use crate::session::{self, IdleClients, Session};
use crate::wire::Wire;

/// Pauses after failed accepts: the first, and the longest. Out of descriptors, accept fails at once and for
/// ever; without a pause that is a spin.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// How long an evicted client may take to make room before the next one is asked.
const EVICTION: Duration = Duration::from_millis(100);

/// While clients come, a timer goes off so often. It is there to be the first one: a session whose timer is
/// earlier than all others costs a system call, by which tokio wakes its own driver.
const PULSE: Duration = Duration::from_millis(50);

/// What a listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; `localhost` stands for both families.
    pub addresses: Vec<Address>,
    /// For unix addresses.
    pub access: Access,
    /// Options of accepted connections.
    pub inherited: Inherited,
    /// Clients of this upstream at a time.
    pub max_clients: usize,
}

/// The places for clients.
#[derive(Clone, Debug)]
pub struct Places {
    /// Of the whole process.
    pub process: Arc<Semaphore>,
    /// Of one upstream.
    pub upstream: Arc<Semaphore>,
    /// The idle clients of all upstreams.
    pub idle: IdleClients,
    /// Whose turn it is to have a client of this socket make place: all workers hear of the one who waits, and
    /// one client is to go for it, not one for each worker.
    pub turn: Arc<Mutex<()>>,
}

/// One listening socket and what its clients share.
#[derive(Debug)]
pub struct Listener {
    /// The socket.
    pub socket: net::Listener,
    /// User ids allowed to connect to a unix socket; empty = all.
    pub uids: Vec<u32>,
    /// Places for its clients.
    pub places: Places,
    /// For its sessions.
    pub session: Arc<session::Shared>,
    /// Where to count and log.
    pub events: Arc<events::Upstream>,
}

/// The places of one client.
type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Listener {
    /// The same for the worker whose runtime is entered.
    ///
    /// # Errors
    /// Those of [`net::Listener::share`].
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self {
            socket: self.socket.share()?,
            uids: self.uids.clone(),
            places: self.places.clone(),
            session: self.session.clone(),
            events: self.events.clone(),
        })
    }

    /// Accepts until the front half drains; then takes in whoever waits already, and closes.
    pub async fn run(self, mut front: Watch) {
        let mut pause = PAUSE.0;
        let mut alarm = pin!(Alarm::default());
        let mut pulse = None;
        while front.phase() == Phase::Running {
            let mut accept = pin!(self.accept());
            // Cancel-safe: a client that is not accepted yet stays in the kernel's queue. The pulse cancels nothing:
            // a wait for a place would begin anew, and ask another idle client to make room.
            let accepted = poll_fn(|cx| {
                if let Poll::Ready(accepted) = accept.as_mut().poll(cx) {
                    return Poll::Ready(Some(accepted));
                }
                if alarm.as_mut().poll_reached(cx, pulse).is_ready() {
                    pulse = None;
                }
                front.poll_reached(cx, Phase::Draining).map(|()| None)
            });
            let Some(accepted) = accepted.await else { break };
            match accepted {
                Ok((stream, permits)) => {
                    pause = PAUSE.0;
                    pulse = Some(Instant::now() + PULSE);
                    self.serve(stream, permits);
                }
                Err(error) => {
                    self.events.accept_failed(&self.socket, &error);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        self.take_in_waiting(front).await;
    }

    async fn accept(&self) -> io::Result<(Stream, Permits)> {
        loop {
            self.socket.readable().await?;
            let Some((permits, _turn)) = self.permits().await else { continue };
            match self.socket.try_accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return Ok((accepted?, permits)),
            }
        }
    }

    /// Places for one client; idle ones give way for it. `None` if nobody waits. The turn is to be kept until
    /// that client is accepted.
    async fn permits(&self) -> Option<(Permits, Option<OwnedMutexGuard<()>>)> {
        let mut turn = None;
        // What was waited for is kept for the next look: given back, it would go to the next one in line,
        // and from there back here.
        let (mut process, mut upstream) = (None, None);
        loop {
            let take = |places: &Arc<Semaphore>| places.clone().try_acquire_owned().ok();
            process = process.or_else(|| take(&self.places.process));
            upstream = upstream.or_else(|| take(&self.places.upstream));
            let (kept, full, idle) = match (process.take(), upstream.take()) {
                (Some(process), Some(upstream)) => return Some(((process, upstream), turn)),
                (_, None) => (&mut upstream, &self.places.upstream, &self.session.idle),
                (None, Some(_)) => (&mut process, &self.places.process, &self.places.idle),
            };
            if !self.socket.is_asked() {
                return None;
            }
            if turn.is_none() {
                // Cancel-safe: only the place in line is lost.
                turn = Some(self.places.turn.clone().lock_owned().await);
                continue;
            }
            idle.evict_oldest();
            // Whichever comes first: a place, or the time to ask another one. Cancel-safe: a permit that is
            // dropped goes back.
            tokio::select! {
                permit = full.clone().acquire_owned() => *kept = permit.ok(),
                () = sleep(EVICTION) => {}
            }
        }
    }

    fn serve(&self, stream: Stream, permits: Permits) {
        if !self.uids.is_empty() {
            match stream.peer_uid() {
                Ok(uid) if self.uids.contains(&uid) => {}
                Ok(uid) => return self.events.client_forbidden(uid),
                Err(_) => return,
            }
        }
        let session = Session::new(Wire::from(stream), self.session.clone());
        tokio::spawn(session.run(permits));
    }

    /// Closing a listening socket resets who is still in its queue: they are taken in first.
    async fn take_in_waiting(&self, mut front: Watch) {
        loop {
            // Cancel-safe: permits that are not used go back.
            let permits = tokio::select! {
                permits = self.permits() => permits,
                () = front.reached(Phase::Stopped) => return,
            };
            match (permits, self.socket.accept_now()) {
                (Some((permits, _turn)), Ok(stream)) => self.serve(stream, permits),
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use super::*;
    use crate::lifecycle::Switch;
    use crate::pool::tests::world::{HEARTBEAT, World, message, protocol, settings, settle};
    use crate::protocol::Mode;
    use crate::session::ClientClose;
    use crate::wire::Budget;

    const SECOND: Duration = Duration::from_secs(1);

    struct Fixture {
        world: World,
        port: u16,
        front: Switch,
        task: tokio::task::JoinHandle<()>,
    }

    fn start(max_clients: usize, process: Arc<Semaphore>, idle: &IdleClients) -> Fixture {
        let world = World::new(settings(Mode::Multiplex, 0, 1));
        let front = Switch::new();
        let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
        let access = Access { mode: 0o600, uids: Vec::new() };
        let socket = net::Listener::bind(&address, &access, Inherited::default()).unwrap().remove(0);
        let Address::Tcp { port, .. } = *socket.address() else { unreachable!() };
        let session = Arc::new(session::Shared {
            settings: session::Settings {
                one_shot: false,
                client_close: ClientClose::Auto,
                client_read: 10 * SECOND,
                client_idle: 300 * SECOND,
                client_write: 30 * SECOND,
                client_progress: 5 * SECOND,
                max_per_client: 4,
                max_buffered: 64 << 10,
                max_reply_buffered: None,
            },
            protocol: protocol(),
            pool: world.pool.clone(),
            budget: Budget::new(1 << 20),
            idle: IdleClients::within(idle),
            front: front.watch(),
        });
        let upstream = Arc::new(Semaphore::new(max_clients));
        let places = Places { process, upstream, idle: idle.clone(), turn: Arc::default() };
        let events = world.events.clone();
        let listener = Listener { socket, uids: Vec::new(), places, session, events };
        let task = tokio::spawn(listener.run(front.watch()));
        Fixture { world, port, front, task }
    }

    /// A client between two requests.
    async fn idle_client(port: u16) -> TcpStream {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        client.write_all(&message(HEARTBEAT, 1, b"")).unwrap();
        sleep(SECOND / 10).await;
        client.read_exact(&mut [0; 5]).unwrap();
        client
    }

    #[tokio::test]
    async fn at_the_cap_nobody_gives_way_to_nobody() {
        let it = start(2, Arc::new(Semaphore::new(100)), &IdleClients::default());
        let _clients = [idle_client(it.port).await, idle_client(it.port).await];
        sleep(SECOND / 2).await;
        assert_eq!(it.world.events.clients_evicted.get(), 0);
    }

    #[tokio::test]
    async fn a_drain_takes_in_whom_the_reactor_has_not_seen_yet() {
        let it = start(10, Arc::new(Semaphore::new(100)), &IdleClients::default());
        sleep(SECOND / 10).await;
        let _client = TcpStream::connect(("127.0.0.1", it.port)).unwrap();
        it.front.drain();
        it.task.await.unwrap();
        settle().await;
        assert_eq!(it.world.events.clients_opened.get(), 1);
    }

    #[tokio::test]
    async fn at_the_cap_of_the_process_idle_clients_of_others_give_way() {
        let process = Arc::new(Semaphore::new(2));
        let idle = IdleClients::default();
        let (a, b) = (start(2, process.clone(), &idle), start(2, process, &idle));
        let _idle = [idle_client(a.port).await, idle_client(a.port).await];
        sleep(SECOND / 2).await;
        let _new: Vec<_> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", b.port)).unwrap()).collect();
        let start = Instant::now();
        while b.world.events.clients_opened.get() < 2 && start.elapsed() < 2 * SECOND {
            sleep(SECOND / 20).await;
        }
        assert_eq!(b.world.events.clients_opened.get(), 2);
    }

    #[tokio::test]
    async fn one_place_and_two_listeners_that_wait_for_it() {
        let process = Arc::new(Semaphore::new(1));
        let idle = IdleClients::default();
        let (a, b) = (start(2, process.clone(), &idle), start(2, process.clone(), &idle));
        let opened = || a.world.events.clients_opened.get() + b.world.events.clients_opened.get();
        let first = TcpStream::connect(("127.0.0.1", a.port)).unwrap();
        sleep(SECOND / 20).await;
        assert_eq!(opened(), 1);
        let _waiting = [a.port, b.port].map(|port| TcpStream::connect(("127.0.0.1", port)).unwrap());
        sleep(SECOND / 20).await;
        drop(first);
        sleep(SECOND).await;
        assert_eq!(opened(), 2, "a place is free and nobody gets it");
    }

    /// What a client has sent before it is asked to make room is no less a request because the reactor has not
    /// told of it yet.
    #[tokio::test]
    async fn an_idle_client_that_has_just_asked_is_not_evicted() {
        let idle = IdleClients::default();
        let it = start(10, Arc::new(Semaphore::new(100)), &idle);
        let mut client = idle_client(it.port).await;
        client.write_all(&message(HEARTBEAT, 2, b"")).unwrap();
        assert!(idle.evict_oldest());
        sleep(SECOND / 10).await;
        let mut answer = [0; 5];
        client.set_read_timeout(Some(SECOND)).unwrap();
        client.read_exact(&mut answer).unwrap();
        assert_eq!(it.world.events.clients_evicted.get(), 0);
    }

    /// Sends `message` without a pause and reads what comes as fast, until it is told to stop: in the end by itself,
    /// or broken code would hold up the one who tells it.
    fn flood(port: u16, message: &[u8], stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
        let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let mut reader = client.try_clone().unwrap();
        let (chunk, stop) = (message.repeat(4096), stop.clone());
        std::thread::spawn(move || {
            let mut scratch = vec![0; 1 << 16];
            while reader.read(&mut scratch).is_ok_and(|read| read > 0) {}
        });
        std::thread::spawn(move || {
            let start = Instant::now();
            while !stop.load(Relaxed) && start.elapsed() < 5 * SECOND && client.write_all(&chunk).is_ok() {}
            let _ = client.shutdown(std::net::Shutdown::Both);
        })
    }

    #[tokio::test]
    async fn a_client_whose_requests_are_refused_at_once_does_not_hold_up_the_others() {
        let it = start(10, Arc::new(Semaphore::new(100)), &IdleClients::default());
        it.world.back.drain();
        let stop = Arc::new(AtomicBool::new(false));
        let flood = flood(it.port, &message(0, 2, b""), &stop);
        let accepted = || it.world.events.accepted.get();
        while accepted() == 0 {
            sleep(SECOND / 200).await;
        }
        // How many of its requests are taken in between two turns of somebody else.
        let mut most = 0;
        while !flood.is_finished() && accepted() < 1 << 20 {
            let before = accepted();
            tokio::task::yield_now().await;
            most = most.max(accepted() - before);
        }
        assert!(most < 1 << 14, "{most} requests of one client in a row");
        stop.store(true, Relaxed);
    }
}
