//! Live reload: the whole new plan is checked and its sockets are bound before anything is touched; then nothing can
//! fail any more.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use super::change::Change;
use super::sockets::Prepared;
use super::upstream::Upstream;
use super::{Daemon, Error, fit_fds};
use crate::admin;
use crate::config;
use crate::config::plan::{self, Plan};
use crate::events::log::{self, Format};
use crate::events::process::{self, Changes};

/// How long a socket that an earlier reload closes may take for those who still wait at it.
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

/// What a reload needs to know.
pub struct Reloader {
    /// The plan there is now.
    pub load: Box<dyn FnMut() -> Result<Plan, Vec<config::Error>>>,
    /// What is logged.
    pub level: log::Level,
}

impl std::fmt::Debug for Reloader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").finish_non_exhaustive()
    }
}

/// What holds from start to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    memory: u64,
    workers: usize,
    admin: Option<admin::Settings>,
    format: Format,
}

/// What a new plan needs from the host.
#[derive(Debug)]
pub(super) struct Ready {
    sockets: Prepared,
    max_clients: usize,
}

impl Fixed {
    pub(super) fn of(plan: &Plan) -> Self {
        Self {
            memory: plan.limits.memory,
            workers: plan.limits.workers,
            admin: plan.admin.clone(),
            format: plan.log.format,
        }
    }

    /// The keys that need a restart to become those of `other`.
    fn differing(&self, other: &Self) -> Vec<&'static str> {
        let keys = [
            ("limits.memory", self.memory != other.memory),
            ("limits.workers", self.workers != other.workers),
            ("admin.listen", self.admin != other.admin),
            ("log.format", self.format != other.format),
        ];
        keys.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
    }
}

impl Daemon {
    /// Runs what the file says now, if it can be.
    pub(super) async fn reload(&mut self, reloader: &mut Reloader) {
        // An address that is being given up could not be bound again yet.
        let _ = timeout(CLOSING_PATIENCE, self.sockets.closed()).await;
        let reloads = self.state.reloads.clone();
        let plan = match (reloader.load)() {
            Ok(plan) => plan,
            Err(errors) => return reloads.refused(&errors),
        };
        let ready = match self.prepare(&plan) {
            Ok(ready) => ready,
            Err(error) => return reloads.failed(&error),
        };
        if let Err(error) = reloader.level.set(&plan.log.level) {
            return reloads.failed(&error);
        }
        let keys = self.fixed.differing(&Fixed::of(&plan));
        let changes = self.apply(plan, ready);
        reloads.done(&changes);
        if !keys.is_empty() {
            process::restart_needed(&keys.join(", "));
        }
    }

    /// Takes what a plan needs from the host, and changes nothing.
    pub(super) fn prepare(&self, plan: &Plan) -> Result<Ready, Error> {
        let max_clients = fit_fds(plan, self.max_fds)?;
        let memory = self.process.budget.total();
        if let Some(it) = plan.upstreams.iter().find(|it| it.memory_floor > memory) {
            let text =
                format!("the messages of {} need a larger `limits.memory`, and that a restart", it.name);
            return Err(Error::Limits(text));
        }
        Ok(Ready { sockets: self.sockets.prepare(&plan.upstreams, &self.workers)?, max_clients })
    }

    /// Has a plan run in place of what runs.
    pub(super) fn apply(&mut self, plan: Plan, ready: Ready) -> Changes {
        let mut changes = Changes::default();
        while self.keepers.try_join_next().is_some() {}
        self.upstreams.retain(|_, upstream| !upstream.is_over());
        self.drain_timeout = plan.drain_timeout;
        self.process.places.resize(ready.max_clients);
        let names: BTreeSet<_> = plan.upstreams.iter().map(|it| it.name.clone()).collect();
        for upstream in plan.upstreams {
            self.change(upstream, &mut changes);
        }
        let is_removed = |name: &str| !names.contains(name);
        let upstreams = &self.upstreams;
        let target_of = |name: &str| upstreams.get(name).and_then(Upstream::target);
        self.sockets.apply(ready.sockets, target_of, &self.workers);
        for (name, upstream) in &mut self.upstreams {
            // After the sockets: whoever comes from now on is not for it.
            if is_removed(name) && upstream.plan().is_some() {
                upstream.remove(self.drain_timeout);
                changes.removed.push(name.clone());
            }
        }
        self.state.set(self.upstreams.values().map(Upstream::view).collect());
        changes
    }

    fn change(&mut self, plan: plan::Upstream, changes: &mut Changes) {
        let name = plan.name.clone();
        let upstream = self.upstreams.entry(name.clone()).or_insert_with(|| {
            self.homes += 1;
            Upstream::new(&name, self.workers.home(self.homes - 1).clone(), &self.process)
        });
        match upstream.plan().map(|old| Change::between(old, &plan)) {
            Some(Change::Same) => changes.kept += 1,
            Some(Change::Retune) => {
                upstream.retune(plan, &self.process);
                changes.retuned.push(name);
            }
            Some(Change::Replace) => {
                upstream.replace(plan, &self.process, &mut self.keepers);
                changes.replaced.push(name);
            }
            None => {
                upstream.replace(plan, &self.process, &mut self.keepers);
                changes.added.push(name);
            }
        }
    }
}
