//! Whether an exchange may be tried again: never more often than `attempts`, and all of them together only as a
//! share of what is asked for, so that a server in trouble is not asked twice as much. The queue's lock is around it.

use tokio::time::Instant;

use crate::exchange::Exchange;

/// Retries that are always allowed, in each second.
const FLOOR: u64 = 10;
/// The share is that of so many seconds.
const WINDOW: usize = 10;

/// How often requests are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Of one request, the first included; at least 1.
    pub attempts: u32,
    /// Retries for each 1000 requests; 10 a second are always allowed.
    pub per_thousand: u32,
}

/// What was asked for and tried again of late.
#[derive(Debug)]
pub(super) struct Retries {
    settings: Retry,
    since: Instant,
    /// The second that is counted now.
    second: u64,
    /// By second, as in a ring.
    seconds: [Counts; WINDOW],
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    requests: u64,
    retries: u64,
}

impl Retries {
    pub(super) fn new(settings: Retry) -> Self {
        Self { settings, since: Instant::now(), second: 0, seconds: [Counts::default(); WINDOW] }
    }

    /// The same counts under other settings.
    pub(super) fn retune(&mut self, settings: Retry) {
        self.settings = settings;
    }

    /// A request was pushed.
    pub(super) fn note_request(&mut self, now: Instant) {
        self.at(now).requests += 1;
    }

    /// One more attempt of `exchange` came to nothing: whether there may be another one.
    pub(super) fn allow(&mut self, exchange: &mut Exchange, now: Instant) -> bool {
        exchange.tried.attempts += 1;
        exchange.tried.attempts < self.settings.attempts && self.take(now)
    }

    fn take(&mut self, now: Instant) -> bool {
        let below_floor = self.at(now).retries < FLOOR;
        let sum = |of: fn(&Counts) -> u64| self.seconds.iter().map(of).sum::<u64>();
        let share = sum(|s| s.requests) * u64::from(self.settings.per_thousand) / 1000;
        let allowed = below_floor || sum(|s| s.retries) < share;
        self.at(now).retries += u64::from(allowed);
        allowed
    }

    /// The counts of this second; those that are over for longer than the window are forgotten.
    fn at(&mut self, now: Instant) -> &mut Counts {
        let second = now.saturating_duration_since(self.since).as_secs();
        if second > self.second {
            let over = (second - self.second).min(WINDOW as u64);
            for second in second + 1 - over..=second {
                self.seconds[slot(second)] = Counts::default();
            }
            self.second = second;
        }
        &mut self.seconds[slot(self.second)]
    }
}

fn slot(second: u64) -> usize {
    usize::try_from(second % WINDOW as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::{events, exchange};

    fn retries(per_thousand: u32) -> Retries {
        Retries::new(Retry { attempts: 3, per_thousand })
    }

    fn allowed(retries: &mut Retries, now: Instant, tries: usize) -> usize {
        (0..tries).filter(|_| retries.take(now)).count()
    }

    #[tokio::test]
    async fn ten_a_second_are_always_allowed() {
        let mut r = retries(0);
        let start = Instant::now();
        for second in 0..25 {
            let now = start + Duration::from_secs(second);
            assert_eq!(allowed(&mut r, now, 50), 10, "second {second}");
        }
    }

    #[tokio::test]
    async fn beyond_that_it_is_a_share_of_the_last_ten_seconds() {
        let mut r = retries(200);
        let start = Instant::now();
        (0..1000).for_each(|_| r.note_request(start));
        assert_eq!(allowed(&mut r, start, 500), 200);
        let later = start + Duration::from_secs(9);
        assert_eq!(allowed(&mut r, later, 500), 10, "the share is used up");
        // What was asked for and tried ten seconds ago counts no more.
        let later = start + Duration::from_secs(10);
        (0..100).for_each(|_| r.note_request(later));
        assert_eq!(allowed(&mut r, later, 500), 10);
        let much_later = start + Duration::from_secs(100_000);
        (0..100).for_each(|_| r.note_request(much_later));
        assert_eq!(allowed(&mut r, much_later, 500), 20);
    }

    #[tokio::test]
    async fn a_clock_that_seems_to_go_back_does_no_harm() {
        let mut r = retries(1000);
        let now = Instant::now() + Duration::from_secs(50);
        r.note_request(now);
        r.note_request(now - Duration::from_secs(20));
        assert_eq!(allowed(&mut r, now, 50), 10);
    }

    #[tokio::test]
    async fn a_request_has_so_many_attempts() {
        let mut r = retries(1000);
        let now = Instant::now();
        let events = Arc::new(events::Upstream::new("u"));
        let request = exchange::tests::request(b"q");
        let mut exchange = exchange::open(request, false, now, None, &events).0;
        assert_eq!([(); 3].map(|()| r.allow(&mut exchange, now)), [true, true, false]);
    }
}
