//! The names among the endpoints of one pool, and what they stand for: every address of a name is an endpoint.
//!
//! Names are looked up at once and again from time to time, each on its own, so that one that hangs holds up no
//! other. A look-up that fails, or finds nothing, changes nothing: the last answer stays. Driven by the keeper.

use std::cmp::Reverse;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::balance::Endpoint;
use crate::events;
use crate::net::{Address, Answer, Found, Lookup};

/// After so long a look-up counts as failed. It goes on, and a late answer is as good as any.
const PATIENCE: Duration = Duration::from_secs(5);
/// The shortest time between two look-ups of a name that has an answer.
const PAUSE: Duration = Duration::from_secs(1);
/// Endpoints of one pool, whatever the answers say.
const MAX_ENDPOINTS: usize = 1024;

/// An answer in the making.
pub type Resolving = Pin<Box<dyn Future<Output = io::Result<Answer>> + Send>>;

/// Where answers come from: the network, or a script in tests.
pub trait Resolver: fmt::Debug + Send + Sync {
    /// Looks up what `name` stands for.
    fn resolve(&self, name: &Address) -> Resolving;
}

impl Resolver for Lookup {
    fn resolve(&self, name: &Address) -> Resolving {
        let name = name.clone();
        Box::pin(async move { Lookup.resolve(&name).await })
    }
}

/// What came of a look-up.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// What the names stand for has not changed.
    Same,
    /// It has.
    Changed,
    /// This name has no address yet.
    Missing {
        /// As the configuration has it.
        name: Address,
        /// What is wrong.
        fault: String,
        /// Until it is looked up again.
        retry_in: Duration,
    },
}

/// The endpoints of one pool as they are configured, with what is known of the names among them.
#[derive(Debug)]
pub(super) struct Names {
    endpoints: Vec<Endpoint>,
    known: Vec<Name>,
    /// Between two look-ups of a name.
    resolve: Duration,
    lookups: JoinSet<Looked>,
    resolver: Arc<dyn Resolver>,
    events: Arc<events::Upstream>,
}

/// How a look-up ended; one that takes too long hands on what is left of it.
type Looked = (io::Result<Answer>, Option<Resolving>);

#[derive(Debug)]
struct Name {
    address: Address,
    /// The last answer, sorted; empty = there was none yet.
    found: Vec<Found>,
    /// How long an answer holds, as was last known.
    holds: Option<Duration>,
    backoff: Backoff,
    /// When it is to be looked up next.
    due: Instant,
    /// When it was last looked up.
    asked: Option<Instant>,
    under_way: Option<AbortHandle>,
    /// The look-up that is under way has been counted as failed.
    late: bool,
}

impl Names {
    /// Names are looked up every `resolve`, or up to a tenth earlier.
    pub(super) fn new(
        endpoints: &[Endpoint],
        resolve: Duration,
        resolver: Arc<dyn Resolver>,
        events: Arc<events::Upstream>,
    ) -> Self {
        let lookups = JoinSet::new();
        let mut names = Self { endpoints: Vec::new(), known: Vec::new(), resolve, lookups, resolver, events };
        names.set(endpoints, resolve);
        names
    }

    /// Other endpoints, or another time between look-ups. A name that stays keeps its answer.
    pub(super) fn set(&mut self, endpoints: &[Endpoint], resolve: Duration) {
        let now = Instant::now();
        (self.endpoints, self.resolve) = (endpoints.to_vec(), resolve);
        let mut old = std::mem::take(&mut self.known);
        for endpoint in endpoints.iter().filter(|endpoint| endpoint.address.is_name()) {
            let name = match old.iter().position(|name| name.address == endpoint.address) {
                Some(at) => old.swap_remove(at),
                None => Name::new(endpoint.address.clone(), now),
            };
            self.known.push(name);
        }
        self.known.iter_mut().for_each(|name| name.due = name.due.min(now + resolve));
        old.into_iter().filter_map(|name| name.under_way).for_each(|under_way| under_way.abort());
    }

    /// Starts the look-ups that are due.
    pub(super) fn start_due(&mut self, now: Instant) {
        for name in self.known.iter_mut().filter(|name| name.is_idle() && name.due <= now) {
            let mut resolving = self.resolver.resolve(&name.address);
            let task = self.lookups.spawn(async move {
                match timeout(PATIENCE, &mut resolving).await {
                    Ok(looked) => (looked, None),
                    Err(_) => (Err(too_long()), Some(resolving)),
                }
            });
            (name.under_way, name.asked, name.late) = (Some(task), Some(now), false);
        }
    }

