//! Assembles what the plan asks for, runs it, and takes it down in order.
//!
//! Two switches: the front half (listeners, sessions) drains first, the back half (connections) after it;
//! with one, what waits in the queues would starve. Only this module hears signals. Where there are several
//! `workers`, each of them accepts from every listening socket.

mod workers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::admin::{self, Snapshot, Source};
use crate::config::plan::{self, Plan};
use crate::connection::Network;
use crate::events::{self, process};
use crate::lifecycle::{Phase, Switch, Watch};
use crate::listener::{Listener, Places};
use crate::net::{self, Access, Address, Inherited, Lookup};
use crate::pool::{Cap, EndpointFigures, Keeper, Means, Pool};
use crate::session::{self, IdleClients};
use crate::systemd;
use crate::wire::Budget;
use workers::Workers;

/// How long the service manager waits for the warm floors before it is told that we are ready anyway.
const READY_PATIENCE: Duration = Duration::from_secs(5);
/// How long connections may take to close after the last request.
const BACK_PATIENCE: Duration = Duration::from_secs(3);
/// How long sessions may take to end when they are cut.
const FRONT_PATIENCE: Duration = Duration::from_secs(1);
/// Who may reach the admin socket: its user and group.
const ADMIN_MODE: u32 = 0o660;

/// How the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was taken in was answered.
    Drained,
    /// The drain deadline or a second signal cut requests.
    Cut,
}

/// Why the daemon failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Which one.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// An address may not be bound by this user.
    #[error("not permitted to listen on {address}: {source}")]
    Permission {
        /// Which one.
        address: Address,
        /// Why.
        source: io::Error,
    },
    /// The host does not allow what the configuration asks for.
    #[error("{0}")]
    Limits(String),
    /// The runtime or a signal handler cannot be set up.
    #[error("cannot start: {0}")]
    Runtime(#[from] io::Error),
}

/// Runs what `plan` asks for until a signal ends it.
///
/// # Errors
/// [`Error`]; nothing has been accepted then.
pub fn run(plan: Plan) -> Result<Ended, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let daemon = Daemon::start(plan)?;
        Ok(daemon.serve(&mut signals).await)
    });
    // A name that is still being looked up is not waited for.
    runtime.shutdown_background();
    ended
}

/// The signals that mean something.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    table: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            table: signal(SignalKind::user_defined1())?,
        })
    }

    /// Waits for a signal to end. Cancel-safe.
    async fn end(&mut self, pools: &[Arc<Pool>]) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hang_up.recv() => process::reload_unsupported(),
                _ = self.table.recv() => pools.iter().for_each(|pool| log_table(pool)),
            }
        }
    }
}

fn log_table(pool: &Pool) {
    let figures = pool.figures();
    let endpoints: Vec<String> = pool.endpoints().iter().map(ToString::to_string).collect();
    process::pool_table(pool.events().name(), &figures, &endpoints.join(", "));
}

/// A daemon at work.
#[derive(Debug)]
pub struct Daemon {
    front: Switch,
    back: Switch,
    admin: Switch,
    places: Arc<Semaphore>,
    idle: IdleClients,
    max_clients: usize,
    listeners: JoinSet<()>,
    keepers: JoinSet<()>,
    /// With whether readiness waits for it; in the order of the names.
    pools: Vec<(Arc<Pool>, bool)>,
    budget: Budget,
    drain_timeout: Duration,
    addresses: Vec<(String, Address)>,
    workers: Workers,
}

/// What the admin endpoint can see.
#[derive(Debug)]
struct State {
    pools: Vec<(Arc<Pool>, bool)>,
    budget: Budget,
    max_fds: u64,
    front: Watch,
}

