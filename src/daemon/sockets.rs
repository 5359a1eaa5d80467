//! The listening sockets of all upstreams: which of them are kept, bound and closed when the configuration changes.
//!
//! Invariant: what cannot be bound is known before anything is touched, and a socket whose address stays is never
//! closed, whichever upstream has it. Each worker accepts from every one of them.

use std::io;
use std::sync::Arc;

use tokio::task::{AbortHandle, JoinSet};

use super::Error;
use super::workers::Workers;
use crate::config::plan;
use crate::events::process;
use crate::lifecycle::Switch;
use crate::listener::{Aim, Listener, Target};
use crate::net::{self, Access, Address, Inherited};

/// The sockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    open: Vec<Socket>,
    /// They take in whoever waited, and close.
    closing: Vec<Socket>,
    tasks: JoinSet<()>,
}

/// A listening socket.
#[derive(Debug)]
struct Socket {
    place: Place,
    bound: Address,
    options: net::Options,
    /// Of each worker.
    aims: Vec<Aim>,
    open: Switch,
    tasks: Vec<AbortHandle>,
}

/// What the configuration says of a socket.
#[derive(Clone, Debug)]
struct Place {
    upstream: String,
    address: Address,
    /// How many like it are before it in the list: with port 0 there may be some.
    nth: usize,
    access: Access,
    inherited: Inherited,
}

/// Where the sockets of a new configuration come from, in the order of their upstreams.
#[derive(Debug)]
pub(super) struct Prepared(Vec<(Place, Origin)>);

#[derive(Debug)]
enum Origin {
    /// The index of an open one.
    Kept(usize),
    /// As each worker has it.
    Bound(Vec<net::Listener>),
}

impl Place {
    fn is_same(&self, other: &Self) -> bool {
        (&self.upstream, &self.address, self.nth) == (&other.upstream, &other.address, other.nth)
    }
}

impl Sockets {
    /// Binds what is not open yet.
    ///
    /// # Errors
    /// The first one that cannot be; nothing has changed then.
    pub(super) fn prepare(&self, upstreams: &[plan::Upstream], workers: &Workers) -> Result<Prepared, Error> {
        let mut prepared = Vec::new();
        let mut free: Vec<_> = (0..self.open.len()).collect();
        for upstream in upstreams {
            let addresses = &upstream.listener.addresses;
            for (index, address) in addresses.iter().enumerate() {
                let place = Place {
                    upstream: upstream.name.clone(),
                    address: address.clone(),
                    nth: addresses[..index].iter().filter(|other| *other == address).count(),
                    access: upstream.listener.access.clone(),
                    inherited: upstream.listener.inherited,
                };
                let kept: Vec<_> = free.extract_if(.., |it| self.open[*it].fits(&place)).collect();
                let bound = if kept.iter().any(|it| self.open[*it].place.is_same(&place)) {
                    Vec::new()
                } else {
                    let listening: Vec<_> = kept.iter().map(|it| self.open[*it].bound.clone()).collect();
                    bind(&place, &listening)?
                };
                prepared.extend(kept.into_iter().map(|it| (place.clone(), Origin::Kept(it))));
                for socket in bound {
                    prepared.push((place.clone(), Origin::Bound(share(socket, workers)?)));
                }
            }
        }
        Ok(Prepared(prepared))
    }

    /// Has the sockets be those that were prepared; closes the others. `target_of` knows whom the clients of an
    /// upstream are for, if it is there.
    pub(super) fn apply<'t>(
        &mut self,
        prepared: Prepared,
        target_of: impl Fn(&str) -> Option<&'t Arc<Target>>,
        workers: &Workers,
    ) {
        let mut before: Vec<_> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for (place, origin) in prepared.0 {
            let Some(target) = target_of(&place.upstream) else { continue };
            let socket = match origin {
                Origin::Kept(index) => before[index].take().map(|socket| socket.moved_to(place, target)),
                Origin::Bound(listeners) => self.start(place, listeners, target, workers),
            };
            self.open.extend(socket);
        }
        for mut socket in before.into_iter().flatten() {
            process::closing(&socket.place.upstream, &socket.bound);
            if let Some(target) = target_of(&socket.place.upstream) {
                socket.aim_at(target);
            }
            // With an aim it would keep a removed upstream.
            socket.aims.clear();
            socket.open.drain();
            self.closing.push(socket);
        }
    }

    fn start(
        &mut self,
        place: Place,
        listeners: Vec<net::Listener>,
        target: &Arc<Target>,
        workers: &Workers,
    ) -> Option<Socket> {
        let mut listeners = listeners.into_iter();
        let first = listeners.next()?;
        process::listening(&place.upstream, first.address());
        let (bound, options, open) = (first.address().clone(), first.options(), Switch::new());
        let first = Listener::new(first, target.clone());
        let others: Vec<_> = listeners.map(|socket| first.share(socket)).collect();
        let (mut aims, mut tasks) = (Vec::new(), Vec::new());
        for (listener, worker) in [first].into_iter().chain(others).zip(workers.all()) {
            aims.push(listener.aim());
            tasks.push(self.tasks.spawn_on(listener.run(open.watch()), worker));
        }
        Some(Socket { place, bound, options, aims, open, tasks })
    }

    /// Has all of them take in whoever waits, and close.
    pub(super) fn drain(&mut self) {
        self.closing.append(&mut self.open);
        self.closing.iter().for_each(|socket| socket.open.drain());
    }

    /// Has all of them close at once.
    pub(super) fn stop(&self) {
        self.closing.iter().for_each(|socket| socket.open.stop());
    }

    /// Waits until those are closed that are to be. Cancel-safe.
    pub(super) async fn closed(&mut self) {
        loop {
            self.closing.retain(|socket| !socket.tasks.iter().all(AbortHandle::is_finished));
            if self.closing.is_empty() || self.tasks.join_next().await.is_none() {
                return;
            }
        }
    }

    /// The upstream's name, and the address with the port that the kernel chose.
    pub(super) fn addresses(&self) -> Vec<(String, Address)> {
        self.open.iter().map(|socket| (socket.place.upstream.clone(), socket.bound.clone())).collect()
    }
}

impl Socket {
    /// Whether it is one of those that `place` stands for.
    fn fits(&self, place: &Place) -> bool {
        self.place.is_same(place) || place.address.covers(&self.bound)
    }

    fn moved_to(mut self, place: Place, target: &Arc<Target>) -> Self {
        let before = &self.place;
        if (before.access.mode, before.inherited) != (place.access.mode, place.inherited)
            && let Err(fault) = self.options.set(&place.access, place.inherited)
        {
            process::options_not_set(&self.bound, &fault);
        }
        if before.upstream != place.upstream {
            process::listening(&place.upstream, &self.bound);
        }
        self.place = place;
        self.aim_at(target);
        self
    }

    fn aim_at(&self, target: &Arc<Target>) {
        self.aims.iter().for_each(|aim| aim.set(target.clone()));
    }
}

/// Binds a place of which some sockets are `listening` already.
fn bind(place: &Place, listening: &[Address]) -> Result<Vec<net::Listener>, Error> {
    let address = &place.address;
    net::Listener::bind_beside(listening, address, &place.access, place.inherited)
        .map_err(|source| Error::bind(address, source))
}

/// The socket as each worker has it.
fn share(socket: net::Listener, workers: &Workers) -> io::Result<Vec<net::Listener>> {
    let mut all = vec![socket];
    for worker in workers.others() {
        let _entered = worker.enter();
        all.push(all[0].share()?);
    }
    Ok(all)
}