    /// When the next look-up is due.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.known.iter().filter(|name| name.is_idle()).map(|name| name.due).min()
    }

    /// Waits until a look-up ends. Cancel-safe: one that has ended stays in the set until it is taken out.
    pub(super) async fn next(&mut self) -> Heard {
        loop {
            let Some(done) = self.lookups.join_next_with_id().await else { return pending().await };
            if let Some(heard) = self.ended(done, Instant::now()) {
                return heard;
            }
        }
    }

    /// A connect to `address` failed: the name it belongs to is looked up soon.
    pub(super) fn hurry(&mut self, address: &Address, now: Instant) {
        for name in &mut self.known {
            if name.found.iter().any(|found| Address::from(found.address) == *address) {
                name.due = name.due.min(name.asked.map_or(now, |asked| now.max(asked + PAUSE)));
            }
        }
    }

    /// There are requests: what has no address yet is looked up soon.
    pub(super) fn shorten(&mut self, now: Instant) {
        for name in self.known.iter_mut().filter(|name| name.found.is_empty()) {
            name.backoff.shorten(now);
            name.due = name.backoff.until.map_or(name.due, |until| name.due.min(until));
        }
    }

    /// What all of it stands for now. An address that comes twice is what it is the first time.
    pub(super) fn endpoints(&self) -> Vec<Endpoint> {
        let mut all: Vec<Endpoint> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for endpoint in &self.endpoints {
            let found = self.known.iter().find(|name| name.address == endpoint.address);
            match found {
                Some(name) => all.extend(name.found.iter().map(|found| of(endpoint, found))),
                None => all.push(endpoint.clone()),
            }
        }
        all.retain(|endpoint| seen.insert(endpoint.address.clone()));
        all
    }

    /// The most that a pool has.
    pub(super) fn bound(&self, endpoints: &mut Vec<Endpoint>) {
        if endpoints.len() > MAX_ENDPOINTS {
            self.events.too_many_addresses(endpoints.len(), MAX_ENDPOINTS);
            endpoints.truncate(MAX_ENDPOINTS);
        }
    }

    /// Whether a name without an answer may have one any moment.
    pub(super) fn are_asked(&self) -> bool {
        self.known.iter().any(|name| name.found.is_empty() && name.under_way.is_some() && !name.late)
    }

    fn ended(&mut self, done: Result<(Id, Looked), JoinError>, now: Instant) -> Option<Heard> {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let place = self.known.iter().position(|name| name.is_looked_up_by(id))?;
        let (looked, left) = match done {
            Ok((_, (looked, left))) => (looked, left),
            Err(panic) => (Err(io::Error::other(panic)), None),
        };
        let name = &mut self.known[place];
        name.under_way = left.map(|left| self.lookups.spawn(async move { (left.await, None) }));
        let was_late = std::mem::replace(&mut name.late, name.under_way.is_some());
        match looked.and_then(Answer::or_not_found) {
            Ok(answer) => Some(self.answered(place, answer, now)),
            Err(_) if was_late => None,
            Err(fault) => Some(self.failed(place, &fault, now)),
        }
    }

    fn answered(&mut self, place: usize, answer: Answer, now: Instant) -> Heard {
        let name = &mut self.known[place];
        let Answer { mut found, ttl } = answer;
        found.sort_unstable_by_key(|found| (found.address, found.backup, Reverse(found.weight)));
        found.dedup_by_key(|found| found.address);
        (name.holds, name.backoff) = (ttl.or(name.holds), Backoff::default());
        name.due = now + pause(self.resolve, name.holds);
        self.events.resolved(&name.address);
        if name.found == found {
            return Heard::Same;
        }
        name.found = found;
        self.events.addresses_changed(&name.address, &List(&name.found));
        Heard::Changed
    }

    fn failed(&mut self, place: usize, fault: &io::Error, now: Instant) -> Heard {
        let name = &mut self.known[place];
        let missing = name.found.is_empty();
        let retry_in = if missing { name.backoff.fail(now, false) } else { pause(self.resolve, name.holds) };
        name.due = now + retry_in;
        self.events.resolve_failed(&name.address, fault, retry_in);
        if missing {
            Heard::Missing { name: name.address.clone(), fault: fault.to_string(), retry_in }
        } else {
            Heard::Same
        }
    }
}

impl Name {
    fn new(address: Address, now: Instant) -> Self {
        Self {
            address,
            found: Vec::new(),
            holds: None,
            backoff: Backoff::default(),
            due: now,
            asked: None,
            under_way: None,
            late: false,
        }
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_none()
    }

    fn is_looked_up_by(&self, id: Id) -> bool {
        self.under_way.as_ref().is_some_and(|task| task.id() == id)
    }
}

/// From one look-up to the next, as long as an answer holds; up to a tenth less, so that hosts do not ask together.
fn pause(resolve: Duration, holds: Option<Duration>) -> Duration {
    holds.map_or(resolve, |holds| holds.min(resolve)).mul_f64(1.0 - fastrand::f64() / 10.0).max(PAUSE)
}

/// The endpoint at an address of a name.
fn of(endpoint: &Endpoint, found: &Found) -> Endpoint {
    Endpoint {
        address: found.address.into(),
        weight: endpoint.weight.saturating_mul(found.weight),
        backup: endpoint.backup || found.backup,
    }
}

fn too_long() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {PATIENCE:?}"))
}

/// The first addresses of a name, for people.
struct List<'a>(&'a [Found]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let addresses: Vec<SocketAddr> = self.0.iter().map(|found| found.address).collect();
        for (place, address) in addresses.iter().take(SHOWN).enumerate() {
            write!(f, "{}{address}", if place == 0 { "" } else { ", " })?;
        }
        match addresses.len().checked_sub(SHOWN) {
            Some(more @ 1..) => write!(f, " and {more} more"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
