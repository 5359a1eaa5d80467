//! The judge of a block: what must be true of warmline and of the server once everything is at rest.
//!
//! It stands outside: it reads the kernel, the server's ledger and journal, and holds warmline's own figures
//! against them. Used by `block`.

use crate::cell::Tally;
use crate::common::{Daemon, Endpoint, becomes, eventually};
use crate::upstream::Upstream;

/// How warmline is at rest, and its bounds.
#[derive(Debug)]
pub(crate) struct Rest {
    /// Connections of a pool that has nothing to do.
    floor: usize,
    /// File descriptors of the process at the floor.
    fds: u64,
    max_connections: usize,
    max_fds: u64,
    max_memory: u64,
    /// How often a request may run.
    runs: u32,
}

impl Rest {
    /// Of a daemon that has just become ready.
    pub(crate) fn of(daemon: &Daemon, upstream: &Upstream, runs: u32) -> Self {
        let bounds = daemon.bounds();
        let bound = |name: &str| bounds[name].as_u64().unwrap();
        let floor = usize::try_from(bounds["upstreams"][0]["min_connections"].as_u64().unwrap()).unwrap();
        becomes("connections", floor, || upstream.sockets_of(daemon));
        Self {
            floor,
            fds: daemon.open_fds(),
            max_connections: usize::try_from(bound("max_connections")).unwrap(),
            max_fds: bound("file_descriptors"),
            max_memory: bound("memory_bound_bytes"),
            runs,
        }
    }

    /// In the middle of everything: the bounds hold.
    #[track_caller]
    pub(crate) fn sample(&self, daemon: &Daemon, upstream: &Upstream) {
        let sockets = upstream.sockets_of(daemon);
        assert!(sockets <= self.max_connections, "{sockets} upstream connections");
        let fds = daemon.open_fds();
        assert!(fds <= self.max_fds, "{fds} file descriptors");
    }

    /// At the end. With a load, how many requests there were is not known here.
    #[track_caller]
    pub(crate) fn judge(
        &self,
        daemon: &mut Daemon,
        upstream: &mut Upstream,
        tally: &mut Tally,
        loaded: bool,
    ) {
        Self::is_conserved(daemon, tally, loaded);
        self.ran_as_often_as_it_may(upstream, tally);
        self.gave_everything_back(daemon, upstream);
        let peak = daemon.peak_memory();
        assert!(peak <= self.max_memory, "{peak} bytes of memory, {} allowed", self.max_memory);
        assert_eq!(daemon.metric("upstream_closed_total", &[("reason", "panic")]), 0);
        assert_eq!(daemon.terminate(), Some(0), "the drain");
    }

    /// Every request that was accepted has one outcome, and there are no others.
    #[track_caller]
    fn is_conserved(daemon: &Daemon, tally: &Tally, loaded: bool) {
        becomes("clients", 0, || daemon.metric("client_connections", &[]));
        daemon.assert_conserved();
        let metrics = daemon.metrics();
        let accepted = metrics.sum("accepted_total", &[]);
        let expected = tally.whole..=tally.whole + tally.reset;
        assert!(accepted >= *expected.start(), "{accepted} accepted of {expected:?}");
        assert!(loaded || accepted <= *expected.end(), "{accepted} accepted of {expected:?}");
        let ok = metrics.sum("requests_total", &[("outcome", "ok")]);
        assert!(ok >= tally.replies, "{ok} counted as ok, {} replies", tally.replies);
        assert!(
            accepted - ok >= tally.refusals,
            "{} counted as not ok, {} refusals",
            accepted - ok,
            tally.refusals
        );
    }

    /// No request reached a server more often than it may, none that was cut, and each one that has its reply; none
    /// that reached the good server was refused.
    #[track_caller]
    fn ran_as_often_as_it_may(&self, upstream: &mut Upstream, tally: &mut Tally) {
        assert_eq!(upstream.count("violations"), 0);
        let journal = upstream.journal();
        let often = journal.values().filter(|count| **count > self.runs).count();
        assert_eq!(often, 0, "requests that ran more than {} times", self.runs);
        let good = upstream.good.as_ref().map(Endpoint::journal).unwrap_or_default();
        let spoilt = tally.refused.iter().filter(|nonce| good.contains_key(nonce)).count();
        assert_eq!(spoilt, 0, "requests that were refused although the good server had them");
        let cut = tally.cut.iter().filter(|nonce| journal.contains_key(nonce)).count();
        assert_eq!(cut, 0, "requests that travelled although they were never whole");
        tally.met = tally.asked.iter().filter(|nonce| journal.contains_key(nonce)).count() as u64;
        let invented = tally.replied.iter().filter(|nonce| !journal.contains_key(nonce)).count();
        assert_eq!(invented, 0, "replies to requests that the server never saw");
    }

    /// Connections, file descriptors and memory are back where they were.
    #[track_caller]
    fn gave_everything_back(&self, daemon: &Daemon, upstream: &mut Upstream) {
        becomes("memory in use", 0, || daemon.metric("memory_used_bytes", &[]));
        // A fault may have left the pool cold, and then the last request has opened the only connection.
        let floor = self.floor.max(1) as u64;
        eventually("connections and file descriptors of the floor, in everybody's eyes", || {
            let sockets = upstream.sockets_of(daemon) as u64;
            let fds_fit = daemon.open_fds() + self.floor as u64 == self.fds + sockets;
            let counted = [daemon.metric("upstream_connections", &[]), upstream.count("open")];
            let unchanged = upstream.sockets_of(daemon) as u64 == sockets;
            let is_rest = sockets <= floor && fds_fit && counted == [sockets; 2];
            (unchanged && is_rest).then_some(())
        });
    }
}
