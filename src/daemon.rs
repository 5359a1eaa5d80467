//! Assembles what the plan asks for, runs it, changes it, and takes it down in order.
//!
//! Two switches for each generation of an upstream: the front half (its sessions) drains first, the back half
//! (connections) after it; with one, what waits in the queues would starve. Only this module hears signals. Where
//! there are several `workers`, each of them accepts from every listening socket.

mod change;
mod reload;
mod sockets;
mod state;
mod upstream;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::admin;
use crate::config::plan::Plan;
use crate::events::process;
use crate::lifecycle::{Permits, Switch};
use crate::net::{self, Access, Address, Inherited};
use crate::session::IdleClients;
use crate::systemd;
use crate::wire::Budget;
use reload::Fixed;
pub use reload::Reloader;
use sockets::Sockets;
use state::State;
use upstream::{Generation, Process, Upstream};
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

impl Error {
    fn bind(address: &Address, source: io::Error) -> Self {
        let address = address.clone();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { address, source },
            _ => Self::Bind { address, source },
        }
    }
}

/// Runs what `plan` asks for until a signal ends it; `reloader` knows what to run instead when another asks for that.
///
/// # Errors
/// [`Error`]; nothing has been accepted then.
pub fn run(plan: Plan, mut reloader: Option<Reloader>) -> Result<Ended, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(async {
        let mut signals = Signals::new()?;
        let daemon = Daemon::start(plan)?;
        Ok(daemon.serve(&mut signals, reloader.as_mut()).await)
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

/// What a signal asks for.
enum Asked {
    End,
    Reload,
    Table,
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

    /// Waits for the next signal. Cancel-safe.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::End,
            _ = self.interrupt.recv() => Asked::End,
            _ = self.hang_up.recv() => Asked::Reload,
            _ = self.table.recv() => Asked::Table,
        }
    }
}

/// A daemon at work.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    /// By name; those that are removed too, as long as they have connections.
    upstreams: BTreeMap<String, Upstream>,
    sockets: Sockets,
    keepers: JoinSet<()>,
    state: Arc<State>,
    /// For as long as it is not draining.
    running: Switch,
    admin: Switch,
    workers: Workers,
    /// Upstreams that were given a home.
    homes: usize,
    max_fds: u64,
    drain_timeout: Duration,
    fixed: Fixed,
}

impl Daemon {
    /// Binds every address and starts everything.
    ///
    /// # Errors
    /// [`Error`]; whatever was started ends with it.
    pub fn start(plan: Plan) -> Result<Self, Error> {
        let max_fds = net::raise_fd_limit();
        let (running, admin) = (Switch::new(), Switch::new());
        let workers = Workers::start(plan.limits.workers)?;
        let budget = Budget::new(plan.limits.memory);
        let state = Arc::new(State::new(budget.clone(), max_fds, running.watch()));
        let process = Process { budget, places: Permits::new(0), idle: IdleClients::default() };
        let mut daemon = Self {
            process,
            upstreams: BTreeMap::new(),
            sockets: Sockets::default(),
            keepers: JoinSet::new(),
            state,
            running,
            admin,
            workers,
            homes: 0,
            max_fds,
            drain_timeout: plan.drain_timeout,
            fixed: Fixed::of(&plan),
        };
        let prepared = daemon.prepare(&plan)?;
        let admin_sockets = bind_admin(plan.admin.as_ref())?;
        daemon.apply(plan, prepared);
        for socket in &admin_sockets {
            process::listening("admin", socket.address());
        }
        tokio::spawn(admin::run(admin_sockets, daemon.state.clone(), daemon.admin.watch()));
        Ok(daemon)
    }

    /// Where it listens: the upstream's name, and the address with the port that the kernel chose.
    pub fn addresses(&self) -> Vec<(String, Address)> {
        self.sockets.addresses()
    }

    /// Waits until the floor of every required pool has stood once.
    pub async fn stood(&self) {
        for view in self.upstreams.values().map(Upstream::view).filter(|view| !view.stood) {
            if let Some(pool) = view.pool {
                pool.stood().await;
            }
        }
    }

