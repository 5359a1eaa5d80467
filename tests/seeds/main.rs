//! Seeds: pool, queue, keeper, connections and sessions as they are, in paused time, between clients and
//! servers that a seed makes up. A seed always gives the same trace, so what went wrong once can be seen again.
//!
//! `WARMLINE_SEED=7 cargo test --test seeds` runs one seed, `WARMLINE_SEED=0 WARMLINE_SEEDS=100000 ...` many.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod book;
mod clients;
mod dialect;
mod oracle;
mod plan;
mod servers;
mod trace;
mod world;

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use world::{Report, run};

/// Seeds of a usual run.
const SEEDS: u64 = 2000;
/// Lines of a trace that a failure shows.
const TAIL: usize = 60;
/// A seed takes milliseconds; one that takes so long spins.
const HANGS: Duration = Duration::from_secs(60);

/// What the environment asks for.
fn asked_for() -> Option<Range<u64>> {
    let number =
        |name| std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")));
    let (start, count) = (number("WARMLINE_SEED"), number("WARMLINE_SEEDS"));
    let start_or_0 = start.unwrap_or(0);
    (start.is_some() || count.is_some()).then(|| start_or_0..start_or_0 + count.unwrap_or(1))
}

/// Runs `seeds`, on all cores; `each` gets the reports in no particular order.
fn run_all(seeds: Range<u64>, mut each: impl FnMut(Report)) {
    let (next, end) = (Arc::new(AtomicU64::new(seeds.start)), seeds.end);
    let (done, reports) = mpsc::sync_channel(64);
    let mut running = HashSet::new();
    for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
        let (next, done) = (next.clone(), done.clone());
        std::thread::spawn(move || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end || done.send((seed, None)).is_err() {
                    return;
                }
                let report = std::panic::catch_unwind(|| run(seed)).ok();
                let _ = done.send((seed, Some(report)));
            }
        });
    }
    drop(done);
    loop {
        match reports.recv_timeout(HANGS) {
            Ok((seed, None)) => drop(running.insert(seed)),
            Ok((seed, Some(report))) => {
                running.remove(&seed);
                each(report.unwrap_or_else(|| panic!("seed {seed} panics; {}", again(seed))));
            }
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {
                let mut seeds: Vec<_> = running.into_iter().collect();
                seeds.sort_unstable();
                panic!("seeds {seeds:?} hang; {}", again(seeds[0]));
            }
        }
    }
}

fn again(seed: u64) -> String {
    format!("again with: WARMLINE_SEED={seed} cargo test --test seeds")
}

/// What a person needs to know of the first of `failed`.
fn story(failed: &[Report], all: bool) -> String {
    let first = failed.iter().min_by_key(|report| report.seed).unwrap();
    let lines: Vec<_> = first.trace.lines().collect();
    let shown = if all { &lines[..] } else { &lines[lines.len().saturating_sub(TAIL)..] };
    let mut others: Vec<_> = failed.iter().map(|r| format!("{}: {}", r.seed, r.faults[0])).collect();
    others.sort_by_key(String::len);
    others.truncate(TAIL);
    format!(
        "{}\n{} seeds fail, among them\n  {}\nseed {}:\n  {}\n{}\n",
        shown.join("\n"),
        failed.len(),
        others.join("\n  "),
        first.seed,
        first.faults.join("\n  "),
        again(first.seed)
    )
}

#[test]
fn seeds_hold() {
    let asked = asked_for();
    let (mut failed, mut met) = (Vec::new(), BTreeMap::<String, u64>::new());
    run_all(asked.clone().unwrap_or(0..SEEDS), |report| {
        for (what, count) in &report.counts {
            *met.entry(what.clone()).or_default() += count;
        }
        if !report.faults.is_empty() {
            failed.push(report);
        }
    });
    assert!(
        failed.is_empty(),
        "\n{}",
        story(&failed, asked.is_some_and(|seeds| seeds.end - seeds.start == 1))
    );
    if asked_for().is_none() {
        let missed: Vec<_> =
            met.iter().filter(|(what, count)| **count == 0 && !NEVER.contains(&what.as_str())).collect();
        assert!(missed.is_empty(), "{SEEDS} seeds never met {missed:?}: {met:?}");
    }
}

/// What no seed can meet: a bug, a session that asks after the back half was told to drain, reloads, and protocols whose
/// clients have connections of their own.
const NEVER: [&str; 6] = [
    "closed panic",
    "refused draining",
    "closed removed",
    "closed retuned",
    "closed client",
    "refused dedicated_full",
];

#[test]
fn a_seed_gives_the_same_trace_every_time() {
    let mut first = BTreeMap::new();
    run_all(0..200, |report| drop(first.insert(report.seed, report.trace)));
    run_all(0..200, |report| {
        let before = &first[&report.seed];
        let differs = before.lines().zip(report.trace.lines()).find(|(a, b)| a != b);
        assert!(*before == report.trace, "seed {} differs: {differs:?}", report.seed);
    });
    let different: HashSet<_> = first.values().collect();
    assert_eq!(different.len(), first.len());
}
