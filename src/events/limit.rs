//! Keeps one kind of log line from flooding the log.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// Lines of one kind let through in one window.
const BURST: u32 = 5;
/// The length of a window.
const WINDOW: Duration = Duration::from_secs(10);

/// The limiter of one kind of line.
#[derive(Debug, Default)]
pub(super) struct Limit(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    window: Option<Instant>,
    passed: u32,
    suppressed: u64,
}

impl Limit {
    /// Whether a line may be written now; then with how many were held back since the last one.
    pub(super) fn pass(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if state.window.is_none_or(|start| now - start >= WINDOW) {
            state.window = Some(now);
            state.passed = 0;
        }
        if state.passed == BURST {
            state.suppressed += 1;
            return None;
        }
        state.passed += 1;
        Some(std::mem::take(&mut state.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_burst_passes_and_the_rest_is_told_later() {
        let limit = Limit::default();
        for _ in 0..BURST {
            assert_eq!(limit.pass(), Some(0));
        }
        assert_eq!((limit.pass(), limit.pass()), (None, None));
        tokio::time::advance(WINDOW).await;
        assert_eq!(limit.pass(), Some(2));
        assert_eq!(limit.pass(), Some(0));
    }
}
