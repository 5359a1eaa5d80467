//! The run of one seed: a real pool and real sessions in paused time, between scripted clients and servers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use warmline::connection::{Connecting, Connector};
use warmline::events::meter::{Family, Label};
use warmline::events::{self, CloseReason, Outcome};
use warmline::lifecycle::Switch;
use warmline::net::{Address, Lookup};
use warmline::pool::{Cap, Means, Pool};
use warmline::protocol::Mode;
use warmline::session::{self, IdleClients, Session};
use warmline::wire::{Budget, memory};

use crate::book::Rules;
use crate::clients::{self, Script};
use crate::oracle::{Oracle, Tally};
use crate::plan::{AMPLE, Drain, Plan, Weather};
use crate::servers::Server;
use crate::trace::{Trace, Who};

/// When it is too late for anything to end by itself.
const LATE: Duration = Duration::from_secs(300);
/// How long connections may take to close after the last request: as in the daemon.
const BACK_PATIENCE: Duration = Duration::from_secs(3);
/// The longest back-off between two attempts to connect.
const BACKOFF: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_secs(1);

/// What came of a seed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) seed: u64,
    pub(crate) trace: String,
    pub(crate) faults: Vec<String>,
    /// What happened in the proxy, by name.
    pub(crate) counts: Vec<(String, u64)>,
}

/// Runs `seed`: on the same thread or another, now or later, it gives the same report.
pub(crate) fn run(seed: u64) -> Report {
    // The proxy's own dice.
    fastrand::seed(seed);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut rng = Rng::with_seed(seed);
        let mut world = World::new(Plan::draw(&mut rng), rng);
        world.live().await;
        world.report(seed)
    })
}

/// Endpoints that take connects as the weather is.
#[derive(Debug)]
struct Endpoints {
    plan: Arc<Plan>,
    oracle: Oracle,
    /// The dice of the servers, and how many there have been.
    next: Mutex<(Rng, usize)>,
    start: Instant,
}

impl Connector for Endpoints {
    fn connect(&self, endpoint: usize, _: &Address, _: Duration) -> Connecting {
        let dialling = self.oracle.dials(self.plan.pool.max_connections);
        let (plan, oracle, start) = (self.plan.clone(), self.oracle.clone(), self.start);
        let calm = start + plan.calm;
        let weather = if Instant::now() >= calm {
            Weather::Up
        } else {
            let past = |(at, _): &&(Duration, Weather)| start + *at <= Instant::now();
            plan.weather[endpoint].iter().take_while(past).last().map_or(Weather::Up, |(_, w)| *w)
        };
        let (rng, n) = {
            let mut next = self.next.lock().unwrap();
            next.1 += 1;
            (next.0.fork(), next.1)
        };
        oracle.trace.note(Who::Server(n), format_args!("dialled at {endpoint}: {weather:?}"));
        Box::pin(async move {
            let _dialling = dialling;
            match weather {
                Weather::Fails(kind) => return Err(kind.into()),
                Weather::Hangs => std::future::pending().await,
                Weather::Slow(time) => sleep(time).await,
                Weather::Up | Weather::Rude => {}
            }
            let (near, far) = memory::pair(plan.capacity.1);
            oracle.connected(near.witness());
            let rude = weather == Weather::Rude;
            let mut server = Server::new(n, far.into(), rude, rng, plan, calm, oracle);
            server.speak_first().await;
            tokio::spawn(server.serve());
            Ok(near.into())
        })
    }
}

struct World {
    plan: Arc<Plan>,
    rng: Rng,
    oracle: Oracle,
    start: Instant,
    events: Arc<events::Upstream>,
    pool: Arc<Pool>,
    budget: Budget,
    front: Switch,
    back: Switch,
    shared: Arc<session::Shared>,
    keeper: Option<JoinHandle<()>>,
    sessions: Arc<Mutex<JoinSet<()>>>,
    clients: usize,
}

impl World {
    fn new(plan: Plan, mut rng: Rng) -> Self {
        let (plan, start) = (Arc::new(plan), Instant::now());
        let oracle = Oracle::new(Trace::new(), plan.runs());
        oracle.trace.note(Who::World, format_args!("{plan:?}"));
        let events = Arc::new(events::Upstream::new("sim"));
        let (front, back) = (Switch::new(), Switch::new());
        let budget = Budget::new(plan.budget);
        let next = Mutex::new((rng.fork(), 0));
        let endpoints = Endpoints { plan: plan.clone(), oracle: oracle.clone(), next, start };
        let protocol = plan.dialect.protocol(plan.words);
        let (pool, keeper) = Pool::new(
            plan.pool.clone(),
            protocol.clone(),
            events.clone(),
            budget.clone(),
            back.watch(),
            Means {
                connector: Arc::new(endpoints),
                resolver: Arc::new(Lookup),
                cap: Cap::new(plan.pool.max_connections, plan.pool.max_dedicated),
            },
        );
        let shared = Arc::new(session::Shared {
            settings: plan.session.clone(),
            protocol,
            pool: pool.clone(),
            budget: budget.clone(),
            idle: IdleClients::default(),
            front: front.watch(),
            back: back.hold(),
        });
        let (keeper, sessions, clients) =
            (Some(tokio::spawn(keeper.run())), Arc::default(), plan.clients.len());
        Self {
            plan,
            rng,
            oracle,
            start,
            events,
            pool,
            budget,
            front,
            back,
            shared,
            keeper,
            sessions,
            clients,
        }
    }

