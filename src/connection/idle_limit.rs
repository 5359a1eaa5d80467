//! The age at which a server closes idle connections, learned from its closes. One for each endpoint.
//!
//! One close proves nothing: a restart closes connections of any age. Two do, if their ages are alike and the
//! second connection began to idle after the first was closed. A connection that is known to have idled clearly
//! longer proves the contrary. Since connections leave before the limit, none would ever find that out: now and
//! then one, a scout, waits for what the server does.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Connections closed sooner were not closed for their idleness.
const YOUNGEST: Duration = Duration::from_millis(100);
/// Ages that differ by no more are alike, however small they are.
const ALIKE: Duration = Duration::from_millis(50);
/// Limits that pass between two scouts: at first, and after many that found it confirmed.
const PAUSES: (u32, u32) = (8, 64);
/// No age.
const NONE: u64 = u64::MAX;

/// What is known of one endpoint.
#[derive(Debug)]
pub struct IdleLimit {
    /// The limit, in nanoseconds.
    lowest: AtomicU64,
    /// The age of an idle connection that proves something wrong, in nanoseconds.
    doubt: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A close that another one may agree with.
    first: Option<Close>,
    /// The ages at which the server closes.
    ages: Option<Ages>,
    pause: u32,
    /// When the next scout may go.
    scout_from: Option<Instant>,
    scouting: bool,
}

#[derive(Clone, Copy, Debug)]
struct Close {
    age: Duration,
    at: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Ages {
    lowest: Duration,
    /// Many servers look only now and then who has idled too long.
    highest: Duration,
}

/// The one connection of an endpoint that is left for the server to close. Dropped, another one may be.
#[derive(Debug)]
pub(super) struct Scout(Arc<IdleLimit>);

impl Drop for Scout {
    fn drop(&mut self) {
        self.0.state().scouting = false;
    }
}

impl Default for IdleLimit {
    fn default() -> Self {
        let state = State { first: None, ages: None, pause: PAUSES.0, scout_from: None, scouting: false };
        Self { lowest: AtomicU64::new(NONE), doubt: AtomicU64::new(NONE), state: Mutex::new(state) }
    }
}

impl IdleLimit {
    /// The lowest age at which the server closes, if it is known to.
    #[inline]
    pub fn learned(&self) -> Option<Duration> {
        read(&self.lowest)
    }

    /// From which age on [`IdleLimit::outlived`] wants to hear of idle connections that the server has not closed.
    #[inline]
    pub(super) fn doubt(&self) -> Option<Duration> {
        read(&self.doubt)
    }

    /// The server has closed a connection that was idle since `since`. Returns a limit that this shows.
    pub(super) fn closed(&self, since: Instant, now: Instant) -> Option<Duration> {
        let age = now - since;
        if age < YOUNGEST {
            return None;
        }
        self.change(|state| state.closed(age, since, now))
    }

    /// A connection has idled for `age`, and the server has not closed it. Returns the limit that this refutes.
    pub(super) fn outlived(&self, age: Duration) -> Option<Duration> {
        self.change(|state| state.outlived(age))
    }

    /// The server cannot be reached: what it closed last it closed because it went away.
    pub fn gone(&self) {
        self.change(|state| state.first = None);
    }

