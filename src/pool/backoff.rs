//! When an endpoint that could not be reached may be tried again.

use std::time::Duration;

use tokio::time::Instant;

/// The bound of the first pause; it doubles with each failure.
const FIRST: Duration = Duration::from_millis(100);
/// The longest bound, and the longest while requests are refused meanwhile.
const LONGEST: Duration = Duration::from_secs(5);
const LONGEST_WANTED: Duration = Duration::from_secs(1);
/// The shortest pause between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// The attempts to reach one endpoint.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    pub(super) until: Option<Instant>,
    /// When the last attempt failed, if it did.
    failed: Option<Instant>,
    /// It was tried since the pool had its last connection.
    tried: bool,
}

impl Backoff {
    /// Another attempt failed. Full jitter: the pause is anything up to the bound. It is shorter where the endpoint
    /// is `wanted`.
    pub(super) fn fail(&mut self, now: Instant, wanted: bool) -> Duration {
        if self.until.is_some_and(|until| now > until + 2 * LONGEST) {
            self.failures = 0;
        }
        let longest = if wanted { LONGEST_WANTED } else { LONGEST };
        let bound = FIRST.saturating_mul(1 << self.failures.min(16)).min(longest);
        let pause = bound.mul_f64(fastrand::f64()).max(PAUSE);
        *self =
            Self { failures: self.failures + 1, until: Some(now + pause), failed: Some(now), tried: true };
        pause
    }

    /// It is wanted after all: the pause is no longer than it would have been.
    pub(super) fn shorten(&mut self, now: Instant) {
        if self.until.is_some_and(|until| until > now + LONGEST_WANTED) {
            self.until = Some(now + LONGEST_WANTED.mul_f64(fastrand::f64()));
        }
    }

    /// When a live connection may be given up for another attempt.
    pub(super) fn worth_at(&self) -> Option<Instant> {
        self.failed.map(|at| at + LONGEST)
    }

    /// It may be tried at once, because no other connection is left.
    pub(super) fn hurry(&mut self) {
        (self.until, self.tried) = (None, false);
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }

    /// Whether the last attempt failed.
    pub(super) fn has_failed(&self) -> bool {
        self.failures > 0
    }

    /// Whether there is nothing left to try at once.
    pub(super) fn is_exhausted(&self) -> bool {
        self.failures > 0 && self.tried
    }
}
