//! Takes clients in: waits for one, takes the permits, accepts, spawns its session.
//!
//! Invariant: a client is accepted only while there is a place for it; until then it waits in the kernel's
//! queue, where nothing is lost. At the cap the longest idle client is asked to close.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::events;
use crate::lifecycle::{Phase, Watch};
use crate::net::{self, Access, Address, Stream};
use crate::session::{self, Session};
use crate::wire::Wire;

/// Pauses after failed accepts: the first, and the longest. Out of descriptors, accept fails at once and for
/// ever; without a pause that is a spin.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));
/// How long an evicted client may take to make room before the next one is asked.
const EVICTION: Duration = Duration::from_millis(100);

/// What a listener needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where to listen; `localhost` stands for both families.
    pub addresses: Vec<Address>,
    /// For unix addresses.
    pub access: Access,
    /// `TCP_NODELAY` of accepted connections.
    pub nodelay: bool,
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

type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Listener {
    /// Accepts until the front half drains; then takes in whoever waits already, and closes.
    pub async fn run(self, mut front: Watch) {
        let mut pause = PAUSE.0;
        while front.phase() == Phase::Running {
            // Cancel-safe: a client that is not accepted yet stays in the kernel's queue.
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = front.reached(Phase::Draining) => break,
            };
            match accepted {
                Ok((stream, permits)) => {
                    pause = PAUSE.0;
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
            let permits = self.permits().await;
            match self.socket.try_accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return Ok((accepted?, permits)),
            }
        }
    }

    /// Places for one client; idle ones give way for it.
    async fn permits(&self) -> Permits {
        loop {
            let process = self.places.process.clone().try_acquire_owned();
            let upstream = self.places.upstream.clone().try_acquire_owned();
            if let (Ok(process), Ok(upstream)) = (process, upstream) {
                return (process, upstream);
            }
            self.session.idle.evict_oldest();
            // Whichever comes first: a place, or the time to ask another one. Cancel-safe: a permit that is
            // dropped goes back.
            tokio::select! {
                _ = self.places.upstream.acquire() => {}
                () = sleep(EVICTION) => {}
            }
            // The upstream may have had places all along, and the process none.
            tokio::select! {
                _ = self.places.process.acquire() => {}
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
        tokio::spawn(async move {
            session.run().await;
            drop(permits);
        });
    }

    /// Closing a listening socket resets who is still in its queue: they are taken in first.
    async fn take_in_waiting(&self, mut front: Watch) {
        loop {
            // Cancel-safe: permits that are not used go back.
            let permits = tokio::select! {
                permits = self.permits() => permits,
                () = front.reached(Phase::Stopped) => return,
            };
            match self.socket.try_accept() {
                Ok(stream) => self.serve(stream, permits),
                Err(_) => return,
            }
        }
    }
}
