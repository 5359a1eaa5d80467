//! What the admin endpoint and the log see of the daemon.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::upstream::View;
use crate::admin::{self, Snapshot, Source};
use crate::events::process::{self, Reloads};
use crate::lifecycle::{Phase, Watch};
use crate::net;
use crate::pool::EndpointFigures;
use crate::wire::Budget;

/// The state of the daemon.
#[derive(Debug)]
pub(super) struct State {
    upstreams: Mutex<Vec<View>>,
    pub(super) reloads: Arc<Reloads>,
    budget: Budget,
    max_fds: u64,
    running: Watch,
}

impl State {
    /// Ready as long as `running` is.
    pub(super) fn new(budget: Budget, max_fds: u64, running: Watch) -> Self {
        Self { upstreams: Mutex::default(), reloads: Arc::default(), budget, max_fds, running }
    }

    /// The upstreams are these from now on, in the order of their names.
    pub(super) fn set(&self, upstreams: Vec<View>) {
        let before = std::mem::replace(&mut *self.upstreams(), upstreams);
        // With it a pool may end: not under the lock.
        drop(before);
    }

    fn upstreams(&self) -> MutexGuard<'_, Vec<View>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are there: a removed one is until its last connection is closed.
    fn views(&self) -> Vec<View> {
        let mut views = self.upstreams().clone();
        views.retain(|it| it.pool.is_some() || it.generations.iter().any(|generation| !generation.is_over()));
        views
    }

    /// Requests taken in and not ended.
    pub(super) fn in_flight(&self) -> u64 {
        let of = |view: &View| {
            // In this order: what ends between the two counts as in flight, not as less than nothing.
            let ended = view.events.outcomes.sum();
            view.events.accepted.get() - ended
        };
        self.upstreams().iter().map(of).sum()
    }

    /// Writes the pools to the log.
    pub(super) fn log_table(&self) {
        for view in self.views() {
            for generation in view.generations.iter().filter(|generation| !generation.is_over()) {
                let endpoints = generation.pool.endpoints();
                let endpoints: Vec<_> = endpoints.iter().map(ToString::to_string).collect();
                process::pool_table(view.events.name(), &generation.pool.figures(), &endpoints.join(", "));
            }
        }
    }
}

impl Source for State {
    fn ready(&self) -> Result<(), String> {
        if self.running.phase() != Phase::Running {
            return Err("draining".into());
        }
        match self.views().iter().find(|view| !view.has_stood()) {
            Some(view) => Err(format!("the warm floor of {} has not stood yet", view.events.name())),
            None => Ok(()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            memory_budget: self.budget.total(),
            memory_used: self.budget.taken(),
            open_fds: net::open_fds(),
            max_fds: self.max_fds,
            reloads: self.reloads.clone(),
            upstreams: self.views().iter().map(upstream_snapshot).collect(),
        }
    }
}

impl View {
    fn has_stood(&self) -> bool {
        self.stood || self.pool.as_ref().is_none_or(|pool| pool.has_stood())
    }
}

/// What waits and what is connected is that of all generations.
fn upstream_snapshot(view: &View) -> admin::Upstream {
    let mut all = admin::Upstream {
        events: view.events.clone(),
        waiting: 0,
        oldest_wait: std::time::Duration::ZERO,
        connections: admin::Connections::default(),
        endpoints: view.pool.iter().flat_map(|pool| pool.endpoints()).map(endpoint_snapshot).collect(),
    };
    for generation in &view.generations {
        let figures = generation.pool.figures();
        all.waiting += figures.waiting;
        all.oldest_wait = all.oldest_wait.max(figures.oldest_wait);
        all.connections.connecting += figures.connecting;
        all.connections.idle += figures.idle;
        all.connections.busy += figures.busy;
        all.connections.retiring += figures.retiring;
        all.connections.dedicated += figures.dedicated;
    }
    all
}

fn endpoint_snapshot(figures: EndpointFigures) -> admin::Endpoint {
    let EndpointFigures { address, up, idle_limit } = figures;
    admin::Endpoint { address, up, idle_limit }
}