impl Daemon {
    /// Binds every address and starts everything.
    ///
    /// # Errors
    /// [`Error`]; whatever was started ends with it.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        let max_fds = net::raise_fd_limit();
        let max_clients = fit_fds(&plan, max_fds)?;
        let (front, back, admin) = (Switch::new(), Switch::new(), Switch::new());
        let mut sockets = Vec::new();
        for upstream in &plan.upstreams {
            let listener = &upstream.listener;
            sockets.push(bind_all(&listener.addresses, &listener.access, listener.inherited)?);
        }
        let admin_sockets = match &plan.admin {
            Some(settings) => bind_all(
                &settings.addresses,
                &Access { mode: ADMIN_MODE, uids: vec![] },
                Inherited::default(),
            )?,
            None => Vec::new(),
        };
        let workers = Workers::start(plan.limits.workers)?;
        let mut daemon = Self {
            workers,
            places: Arc::new(Semaphore::new(max_clients)),
            idle: IdleClients::default(),
            max_clients,
            listeners: JoinSet::new(),
            keepers: JoinSet::new(),
            pools: Vec::new(),
            budget: Budget::new(plan.limits.memory),
            drain_timeout: plan.drain_timeout,
            addresses: Vec::new(),
            front,
            back,
            admin,
        };
        for (upstream, sockets) in plan.upstreams.into_iter().zip(sockets) {
            daemon.start_upstream(upstream, sockets)?;
        }
        daemon.start_admin(admin_sockets, max_fds);
        Ok(daemon)
    }

    fn start_admin(&self, sockets: Vec<net::Listener>, max_fds: u64) {
        for socket in &sockets {
            process::listening("admin", socket.address());
        }
        let (pools, budget) = (self.pools.clone(), self.budget.clone());
        let source = Arc::new(State { pools, budget, max_fds, front: self.front.watch() });
        tokio::spawn(admin::run(sockets, source, self.admin.watch()));
    }

    fn start_upstream(&mut self, plan: plan::Upstream, sockets: Vec<net::Listener>) -> Result<(), Error> {
        let events = Arc::new(events::Upstream::new(&plan.name));
        let means = Means {
            connector: Arc::new(Network::new(&plan.pool.connection)),
            resolver: Arc::new(Lookup),
            cap: Cap::new(plan.pool.max_connections),
        };
        let budget = self.budget.clone();
        let (pool, keeper) = Pool::new(
            plan.pool,
            plan.protocol.clone(),
            events.clone(),
            budget.clone(),
            self.back.watch(),
            means,
        );
        self.keepers.spawn_on(Keeper::run(keeper), self.workers.home(self.pools.len()));
        let session = Arc::new(session::Shared {
            settings: plan.session,
            protocol: plan.protocol,
            pool: pool.clone(),
            budget,
            idle: IdleClients::within(&self.idle),
            front: self.front.watch(),
        });
        let upstream_places = Arc::new(Semaphore::new(plan.listener.max_clients));
        for socket in sockets {
            process::listening(&plan.name, socket.address());
            self.addresses.push((plan.name.clone(), socket.address().clone()));
            let listener = Listener {
                uids: if socket.is_tcp() { Vec::new() } else { plan.listener.access.uids.clone() },
                socket,
                places: Places {
                    process: self.places.clone(),
                    upstream: upstream_places.clone(),
                    idle: self.idle.clone(),
                    turn: Arc::default(),
                },
                session: session.clone(),
                events: events.clone(),
            };
            self.accept_everywhere(listener)?;
        }
        self.pools.push((pool, plan.required));
        Ok(())
    }

    /// Has every worker accept from the listener's socket; `listener` itself is of the first one.
    fn accept_everywhere(&mut self, listener: Listener) -> io::Result<()> {
        for worker in self.workers.others() {
            let _entered = worker.enter();
            self.listeners.spawn_on(listener.share()?.run(self.front.watch()), worker);
        }
        self.listeners.spawn(listener.run(self.front.watch()));
        Ok(())
    }

    /// Where it listens: the upstream's name, and the address with the port that the kernel chose.
    pub fn addresses(&self) -> &[(String, Address)] {
        &self.addresses
    }

    /// Waits until the floor of every required pool has stood once.
    pub async fn stood(&self) {
        for (pool, _) in self.pools.iter().filter(|(_, required)| *required) {
            pool.stood().await;
        }
    }

    /// The pools, in the order of their names.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.pools.iter().map(|(pool, _)| pool.clone()).collect()
    }

    async fn serve(mut self, signals: &mut Signals) -> Ended {
        let pools = self.pools();
        // Cancel-safe: waiting changes nothing.
        let told_early = tokio::select! {
            _ = timeout(READY_PATIENCE, self.stood()) => false,
            () = signals.end(&pools) => true,
        };
        if !told_early {
            systemd::ready();
            process::ready();
            signals.end(&pools).await;
        }
        systemd::stopping();
        process::draining(self.drain_timeout);
        let second = async {
            signals.end(&pools).await;
        };
        let ended = self.drain(second).await;
        process::ended(ended == Ended::Drained);
        ended
    }

    /// Requests taken in and not ended.
    fn in_flight(&self) -> u64 {
        let of = |pool: &Arc<Pool>| {
            // In this order: what ends between the two counts as in flight, not as less than nothing.
            let ended = pool.events().outcomes.sum();
            pool.events().accepted.get() - ended
        };
        self.pools.iter().map(|(pool, _)| of(pool)).sum()
    }

    /// Takes everything down in order. What is not done by the drain timeout, or when `hurry` completes, is
    /// cut.
    pub async fn drain(&mut self, hurry: impl Future<Output = ()>) -> Ended {
        self.front.drain();
        let (places, count) = (self.places.clone(), u32::try_from(self.max_clients).unwrap_or(u32::MAX));
        let listeners = &mut self.listeners;
        let quiet = async {
            while listeners.join_next().await.is_some() {}
            // Every place back means every session gone.
            let _ = places.acquire_many(count).await;
        };
        // Cancel-safe: what is given up here is stopped below.
        let ended = tokio::select! {
            () = quiet => Ended::Drained,
            () = tokio::time::sleep(self.drain_timeout) => Ended::Cut,
            () = hurry => Ended::Cut,
        };
        let ended = match ended {
            // Clients that had asked for nothing are no loss.
            Ended::Cut if self.in_flight() == 0 => Ended::Drained,
            ended => ended,
        };
        self.front.stop();
        // A session that is not waited for would end with its thread, and its client take that for a plain end.
        let _ = timeout(FRONT_PATIENCE, self.places.acquire_many(count)).await;
        if ended == Ended::Cut {
            self.back.stop();
        }
        self.back.drain();
        let keepers = &mut self.keepers;
        let closed = async { while keepers.join_next().await.is_some() {} };
        if timeout(BACK_PATIENCE, closed).await.is_err() {
            self.back.stop();
        }
        self.admin.stop();
        // The last closes, and the admin endpoint's own socket file.
        tokio::task::yield_now().await;
        self.workers.stop();
        ended
    }
}

