//! Keeps a pool's connections: dials what the floor and the demand want, never above the cap, and backs off
//! from endpoints that fail. Owns the connections' tasks; each one reports here how it ended.

mod watch;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::Pool;
use super::backoff::Backoff;
use super::balance::Endpoint;
use super::cap::Cap;
use super::health::Health;
use super::probe::{Found, Question};
use crate::connection::{Connection, Connector, DialError, Ended, Shared, dial};
use crate::events::{CloseReason, ConnectResult};
use crate::lifecycle::{Alarm, Permit, Phase, earliest};
use crate::net::Address;
use crate::queue::{Connecting, Demand, EndpointDemand};

/// A connection that dies sooner, without a reply, counts as a failed attempt.
const STILLBORN: Duration = Duration::from_secs(1);
/// Floor connections in a row that die unused before the pool is left cold.
const UNUSED_DEATHS: u32 = 2;

/// Keeps the connections of one pool.
#[derive(Debug)]
pub struct Keeper {
    pool: Arc<Pool>,
    shared: Arc<Shared>,
    connector: Arc<dyn Connector>,
    /// The hard cap; every socket holds a permit until it is closed.
    cap: Arc<Cap>,
    tasks: JoinSet<Result<Ended, DialError>>,
    endpoint_of: HashMap<Id, usize>,
    names: Vec<Arc<str>>,
    backoff: Vec<Backoff>,
    /// The endpoint that wins the next tie.
    turn: usize,
    /// There were requests since an endpoint without connections was last looked for.
    touched: bool,
    /// There were requests since the last attempt that failed.
    wanted: bool,
    /// A connection was of use since the last time that there was none.
    served: bool,
    health: Health,
    question: Option<Arc<Question>>,
    /// Probes on their way, by endpoint.
    asked: JoinSet<(usize, Found)>,
    /// Endpoints that are connected to because a probe was due.
    probing: Vec<bool>,
    /// Endpoints that could not be connected to for a probe, because the pool is at its cap.
    without_room: Vec<bool>,
    /// Endpoints that could not be connected to, and are not to be tried again yet.
    paused: Vec<bool>,
    /// Endpoints whose connections had no room for the last question.
    unasked: Vec<bool>,
    /// Endpoints that had a connection at the last look.
    was_open: Vec<bool>,
    unused_deaths: u32,
    unused_death: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        pool: Arc<Pool>,
        shared: Arc<Shared>,
        connector: Arc<dyn Connector>,
        cap: Arc<Cap>,
    ) -> Self {
        let name = |endpoint: &Endpoint| endpoint.address.to_string().into();
        let names: Vec<Arc<str>> = pool.settings.endpoints.iter().map(name).collect();
        Self {
            cap,
            backoff: vec![Backoff::default(); names.len()],
            health: Health::new(pool.settings.health.clone(), names.len()),
            question: Question::new(&pool.settings.health, &shared.protocol, shared.settings.max_buffered)
                .map(Arc::new),
            asked: JoinSet::new(),
            probing: vec![false; names.len()],
            without_room: vec![false; names.len()],
            paused: vec![false; names.len()],
            unasked: vec![false; names.len()],
            was_open: vec![false; names.len()],
            pool,
            shared,
            connector,
            tasks: JoinSet::new(),
            endpoint_of: HashMap::new(),
            names,
            turn: 0,
            touched: false,
            wanted: false,
            served: false,
            unused_deaths: 0,
            unused_death: None,
        }
    }

    /// Keeps until the back half drains, and then waits for the last connection to close.
    pub async fn run(mut self) {
        let mut back = self.shared.back.clone();
        let pool = self.pool.clone();
        let mut alarm = pin!(Alarm::default());
        while back.phase() == Phase::Running {
            // First hear what has ended, and why: a connection is not replaced, nor an endpoint tried again,
            // before that is known.
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.ended(done);
            }
            let now = Instant::now();
            self.look_after_health(now);
            let pause_ends = self.end_pauses(now);
            let look_again = earliest([self.dial_what_is_wanted(now), self.health.next_at(), pause_ends]);
            // Every branch is cancel-safe: a finished task stays in the set until it is taken out. Whichever it
            // is, the loop looks at them all.
            tokio::select! {
                biased;
                () = pool.queue.changed() => {}
                Some(done) = self.tasks.join_next_with_id() => self.ended(done),
                Some(asked) = self.asked.join_next() => self.answered(asked),
                () = alarm.as_mut().reached(look_again) => {}
                () = back.reached(Phase::Draining) => {}
            }
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// From the end of its pause on, the next request is a reason to try an endpoint again. Returns the end of the
    /// next pause.
    fn end_pauses(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for (endpoint, paused) in self.paused.iter_mut().enumerate().filter(|(_, paused)| **paused) {
            if self.backoff[endpoint].is_over(now) {
                *paused = false;
                self.pool.queue.end_pause(endpoint);
            } else {
                next = earliest([next, self.backoff[endpoint].until]);
            }
        }
        next
    }

    /// Opens connections as long as another one is wanted and allowed; returns when to look again if it is
    /// wanted and must wait.
    fn dial_what_is_wanted(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let demand = self.pool.queue.demand();
            if demand.open >= self.pool.settings.min_connections {
                self.pool.floor.send_if_modified(|stood| !std::mem::replace(stood, true));
            }
            if demand.touched {
                (self.touched, self.wanted) = (true, true);
                self.unused_deaths = 0;
                if demand.down {
                    self.backoff.iter_mut().for_each(|backoff| backoff.shorten(now));
                }
            }
            let (uncovered, cover_at) = self.uncovered(&demand, now);
            if demand.connecting >= self.pool.settings.max_connecting
                || !(self.wants_more(&demand) || uncovered.is_some())
            {
                return cover_at;
            }
            let Some(endpoint) = uncovered.or_else(|| self.pick(&demand, now)) else {
                return self.backoff.iter().filter_map(|b| b.until).filter(|until| *until > now).min();
            };
            // At the cap, the end of a connection wakes the keeper.
            let Some(permit) = self.cap.try_take() else {
                if uncovered.is_some() {
                    self.touched = true;
                    if let Some(at) = self.backoff[endpoint].worth_at().filter(|at| *at > now) {
                        self.pool.queue.set_full();
                        return Some(at);
                    }
                    self.pool.queue.make_room();
                } else if demand.wanting > 0 {
                    self.pool.queue.make_use_of_cap();
                }
                return None;
            };
            self.probing[endpoint] |= std::mem::take(&mut self.without_room[endpoint]);
            self.spawn(endpoint, permit);
        }
    }

    fn wants_more(&self, demand: &Demand) -> bool {
        if demand.down {
            return demand.connecting == 0;
        }
        let cold = self.unused_deaths >= UNUSED_DEATHS;
        let floor = if cold { 0 } else { self.pool.settings.min_connections };
        // Sockets to endpoints in trouble may come to nothing.
        let sound = (0..self.names.len()).filter(|e| !self.is_troubled(demand, *e));
        let coming: usize = sound.map(|e| demand.endpoints[e].connecting).sum();
        demand.open + coming < floor || demand.wanting > coming
    }

    /// It failed last time, and nothing shows that it is better now.
    fn is_troubled(&self, demand: &Demand, endpoint: usize) -> bool {
        self.backoff[endpoint].has_failed() && demand.endpoints[endpoint].open == 0
    }

    /// An endpoint that could share the load and has no connection yet: it has the fewest in flight, so the
    /// rule of choice would pick it. Or one that a probe has found no room to connect to. And when to look again.
    fn uncovered(&mut self, demand: &Demand, now: Instant) -> (Option<usize>, Option<Instant>) {
        if demand.down || demand.open == 0 {
            return (None, None);
        }
        let wanted = |e: &usize| {
            let it = &demand.endpoints[*e];
            it.is_untouched() && ((self.touched && !it.left_out) || self.without_room[*e])
        };
        let wanted: SmallVec<[usize; 4]> = (0..self.names.len()).filter(wanted).collect();
        let found = wanted.iter().copied().find(|e| self.backoff[*e].is_over(now));
        self.touched &= wanted.len() > usize::from(found.is_some());
        (found, wanted.into_iter().filter_map(|e| self.backoff[e].until).filter(|until| *until > now).min())
    }

    /// The endpoint with the fewest connections that may be tried now; one that failed last time is tried by
    /// one connection at a time.
    fn pick(&mut self, demand: &Demand, now: Instant) -> Option<usize> {
        let count = self.names.len();
        let may = |e: &usize| {
            let waiting = self.is_troubled(demand, *e) && demand.endpoints[*e].connecting > 0;
            self.backoff[*e].is_over(now) && !waiting && !demand.endpoints[*e].left_out
        };
        let best = (0..count).filter(may).min_by_key(|e| {
            let EndpointDemand { open, connecting, failing, .. } = demand.endpoints[*e];
            (failing, open + connecting, (e + count - self.turn) % count)
        })?;
        self.turn = (best + 1) % count;
        Some(best)
    }

    fn spawn(&mut self, endpoint: usize, permit: Permit) {
        let connecting = self.pool.queue.connecting(endpoint);
        let connector = self.connector.clone();
        let (name, shared) = (self.names[endpoint].clone(), self.shared.clone());
        let at = (endpoint, self.pool.settings.endpoints[endpoint].address.clone());
        let task = self.tasks.spawn(open_and_run(connector, at, connecting, name, shared, permit));
        self.endpoint_of.insert(task.id(), endpoint);
    }

    fn ended(&mut self, done: Result<(Id, Result<Ended, DialError>), JoinError>) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(endpoint) = self.endpoint_of.remove(&id) else { return };
        match done {
            Ok((_, Ok(ended))) => self.connection_ended(endpoint, ended),
            Ok((_, Err(error))) => self.dial_failed(endpoint, &error),
            Err(panic) => {
                self.backoff[endpoint].fail(Instant::now(), true);
                self.pool.events.connection_panicked(&self.names[endpoint], &panic);
            }
        }
    }

    fn dial_failed(&mut self, endpoint: usize, error: &DialError) {
        self.pool.queue.dial_failed(endpoint);
        self.paused[endpoint] = true;
        self.shared.idle_limits[endpoint].gone();
        let demand = self.pool.queue.demand();
        self.touched |= demand.touched;
        let wanted = std::mem::take(&mut self.wanted) || demand.touched || demand.wanting > 0;
        let retry_in = self.backoff[endpoint].fail(Instant::now(), wanted);
        self.pool.events.connect_failed(&self.names[endpoint], error.result, &error.text, retry_in);
        self.missed(endpoint, error);
        let exhausted = self.backoff.iter().all(Backoff::is_exhausted);
        if demand.open == 0 && demand.connecting == 0 && exhausted {
            self.pool.queue.set_down(&format!("{}: {}", self.names[endpoint], error.text));
        } else {
            self.pool.queue.dial_again();
        }
    }

    fn connection_ended(&mut self, endpoint: usize, ended: Ended) {
        let now = Instant::now();
        let died = matches!(
            ended.reason,
            CloseReason::Peer | CloseReason::Lost | CloseReason::Desync | CloseReason::Closing
        );
        // Whether the server closed it or would have soon makes no difference to those who do not use it.
        let unused = ended.carried == 0 && (died || ended.reason == CloseReason::IdleLimit);
        if ended.replies > 0 || (!died && ended.lived >= STILLBORN) {
            self.backoff[endpoint] = Backoff::default();
            self.unused_deaths = if unused { self.unused_deaths } else { 0 };
        } else if died && ended.lived < STILLBORN {
            self.backoff[endpoint].fail(now, true);
        }
        self.served |= ended.replies > 0 || ended.lived >= STILLBORN;
        if self.served && self.pool.queue.endpoints().iter().all(|e| e.open == 0) {
            // What failed earlier may work by now, and there is nothing else.
            self.backoff.iter_mut().for_each(Backoff::hurry);
            self.served = false;
        }
        // Those that stood together may have died together: one death, not many.
        let opened = now - ended.lived;
        if unused && self.unused_death.is_none_or(|last| last <= opened) {
            self.unused_death = Some(now);
            self.unused_deaths += 1;
            if self.unused_deaths == UNUSED_DEATHS {
                self.pool.events.gone_cold(&self.names[endpoint]);
            }
        }
    }
}

async fn open_and_run(
    connector: Arc<dyn Connector>,
    (endpoint, address): (usize, Address),
    connecting: Connecting,
    name: Arc<str>,
    shared: Arc<Shared>,
    permit: Permit,
) -> Result<Ended, DialError> {
    let mut back = shared.back.clone();
    // Cancel-safe: an attempt given up at shutdown closes its socket.
    let wire = tokio::select! {
        biased;
        dialled = dial(&*connector, (endpoint, &address), &shared.settings) => dialled?,
        () = back.reached(Phase::Draining) => {
            let text = "shutting down".to_owned();
            return Err(DialError { result: ConnectResult::Error, text });
        }
    };
    shared.events.connected(&name);
    let wire = wire.holding(permit);
    let limit = shared.idle_limits[endpoint].clone();
    Ok(Connection::new(wire, connecting.join(), name, limit, shared).run().await)
}
