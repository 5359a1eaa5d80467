//! One method per thing worth knowing: it counts, and where a person should hear of it, it logs.
//!
//! Nothing else in the crate logs or counts. Logs never hold payload bytes; bytes of a peer that help to
//! understand a fault are escaped and cut. Each kind of line is limited in rate, so that a flood of
//! faults cannot become a flood of lines.
//! Long because it is a list, and nothing in it needs the next.

mod label;
mod limit;
pub mod log;
pub mod meter;
mod names;
pub mod process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, error, info, warn};

pub use label::{
    ClientTimeout, CloseReason, ConnectResult, HandOver, Outcome, ProbeResult, Reason, ReloadResult,
    ResolveResult, Rung, Unasked,
};
use limit::Limit;
use meter::{Counter, Family, Histogram, Label};

/// What is known of one upstream.
#[derive(Debug)]
pub struct Upstream {
    name: Box<str>,
    limit: Limits,
    /// Requests read whole, or refused while they were read.
    pub accepted: Counter,
    /// Ended exchanges.
    pub outcomes: Family<Outcome>,
    /// Requests refused.
    pub refused: Family<Reason>,
    /// From admission to the end.
    pub request_duration: Histogram,
    /// That, less the time the upstream took.
    pub overhead: Histogram,
    /// From admission to a connection.
    pub queue_wait: Histogram,
    /// Attempts to connect.
    pub connects: Family<ConnectResult>,
    /// Look-ups of names ended.
    pub resolves: Family<ResolveResult>,
    /// Upstream connections closed.
    pub closed: Family<CloseReason>,
    /// Requests tried again.
    pub retries: Family<Rung>,
    /// Probes of endpoints ended.
    pub probes: Family<ProbeResult>,
    /// Endpoints ejected.
    pub ejections: Counter,
    /// Client connections whose first request went out on a connection that others had used before.
    pub handshakes_saved: Counter,
    /// Upstream connections closed for breaking the protocol.
    pub desyncs: Counter,
    /// Replies that came after their exchange had ended.
    pub late_replies: Counter,
    /// Messages that servers sent of their own accord.
    pub unasked: Family<Unasked>,
    /// Clients that were given a connection of their own.
    pub handed_over: Family<HandOver>,
    /// Exchanges whose client left before the reply.
    pub abandoned: Counter,
    /// Client connections accepted.
    pub clients_opened: Counter,
    /// Client connections closed.
    pub clients_closed: Counter,
    /// Idle clients closed to make room for new ones.
    pub clients_evicted: Counter,
    /// Clients closed for slowness.
    pub clients_timed_out: Family<ClientTimeout>,
    /// Clients that `access.uids` does not allow.
    pub clients_forbidden: Counter,
    /// Clients that left in the middle of a request.
    pub requests_truncated: Counter,
    /// Sessions that had to wait for memory.
    pub memory_waits: Counter,
    /// Failed accepts.
    pub accept_errors: Counter,
}

/// A client that is connected, whatever becomes of its session.
#[derive(Debug)]
#[must_use]
pub struct OpenClient(Arc<Upstream>);

impl Drop for OpenClient {
    fn drop(&mut self) {
        self.0.clients_closed.add_one();
    }
}

/// One limiter for each kind of line.
#[derive(Debug, Default)]
struct Limits {
    refused: Limit,
    malformed: Limit,
    connect: Limit,
    closed: Limit,
    desync: Limit,
    first: Limit,
    evicted: Limit,
    slow: Limit,
    forbidden: Limit,
    memory: Limit,
    accept: Limit,
    late: Limit,
    unasked: Limit,
    handed_over: Limit,
    unclaimed: Limit,
    ejected: Limit,
    idle: Limit,
    resolve: Limit,
    addresses: Limit,
}

/// Times of an exchange, for [`Upstream::ended`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    /// From admission to the end.
    pub total: Duration,
    /// From admission to being given to a connection, if it was.
    pub waited: Option<Duration>,
    /// From written to replied, if it got that far.
    pub upstream: Option<Duration>,
}

