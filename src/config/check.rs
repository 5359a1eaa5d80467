//! Makes a plan of a file: the parts that are not an upstream's own.
//!
//! Invariant: every number in a plan is bounded, so that no file can ask for more than a host has.
//! Called by `Plan::new`; what an upstream may be is in `upstream`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::addresses::Addresses;
use super::error::{Error, Source};
use super::plan::{Limits, Log, Plan, Upstream};
use super::report::Report;
use super::units::{Count, Text};
use super::{file, upstream, words};
use crate::events::log::{self, Format};

const MAX_UPSTREAMS: usize = 1000;
/// The most that `max_clients` may be, here and in an upstream.
pub(super) const MAX_CLIENTS: usize = 1_000_000;
/// Threads beyond so many only get in each other's way.
const MAX_WORKERS: usize = 64;
/// In bytes.
pub(super) const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 40;
/// The longest `level`, in bytes.
const MAX_LEVEL: usize = 1000;
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// The plan of a file.
pub(super) fn plan(file: file::File, source: &Source) -> Result<Plan, Vec<Error>> {
    let report = &mut Report::new(source);
    let addresses = &mut Addresses::default();
    let shutdown = file.shutdown.unwrap_or_default();
    let limits = limits(report, &file.limits.unwrap_or_default());
    let plan = Plan {
        log: log(report, file.log.unwrap_or_default()),
        admin: file.admin.and_then(|admin| addresses.admin(report, admin)),
        drain_timeout: report.time(
            &["shutdown"],
            "drain_timeout",
            shutdown.drain_timeout,
            Duration::from_secs(25),
        ),
        upstreams: upstreams(
            report,
            addresses,
            &limits,
            &file.defaults.unwrap_or_default(),
            file.upstreams.unwrap_or_default(),
        ),
        limits,
    };
    let errors = report.finish();
    if errors.is_empty() { Ok(plan) } else { Err(errors) }
}

fn log(report: &mut Report<'_>, written: file::Log) -> Log {
    let at = &["log"];
    let level = written.level.map_or_else(|| "info".to_owned(), |Text(level)| level);
    if level.len() > MAX_LEVEL {
        let help = format!("write at most {MAX_LEVEL} bytes, as in \"info\"");
        report.wrong(at, "level", "`level` is too long", help);
    } else if !level.contains(['=', ',']) && !LEVELS.contains(&level.as_str()) {
        // A bare word that is no level would name a module, and nothing would be logged.
        let (message, help) = words::unknown("level", &level, &LEVELS);
        report.wrong(at, "level", message, help);
    } else if let Err(error) = log::check(&level) {
        let help = "write a level as in \"info\", or directives as in \"warn,warmline=debug\"";
        report.wrong(at, "level", error.to_string(), help.to_owned());
    }
    Log { level, format: written.format.map_or(Format::Auto, |Text(format)| format) }
}

fn limits(report: &mut Report<'_>, written: &file::Limits) -> Limits {
    let at = &["limits"];
    Limits {
        workers: workers(report, written.workers),
        max_clients_is_explicit: written.max_clients.is_some(),
        max_clients: report.count(at, "max_clients", written.max_clients, 10_000, 1..=MAX_CLIENTS),
        memory: report.size(at, "memory", written.memory, 256 << 20, MEMORY),
    }
}

fn workers(report: &mut Report<'_>, written: Option<Count>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
    match written {
        None => 1,
        Some(Count(0)) => cores(),
        Some(Count(number)) => {
            let workers = usize::try_from(number).unwrap_or(usize::MAX);
            if workers > MAX_WORKERS {
                let help = format!("write a number from 1 to {MAX_WORKERS}, or 0 for one per core");
                report.wrong(&["limits"], "workers", format!("`workers` cannot be {number}"), help);
            }
            workers.min(MAX_WORKERS)
        }
    }
}

fn upstreams(
    report: &mut Report<'_>,
    addresses: &mut Addresses,
    limits: &Limits,
    defaults: &file::Defaults,
    written: std::collections::BTreeMap<String, file::Upstream>,
) -> Vec<Upstream> {
    let at = &["upstreams"];
    if written.is_empty() {
        let help = "write a table `[upstreams.NAME]` with `listen`, `endpoints` and `protocol`";
        report.wrong(at, "", "there is no upstream", help.to_owned());
    }
    if written.len() > MAX_UPSTREAMS {
        let help = format!("write at most {MAX_UPSTREAMS}; more need another process");
        report.wrong(at, "", format!("{} upstreams are too many", written.len()), help);
        return Vec::new();
    }
    let mut one = |(name, it)| upstream::upstream(report, addresses, limits, defaults, name, it);
    written.into_iter().filter_map(&mut one).collect()
}
