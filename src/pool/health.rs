//! Which endpoints are to be trusted: what probes find, and for how long one that fails in traffic is left out.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

/// How endpoints are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What is tried.
    pub probe: Probe,
    /// Between two probes of an endpoint; `None` = there are none.
    pub interval: Option<Duration>,
    /// For the answer to a probe.
    pub timeout: Duration,
    /// Probes in a row that fail until the endpoint is left out; at least 1.
    pub unhealthy_after: u32,
    /// Probes in a row that succeed until it is taken back; at least 1.
    pub healthy_after: u32,
    /// Failures in a row seen in traffic until it is ejected; at least 1.
    pub eject_after: u32,
    /// For how long the first time.
    pub eject_for: Duration,
}

/// What shows that an endpoint is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It can be connected to.
    Connect,
    /// It answers a request.
    Ask {
        /// As a client would send it.
        request: Bytes,
        /// What its reply begins with, as a client would read it.
        expect: Bytes,
    },
}

/// The longest ejection.
const LONGEST: Duration = Duration::from_secs(60);

/// All endpoints of a pool, as its keeper watches them.
#[derive(Debug)]
pub(super) struct Health {
    settings: Settings,
    endpoints: Vec<Watched>,
}

#[derive(Clone, Debug)]
struct Watched {
    /// When the next probe is due.
    probe_at: Option<Instant>,
    /// Probes of the same result in a row.
    ok: u32,
    failed: u32,
    healthy: bool,
    /// While it is ejected: until when.
    ejected: Option<Instant>,
    /// For how long it was ejected last.
    last: Duration,
    /// Since when it has not been failing, if it is not.
    fine_since: Option<Instant>,
}

impl Health {
    /// None is watched yet.
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, endpoints: Vec::new() }
    }

    /// The same endpoints under other settings. Returns those that were unhealthy, if nothing would show any more that
    /// they are well again.
    pub(super) fn retune(&mut self, settings: Settings) -> Vec<usize> {
        let mut forgiven = Vec::new();
        if settings.interval.is_none() {
            let unhealthy = self.endpoints.iter_mut().enumerate().filter(|(_, watched)| !watched.healthy);
            forgiven.extend(unhealthy.map(|(place, watched)| {
                (watched.healthy, watched.failed) = (true, 0);
                place
            }));
        }
        if settings.interval != self.settings.interval {
            let first = |interval: Duration| Instant::now() + interval.mul_f64(fastrand::f64());
            self.endpoints.iter_mut().for_each(|watched| watched.probe_at = settings.interval.map(first));
        }
        self.settings = settings;
        forgiven
    }

    /// There is an endpoint at this place of which nothing is known yet; places without a gap.
    pub(super) fn watch(&mut self, place: usize) {
        let now = Instant::now();
        let watched = Watched {
            // Many pools may start at the same moment.
            probe_at: self.settings.interval.map(|interval| now + interval.mul_f64(fastrand::f64())),
            ok: 0,
            failed: 0,
            healthy: true,
            ejected: None,
            last: Duration::ZERO,
            fine_since: Some(now),
        };
        match self.endpoints.get_mut(place) {
            Some(free) => *free = watched,
            None => self.endpoints.push(watched),
        }
    }

    /// The endpoint at this place is one no longer.
    pub(super) fn forget(&mut self, place: usize) {
        (self.endpoints[place].probe_at, self.endpoints[place].ejected) = (None, None);
    }

    /// Whether a probe is due; the next one is, an interval later.
    pub(super) fn is_due(&mut self, endpoint: usize, now: Instant) -> bool {
        let (watched, interval) = (&mut self.endpoints[endpoint], self.settings.interval);
        let due = watched.probe_at.is_some_and(|at| at <= now);
        if due {
            watched.probe_at = interval.map(|interval| now + interval.mul_f64(0.9 + fastrand::f64() / 5.0));
        }
        due
    }

    /// Notes what a probe found; returns whether the endpoint is healthy if that has changed.
    pub(super) fn note(&mut self, endpoint: usize, well: bool) -> Option<bool> {
        let (watched, settings) = (&mut self.endpoints[endpoint], &self.settings);
        (watched.ok, watched.failed) =
            if well { (watched.ok.saturating_add(1), 0) } else { (0, watched.failed.saturating_add(1)) };
        let enough = if well {
            watched.ok >= settings.healthy_after
        } else {
            watched.failed >= settings.unhealthy_after
        };
        (enough && watched.healthy != well).then(|| {
            watched.healthy = well;
            well
        })
    }

    /// Notes whether what was heard of an endpoint last was a failure. One that has been fine for as long as it was
    /// ejected has a clean record.
    pub(super) fn note_failing(&mut self, endpoint: usize, failing: bool, now: Instant) {
        let watched = &mut self.endpoints[endpoint];
        if failing {
            let fine_since = watched.fine_since.take();
            if fine_since.is_some_and(|since| now - since >= watched.last) {
                watched.last = Duration::ZERO;
            }
        } else {
            watched.fine_since.get_or_insert(now);
        }
    }

    /// Begins an ejection; returns how long it lasts: twice as long as the last one, and up to a quarter less, so
    /// that not all come back together.
    pub(super) fn eject(&mut self, endpoint: usize, now: Instant) -> Option<Duration> {
        let watched = &mut self.endpoints[endpoint];
        if watched.ejected.is_some() {
            return None;
        }
        let first = self.settings.eject_for;
        watched.last = (2 * watched.last).clamp(first, LONGEST.max(first));
        let duration = watched.last.mul_f64(1.0 - fastrand::f64() / 4.0);
        watched.ejected = Some(now + duration);
        Some(duration)
    }

    /// Ends an ejection whose time is up.
    pub(super) fn is_readmitted(&mut self, endpoint: usize, now: Instant) -> bool {
        self.endpoints[endpoint].ejected.take_if(|until| *until <= now).is_some()
    }

    /// When there is something to do next.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.endpoints.iter().flat_map(|watched| [watched.probe_at, watched.ejected]).flatten().min()
    }
}
