//! Counters of the hot path: plain atomics, no locks, no allocation. `events::scrape` gives them to the
//! metrics encoder.

use std::fmt::Debug;
use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use std::time::Duration;

/// A number that only grows. Whoever sees a count also sees what was counted before it, on whatever thread: what
/// ended is never more than what was accepted.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// One more.
    pub fn add_one(&self) {
        self.0.fetch_add(1, Release);
    }

    /// `count` more.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Release);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Acquire)
    }
}

/// A closed set of label values.
pub trait Label: Copy + Debug + PartialEq + 'static {
    /// Every value, in the order of its index.
    const ALL: &'static [Self];

    /// The word in metrics and logs.
    fn as_str(self) -> &'static str;
}

/// One counter for each value of a label.
#[derive(Debug)]
pub struct Family<L: Label> {
    counters: Box<[Counter]>,
    label: std::marker::PhantomData<L>,
}

impl<L: Label> Default for Family<L> {
    fn default() -> Self {
        Self {
            counters: L::ALL.iter().map(|_| Counter::default()).collect(),
            label: std::marker::PhantomData,
        }
    }
}

impl<L: Label> Family<L> {
    /// The counter of `label`.
    pub fn of(&self, label: L) -> &Counter {
        let index = L::ALL.iter().position(|l| *l == label).unwrap_or_default();
        &self.counters[index]
    }

    /// Every label with its count.
    pub fn iter(&self) -> impl Iterator<Item = (L, u64)> {
        L::ALL.iter().zip(&self.counters).map(|(label, counter)| (*label, counter.get()))
    }

    /// The sum over all labels.
    pub fn sum(&self) -> u64 {
        self.counters.iter().map(Counter::get).sum()
    }
}

/// Upper bounds of the buckets in microseconds; the last bucket is everything above.
pub const BUCKETS_MICROS: [u64; 20] = [
    50,
    100,
    200,
    500,
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    60_000_000,
    300_000_000,
];

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS_MICROS.len() + 1],
    sum_micros: AtomicU64,
}

impl Histogram {
    /// Counts one duration.
    pub fn observe(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_MICROS.partition_point(|bound| *bound < micros);
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_micros.fetch_add(micros, Relaxed);
    }

    /// The count of each bucket, not cumulated.
    pub fn buckets(&self) -> [u64; BUCKETS_MICROS.len() + 1] {
        std::array::from_fn(|i| self.buckets[i].load(Relaxed))
    }

    /// The sum of all durations in seconds.
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_micros(self.sum_micros.load(Relaxed)).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let h = Histogram::default();
        h.observe(Duration::from_micros(50));
        h.observe(Duration::from_micros(51));
        h.observe(Duration::from_secs(3600));
        let buckets = h.buckets();
        assert_eq!((buckets[0], buckets[1], buckets[BUCKETS_MICROS.len()]), (1, 1, 1));
    }
}