impl Upstream {
    /// Nothing has happened yet to the upstream called `name`.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            limit: Limits::default(),
            accepted: Counter::default(),
            outcomes: Family::default(),
            refused: Family::default(),
            request_duration: Histogram::default(),
            overhead: Histogram::default(),
            queue_wait: Histogram::default(),
            connects: Family::default(),
            resolves: Family::default(),
            closed: Family::default(),
            retries: Family::default(),
            probes: Family::default(),
            ejections: Counter::default(),
            handshakes_saved: Counter::default(),
            desyncs: Counter::default(),
            late_replies: Counter::default(),
            unasked: Family::default(),
            handed_over: Family::default(),
            abandoned: Counter::default(),
            clients_opened: Counter::default(),
            clients_closed: Counter::default(),
            clients_evicted: Counter::default(),
            clients_timed_out: Family::default(),
            clients_forbidden: Counter::default(),
            requests_truncated: Counter::default(),
            memory_waits: Counter::default(),
            accept_errors: Counter::default(),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A request was accepted; [`Upstream::ended`] must follow.
    pub fn accepted(&self) {
        self.accepted.add_one();
    }

    /// An accepted request ended.
    pub fn ended(&self, outcome: Outcome, times: Times) {
        self.outcomes.of(outcome).add_one();
        self.request_duration.observe(times.total);
        if let Some(waited) = times.waited {
            self.queue_wait.observe(waited);
        }
        if let Some(upstream) = times.upstream {
            self.overhead.observe(times.total.saturating_sub(upstream));
        }
        if outcome == Outcome::ClientGone {
            self.abandoned.add_one();
        }
    }

    /// A request never reached an upstream connection.
    pub fn refused(&self, reason: Reason, text: &dyn fmt::Display) {
        self.refused.of(reason).add_one();
        if matches!(reason, Reason::Malformed | Reason::TooLarge) {
            // `malformed` has told more.
            return;
        }
        if let Some(suppressed) = self.limit.refused.pass() {
            warn!(upstream = &*self.name, reason = reason.as_str(), suppressed, "request refused: {text}");
        }
    }

    /// A client's bytes are not a request.
    pub fn malformed(&self, peer: &dyn fmt::Display, fault: &dyn fmt::Display, front: &[u8]) {
        if let Some(suppressed) = self.limit.malformed.pass() {
            let front = Escaped(front, MAGIC);
            warn!(upstream = &*self.name, %peer, %front, suppressed, "malformed request: {fault}");
        }
    }

    /// An upstream connection stands.
    pub fn connected(&self, endpoint: &dyn fmt::Display) {
        self.connects.of(ConnectResult::Ok).add_one();
        debug!(upstream = &*self.name, %endpoint, "connected");
    }

    /// An attempt to connect failed; the next one to this endpoint is `retry_in` away.
    pub fn connect_failed(
        &self,
        endpoint: &dyn fmt::Display,
        result: ConnectResult,
        fault: &dyn fmt::Display,
        retry_in: Duration,
    ) {
        self.connects.of(result).add_one();
        if let Some(suppressed) = self.limit.connect.pass() {
            let result = result.as_str();
            warn!(upstream = &*self.name, %endpoint, result, ?retry_in, suppressed, "connect failed: {fault}");
        }
    }

    /// An upstream connection closed after `carried` requests, `owed` of them without a reply.
    pub fn connection_closed(
        &self,
        endpoint: &dyn fmt::Display,
        reason: CloseReason,
        carried: u64,
        owed: usize,
    ) {
        self.closed.of(reason).add_one();
        let word = reason.as_str();
        if matches!(reason, CloseReason::Lost | CloseReason::Stalled) {
            if let Some(suppressed) = self.limit.closed.pass() {
                warn!(upstream = &*self.name, %endpoint, reason = word, carried, owed, suppressed, "connection closed");
            }
        } else {
            debug!(upstream = &*self.name, %endpoint, reason = word, carried, owed, "connection closed");
        }
    }

    /// A bug ended an upstream connection.
    pub fn connection_panicked(&self, endpoint: &dyn fmt::Display, fault: &dyn fmt::Display) {
        self.closed.of(CloseReason::Panic).add_one();
        error!(upstream = &*self.name, %endpoint, "connection ended by a bug: {fault}");
    }

    /// A server broke the protocol.
    pub fn desync(&self, endpoint: &dyn fmt::Display, fault: &dyn fmt::Display, front: &[u8]) {
        self.desyncs.add_one();
        if let Some(suppressed) = self.limit.desync.pass() {
            let front = Escaped(front, MAGIC);
            warn!(upstream = &*self.name, %endpoint, %front, suppressed, "upstream broke the protocol: {fault}");
        }
    }