    /// The right to wait for the server's close.
    pub(super) fn scout(self: &Arc<Self>, now: Instant) -> Option<Scout> {
        self.state().scout(now).then(|| Scout(self.clone()))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let nanos =
            |age: Option<Duration>| age.and_then(|age| u64::try_from(age.as_nanos()).ok()).unwrap_or(NONE);
        let mut state = self.state();
        let result = change(&mut state);
        self.lowest.store(nanos(state.ages.map(|ages| ages.lowest)), Relaxed);
        self.doubt.store(nanos(state.doubt()), Relaxed);
        result
    }
}

impl State {
    fn closed(&mut self, age: Duration, since: Instant, now: Instant) -> Option<Duration> {
        if let Some(ages) = &mut self.ages {
            if ages.agree(age) {
                ages.add(age);
                if self.scouting {
                    self.pause = (2 * self.pause).min(PAUSES.1);
                    self.scout_from = Some(now + ages.lowest * self.pause);
                }
                return None;
            }
            if age > ages.highest {
                // Seen late: that it lived so long is not known.
                return None;
            }
        }
        let first = self.first.filter(|first| alike(first.age, age));
        let Some(first) = first else {
            self.first = Some(Close { age, at: now });
            return None;
        };
        let lowest = first.age.min(age);
        if since < first.at {
            // Both may have been closed by the same restart.
            self.first = Some(Close { age: lowest, ..first });
            return None;
        }
        self.first = None;
        self.ages = Some(Ages { lowest, highest: first.age.max(age) });
        self.pause = PAUSES.0;
        self.scout_from = Some(now + lowest * self.pause);
        Some(lowest)
    }

    fn outlived(&mut self, age: Duration) -> Option<Duration> {
        self.first = self.first.filter(|first| age < first.doubt());
        let refuted = self.ages.filter(|ages| age >= ages.doubt())?;
        self.ages = None;
        Some(refuted.lowest)
    }

    fn doubt(&self) -> Option<Duration> {
        let first = self.first.map(Close::doubt);
        let limit = self.ages.map(Ages::doubt);
        first.into_iter().chain(limit).min()
    }

    fn scout(&mut self, now: Instant) -> bool {
        let due = !self.scouting && self.scout_from.is_some_and(|from| from <= now);
        let Some(ages) = self.ages.filter(|_| due) else { return false };
        self.scouting = true;
        self.scout_from = Some(now + ages.lowest * self.pause);
        true
    }
}

impl Close {
    fn doubt(self) -> Duration {
        self.age * 6 / 5
    }
}

impl Ages {
    fn agree(&self, age: Duration) -> bool {
        let within = self.lowest <= age && age <= self.highest;
        within || alike(self.lowest, age) || alike(self.highest, age)
    }

    fn add(&mut self, age: Duration) {
        self.lowest = self.lowest.min(age);
        self.highest = self.highest.max(age);
    }

