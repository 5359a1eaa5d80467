//! Numbers that keep connections from acting together. One sequence for each pool.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// 2^32 divided by the golden ratio: its multiples never crowd.
const STEP: u32 = 0x9E37_79B9;

/// Fractions of which any few in a row lie evenly between 0 and 1, wherever they begin.
#[derive(Debug)]
pub struct Spread(AtomicU32);

impl Default for Spread {
    fn default() -> Self {
        // The pools of many hosts begin anywhere.
        Self(AtomicU32::new(fastrand::u32(..)))
    }
}

impl Spread {
    /// At least 0 and less than 1.
    pub(super) fn next(&self) -> f64 {
        f64::from(self.0.fetch_add(STEP, Relaxed)) / (f64::from(u32::MAX) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_of_any_few_in_a_row_are_close() {
        for count in 2..100 {
            let spread = Spread::default();
            let mut drawn: Vec<_> = (0..count).map(|_| spread.next()).collect();
            assert!(drawn.iter().all(|fraction| (0.0..1.0).contains(fraction)));
            drawn.sort_by(f64::total_cmp);
            let least = drawn.windows(2).map(|pair| pair[1] - pair[0]).fold(1.0, f64::min);
            assert!(least > 0.38 / f64::from(count), "{least} between two of {count}");
        }
    }
}
