//! One upstream at work, over all its generations.
//!
//! A generation is a pool with its keeper and the switches of its sessions and connections. Sessions keep theirs
//! from accept to end; when the last one of a past generation has ended, its connections drain. What must be one
//! whatever becomes of the settings, cap, counters and places, belongs to the upstream itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use crate::config::plan;
use crate::connection::Network;
use crate::events;
use crate::lifecycle::{Hold, Permits, Switch};
use crate::listener::{Places, Target};
use crate::net::Lookup;
use crate::pool::{Cap, Means, Pool};
use crate::session::{self, IdleClients};
use crate::wire::Budget;

/// What all upstreams share.
#[derive(Clone, Debug)]
pub(super) struct Process {
    pub(super) budget: Budget,
    /// For clients.
    pub(super) places: Arc<Permits>,
    pub(super) idle: IdleClients,
}

/// An upstream.
#[derive(Debug)]
pub(super) struct Upstream {
    events: Arc<events::Upstream>,
    cap: Arc<Cap>,
    places: Arc<Permits>,
    idle: IdleClients,
    home: Handle,
    /// The floor of a past generation has stood.
    stood: bool,
    /// `None` once it is removed.
    current: Option<Current>,
    /// Older generations whose connections may not be closed yet.
    past: Vec<Arc<Generation>>,
}

/// What an upstream does for clients that come now.
#[derive(Debug)]
struct Current {
    plan: plan::Upstream,
    generation: Arc<Generation>,
    target: Arc<Target>,
}

/// A pool at work.
#[derive(Debug)]
pub(super) struct Generation {
    pub(super) pool: Arc<Pool>,
    /// Of its sessions.
    pub(super) front: Switch,
    /// Of its connections.
    pub(super) back: Switch,
    keeper: AbortHandle,
}

/// What others may see of an upstream.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) events: Arc<events::Upstream>,
    /// Its floor has stood, or nobody waits for it.
    pub(super) stood: bool,
    /// `None` once it is removed.
    pub(super) pool: Option<Arc<Pool>>,
    /// All of them.
    pub(super) generations: Vec<Arc<Generation>>,
}

impl Generation {
    /// Whether all its connections are closed.
    pub(super) fn is_over(&self) -> bool {
        self.keeper.is_finished()
    }
}

impl Upstream {
    /// One that does nothing yet. Its connections are to live on `home`.
    pub(super) fn new(name: &str, home: Handle, process: &Process) -> Self {
        Self {
            events: Arc::new(events::Upstream::new(name)),
            cap: Cap::new(0, 0),
            places: Permits::new(0),
            idle: IdleClients::within(&process.idle),
            home,
            stood: false,
            current: None,
            past: Vec::new(),
        }
    }

    /// What it does now, if it is not removed.
    pub(super) fn plan(&self) -> Option<&plan::Upstream> {
        self.current.as_ref().map(|current| &current.plan)
    }

    /// Whom clients that come now are for, if it is not removed.
    pub(super) fn target(&self) -> Option<&Arc<Target>> {
        self.current.as_ref().map(|current| &current.target)
    }

    /// Begins a generation. One there was goes on for the sessions it has.
    pub(super) fn replace(&mut self, plan: plan::Upstream, process: &Process, keepers: &mut JoinSet<()>) {
        self.resize(&plan);
        let (front, back) = (Switch::new(), Switch::new());
        let means = Means {
            connector: Arc::new(Network::new(&plan.pool.connection)),
            resolver: Arc::new(Lookup),
            cap: self.cap.clone(),
        };
        let (pool, keeper) = Pool::new(
            plan.pool.clone(),
            plan.protocol.clone(),
            self.events.clone(),
            process.budget.clone(),
            back.watch(),
            means,
        );
        let keeper = keepers.spawn_on(keeper.run(), &self.home);
        let hold = back.hold();
        let generation = Arc::new(Generation { pool: pool.clone(), front, back, keeper });
        let target = self.target_of(&plan, pool, &generation, hold, process);
        self.retire();
        self.current = Some(Current { plan, generation, target });
    }

    /// Goes on with the connections it has, otherwise. Must not be removed.
    pub(super) fn retune(&mut self, plan: plan::Upstream, process: &Process) {
        let Some(Current { generation, target, plan: old }) = self.current.take() else { return };
        // With all that it has learned.
        let plan = plan::Upstream { protocol: old.protocol, ..plan };
        self.resize(&plan);
        let session = &target.session;
        let pool = session.pool.retune(plan.pool.clone());
        let target = self.target_of(&plan, pool, &generation, session.back.clone(), process);
        self.current = Some(Current { plan, generation, target });
    }

    /// Takes no more clients in: those it has are served, for so long at most.
    pub(super) fn remove(&mut self, patience: Duration) {
        self.retire();
        let leaving = self.past.clone();
        for generation in &leaving {
            generation.front.drain();
        }
        tokio::spawn(async move {
            sleep(patience).await;
            for generation in &leaving {
                generation.front.stop();
            }
        });
    }

    /// Forgets the generations that are over. True if none is left.
    pub(super) fn is_over(&mut self) -> bool {
        self.past.retain(|generation| !generation.is_over());
        self.current.is_none() && self.past.is_empty()
    }

    pub(super) fn view(&self) -> View {
        let current = self.current.as_ref();
        let generations = self.past.iter().chain(current.map(|it| &it.generation));
        View {
            events: self.events.clone(),
            stood: self.stood || current.is_none_or(|it| !it.plan.required),
            pool: current.map(|it| it.target.session.pool.clone()),
            generations: generations.cloned().collect(),
        }
    }

    fn resize(&self, plan: &plan::Upstream) {
        self.cap.resize(plan.pool.max_connections, plan.pool.max_dedicated);
        self.places.resize(plan.listener.max_clients);
    }

    /// The current generation becomes a past one.
    fn retire(&mut self) {
        if let Some(Current { generation, target, .. }) = self.current.take() {
            self.stood |= target.session.pool.has_stood();
            target.session.pool.supersede();
            self.past.push(generation);
        }
    }

    fn target_of(
        &self,
        plan: &plan::Upstream,
        pool: Arc<Pool>,
        generation: &Generation,
        back: Hold,
        process: &Process,
    ) -> Arc<Target> {
        let session = session::Shared {
            settings: plan.session.clone(),
            protocol: plan.protocol.clone(),
            pool,
            budget: process.budget.clone(),
            idle: self.idle.clone(),
            front: generation.front.watch(),
            back,
        };
        Arc::new(Target {
            uids: plan.listener.access.uids.clone(),
            places: Places {
                process: process.places.clone(),
                upstream: self.places.clone(),
                idle: process.idle.clone(),
            },
            session: Arc::new(session),
        })
    }
}