    fn doubt(self) -> Duration {
        self.highest * 5 / 4
    }
}

#[inline]
fn read(age: &AtomicU64) -> Option<Duration> {
    let nanos = age.load(Relaxed);
    (nanos != NONE).then(|| Duration::from_nanos(nanos))
}

fn alike(a: Duration, b: Duration) -> bool {
    a.abs_diff(b) <= ALIKE.max(a.min(b) / 5)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A server's closes by the clock of a test.
    struct Closes {
        limit: Arc<IdleLimit>,
        start: Instant,
    }

    fn closes() -> Closes {
        Closes { limit: Arc::default(), start: Instant::now() }
    }

    impl Closes {
        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// A connection idle since `since` is closed at `now`; in milliseconds, as what this shows.
        fn close(&self, since: u64, now: u64) -> Option<u128> {
            self.limit.closed(self.at(since), self.at(now)).map(|limit| limit.as_millis())
        }

        fn learned(&self) -> Option<u128> {
            self.limit.learned().map(|limit| limit.as_millis())
        }
    }

    #[test]
    fn two_closes_of_like_age_one_after_the_other_are_a_limit() {
        let c = closes();
        assert_eq!(c.close(0, 2000), None);
        assert_eq!(c.close(2000, 4300), Some(2000), "the lowest");
        assert_eq!(c.learned(), Some(2000));
        assert_eq!(c.close(5000, 6900), None, "known already");
        assert_eq!(c.learned(), Some(1900));
    }

    #[test]
    fn closes_at_the_same_time_or_of_different_ages_are_none() {
        let c = closes();
        for since in [0, 10, 20, 1000, 1001] {
            assert_eq!(c.close(since, 2000), None, "a restart");
        }
        assert_eq!(c.close(2500, 8500), None, "another one");
        assert_eq!(c.close(9000, 10_000), None);
        assert_eq!(c.learned(), None);
    }

    #[test]
    fn closes_that_overlap_wait_for_one_that_does_not() {
        let c = closes();
        let found = [0, 500, 1000, 1500, 2000].map(|since| c.close(since, since + 2000));
        assert_eq!(found, [None, None, None, None, Some(2000)]);
    }

    #[test]
    fn young_connections_show_nothing_and_short_limits_may_waver() {
        let c = closes();
        assert_eq!([c.close(0, 99), c.close(200, 299)], [None, None]);
        assert_eq!([c.close(1000, 1100), c.close(2000, 2150)], [None, Some(100)]);
    }

    #[test]
    fn who_outlives_the_first_close_refutes_it() {
        let c = closes();
        let doubt = Duration::from_millis(2400);
        assert_eq!(c.limit.doubt(), None);
        c.close(0, 2000);
        assert_eq!(c.limit.doubt(), Some(doubt));
        c.limit.outlived(Duration::from_millis(2399));
        assert_eq!(c.limit.doubt(), Some(doubt));
        assert_eq!(c.limit.outlived(doubt), None, "no limit was known yet");
        assert_eq!(c.limit.doubt(), None);
        assert_eq!(c.close(3000, 5000), None, "the first again");
        assert_eq!(c.close(6000, 8000), Some(2000));
    }

    #[test]
    fn who_outlives_the_limit_refutes_it() {
        let c = closes();
        c.close(0, 2000);
        c.close(2000, 4000);
        assert_eq!(c.limit.outlived(Duration::from_millis(2499)), None);
        assert_eq!(c.limit.outlived(Duration::from_millis(2500)), Some(2 * SECOND));
        assert_eq!((c.learned(), c.limit.doubt()), (None, None));
    }

    #[test]
    fn a_server_that_looks_now_and_then_is_given_its_time() {
        let c = closes();
        c.close(0, 30_000);
        c.close(30_000, 65_000);
        c.close(65_000, 105_000);
        assert_eq!((c.learned(), c.limit.doubt()), (Some(30_000), Some(50 * SECOND)));
    }

    #[test]
    fn a_lower_limit_is_learned_as_the_first_was_and_late_closes_say_nothing() {
        let c = closes();
        c.close(0, 2000);
        c.close(2000, 4000);
        assert_eq!([c.close(4000, 9000), c.close(9000, 14_000)], [None, None]);
        assert_eq!(c.learned(), Some(2000));
        assert_eq!([c.close(14_000, 15_000), c.close(15_000, 16_000)], [None, Some(1000)]);
        assert_eq!((c.learned(), c.limit.doubt()), (Some(1000), Some(Duration::from_millis(1250))));
    }

    #[test]
    fn scouts_go_one_at_a_time_and_more_rarely_each_time_the_limit_is_confirmed() {
        let c = closes();
        assert!(c.limit.scout(c.at(0)).is_none(), "there is nothing to find out");
        c.close(0, 1000);
        c.close(1000, 2000);
        let mut from = 2000;
        for pause in [8, 16, 32, 64, 64] {
            from += pause * 1000;
            assert!(c.limit.scout(c.at(from - 1)).is_none());
            let scout = c.limit.scout(c.at(from)).expect("a scout");
            assert!(c.limit.scout(c.at(1_000_000)).is_none(), "two");
            c.close(from, from + 1000);
            drop(scout);
            from += 1000;
        }
    }

    #[test]
    fn a_scout_without_result_is_followed_by_another_one() {
        let c = closes();
        c.close(0, 1000);
        c.close(1000, 2000);
        drop(c.limit.scout(c.at(10_000)).expect("a scout"));
        assert!(c.limit.scout(c.at(17_999)).is_none());
        assert!(c.limit.scout(c.at(18_000)).is_some());
    }
}
