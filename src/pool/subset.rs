//! Which of an upstream's endpoints this host uses, where it is not to use all: those with the highest draw
//! (rendezvous hashing, Thaler and Ravishankar 1998; random subsetting, gRPC proposal A68).
//!
//! Hosts draw differently, so every endpoint gets about as many hosts; a host draws the same each time, so one endpoint
//! more or less changes one place of its subset at most.

use std::cmp::Reverse;

use super::balance::Endpoint;
use crate::queue::rendezvous::{draw, hash};

/// Takes away what `host` does not use: of those that are no backup all but `size`, and of those that are. 0 takes
/// nothing away. The order stays.
pub(super) fn choose(endpoints: &mut Vec<Endpoint>, size: usize, host: u64, upstream: &str) {
    if size == 0 {
        return;
    }
    let key = draw(host, hash(upstream.as_bytes()));
    let drawn = |endpoint: &Endpoint| draw(key, hash(endpoint.address.to_string().as_bytes()));
    let lowest = [false, true].map(|backup| {
        let mut all: Vec<_> = endpoints.iter().filter(|e| e.backup == backup).map(drawn).collect();
        all.sort_unstable_by_key(|draw| Reverse(*draw));
        all.get(size - 1).copied().unwrap_or(0)
    });
    endpoints.retain(|endpoint| drawn(endpoint) >= lowest[usize::from(endpoint.backup)]);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::net::Address;

    const HOSTS: u32 = 1000;
    const SIZE: u8 = 5;

    fn endpoints(count: u8) -> Vec<Endpoint> {
        let address = |n| SocketAddr::from(([10, 0, 0, n], 9090));
        (1..=count).map(|n| Endpoint::from(Address::from(address(n)))).collect()
    }

    /// What each of the hosts uses.
    fn subsets(endpoints: &[Endpoint]) -> Vec<Vec<Endpoint>> {
        let of = |host: u32| {
            let mut used = endpoints.to_vec();
            choose(&mut used, SIZE.into(), hash(format!("host-{host}").as_bytes()), "users");
            used
        };
        (0..HOSTS).map(of).collect()
    }

    /// How many hosts use an endpoint.
    fn uses(subsets: &[Vec<Endpoint>], endpoint: &Endpoint) -> u32 {
        let count = subsets.iter().filter(|used| used.contains(endpoint)).count();
        count.try_into().unwrap()
    }

    #[test]
    fn hosts_spread_evenly() {
        for count in [6, 20, 100] {
            let endpoints = endpoints(count);
            let subsets = subsets(&endpoints);
            assert!(subsets.iter().all(|used| used.len() == usize::from(SIZE)));
            let share = f64::from(SIZE) / f64::from(count);
            let due = f64::from(HOSTS) * share;
            for endpoint in &endpoints {
                let got = f64::from(uses(&subsets, endpoint));
                // Four standard deviations of the binomial distribution.
                assert!(
                    (got - due).abs() < 4.0 * (due * (1.0 - share)).sqrt(),
                    "{endpoint}: {got}, {due} due"
                );
            }
        }
    }

    /// Of 1,000 hosts those change that use what left, or will use what came, and each of them in one place.
    #[test]
    fn one_endpoint_more_or_less_changes_one_place_of_few_hosts() {
        let more = endpoints(21);
        for other in [0, 7, 20] {
            let mut fewer = more.clone();
            let other = fewer.remove(other);
            let (small, large) = (subsets(&fewer), subsets(&more));
            let mut changed = 0;
            for (small, large) in small.iter().zip(&large).filter(|(small, large)| small != large) {
                assert!(large.contains(&other) && !small.contains(&other));
                let kept = small.iter().filter(|endpoint| large.contains(endpoint)).count();
                assert_eq!(kept, usize::from(SIZE) - 1);
                changed += 1;
            }
            assert_eq!(changed, uses(&large, &other));
            // 5 of 21 draw the one that comes: 238, give or take four standard deviations.
            assert!((184..=292).contains(&changed), "{other}: {changed}");
        }
    }

    #[test]
    fn the_order_says_nothing() {
        let endpoints = endpoints(20);
        let mut turned = endpoints.clone();
        turned.reverse();
        for (used, mut turned) in subsets(&endpoints).into_iter().zip(subsets(&turned)) {
            turned.reverse();
            assert_eq!(used, turned);
        }
    }

    #[test]
    fn upstreams_are_drawn_for_apart() {
        let all = endpoints(100);
        let of = |upstream| {
            let mut used = all.clone();
            choose(&mut used, SIZE.into(), hash(b"host"), upstream);
            used
        };
        assert_eq!(of("users"), of("users"));
        assert_ne!(of("users"), of("orders"));
    }

    #[test]
    fn backups_are_chosen_apart_and_few_are_all_used() {
        let mut all = endpoints(12);
        all[8..].iter_mut().for_each(|endpoint| endpoint.backup = true);
        let left = |size| {
            let mut used = all.clone();
            choose(&mut used, size, 1, "users");
            let backups = used.iter().filter(|endpoint| endpoint.backup).count();
            (used.len() - backups, backups)
        };
        assert_eq!([0, 1, 4, 6, 8, 20].map(left), [(8, 4), (1, 1), (4, 4), (6, 4), (8, 4), (8, 4)]);
    }
}
