//! `warmline demo`: the main job with nothing to prepare. Short connections go straight to an echo server,
//! and the same through warmline.
//!
//! Invariant: clients and servers are plain threads and sockets that share no code with warmline, so what
//! they count and compare is a check of it. Called by `cli`.

mod clients;
mod echo;
mod kernel;
mod proxy;
mod report;

use std::io::{self, IsTerminal, Write};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::{Exit, fail, print};
use crate::events::log;
use clients::{Tally, Work};
use echo::{Echo, Tamper};
use proxy::Proxy;
use report::{Report, Side, grouped};

/// When clients stop, done or not.
const PATIENCE: Duration = Duration::from_secs(60);
/// Each way is measured in so many parts, taking turns, so that both meet the same moods of the machine.
const ROUNDS: u64 = 4;
/// Connections that warmline may open.
const MAX_CONNECTIONS: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Connections with one request each: so many straight to the server, and as many through warmline.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    requests: u64,
    /// Clients at a time.
    #[arg(long, value_name = "COUNT", default_value_t = 32)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    clients: u16,
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot start a server to talk to: {0}")]
    Echo(io::Error),
    #[error("cannot start clients: {0}")]
    Clients(io::Error),
    #[error(transparent)]
    Proxy(#[from] proxy::Error),
}

pub(super) fn run(args: &Args) -> Exit {
    // An error means that somebody logs already, which a test may.
    let _ = log::init("warn", log::Format::Auto);
    let report = match measure(args, |_, _| {}) {
        Ok(report) => report,
        Err(error) => return fail(Exit::Failed, error),
    };
    let printed = print(&report.to_string());
    match report.reasons() {
        none if none.is_empty() => printed,
        reasons => fail(Exit::Failed, reasons.join("\nwarmline: ")),
    }
}

/// Does everything there is to see. `tamper` is what the servers do to their replies.
fn measure(args: &Args, tamper: Tamper) -> Result<Report, Error> {
    let clients = usize::from(args.clients);
    // So many that none of the peers ever waits for a thread of the server.
    let threads = clients + MAX_CONNECTIONS + 1;
    let direct_server = Echo::start(threads, tamper).map_err(Error::Echo)?;
    let pooled_server = Echo::start(threads, tamper).map_err(Error::Echo)?;
    let proxy = Proxy::start(pooled_server.address(), clients, MAX_CONNECTIONS)?;
    let proxy_address = proxy.address();

    let (direct, through) = take_turns(args, direct_server.address(), proxy_address)?;
    let ended = proxy.stop()?;

    let left = |address: SocketAddr| kernel::time_wait(address.port());
    Ok(Report {
        requests: args.requests,
        clients,
        max_connections: MAX_CONNECTIONS,
        patience: PATIENCE,
        direct: Side::new(direct, &direct_server, left(direct_server.address())),
        through: Side::new(through, &pooled_server, left(pooled_server.address())),
        left_at_proxy: left(proxy_address),
        ended,
    })
}

/// Every round of both ways: what came of the direct one, and of the one through warmline.
fn take_turns(args: &Args, server: SocketAddr, proxy: SocketAddr) -> Result<(Tally, Tally), Error> {
    let mut progress = Progress { total: args.requests * 2, done: 0, terminal: io::stderr().is_terminal() };
    let (mut direct, mut through) = (Tally::default(), Tally::default());
    let (deadline, run) = (Instant::now() + PATIENCE, fastrand::u64(..));
    for round in 0..ROUNDS {
        let numbers = args.requests * round / ROUNDS..args.requests * (round + 1) / ROUNDS;
        let mut ways = [("direct", server, &mut direct), ("through warmline", proxy, &mut through)];
        // Neither always comes first.
        if round % 2 == 1 {
            ways.reverse();
        }
        for (way, target, tally) in ways {
            let work = Work { target, run, numbers: numbers.clone(), clients: args.clients, deadline };
            let found = clients::drive(&work, &mut |done| progress.show(way, done)).map_err(Error::Clients);
            progress.clear();
            tally.add(found?);
            progress.done += numbers.end - numbers.start;
        }
    }
    Ok((direct, through))
}

/// A line on the terminal that says how far it is; nothing elsewhere.
struct Progress {
    total: u64,
    done: u64,
    terminal: bool,
}

impl Progress {
    fn show(&self, way: &str, done: u64) {
        let done = self.done + done;
        let percent = done * 100 / self.total;
        self.write(&format!("\r{percent:3} %  {} of {} requests, {way}", grouped(done), grouped(self.total)));
    }

    /// Leaves an empty line for whatever comes next.
    fn clear(&self) {
        self.write("\r\x1b[2K");
    }

    fn write(&self, text: &str) {
        if self.terminal {
            // Nobody to show it to is no reason to stop.
            let _ = io::stderr().write_all(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(tamper: Tamper) -> Report {
        measure(&Args { requests: 101, clients: 8 }, tamper).unwrap()
    }

    #[test]
    fn honest_servers_are_found_right() {
        let report = small(|_, _| {});
        assert_eq!(report.reasons(), Vec::<String>::new());
        assert_eq!((report.direct.tally.right(), report.through.tally.right()), (101, 101));
        assert_eq!((report.direct.opened, report.direct.served), (101, 101));
        assert_eq!(report.through.served, 101);
        assert!((1..=MAX_CONNECTIONS as u64).contains(&report.through.opened), "{report}");
    }

    #[test]
    fn one_wrong_byte_is_found() {
        let report = small(|nth, reply| {
            if nth == 50
                && let Some(last) = reply.last_mut()
            {
                *last ^= 1;
            }
        });
        assert_eq!((report.direct.tally.wrong, report.through.tally.wrong), (1, 1));
        assert_eq!(
            report.reasons(),
            ["direct: 1 of 101 replies was wrong", "through warmline: 1 of 101 replies was wrong"]
        );
    }

    #[test]
    fn a_reply_with_the_id_of_another_is_found() {
        let report = small(|nth, reply| {
            if nth == 7 {
                reply[echo::HEADER - 1] ^= 0x40;
            }
        });
        assert_eq!(report.direct.tally.wrong, 1);
        assert!(!report.reasons().is_empty());
        assert!(report.through.tally.right() < 101, "{report}");
    }
}