    /// A server sent bytes before it was asked anything.
    pub fn speaks_first(&self, endpoint: &dyn fmt::Display, front: &[u8]) {
        if let Some(suppressed) = self.limit.first.pass() {
            let front = Escaped(front, GREETING);
            warn!(
                upstream = &*self.name, %endpoint, %front, suppressed,
                "server speaks first: set [preamble] expect, or check that this is the right port"
            );
        }
    }

    /// A floor connection died unused twice in a row: the pool stays cold until there is demand.
    pub fn gone_cold(&self, endpoint: &dyn fmt::Display) {
        info!(upstream = &*self.name, %endpoint, "server closes unused connections: pool left cold until demand");
    }

    /// A server was found to close connections that idle for `limit`: they leave before that.
    pub fn idle_limit_learned(&self, endpoint: &dyn fmt::Display, limit: Duration) {
        if let Some(suppressed) = self.limit.idle.pass() {
            info!(upstream = &*self.name, %endpoint, ?limit, suppressed, "idle limit learned");
        }
    }

    /// A connection idled for `age` and was not closed: there is no such `limit`.
    pub fn idle_limit_unlearned(&self, endpoint: &dyn fmt::Display, limit: Duration, age: Duration) {
        if let Some(suppressed) = self.limit.idle.pass() {
            info!(upstream = &*self.name, %endpoint, ?limit, ?age, suppressed, "idle limit unlearned");
        }
    }

    /// A reply came after its exchange had ended, and was swallowed.
    pub fn late_reply(&self, endpoint: &dyn fmt::Display) {
        self.late_replies.add_one();
        if let Some(suppressed) = self.limit.late.pass() {
            debug!(upstream = &*self.name, %endpoint, suppressed, "late reply swallowed");
        }
    }

    /// A server sent something of its own accord.
    pub fn unasked(&self, endpoint: &dyn fmt::Display, action: Unasked) {
        self.unasked.of(action).add_one();
        if let Some(suppressed) = self.limit.unasked.pass() {
            let action = action.as_str();
            debug!(upstream = &*self.name, %endpoint, action, suppressed, "message of a server's own");
        }
    }

    /// A client has a connection of its own from here on.
    pub fn handed_over(&self, endpoint: &dyn fmt::Display, reason: HandOver) {
        self.handed_over.of(reason).add_one();
        if let Some(suppressed) = self.limit.handed_over.pass() {
            let reason = reason.as_str();
            info!(upstream = &*self.name, %endpoint, reason, suppressed, "a client has a connection of its own");
        }
    }

    /// A reply came that does not say what it answers, and was dropped.
    pub fn unclaimed(&self, endpoint: &dyn fmt::Display) {
        self.unasked.of(Unasked::Unclaimed).add_one();
        if let Some(suppressed) = self.limit.unclaimed.pass() {
            warn!(upstream = &*self.name, %endpoint, suppressed, "reply without an id dropped");
        }
    }

    /// A client let a reply in parts hold a shared connection up: it is cut, and the rest swallowed.
    pub fn reply_not_taken(&self, endpoint: &dyn fmt::Display) {
        self.clients_timed_out.of(ClientTimeout::NotTaken).add_one();
        if let Some(suppressed) = self.limit.slow.pass() {
            warn!(upstream = &*self.name, %endpoint, suppressed, "reply not taken by its client: swallowed");
        }
    }

    /// A request came to nothing, and is tried again.
    pub fn retried(&self, rung: Rung) {
        self.retries.of(rung).add_one();
    }

    /// A probe of an endpoint ended; `fault` says what is wrong with the answer.
    pub fn probed(&self, endpoint: &dyn fmt::Display, result: ProbeResult, fault: &dyn fmt::Display) {
        self.probes.of(result).add_one();
        if result != ProbeResult::Ok {
            debug!(upstream = &*self.name, %endpoint, result = result.as_str(), "probe failed: {fault}");
        }
    }

    /// Probes found an endpoint unfit: it gets nothing while others are better.
    pub fn unhealthy(&self, endpoint: &dyn fmt::Display, fault: &dyn fmt::Display) {
        warn!(upstream = &*self.name, %endpoint, "endpoint unhealthy: {fault}");
    }

    /// Probes found it well again.
    pub fn healthy(&self, endpoint: &dyn fmt::Display) {
        info!(upstream = &*self.name, %endpoint, "endpoint healthy again");
    }