    async fn serve(mut self, signals: &mut Signals, mut reloader: Option<&mut Reloader>) -> Ended {
        let patience = Instant::now() + READY_PATIENCE;
        let mut told = false;
        loop {
            // Cancel-safe: waiting changes nothing.
            let asked = tokio::select! {
                _ = timeout_at(patience, self.stood()), if !told => None,
                asked = signals.next() => Some(asked),
            };
            match (asked, &mut reloader) {
                (None, _) => {
                    told = true;
                    systemd::ready();
                    process::ready();
                }
                (Some(Asked::End), _) => break,
                (Some(Asked::Table), _) => self.state.log_table(),
                (Some(Asked::Reload), None) => process::reload_without_file(),
                (Some(Asked::Reload), Some(reloader)) => {
                    if told {
                        systemd::reloading();
                    }
                    self.reload(reloader).await;
                    if told {
                        systemd::ready();
                    }
                }
            }
        }
        systemd::stopping();
        process::draining(self.drain_timeout);
        let state = self.state.clone();
        let second = async {
            loop {
                match signals.next().await {
                    Asked::End => return,
                    Asked::Reload => process::reload_too_late(),
                    Asked::Table => state.log_table(),
                }
            }
        };
        let ended = self.drain(second).await;
        process::ended(ended == Ended::Drained);
        ended
    }

    /// All generations of all upstreams.
    fn generations(&self) -> Vec<Arc<Generation>> {
        self.upstreams.values().flat_map(|upstream| upstream.view().generations).collect()
    }

    /// Takes everything down in order. What is not done by the drain timeout, or when `hurry` completes, is
    /// cut.
    pub async fn drain(&mut self, hurry: impl Future<Output = ()>) -> Ended {
        let generations = self.generations();
        self.running.drain();
        self.sockets.drain();
        for generation in &generations {
            generation.front.drain();
        }
        let (sockets, places) = (&mut self.sockets, &self.process.places);
        let quiet = async {
            sockets.closed().await;
            // Every place back means every session gone.
            places.all_returned().await;
        };
        // Cancel-safe: what is given up here is stopped below.
        let ended = tokio::select! {
            () = quiet => Ended::Drained,
            () = tokio::time::sleep(self.drain_timeout) => Ended::Cut,
            () = hurry => Ended::Cut,
        };
        let ended = match ended {
            // Clients that had asked for nothing are no loss.
            Ended::Cut if self.state.in_flight() == 0 => Ended::Drained,
            ended => ended,
        };
        self.sockets.stop();
        for generation in &generations {
            generation.front.stop();
        }
        // A session that is not waited for would end with its thread, and its client take that for a plain end.
        let _ = timeout(FRONT_PATIENCE, self.process.places.all_returned()).await;
        if ended == Ended::Cut {
            for generation in &generations {
                generation.back.stop();
            }
        }
        for generation in &generations {
            generation.back.drain();
        }
        let keepers = &mut self.keepers;
        let closed = async { while keepers.join_next().await.is_some() {} };
        if timeout(BACK_PATIENCE, closed).await.is_err() {
            for generation in &generations {
                generation.back.stop();
            }
        }
        self.admin.stop();
        // The last closes, and the admin endpoint's own socket file.
        tokio::task::yield_now().await;
        self.workers.stop();
        ended
    }
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

fn bind_admin(settings: Option<&admin::Settings>) -> Result<Vec<net::Listener>, Error> {
    let access = Access { mode: ADMIN_MODE, uids: Vec::new() };
    let mut sockets = Vec::new();
    for address in settings.iter().flat_map(|settings| &settings.addresses) {
        let bound = net::Listener::bind(address, &access, Inherited::default());
        sockets.extend(bound.map_err(|source| Error::bind(address, source))?);
    }
    Ok(sockets)
}

#[cfg(test)]
mod tests;
