//! Chaos: configurations, faults, ways to leave and load count from a seed, judged by the matrix' oracle.
//!
//! A draw depends on the seed and its number alone, so one that failed can be run again by itself. Started
//! by `tests/chaos`, which hands over what to run in the environment.

use std::io::Write as _;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::json;

use crate::block::{Shape, Variant, all_cells};
use crate::cell::Tally;
use crate::common::{PROTOCOLS, Protocol};
use crate::fault::{Event, FAULTS, Fault};
use crate::{Job, run_all, say};

/// Blocks that run at the same time.
const BLOCKS: usize = 4;
/// Draws where nothing is said: enough to know that it works.
const DRAWS: u64 = 6;

/// What to run.
struct Order {
    seed: u64,
    draws: std::ops::Range<u64>,
    time: Duration,
}

impl Order {
    fn read() -> Self {
        let (minutes, draw) = (number::<f64>("MINUTES"), number::<u64>("DRAW"));
        let draws = match (draw, minutes) {
            (Some(draw), _) => draw..draw + 1,
            (None, Some(_)) => 0..u64::MAX,
            (None, None) => 0..DRAWS,
        };
        let time = Duration::from_secs_f64(minutes.map_or(3600.0, |minutes| minutes * 60.0));
        Self { seed: number("SEED").unwrap_or(1), draws, time }
    }
}

fn number<N: FromStr>(name: &str) -> Option<N> {
    let text = std::env::var(format!("WARMLINE_CHAOS_{name}")).ok().filter(|text| !text.is_empty())?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn chaos() {
    let order = Order::read();
    let (seed, start, count) = (order.seed, Instant::now(), AtomicU64::new(0));
    let in_time = |_: &u64| start.elapsed() < order.time;
    let jobs = order.draws.take_while(in_time).map(|number| {
        count.fetch_add(1, Relaxed);
        draw(seed, number)
    });
    let (total, failed) = run_all(jobs, BLOCKS);
    let draws = count.into_inner();
    let Tally { cells, clients, replies, refusals, closes, .. } = total;
    say(&format!(
        "chaos: seed {seed}, {draws} draws, {cells} cells, {clients} clients, {replies} replies, \
         {refusals} refusals, {closes} closes, {} draws failed",
        failed.len()
    ));
    if let Some(path) = std::env::var_os("WARMLINE_CHAOS_LEDGER") {
        let line = json!({
            "date": humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "commit": std::env::var("WARMLINE_CHAOS_COMMIT").unwrap_or_default(),
            "seed": seed,
            "minutes": (start.elapsed().as_secs_f64() / 6.0).round() / 10.0,
            "draws": draws,
            "cells": cells,
            "clients": clients,
            "replies": replies,
            "refusals": refusals,
            "failed": failed,
        });
        let mut ledger = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(ledger, "{line}").unwrap();
    }
    assert!(failed.is_empty(), "to see one again: tests/chaos --seed {seed} --draw NUMBER\n{failed:#?}");
}

fn draw(seed: u64, number: u64) -> Job {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number);
    let (protocol, fault) = loop {
        let (protocol, fault) = (PROTOCOLS[rng.usize(..PROTOCOLS.len())], FAULTS[rng.usize(..FAULTS.len())]);
        if fault.fits(&protocol) {
            break (protocol, fault);
        }
    };
    let mut cells = all_cells(&protocol, &fault);
    rng.shuffle(&mut cells);
    // What is slow is slow on one connection, too.
    cells.truncate(if fault.is_slow() { 12 } else { rng.usize(16..=256) });
    // With few connections a request may wait for its turn until the good server has it, but too late.
    let other = if fault.is_awaited_in_vain { Variant::Idempotent } else { Variant::Beside };
    let shape = Shape {
        variant: [Variant::Plain, Variant::Plain, Variant::Idempotent, other][rng.usize(..4)],
        width: rng.usize(1..=96),
        workers: [1, 2, 2, 4][rng.usize(..4)],
        settings: settings(&mut rng, &protocol, &fault),
        load: load(&mut rng, &protocol, &fault),
        cells,
        first_place: rng.usize(..1000),
        step: 1,
    };
    Job {
        name: format!("draw {number}: {} × {} {shape}", protocol.name, fault.name), protocol, fault, shape
    }
}

fn settings(rng: &mut Rng, protocol: &Protocol, fault: &Fault) -> Vec<(&'static str, String)> {
    let most = rng.usize(1..=16);
    let close = ["\"auto\"", "\"fin\"", "\"reset\""][rng.usize(..3)];
    let mut set = vec![
        ("pool.max_connections", most.to_string()),
        ("pool.min_connections", rng.usize(0..=most.min(4)).max(1).to_string()),
        ("pool.max_connecting", rng.usize(1..=4).to_string()),
        ("sockets.one_shot", rng.bool().to_string()),
        ("sockets.client_close", close.to_owned()),
    ];
    if !protocol.is_exclusive() {
        set.push(("pool.max_in_flight", rng.usize(1..=64).to_string()));
    }
    if !fault.is_awaited_in_vain {
        // With few connections it takes its time.
        set.extend(["timeouts.request", "pool.acquire_timeout"].map(|key| (key, "\"60s\"".to_owned())));
    }
    // Where bytes must reach an idle connection, it stays.
    if !matches!(fault.event, Event::Idle(_)) {
        set.push(("pool.idle_timeout", format!("\"{}ms\"", rng.usize(10..=1000))));
        set.push(("pool.max_requests", [0, 1, 2, 7, 100][rng.usize(..5)].to_string()));
        set.push(("pool.max_lifetime", ["\"30m\"", "\"200ms\""][rng.usize(..2)].to_owned()));
    }
    set
}

fn load(rng: &mut Rng, protocol: &Protocol, fault: &Fault) -> Option<String> {
    if matches!(fault.event, Event::Idle(_)) || fault.is_slow() || rng.bool() {
        return None;
    }
    let oneway = if protocol.is_framed() && rng.bool() { 0.3 } else { 0.0 };
    let requests = rng.usize(1..=3);
    Some(format!(
        "--connections {} --concurrency {} --requests-per-connection {requests} --depth {} --size {} \
         --max-size {} --oneway {oneway} --close {} --max-seconds 2",
        rng.usize(10..=300),
        rng.usize(1..=8),
        rng.usize(1..=requests),
        rng.usize(0..=200),
        rng.usize(200..=20_000),
        ["fin", "half", "rst"][rng.usize(..3)],
    ))
}