    fn fault(&self, what: std::fmt::Arguments<'_>) {
        self.oracle.fault(Who::World, what);
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.oracle.trace.note(Who::World, what);
    }

    /// Whether memory is never short.
    fn is_ample(&self) -> bool {
        self.plan.budget >= AMPLE
    }

    async fn live(&mut self) {
        let mut clients = JoinSet::new();
        for (n, script) in self.plan.clients.iter().enumerate() {
            clients.spawn(self.client(n, script.clone()));
        }
        let mut evictions = JoinSet::new();
        for at in self.plan.evictions.clone() {
            let (shared, until) = (self.shared.clone(), self.start + at);
            evictions.spawn(async move {
                sleep_until(until).await;
                shared.idle.evict_oldest();
            });
        }
        if let Some(Drain { at, timeout }) = self.plan.drain {
            sleep_until(self.start + at).await;
            self.drain(timeout).await;
            self.all_done(clients, LATE).await;
        } else {
            sleep_until(self.start + self.plan.calm).await;
            self.recover().await;
            self.all_done(clients, LATE).await;
            let settings = &self.plan.pool.connection;
            sleep(self.plan.pool.request_timeout + settings.stall + 2 * SLACK).await;
            self.judge_rest();
            self.serve_again().await;
            self.drain(SLACK).await;
        }
        self.judge_end();
    }

    /// A client that comes when its script says so, if the listener is still there.
    fn client(&self, n: usize, script: Script) -> impl Future<Output = bool> + Send + use<> {
        let (near, far) = memory::pair(self.plan.capacity.0);
        let (shared, oracle, sessions) = (self.shared.clone(), self.oracle.clone(), self.sessions.clone());
        let (start, front) = (Instant::now() + script.start, self.front.watch());
        let rules = Rules {
            dialect: self.plan.dialect,
            words: self.plan.words,
            in_order: self.plan.pool.mode != Mode::Multiplex,
            request_timeout: self.plan.pool.request_timeout,
            ample: self.is_ample(),
            undisturbed: self.plan.drain.is_none() && !self.plan.session.one_shot && !self.plan.in_parts(),
        };
        async move {
            sleep_until(start).await;
            if front.phase() != warmline::lifecycle::Phase::Running {
                return false;
            }
            oracle.trace.note(Who::Client(n), format_args!("connects"));
            sessions.lock().unwrap().spawn(Session::new(far.into(), shared).run(()));
            clients::talk(Who::Client(n), script, near.into(), rules, oracle).await
        }
    }

    /// Asks until somebody is answered, which must not take long.
    async fn recover(&mut self) {
        self.note(format_args!("the faults end"));
        let pool = &self.plan.pool;
        // In the other modes a connection may go on for as long as it has room.
        let hung = match pool.mode {
            Mode::Exclusive if self.is_ample() => pool.request_timeout,
            _ => pool.request_timeout.max(pool.connection.stall),
        };
        let deadline = Instant::now() + hung + pool.connection.connect_timeout + BACKOFF + 2 * SLACK;
        let mut probes = JoinSet::new();
        loop {
            let probe = self.probe();
            probes.spawn(probe);
            // Cancel-safe: what has ended stays in the set.
            let answered = async {
                while let Some(answered) = probes.join_next().await {
                    if answered.unwrap() {
                        return true;
                    }
                }
                false
            };
            match timeout(SLACK / 2, answered).await {
                Ok(true) => break,
                Ok(false) => sleep(SLACK / 2).await,
                Err(_) => {}
            }
            if Instant::now() > deadline {
                return self.fault(format_args!("nobody is served although the faults have ended"));
            }
        }
        self.note(format_args!("served again"));
        self.all_done(probes, LATE).await;
    }

    fn probe(&mut self) -> impl Future<Output = bool> + Send + use<> {
        let script = clients::probe(&mut self.rng, self.clients, self.plan.dialect, self.plan.sizes);
        self.clients += 1;
        self.client(self.clients - 1, script)
    }

    /// At rest everyone is served at once.
    async fn serve_again(&mut self) {
        for _ in 0..3 {
            let probe = self.probe();
            match timeout(SLACK, probe).await {
                Ok(true) => {}
                other => self.fault(format_args!("not served at rest: {other:?}")),
            }
        }
    }

