//! Latencies in buckets whose width grows with the value, so that each is known to within 1/64.

use std::time::Duration;

use serde_json::{Value, json};

/// Buckets per doubling, as a power of two.
const BITS: u32 = 6;

#[derive(Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max: u64,
}

impl Histogram {
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(nanos);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(nanos);
    }

    /// The value that `share` of all are not above, in nanoseconds.
    fn percentile(&self, share: f64) -> u64 {
        let rank = (share * self.total as f64).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(bucket).min(self.max);
            }
        }
        self.max
    }

    /// In microseconds.
    pub fn report(&self) -> Value {
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        let at = |share| micros(self.percentile(share));
        json!({ "p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "p99.9": at(0.999), "max": micros(self.max) })
    }
}

fn bucket(value: u64) -> usize {
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(BITS + 1);
    ((u64::from(shift) << BITS) + (value >> shift)) as usize
}

/// The highest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> BITS).saturating_sub(1);
    let mantissa = bucket - (shift << BITS);
    ((mantissa + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_as_wide_as_a_64th_of_its_values() {
        for value in (0..20_000).chain([1 << 20, (1 << 30) + 12345, u64::from(u32::MAX)]) {
            let top = highest(bucket(value));
            assert!(value <= top && top - value <= value / 64, "{value} in a bucket up to {top}");
        }
    }

    #[test]
    fn percentiles_of_a_ramp() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|n| histogram.record(Duration::from_micros(n)));
        let p50 = histogram.percentile(0.5);
        assert!((500_000..510_000).contains(&p50), "{p50}");
        assert_eq!(histogram.percentile(1.0), 1_000_000);
    }
}