impl Source for State {
    fn ready(&self) -> Result<(), String> {
        if self.front.phase() != Phase::Running {
            return Err("draining".into());
        }
        match self.pools.iter().find(|(pool, required)| *required && !pool.has_stood()) {
            Some((pool, _)) => Err(format!("the warm floor of {} has not stood yet", pool.events().name())),
            None => Ok(()),
        }
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot {
            memory_budget: self.budget.total(),
            memory_used: self.budget.taken(),
            open_fds: net::open_fds(),
            max_fds: self.max_fds,
            upstreams: self.pools.iter().map(|(pool, _)| upstream_snapshot(pool)).collect(),
        }
    }
}

fn upstream_snapshot(pool: &Pool) -> admin::Upstream {
    let figures = pool.figures();
    admin::Upstream {
        events: pool.events().clone(),
        waiting: figures.waiting,
        oldest_wait: figures.oldest_wait,
        connections: admin::Connections {
            connecting: figures.connecting,
            idle: figures.idle,
            busy: figures.busy,
            retiring: figures.retiring,
        },
        endpoints: pool.endpoints().into_iter().map(endpoint_snapshot).collect(),
    }
}

fn endpoint_snapshot(figures: EndpointFigures) -> admin::Endpoint {
    let EndpointFigures { address, up, idle_limit } = figures;
    admin::Endpoint { address, up, idle_limit }
}

/// The clients there are descriptors for: the default is lowered to fit, an explicit figure is an error.
fn fit_fds(plan: &Plan, max_fds: u64) -> Result<usize, Error> {
    let wanted = plan.fd_budget() as u64;
    if wanted <= max_fds {
        return Ok(plan.limits.max_clients);
    }
    let over = wanted - max_fds;
    let fitting = (plan.limits.max_clients as u64).saturating_sub(over);
    if plan.limits.max_clients_is_explicit || fitting == 0 {
        return Err(Error::Limits(format!(
            "the configuration needs {wanted} file descriptors and the limit is {max_fds}: raise it \
             (LimitNOFILE, ulimit -n) or lower max_clients or max_connections by {over}"
        )));
    }
    process::clients_lowered(plan.limits.max_clients as u64, fitting, max_fds);
    Ok(usize::try_from(fitting).unwrap_or(usize::MAX))
}

fn bind_all(
    addresses: &[Address],
    access: &Access,
    inherited: Inherited,
) -> Result<Vec<net::Listener>, Error> {
    let mut sockets = Vec::new();
    for address in addresses {
        match net::Listener::bind(address, access, inherited) {
            Ok(bound) => sockets.extend(bound),
            Err(source) if source.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Error::Permission { address: address.clone(), source });
            }
            Err(source) => return Err(Error::Bind { address: address.clone(), source }),
        }
    }
    Ok(sockets)
}