    async fn all_done(&self, mut clients: JoinSet<bool>, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            match timeout_at(deadline, clients.join_next()).await {
                Ok(None) => return,
                Ok(Some(done)) => drop(done.unwrap()),
                Err(_) => return self.fault(format_args!("{} clients do not end", clients.len())),
            }
        }
    }

    /// As the daemon does it: front, then back.
    async fn drain(&mut self, patience: Duration) {
        self.note(format_args!("drain of the front"));
        self.front.drain();
        let drained = timeout(patience, self.sessions_end()).await.is_ok();
        self.front.stop();
        if !drained {
            self.note(format_args!("the front is cut"));
            self.back.stop();
        }
        self.back.drain();
        let Some(mut keeper) = self.keeper.take() else { return };
        let mut closed = timeout(BACK_PATIENCE, &mut keeper).await;
        if closed.is_err() {
            self.note(format_args!("the back is cut"));
            self.back.stop();
            closed = timeout(SLACK, &mut keeper).await;
        }
        match closed {
            Ok(Ok(())) => {}
            other => self.fault(format_args!("the keeper does not end: {other:?}")),
        }
        let patience = self.plan.session.client_write + 2 * SLACK;
        if timeout(patience, self.sessions_end()).await.is_err() {
            self.fault(format_args!("sessions do not end"));
        }
    }

    /// Waits until every session has ended. Cancel-safe.
    async fn sessions_end(&self) {
        std::future::poll_fn(|cx| {
            let mut sessions = self.sessions.lock().unwrap();
            while let Some(done) = std::task::ready!(sessions.poll_join_next(cx)) {
                if let Err(panic) = done {
                    self.fault(format_args!("a session: {panic}"));
                }
            }
            std::task::Poll::Ready(())
        })
        .await;
    }

    /// What must hold when nothing is under way.
    fn judge_rest(&self) {
        let figures = self.pool.figures();
        self.note(format_args!("at rest: {figures}"));
        let (accepted, ended) = (self.events.accepted.get(), self.events.outcomes.sum());
        if accepted != ended {
            self.fault(format_args!("{accepted} accepted, {ended} ended"));
        }
        // Where an idle limit is known, one connection of each endpoint may wait for it, out of the way of everybody.
        let scouts = if self.plan.is_gentle() { 0 } else { self.plan.pool.endpoints.len() };
        if figures.waiting + figures.busy > 0 || figures.retiring > scouts {
            self.fault(format_args!("not at rest: {figures}"));
        }
        if self.budget.taken() > 0 {
            self.fault(format_args!("{} bytes taken at rest", self.budget.taken()));
        }
        let (opened, closed) = (self.events.clients_opened.get(), self.events.clients_closed.get());
        if opened != closed {
            self.fault(format_args!("{opened} clients came, {closed} went"));
        }
        let Tally { issued, seen, oneways, replies, errors } = self.oracle.tally();
        let of = |outcome| self.events.outcomes.of(outcome).get();
        self.note(format_args!(
            "{issued} issued, {seen} seen, {replies} replies, {errors} errors; {accepted} accepted"
        ));
        if replies > of(Outcome::Ok) || accepted > issued || errors + replies > accepted {
            self.fault(format_args!("clients saw more than happened"));
        }
        if self.events.closed.of(CloseReason::Panic).get() > 0 {
            self.fault(format_args!("a connection panicked"));
        }
        if self.plan.is_gentle() && self.plan.drain.is_none() {
            if of(Outcome::Lost) + of(Outcome::Desync) > 0 {
                self.fault(format_args!("lost, although no server did anything wrong"));
            }
            // In parts, a server sees the front of those that their clients do not finish.
            let unfinished = self.plan.in_parts() && of(Outcome::Sent) < oneways;
            if of(Outcome::Sent) != oneways && !unfinished {
                self.fault(format_args!("{oneways} one-way requests came, of {} sent", of(Outcome::Sent)));
            }
        }
    }

    fn judge_end(&self) {
        self.judge_rest();
        if self.oracle.open() > 0 {
            self.fault(format_args!("{} upstream sockets are left", self.oracle.open()));
        }
    }

    fn report(&self, seed: u64) -> Report {
        fn named<L: Label>(what: &str, family: &Family<L>) -> Vec<(String, u64)> {
            family.iter().map(|(label, count)| (format!("{what} {}", label.as_str()), count)).collect()
        }
        let events = &self.events;
        let mut counts = named("ended", &events.outcomes);
        counts.extend(named("refused", &events.refused));
        counts.extend(named("closed", &events.closed));
        counts.extend(named("connect", &events.connects));
        counts.extend(named("retry", &events.retries));
        counts.extend(named("probe", &events.probes));
        counts.extend(named("client", &events.clients_timed_out));
        let others = [
            ("late reply", &events.late_replies),
            ("ejection", &events.ejections),
            ("evicted", &events.clients_evicted),
            ("truncated", &events.requests_truncated),
            ("memory wait", &events.memory_waits),
        ];
        counts.extend(others.map(|(what, count)| (what.to_owned(), count.get())));
        let (trace, faults) = (self.oracle.trace.text(), self.oracle.faults());
        Report { seed, trace, faults, counts }
    }
}
