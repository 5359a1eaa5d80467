//! Keeps a pool's connections: dials what the floor and the demand want, never above the cap, and backs off
//! from endpoints that fail. Owns the connections' tasks; each one reports here how it ended.

mod kept;
mod watch;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::watch::Receiver;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;

use super::backoff::Backoff;
use super::cap::Cap;
use super::health::Health;
use super::names::Names;
use super::probe::{Found, Question};
use super::{Core, Means, Orders, Settings};
use crate::connection::{Connection, Connector, DialError, Ended, IdleLimit, Shared, dial};
use crate::events::{CloseReason, ConnectResult};
use crate::lifecycle::{Alarm, Permit, Phase, earliest};
use crate::net::Address;
use crate::queue::{Connecting, Demand, EndpointDemand, TURN};
use kept::Kept;

/// A connection that dies sooner, without a reply, counts as a failed attempt.
const STILLBORN: Duration = Duration::from_secs(1);
/// Floor connections in a row that die unused before the pool is left cold.
const UNUSED_DEATHS: u32 = 2;

/// When it is looked again whether connections can be better spread, while the pool is at its cap.
const SPREAD_AGAIN: Duration = Duration::from_millis(250);

/// What the last look at the cap has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Room {
    /// There was as much as was wanted.
    #[default]
    Enough,
    /// There was less.
    Short,
    /// Other pools have all there is, and this one waits for its turn.
    Claimed,
}

/// Keeps the connections of one pool.
#[derive(Debug)]
pub struct Keeper {
    core: Arc<Core>,
    orders: Receiver<Orders>,
    settings: Arc<Settings>,
    shared: Arc<Shared>,
    connector: Arc<dyn Connector>,
    /// The hard cap; every socket holds a permit until it is closed.
    cap: Arc<Cap>,
    names: Names,
    tasks: JoinSet<Result<Ended, DialError>>,
    endpoint_of: HashMap<Id, usize>,
    /// The endpoints, by their place in the queue.
    kept: Vec<Kept>,
    /// The endpoint that wins the next tie.
    turn: usize,
    /// When an endpoint was last to give up its last connection for another one where things are led.
    last_taken: Option<Instant>,
    room: Room,
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
    unused_deaths: u32,
    unused_death: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(
        core: Arc<Core>,
        shared: Arc<Shared>,
        Means { connector, resolver, cap }: Means,
    ) -> Self {
        let orders = core.orders.subscribe();
        let settings = orders.borrow().settings.clone();
        let names = Names::new(&settings.endpoints, settings.balance.resolve, resolver, core.events.clone());
        let mut keeper = Self {
            health: Health::new(settings.health.clone()),
            question: Question::new(&settings.health, &shared.protocol).map(Arc::new),
            core,
            orders,
            settings,
            shared,
            connector,
            cap,
            names,
            tasks: JoinSet::new(),
            endpoint_of: HashMap::new(),
            kept: Vec::new(),
            asked: JoinSet::new(),
            turn: 0,
            last_taken: None,
            room: Room::default(),
            touched: false,
            wanted: false,
            served: false,
            unused_deaths: 0,
            unused_death: None,
        };
        keeper.look_at_names();
        keeper
    }

    /// Keeps until the back half drains, and then waits for the last connection to close.
    pub async fn run(mut self) {
        let mut back = self.shared.back.clone();
        let (core, cap, mut orders) = (self.core.clone(), self.cap.clone(), self.orders.clone());
        let mut alarm = pin!(Alarm::default());
        while back.phase() == Phase::Running {
            // First hear what has ended, and why: a connection is not replaced, nor an endpoint tried again,
            // before that is known.
            while let Some(done) = self.tasks.try_join_next_with_id() {
                self.ended(done);
            }
            let now = Instant::now();
            // Before the look at the cap: of what changes after it the keeper hears.
            let mut cap_changed = pin!(cap.changed());
            self.look_after_health(now);
            let pause_ends = self.end_pauses(now);
            self.names.start_due(now);
            let look_again =
                [self.dial_within_cap(now), self.health.next_at(), pause_ends, self.names.next_at()];
            // Every branch is cancel-safe: a finished task stays in the set until it is taken out. Whichever it
            // is, the loop looks at them all.
            tokio::select! {
                biased;
                () = core.queue.changed() => {}
                // The sender is in the core.
                _ = orders.changed() => self.obey(orders.borrow_and_update().clone()),
                Some(done) = self.tasks.join_next_with_id() => self.ended(done),
                Some(asked) = self.asked.join_next() => self.answered(asked),
                () = &mut cap_changed, if self.room != Room::Enough || self.is_superseded() => self.shed_excess(),
                () = alarm.as_mut().reached(earliest(look_again)) => {}
                heard = self.names.next() => self.heard(heard),
                () = back.reached(Phase::Draining) => {}
            }
        }
        self.cap.disclaim(&self.core.queue);
        while self.tasks.join_next().await.is_some() {}
    }

