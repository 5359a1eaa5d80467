//! Phases of the daemon's two halves: a [`Switch`] moves one way, from running to draining to
//! stopped, and every [`Watch`] made from it sees the move. Signals end up here and nowhere else. And the
//! [`Alarm`] by which a task keeps its deadlines.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Notify;
use tokio::time::{Instant, Sleep, sleep_until};

/// How far a shutdown has come. Phases only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Business as usual.
    Running,
    /// Finish what was taken in, take nothing new.
    Draining,
    /// End now, whatever is under way.
    Stopped,
}

/// The hand that moves a phase forward.
#[derive(Debug, Default)]
pub struct Switch(Arc<Shared>);

/// A view of a [`Switch`]. Clones see the same switch.
#[derive(Clone, Debug)]
pub struct Watch(Arc<Shared>);

/// Not tokio's `watch`: that one wakes in an order drawn by lot, and a run of a seed is to be repeated.
#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    changed: Notify,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }
}

impl Switch {
    /// A switch in [`Phase::Running`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A view of this switch.
    pub fn watch(&self) -> Watch {
        Watch(self.0.clone())
    }

    /// Asks everyone to finish what they have.
    pub fn drain(&self) {
        self.advance(Phase::Draining);
    }

    /// Asks everyone to end at once.
    pub fn stop(&self) {
        self.advance(Phase::Stopped);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    fn advance(&self, to: Phase) {
        if self.0.phase.fetch_max(to as u8, Ordering::AcqRel) < to as u8 {
            self.0.changed.notify_waiters();
        }
    }
}

/// Whoever could still have moved it is gone: that counts as stopped.
impl Drop for Switch {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Watch {
    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// Waits until the phase is `phase` or later. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        loop {
            // Made before the look: it hears of every move from here on.
            let changed = self.0.changed.notified();
            if self.phase() >= phase {
                return;
            }
            changed.await;
        }
    }
}

/// One timer of a task, set anew at every turn. Setting it later than it already is costs nothing: it
/// then goes off early, and the task looks at the clock once for nothing.
#[derive(Debug, Default)]
pub struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Alarm {
    /// Completes at `at` or somewhat before; never, if there is nothing to wait for.
    pub fn poll_reached(&mut self, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.is_elapsed() || at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }

    /// Waits for `at` or somewhat less; for ever, if there is nothing to wait for. Cancel-safe.
    pub async fn reached(&mut self, at: Option<Instant>) {
        std::future::poll_fn(|cx| self.poll_reached(cx, at)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn phases_only_move_forward() {
        let switch = Switch::new();
        let mut watch = switch.watch();
        assert_eq!(watch.phase(), Phase::Running);
        switch.stop();
        switch.drain();
        assert_eq!(switch.phase(), Phase::Stopped);
        watch.reached(Phase::Draining).await;
        assert_eq!(watch.phase(), Phase::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_moves_both_ways() {
        let start = Instant::now();
        let after = |seconds| Some(start + std::time::Duration::from_secs(seconds));
        let mut alarm = Alarm::default();
        let pending = is_pending(&mut alarm, after(9)).await && is_pending(&mut alarm, after(3)).await;
        assert!(pending);
        alarm.reached(after(3)).await;
        assert_eq!(Some(Instant::now()), after(3));
        while Some(Instant::now()) < after(20) {
            alarm.reached(after(20)).await;
        }
        assert_eq!(Some(Instant::now()), after(20));
        assert!(is_pending(&mut alarm, None).await);
    }

    async fn is_pending(alarm: &mut Alarm, at: Option<Instant>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(alarm.poll_reached(cx, at).is_pending())).await
    }

    #[tokio::test]
    async fn a_dropped_switch_releases_its_watchers() {
        let switch = Switch::new();
        let mut watch = switch.watch();
        drop(switch);
        watch.reached(Phase::Draining).await;
        assert_eq!(watch.phase(), Phase::Stopped);
    }
}
