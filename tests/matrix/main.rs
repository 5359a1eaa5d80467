//! The fault matrix: every fault of a server times every protocol times a client that leaves after every
//! byte of its request and of its reply. In processes of their own, judged by an oracle outside the proxy.
//!
//! The tables are [`common::PROTOCOLS`], [`fault::FAULTS`] and [`cell::cells`].
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "plain threads, no runtime")]

mod block;
mod cell;
mod chaos;
#[path = "../common/mod.rs"]
mod common;
mod fault;
mod oracle;
mod upstream;

use std::io::Write as _;
use std::sync::Mutex;
use std::time::Instant;

use block::{Block, Shape, Variant, all_cells};
use cell::Tally;
use common::{PROTOCOLS, Protocol};
use fault::{Event, FAULTS, Fault};

/// Blocks that run at the same time: most of them wait for something most of the time.
const BLOCKS: usize = 8;
/// Of the bytes of a protocol that others have made, a client leaves after one of so many.
const THIN: usize = 7;
/// One of so many of their blocks comes again with retries, and one with a second endpoint.
const KNOWN: usize = 12;

/// A block to run.
#[derive(Debug)]
struct Job {
    name: String,
    protocol: Protocol,
    fault: Fault,
    shape: Shape,
}

/// A line past the test harness, which shows only what failed tests print.
fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").unwrap();
}

/// Runs jobs, some at a time; gives the total and the names of those that failed.
fn run_all(jobs: impl Iterator<Item = Job> + Send, at_a_time: usize) -> (Tally, Vec<String>) {
    let jobs = Mutex::new(jobs);
    let (total, failed) = (Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    let work = || {
        let next = || jobs.lock().unwrap().next();
        while let Some(job) = next() {
            let name = job.name.clone();
            match run(job) {
                Some(tally) => total.lock().unwrap().add(&tally),
                None => failed.lock().unwrap().push(name),
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_a_time {
            scope.spawn(work);
        }
    });
    (total.into_inner().unwrap(), failed.into_inner().unwrap())
}

fn run(Job { name, protocol, fault, shape }: Job) -> Option<Tally> {
    let start = Instant::now();
    let block = std::thread::Builder::new().name(name.clone());
    let tally = block.spawn(move || Block::new(protocol, fault, shape).run()).unwrap().join().ok();
    let seconds = start.elapsed().as_secs_f64();
    match &tally {
        None => say(&format!("{name}: FAILED after {seconds:.1} s")),
        Some(Tally { cells, clients, replies, refusals, closes, asked, met, .. }) => say(&format!(
            "{name}: {cells} cells, {clients} clients, {replies} replies, {refusals} refusals, \
             {closes} closes, {met} of {} met, {seconds:.1} s",
            asked.len()
        )),
    }
    tally
}

/// All blocks, in turns with one thread and with two; those that take longest begin.
fn matrix() -> Vec<Job> {
    let all = FAULTS.iter().enumerate().flat_map(|(n, fault)| {
        PROTOCOLS.iter().enumerate().map(move |(m, protocol)| ((n + m) % 2 == 0, *protocol, *fault))
    });
    let fitting = all.filter(|(_, protocol, fault)| fault.fits(protocol));
    // What the rig has made up meets everything. Of the modes of the others that are not their own default, one meets
    // this fault, and another one the next.
    let (own, known): (Vec<_>, Vec<_>) = fitting
        .filter(|(turn, protocol, _)| protocol.wire.is_own() || protocol.mode == "multiplex" || *turn)
        .map(|(_, protocol, fault)| (protocol, fault))
        .partition(|(protocol, _)| protocol.wire.is_own());
    let mut jobs = blocks(&[&own[..], &known].concat(), Variant::Plain, 1);
    // A part of them with retries, another part with a second endpoint.
    let part = |first| {
        let own = own.iter().skip(first).step_by(2);
        own.chain(known.iter().skip(KNOWN / 2 * first).step_by(KNOWN)).copied().collect::<Vec<_>>()
    };
    jobs.extend(blocks(&part(0), Variant::Idempotent, 5));
    jobs.extend(blocks(&part(1), Variant::Beside, 5));
    jobs.sort_by_key(|job| !job.fault.hangs() && !job.fault.is_slow());
    jobs
}

/// A block for each of these, with one of so many cells.
fn blocks(of: &[(Protocol, Fault)], variant: Variant, step: usize) -> Vec<Job> {
    let suffix = match variant {
        Variant::Plain => "",
        Variant::Idempotent => ", retried",
        Variant::Beside => ", beside a good one",
    };
    let job = |(number, (protocol, fault)): (usize, &(Protocol, Fault))| {
        // What the rig has made up is met at every byte; that need not be shown again.
        let thin = if protocol.wire.is_own() { 1 } else { THIN };
        Job {
            name: format!("{} × {}{suffix}", protocol.name, fault.name),
            protocol: *protocol,
            fault: *fault,
            shape: Shape {
                variant,
                workers: 1 + number % 2,
                // What happens to the whole server costs more time than clients do.
                width: if fault.event == Event::Asked { 64 } else { 128 },
                settings: Vec::new(),
                load: None,
                cells: all_cells(protocol, fault).into_iter().step_by(step * thin).collect(),
                first_place: 0,
                step: thin,
            },
        }
    };
    of.iter().enumerate().map(job).collect()
}

fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

/// `WARMLINE_MATRIX=TEXT` runs only the blocks whose name has this text.
#[test]
fn every_fault_times_every_protocol_times_every_byte() {
    let start = Instant::now();
    let only = std::env::var("WARMLINE_MATRIX").unwrap_or_default();
    let jobs = matrix().into_iter().filter(|job| job.name.contains(&only)).collect::<Vec<_>>();
    let blocks = jobs.len();
    let (total, failed) = run_all(jobs.into_iter(), BLOCKS);
    let Tally { cells, clients, replies, refusals, closes, .. } = total;
    say(&format!(
        "matrix: {cells} cells in {blocks} blocks, {clients} clients, {replies} replies, {refusals} refusals, \
         {closes} closes, {} blocks failed, {:.0} s",
        failed.len(),
        start.elapsed().as_secs_f64()
    ));
    assert!(failed.is_empty(), "{failed:#?}");
    let readme = include_str!("../../README.md");
    let claim = format!(
        "{} faults, {} protocols and modes, {blocks} blocks, {} cells",
        FAULTS.len() - 1,
        PROTOCOLS.len(),
        with_commas(cells)
    );
    assert!(!only.is_empty() || readme.contains(&claim), "README.md does not say: {claim}");
}