    /// From the end of its pause on, the next request is a reason to try an endpoint again. Returns the end of the
    /// next pause.
    fn end_pauses(&mut self, now: Instant) -> Option<Instant> {
        let mut next = None;
        for (endpoint, kept) in self.kept.iter_mut().enumerate().filter(|(_, kept)| kept.paused) {
            if kept.backoff.is_over(now) {
                kept.paused = false;
                self.core.queue.end_pause(endpoint);
            } else {
                next = earliest([next, kept.backoff.until]);
            }
        }
        next
    }

    /// As [`Keeper::dial_what_is_wanted`], and stands in nobody's way for what is wanted no longer.
    fn dial_within_cap(&mut self, now: Instant) -> Option<Instant> {
        let before = std::mem::take(&mut self.room);
        let look_again = self.dial_what_is_wanted(now);
        if before == Room::Claimed && self.room != Room::Claimed {
            self.cap.disclaim(&self.core.queue);
        }
        look_again
    }

    /// Opens connections as long as another one is wanted and allowed; returns when to look again if it is
    /// wanted and must wait.
    fn dial_what_is_wanted(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let demand = self.core.queue.demand();
            if demand.open >= self.settings.min_connections {
                self.core.floor.send_if_modified(|stood| !std::mem::replace(stood, true));
            }
            if demand.touched {
                (self.touched, self.wanted) = (true, true);
                self.unused_deaths = 0;
                if demand.down {
                    self.kept.iter_mut().for_each(|kept| kept.backoff.shorten(now));
                    self.names.shorten(now);
                }
            }
            if demand.open > self.settings.max_connections {
                // Those that were being opened when there was room for them.
                self.core.queue.shed(self.settings.max_connections);
            }
            let (uncovered, cover_at) = self.uncovered(&demand, now);
            let (needy, serve_at) = self.needy(&demand, now);
            let needy = uncovered.or(needy);
            if demand.connecting >= self.settings.max_connecting
                || !(self.wants_more(&demand) || needy.is_some())
            {
                return earliest([cover_at, serve_at]);
            }
            let Some(endpoint) = needy.or_else(|| self.pick(&demand, now)) else {
                return self.kept.iter().filter_map(|k| k.backoff.until).filter(|until| *until > now).min();
            };
            let Some(permit) = self.cap.try_take(&self.core.queue) else {
                self.touched |= uncovered.is_some();
                return self.make_do(needy, &demand, now);
            };
            let kept = &mut self.kept[endpoint];
            kept.probing |= std::mem::take(&mut kept.without_room);
            self.turn = (endpoint + 1) % self.kept.len();
            self.spawn(endpoint, permit);
        }
    }

    /// The pool is at its cap, of which the end of a connection tells the keeper. What there is may still be spread
    /// better; returns when to look again at that.
    fn make_do(&mut self, needy: Option<usize>, demand: &Demand, now: Instant) -> Option<Instant> {
        let asked = demand.has_waiting() || (demand.down && demand.touched);
        // Those that have long requests are of no use to what waits.
        let of_use = if demand.stands_still { demand.connecting } else { demand.open + demand.connecting };
        let (claimed, claim_at) =
            if asked { self.cap.claim(&self.core.queue, of_use) } else { (false, None) };
        self.room = if claimed { Room::Claimed } else { Room::Short };
        let worth_at = needy.and_then(|needy| self.kept[needy].backoff.worth_at()).filter(|at| *at > now);
        match needy {
            Some(needy) if worth_at.is_some() => self.core.queue.set_out_of_reach(needy),
            Some(needy) => {
                let last = self.last_taken.is_none_or(|taken| now >= taken + TURN);
                self.last_taken = if last { Some(now) } else { self.last_taken };
                self.core.queue.make_room(needy, last);
            }
            None => {}
        }
        if demand.wanting > 0 || needy.is_some() {
            self.core.queue.make_use_of_cap();
        }
        let waits = needy.is_some_and(|needy| demand.endpoints[needy].waiting > 0);
        let asked = demand.touched || demand.has_waiting();
        let spread_at = needy.filter(|_| asked).map(|_| now + if waits { TURN } else { SPREAD_AGAIN });
        earliest([claim_at, worth_at.or(spread_at)])
    }

    fn wants_more(&self, demand: &Demand) -> bool {
        if demand.down {
            return demand.connecting == 0 && (self.wanted || !self.is_superseded());
        }
        let cold = self.unused_deaths >= UNUSED_DEATHS || self.is_superseded();
        let floor = if cold { 0 } else { self.settings.min_connections };
        // Sockets to endpoints in trouble may come to nothing.
        let sound = (0..self.kept.len()).filter(|e| !self.is_troubled(demand, *e));
        let coming: usize = sound.map(|e| demand.endpoints[e].connecting).sum();
        demand.open + coming < floor || demand.wanting > coming
    }

    /// It failed last time, and nothing shows that it is better now.
    fn is_troubled(&self, demand: &Demand, endpoint: usize) -> bool {
        self.kept[endpoint].backoff.has_failed() && demand.endpoints[endpoint].open == 0
    }

    /// An endpoint that could share the load and has no connection yet: it has the fewest in flight, so the
    /// rule of choice would pick it. Or one that a probe has found no room to connect to. And when to look again.
    fn uncovered(&mut self, demand: &Demand, now: Instant) -> (Option<usize>, Option<Instant>) {
        if demand.down || demand.open == 0 {
            return (None, None);
        }
        let wanted = |e: &usize| {
            let it = &demand.endpoints[*e];
            it.is_untouched() && ((self.touched && !it.left_out) || self.kept[*e].without_room)
        };
        // In turn, or the first one would have all the room that is made for others.
        let in_turn = (self.turn..self.kept.len()).chain(0..self.turn.min(self.kept.len()));
        let wanted: SmallVec<[usize; 4]> = in_turn.filter(wanted).collect();
        let found = wanted.iter().copied().find(|e| self.kept[*e].backoff.is_over(now));
        self.touched &= wanted.len() > usize::from(found.is_some());
        let until = wanted.into_iter().filter_map(|e| self.kept[e].backoff.until);
        (found, until.filter(|until| *until > now).min())
    }

    /// An endpoint that others cannot stand in for: what waits was led there, or its turns come and it has no room. And
    /// when to look again.
    fn needy(&self, demand: &Demand, now: Instant) -> (Option<usize>, Option<Instant>) {
        let count = self.kept.len();
        let needy = |e: &usize| {
            let it = &demand.endpoints[*e];
            let needs = it.waiting > it.connecting || (it.short && it.connecting == 0);
            let waits = self.is_troubled(demand, *e) && it.connecting > 0;
            needs && !waits && !it.left_out
        };
        let (ready, paused): (SmallVec<[usize; 4]>, SmallVec<[usize; 4]>) =
            (0..count).filter(needy).partition(|e| self.kept[*e].backoff.is_over(now));
        let turns_away = |e: usize| (e + count - self.turn) % count;
        let first = ready.into_iter().min_by_key(|e| (demand.endpoints[*e].fill(), turns_away(*e)));
        (first, paused.into_iter().filter_map(|e| self.kept[e].backoff.until).min())
    }

    /// The endpoint with the fewest connections for its weight that may be tried now; one that failed last time is tried by
    /// one connection at a time.
    fn pick(&mut self, demand: &Demand, now: Instant) -> Option<usize> {
        let count = self.kept.len();
        let may = |e: &usize| {
            let waiting = self.is_troubled(demand, *e) && demand.endpoints[*e].connecting > 0;
            self.kept[*e].backoff.is_over(now) && !waiting && !demand.endpoints[*e].left_out
        };
        let best = (0..count).filter(may).min_by_key(|e| {
            let it = &demand.endpoints[*e];
            (it.failing, it.fill(), (e + count - self.turn) % count)
        })?;
        Some(best)
    }

    fn spawn(&mut self, endpoint: usize, permit: Permit) {
        let connecting = self.core.queue.connecting(endpoint);
        let kept = &mut self.kept[endpoint];
        kept.busy += 1;
        let target = Target {
            endpoint,
            address: kept.endpoint.address.clone(),
            name: kept.name.clone(),
            idle_limit: kept.idle_limit.clone(),
        };
        let (connector, shared) = (self.connector.clone(), self.shared.clone());
        let task = self.tasks.spawn(open_and_run(connector, target, connecting, shared, permit));
        self.endpoint_of.insert(task.id(), endpoint);
    }

    fn ended(&mut self, done: Result<(Id, Result<Ended, DialError>), JoinError>) {
        let id = done.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let Some(endpoint) = self.endpoint_of.remove(&id) else { return };
        self.kept[endpoint].busy -= 1;
        match done {
            Ok((_, Ok(ended))) => self.connection_ended(endpoint, ended),
            Ok((_, Err(error))) => self.dial_failed(endpoint, &error),
            Err(panic) => {
                let kept = &mut self.kept[endpoint];
                kept.backoff.fail(Instant::now(), true);
                self.core.events.connection_panicked(&kept.name, &panic);
            }
        }
    }

    fn dial_failed(&mut self, endpoint: usize, error: &DialError) {
        if self.kept[endpoint].removed {
            return;
        }
        self.core.queue.dial_failed(endpoint);
        let demand = self.core.queue.demand();
        self.touched |= demand.touched;
        let wanted = std::mem::take(&mut self.wanted) || demand.touched || demand.has_waiting();
        let kept = &mut self.kept[endpoint];
        kept.paused = true;
        kept.idle_limit.gone();
        let retry_in = kept.backoff.fail(Instant::now(), wanted);
        self.core.events.connect_failed(&kept.name, error.result, &error.text, retry_in);
        self.names.hurry(&kept.endpoint.address, Instant::now());
        self.missed(endpoint, error);
        if self.is_exhausted() {
            self.core.queue.set_down(&format!("{}: {}", self.kept[endpoint].name, error.text));
        } else {
            self.core.queue.dial_again();
        }
    }

    /// Whether there is no connection, and nothing left to try at once.
    fn is_exhausted(&self) -> bool {
        let untouched = self.core.queue.endpoints().iter().all(EndpointDemand::is_untouched);
        let mut there = self.kept.iter().filter(|kept| !kept.removed);
        untouched && !self.names.are_asked() && there.all(|kept| kept.backoff.is_exhausted())
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
            self.kept[endpoint].backoff = Backoff::default();
            self.unused_deaths = if unused { self.unused_deaths } else { 0 };
        } else if died && ended.lived < STILLBORN {
            self.kept[endpoint].backoff.fail(now, true);
        }
        self.served |= ended.replies > 0 || ended.lived >= STILLBORN;
        if self.served && self.core.queue.endpoints().iter().all(|e| e.open == 0) {
            // What failed earlier may work by now, and there is nothing else.
            self.kept.iter_mut().for_each(|kept| kept.backoff.hurry());
            self.served = false;
        }
        // Those that stood together may have died together: one death, not many.
        let opened = now - ended.lived;
        if unused && self.unused_death.is_none_or(|last| last <= opened) {
            self.unused_death = Some(now);
            self.unused_deaths += 1;
            if self.unused_deaths == UNUSED_DEATHS {
                self.core.events.gone_cold(&self.kept[endpoint].name);
            }
        }
    }
}

/// What a connection is opened to.
struct Target {
    endpoint: usize,
    address: Address,
    name: Arc<str>,
    idle_limit: Arc<IdleLimit>,
}

async fn open_and_run(
    connector: Arc<dyn Connector>,
    target: Target,
    connecting: Connecting,
    shared: Arc<Shared>,
    permit: Permit,
) -> Result<Ended, DialError> {
    let mut back = shared.back.clone();
    // Cancel-safe: an attempt given up at shutdown closes its socket.
    let wire = tokio::select! {
        biased;
        dialled = dial(&*connector, (target.endpoint, &target.address), &shared.settings) => dialled?,
        () = back.reached(Phase::Draining) => {
            let text = "shutting down".to_owned();
            return Err(DialError { result: ConnectResult::Error, text });
        }
    };
    shared.events.connected(&target.name);
    let wire = wire.holding(permit);
    Ok(Connection::new(wire, connecting.join(), target.name, target.idle_limit, shared).run().await)
}
