//! Which endpoint a key leads to, the same on every host and in every version: by the highest score (rendezvous
//! hashing, Thaler and Ravishankar 1998), with weights (Schindelhauer and Schomaker 2005).
//!
//! An endpoint's score depends on no other endpoint: one that leaves takes nothing with it but the keys that led
//! to it, and one that comes takes its share from each of the others.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher13;

/// A hash that stays the same: SipHash-1-3 with a key of zeroes.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// What draws `key` to the endpoint of this `seed`, without weights.
pub fn draw(key: u64, seed: u64) -> u64 {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..].copy_from_slice(&seed.to_le_bytes());
    hash(&bytes)
}

/// The same with a weight: of some endpoints each has the highest score for as many keys as its `weight` says.
#[expect(clippy::cast_precision_loss, reason = "a weight has fewer digits than a float")]
pub fn score(key: u64, seed: u64, weight: u64) -> f64 {
    // Half a step keeps the logarithm away from zero and infinity.
    let uniform = (f64::from((draw(key, seed) >> 32) as u32) + 0.5) / 2f64.powi(32);
    -(weight as f64) / uniform.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u32 = 30_000;

    fn seed(endpoint: usize) -> u64 {
        hash(format!("10.0.0.{endpoint}:9090").as_bytes())
    }

    /// The endpoint of each key, given the weight of each endpoint; one of weight 0 is not there.
    fn leads(weights: &[u32]) -> Vec<usize> {
        let best = |key: u32| {
            let there = (0..weights.len()).filter(|e| weights[*e] > 0);
            let of = |e: &usize| score(hash(&key.to_be_bytes()), seed(*e), weights[*e].into());
            there.max_by(|a, b| of(a).total_cmp(&of(b))).unwrap()
        };
        (0..KEYS).map(best).collect()
    }

    /// Other versions and other hosts must come to the same.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xd1fb_a762_150c_532c);
        assert_eq!(hash(b"10.0.0.1:9090"), 4_450_521_008_725_811_067);
        assert_eq!(draw(1, 2), 18_088_007_599_891_946_824);
    }

    #[test]
    fn keys_spread_by_weight() {
        for weights in [&[1, 1, 1][..], &[1, 2, 5], &[10, 1, 1, 1, 7]] {
            let leads = leads(weights);
            let sum = f64::from(weights.iter().sum::<u32>());
            for (endpoint, weight) in weights.iter().enumerate() {
                let got = leads.iter().filter(|lead| **lead == endpoint).count();
                let got = f64::from(u32::try_from(got).unwrap());
                let share = f64::from(*weight) / sum;
                let due = f64::from(KEYS) * share;
                // Four standard deviations of the binomial distribution.
                assert!(
                    (got - due).abs() < 4.0 * (due * (1.0 - share)).sqrt(),
                    "{weights:?}: {got}, {due} due"
                );
            }
        }
    }

    #[test]
    fn only_the_keys_of_an_endpoint_that_leaves_move() {
        let (before, after) = (leads(&[3, 2, 1, 4]), leads(&[3, 0, 1, 4]));
        let moved: Vec<_> = before.iter().zip(&after).filter(|(b, a)| b != a).collect();
        assert_eq!(moved.len(), before.iter().filter(|lead| **lead == 1).count());
        assert!(moved.iter().all(|(before, _)| **before == 1), "{moved:?}");
        assert!([0, 2, 3].iter().all(|to| moved.iter().any(|(_, after)| *after == to)), "one got nothing");
    }

    #[test]
    fn a_weight_that_grows_draws_keys_and_repels_none() {
        let (before, after) = (leads(&[1, 1, 1]), leads(&[1, 2, 1]));
        let moved = || before.iter().zip(&after).filter(|(b, a)| b != a);
        assert!(moved().count() > 1000 && moved().all(|(_, to)| *to == 1));
    }

    #[test]
    fn scores_are_numbers_whatever_is_drawn() {
        for (key, seed) in [(0, 0), (u64::MAX, u64::MAX)] {
            for weight in [1, u32::MAX] {
                assert!(score(key, seed, weight.into()).is_finite() && score(key, seed, weight.into()) > 0.0);
            }
        }
    }
}
