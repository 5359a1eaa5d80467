//! The endpoints as they come and go, and the settings as they change.
//!
//! Each endpoint has a place, which is its name in the queue. The place of one that is removed is given to another
//! one only when nothing speaks to it any more.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::Keeper;
use crate::connection::IdleLimit;
use crate::events::ConnectResult;
use crate::net;
use crate::pool::backoff::Backoff;
use crate::pool::balance::Endpoint;
use crate::pool::names::Heard;
use crate::pool::probe::Question;
use crate::pool::{Known, Orders, health, subset};
use crate::queue::rendezvous::hash;

/// What is known of one endpoint.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is known on its own")]
pub(super) struct Kept {
    pub(super) endpoint: Endpoint,
    /// Its address, for people.
    pub(super) name: Arc<str>,
    pub(super) backoff: Backoff,
    pub(super) idle_limit: Arc<IdleLimit>,
    /// Connections to it that sessions have for themselves.
    dedicated: Arc<AtomicUsize>,
    /// It is connected to because a probe was due.
    pub(super) probing: bool,
    /// It could not be connected to for a probe, because the pool is at its cap.
    pub(super) without_room: bool,
    /// It could not be connected to, and is not to be tried again yet.
    pub(super) paused: bool,
    /// Its connections had no room for the last question.
    pub(super) unasked: bool,
    /// It had a connection at the last look.
    pub(super) was_open: bool,
    /// Sockets and questions under way.
    pub(super) busy: usize,
    /// It is no endpoint any more.
    pub(super) removed: bool,
}

impl Kept {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            name: endpoint.address.to_string().into(),
            endpoint,
            backoff: Backoff::default(),
            idle_limit: Arc::default(),
            dedicated: Arc::default(),
            probing: false,
            without_room: false,
            paused: false,
            unasked: false,
            was_open: false,
            busy: 0,
            removed: false,
        }
    }
}

impl Keeper {
    /// Uses what the names stand for now, or this host's part of it.
    pub(super) fn look_at_names(&mut self) {
        let mut endpoints = self.names.endpoints();
        if endpoints.is_empty() {
            // What there is goes on until something is known of the names.
            return;
        }
        subset::choose(
            &mut endpoints,
            self.settings.balance.subset,
            hash(net::host().as_bytes()),
            self.core.events.name(),
        );
        self.names.bound(&mut endpoints);
        self.set_endpoints(&endpoints);
    }

    /// A look-up has ended.
    pub(super) fn heard(&mut self, heard: Heard) {
        match heard {
            Heard::Same => {}
            Heard::Changed => self.look_at_names(),
            Heard::Missing { name, fault, retry_in } => {
                self.core.events.connect_failed(&name, ConnectResult::Resolve, &fault, retry_in);
                if self.is_exhausted() {
                    self.core.queue.set_down(&format!("{name}: {fault}"));
                }
            }
        }
    }

    /// These are the endpoints now. Connections to others finish what they have.
    fn set_endpoints(&mut self, endpoints: &[Endpoint]) {
        for (place, kept) in self.kept.iter_mut().enumerate().filter(|(_, kept)| !kept.removed) {
            if !endpoints.iter().any(|it| it.address == kept.endpoint.address) {
                (kept.removed, kept.probing, kept.without_room, kept.paused) = (true, false, false, false);
                self.health.forget(place);
                self.core.queue.remove_endpoint(place);
            }
        }
        for endpoint in endpoints {
            let is_it = |kept: &Kept| !kept.removed && kept.endpoint.address == endpoint.address;
            match self.kept.iter().position(is_it) {
                Some(place) if self.kept[place].endpoint == *endpoint => {}
                Some(place) => {
                    self.core.queue.set_endpoint(place, endpoint.share());
                    self.kept[place].endpoint = endpoint.clone();
                }
                None => self.add(endpoint.clone()),
            }
        }
        self.publish();
    }

    fn add(&mut self, endpoint: Endpoint) {
        let free = self.kept.iter().position(|kept| kept.removed && kept.busy == 0);
        let place = free.unwrap_or(self.kept.len());
        self.core.queue.set_endpoint(place, endpoint.share());
        self.health.watch(place);
        let kept = Kept::new(endpoint);
        match self.kept.get_mut(place) {
            Some(free) => *free = kept,
            None => self.kept.push(kept),
        }
    }

    fn publish(&self) {
        let there = self.kept.iter().enumerate().filter(|(_, kept)| !kept.removed);
        let known = |(place, kept): (usize, &Kept)| Known {
            place,
            address: kept.endpoint.address.clone(),
            name: kept.name.clone(),
            weight: kept.endpoint.share().weight,
            dedicated: kept.dedicated.clone(),
            idle_limit: kept.idle_limit.clone(),
        };
        *self.core.endpoints() = there.map(known).collect();
    }

    /// The settings are others, or another pool has taken over.
    pub(super) fn obey(&mut self, orders: Orders) {
        let Orders { settings, superseded } = orders;
        self.shared = Arc::new(self.shared.retuned(settings.connection.clone()));
        let interval = settings.health.interval.filter(|_| !superseded);
        for place in self.health.retune(health::Settings { interval, ..settings.health.clone() }) {
            self.core.queue.set_healthy(place, true);
        }
        self.question = Question::new(&settings.health, &self.shared.protocol).map(Arc::new);
        self.settings = settings;
        self.names.set(&self.settings.endpoints, self.settings.balance.resolve);
        self.look_at_names();
        self.core.queue.shed(if superseded { 0 } else { self.settings.max_connections });
    }

    /// Where the cap was lowered, those of a superseded pool leave first.
    pub(super) fn shed_excess(&self) {
        if self.is_superseded() && self.cap.excess() > 0 {
            self.core.queue.shed(0);
        }
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.orders.borrow().superseded
    }
}
