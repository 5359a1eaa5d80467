//! Takes clients in: waits for one, takes the permits, accepts, spawns its session.
//!
//! Invariant: a client is accepted only while there is a place for it; until then it waits in the kernel's
//! queue, where nothing is lost. At the cap the longest idle client is asked to close. Whom clients are for may
//! change: from then on nobody is taken in for who had the socket before.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};

use crate::events;
use crate::lifecycle::{Alarm, Permit, Permits, Phase, Watch};
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
    pub process: Arc<Permits>,
    /// Of one upstream.
    pub upstream: Arc<Permits>,
    /// The idle clients of all upstreams.
    pub idle: IdleClients,
}

/// Whom the clients of a socket are for.
#[derive(Debug)]
pub struct Target {
    /// User ids allowed to connect to a unix socket; empty = all.
    pub uids: Vec<u32>,
    /// Places for clients.
    pub places: Places,
    /// For their sessions.
    pub session: Arc<session::Shared>,
}

/// What a listener is told about its target, to tell it of another one.
#[derive(Clone, Debug)]
pub struct Aim(Arc<std::sync::Mutex<Arc<Target>>>);

/// One listening socket, and whom its clients are for.
#[derive(Debug)]
pub struct Listener {
    socket: net::Listener,
    aim: Aim,
    /// Whose turn it is to have a client of this socket make place: all workers hear of the one who waits, and
    /// one client is to go for it, not one for each worker.
    turn: Arc<Mutex<()>>,
}

/// The places of one client, which were taken for a target.
struct Taken {
    permits: (Permit, Permit),
    target: Arc<Target>,
    /// To be kept until the client is accepted.
    _turn: Option<OwnedMutexGuard<()>>,
}

impl Aim {
    fn new(target: Arc<Target>) -> Self {
        Self(Arc::new(std::sync::Mutex::new(target)))
    }

    /// Has clients be taken in for `target` from now on.
    pub fn set(&self, target: Arc<Target>) {
        let before = std::mem::replace(&mut *self.lock(), target);
        // With it a whole pool may end: not under the lock.
        drop(before);
    }

    fn now(&self) -> Arc<Target> {
        self.lock().clone()
    }

    fn is(&self, target: &Arc<Target>) -> bool {
        Arc::ptr_eq(&self.lock(), target)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Target>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Takes the clients of `socket` in for `target`.
    pub fn new(socket: net::Listener, target: Arc<Target>) -> Self {
        Self { socket, aim: Aim::new(target), turn: Arc::default() }
    }

    /// The same socket as another worker has it, with an aim of its own.
    #[must_use]
    pub fn share(&self, socket: net::Listener) -> Self {
        Self { socket, aim: Aim::new(self.aim.now()), turn: self.turn.clone() }
    }

    /// By which its target may be changed.
    pub fn aim(&self) -> Aim {
        self.aim.clone()
    }

    /// Accepts until `open` drains; then takes in whoever waits already, and closes.
    pub async fn run(self, mut open: Watch) {
        let mut pause = PAUSE.0;
        let mut alarm = pin!(Alarm::default());
        let mut pulse = None;
        while open.phase() == Phase::Running {
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
                open.poll_reached(cx, Phase::Draining).map(|()| None)
            });
            let Some(accepted) = accepted.await else { break };
            match accepted {
                Ok(()) => {
                    pause = PAUSE.0;
                    pulse = Some(Instant::now() + PULSE);
                }
                Err(error) => {
                    self.aim.now().events().accept_failed(&self.socket, &error);
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
        self.take_in_waiting(open).await;
    }

    async fn accept(&self) -> io::Result<()> {
        loop {
            self.socket.readable().await?;
            let Some(taken) = self.places().await else { continue };
            match self.take_in(taken, net::Listener::try_accept) {
                Ok(false) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                accepted => return accepted.map(drop),
            }
        }
    }

    /// Places for one client; idle ones give way for it. `None` if nobody waits.
    async fn places(&self) -> Option<Taken> {
        let mut target = self.aim.now();
        let mut turn = None;
        // What was waited for is kept for the next look: given back, it would go to the next one in line,
        // and from there back here.
        let (mut process, mut upstream) = (None, None);
        loop {
            if !self.aim.is(&target) {
                (target, upstream) = (self.aim.now(), None);
            }
            let places = &target.places;
            process = process.or_else(|| places.process.try_take());
            upstream = upstream.or_else(|| places.upstream.try_take());
            let (kept, full, idle) = match (process.take(), upstream.take()) {
                (Some(process), Some(upstream)) => {
                    return Some(Taken { permits: (process, upstream), target, _turn: turn });
                }
                (_, None) => (&mut upstream, &places.upstream, &target.session.idle),
                (None, Some(_)) => (&mut process, &places.process, &places.idle),
            };
            if !self.socket.is_asked() {
                return None;
            }
            if turn.is_none() {
                // Cancel-safe: only the place in line is lost.
                turn = Some(self.turn.clone().lock_owned().await);
                continue;
            }
            idle.evict_oldest();
            // Whichever comes first: a place, or the time to ask another one. Cancel-safe: a permit that is
            // dropped goes back.
            tokio::select! {
                permit = full.take() => *kept = Some(permit),
                () = sleep(EVICTION) => {}
            }
        }
    }

    /// Accepts a client, unless it is for another target than that with the places: false. Under the lock: once the
    /// target has changed, nobody is on his way to the one before.
    fn take_in(
        &self,
        taken: Taken,
        accept: impl FnOnce(&net::Listener) -> io::Result<Stream>,
    ) -> io::Result<bool> {
        let target = self.aim.lock();
        if !Arc::ptr_eq(&target, &taken.target) {
            return Ok(false);
        }
        let stream = accept(&self.socket)?;
        if !self.socket.is_tcp() && !target.uids.is_empty() {
            match stream.peer_uid() {
                Ok(uid) if target.uids.contains(&uid) => {}
                Ok(uid) => {
                    target.events().client_forbidden(uid);
                    return Ok(true);
                }
                Err(_) => return Ok(true),
            }
        }
        let session = Session::new(Wire::from(stream), target.session.clone());
        tokio::spawn(session.run(taken.permits));
        Ok(true)
    }

    /// Closing a listening socket resets who is still in its queue: they are taken in first.
    async fn take_in_waiting(&self, mut open: Watch) {
        loop {
            // Cancel-safe: permits that are not used go back.
            let taken = tokio::select! {
                taken = self.places() => taken,
                () = open.reached(Phase::Stopped) => return,
            };
            let Some(taken) = taken else { return };
            if self.take_in(taken, net::Listener::accept_now).is_err() {
                return;
            }
        }
    }
}

impl Target {
    fn events(&self) -> &events::Upstream {
        self.session.pool.events()
    }
}

#[cfg(test)]
mod tests;