    /// An endpoint failed too often in a row: it gets nothing for so long while others are better.
    pub fn ejected(&self, endpoint: &dyn fmt::Display, duration: Duration) {
        self.ejections.add_one();
        if let Some(suppressed) = self.limit.ejected.pass() {
            warn!(upstream = &*self.name, %endpoint, ?duration, suppressed, "endpoint ejected");
        }
    }

    /// An ejected endpoint may show what it can do.
    pub fn readmitted(&self, endpoint: &dyn fmt::Display) {
        debug!(upstream = &*self.name, %endpoint, "ejected endpoint readmitted");
    }

    /// A client's first request went out on a connection that others had used before.
    pub fn handshake_saved(&self) {
        self.handshakes_saved.add_one();
    }

    /// A client connected. It counts as closed when what this returns is dropped.
    pub fn client_opened(self: &Arc<Self>) -> OpenClient {
        self.clients_opened.add_one();
        OpenClient(self.clone())
    }

    /// An idle client was closed to make room for a new one.
    pub fn client_evicted(&self) {
        self.clients_evicted.add_one();
        if let Some(suppressed) = self.limit.evicted.pass() {
            warn!(upstream = &*self.name, suppressed, "client cap reached: idle client closed");
        }
    }

    /// A client was closed for slowness.
    pub fn client_timed_out(&self, kind: ClientTimeout, peer: &dyn fmt::Display) {
        self.clients_timed_out.of(kind).add_one();
        if kind == ClientTimeout::Idle {
            debug!(upstream = &*self.name, %peer, "idle client closed");
        } else if let Some(suppressed) = self.limit.slow.pass() {
            warn!(upstream = &*self.name, %peer, timeout = kind.as_str(), suppressed, "slow client closed");
        }
    }

    /// `access.uids` does not list this client's user.
    pub fn client_forbidden(&self, uid: u32) {
        self.clients_forbidden.add_one();
        if let Some(suppressed) = self.limit.forbidden.pass() {
            warn!(upstream = &*self.name, uid, suppressed, "client refused: user not in access.uids");
        }
    }

    /// A client left in the middle of a request.
    pub fn request_truncated(&self, peer: &dyn fmt::Display, received: usize) {
        self.requests_truncated.add_one();
        debug!(upstream = &*self.name, %peer, received, "client left in the middle of a request");
    }

    /// A session waits for memory.
    pub fn memory_waited(&self, wanted: usize) {
        self.memory_waits.add_one();
        if let Some(suppressed) = self.limit.memory.pass() {
            warn!(upstream = &*self.name, wanted, suppressed, "limits.memory is used up: reading paused");
        }
    }

    /// An accept failed for another reason than "nobody waits".
    pub fn accept_failed(&self, listener: &dyn fmt::Display, fault: &dyn fmt::Display) {
        self.accept_errors.add_one();
        if let Some(suppressed) = self.limit.accept.pass() {
            warn!(upstream = &*self.name, %listener, suppressed, "accept failed: {fault}");
        }
    }
}

/// The first bytes of what a peer sent, printable: control characters escaped, the rest cut.
struct Escaped<'a>(&'a [u8], usize);

/// Enough of a fault to know another protocol by (`GET `, TLS), too little of anybody's payload.
const MAGIC: usize = 4;
/// A server that speaks first is not answering anybody.
const GREETING: usize = 16;

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let &Self(bytes, shown) = self;
        write!(f, "{}", bytes[..bytes.len().min(shown)].escape_ascii())?;
        if bytes.len() > shown { f.write_str("..") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_peer_are_escaped_and_cut() {
        assert_eq!(Escaped(b"a\n\x1b[31m\"\xff", GREETING).to_string(), "a\\n\\x1b[31m\\\"\\xff");
        assert_eq!(Escaped(b"AUTH secret", MAGIC).to_string(), "AUTH..");
    }

    #[test]
    fn every_outcome_is_counted_once() {
        let events = Upstream::new("u");
        let times = Times { total: Duration::from_millis(3), waited: None, upstream: None };
        for outcome in Outcome::ALL {
            events.accepted();
            events.ended(*outcome, times);
        }
        assert_eq!(events.accepted.get(), events.outcomes.sum());
        assert_eq!(events.abandoned.get(), 1);
    }
}
