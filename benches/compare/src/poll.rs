//! A thin face of epoll: level-triggered, keyed by a number of the caller's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

/// Events taken at a time.
const BATCH: usize = 256;

/// What to wait for.
pub const READ: EventFlags = EventFlags::IN;
pub const BOTH: EventFlags = EventFlags::IN.union(EventFlags::OUT);

pub struct Poller(OwnedFd);

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Self(epoll::create(epoll::CreateFlags::CLOEXEC)?))
    }

    pub fn add(&self, fd: impl AsFd, key: usize, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.0, fd, EventData::new_u64(key as u64), interest)?)
    }

    pub fn change(&self, fd: impl AsFd, key: usize, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::modify(&self.0, fd, EventData::new_u64(key as u64), interest)?)
    }

    /// Waits, for ever without a `timeout`, and puts the keys of what is ready into `ready`.
    pub fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        ready.0.clear();
        let timeout =
            timeout.map(|t| Timespec { tv_sec: t.as_secs().cast_signed(), tv_nsec: t.subsec_nanos().into() });
        match epoll::wait(&self.0, spare_capacity(&mut ready.0), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

/// Room for the events of one wait.
pub struct Ready(Vec<Event>);

impl Default for Ready {
    fn default() -> Self {
        Self(Vec::with_capacity(BATCH))
    }
}

impl Ready {
    /// The keys; read and write until would-block tells what each is ready for.
    pub fn keys(&self) -> impl Iterator<Item = usize> + '_ {
        self.0.iter().map(|event| usize::try_from(event.data.u64()).unwrap_or(usize::MAX))
    }
}
