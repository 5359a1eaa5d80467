//! Phases of the daemon's two halves: a [`Switch`] moves one way, from running to draining to
//! stopped, and every [`Watch`] made from it sees the move. Signals end up here and nowhere else. And the
//! [`Alarm`] by which a task keeps its deadlines, and the [`Permits`] that bound what there is of something.

mod permits;

use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use pin_project_lite::pin_project;
use slab::Slab;
use tokio::time::{Instant, Sleep, sleep_until};

pub use permits::{Permit, Permits};

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

impl Phase {
    /// The one that comes after it; after the last, that one.
    #[must_use]
    pub fn next(self) -> Self {
        match self {
            Self::Running => Self::Draining,
            Self::Draining | Self::Stopped => Self::Stopped,
        }
    }
}

/// The hand that moves a phase forward.
#[derive(Debug, Default)]
pub struct Switch(Arc<Shared>);

/// A view of a [`Switch`]. Clones see the same switch.
#[derive(Debug)]
pub struct Watch {
    shared: Arc<Shared>,
    /// Where the waker of the task that waits is kept, and that waker: a task is entered once, not at each wait.
    entered: Option<(usize, Waker)>,
    /// The phase when it was last looked at.
    seen: Phase,
}

/// Not tokio's `watch`: that one wakes in an order drawn by lot, and a run of a seed is to be repeated.
#[derive(Debug, Default)]
struct Shared {
    phase: AtomicU8,
    waiting: Mutex<Slab<Waker>>,
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Running,
            1 => Phase::Draining,
            _ => Phase::Stopped,
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, to: Phase) {
        if self.phase.fetch_max(to as u8, Ordering::AcqRel) < to as u8 {
            self.waiting().iter().for_each(|(_, waker)| waker.wake_by_ref());
        }
    }
}

/// Keeps a half running: when the last clone is gone, it drains.
#[derive(Clone, Debug)]
pub struct Hold(#[expect(dead_code, reason = "kept for its drop")] Arc<Held>);

#[derive(Debug)]
struct Held(Arc<Shared>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.advance(Phase::Draining);
    }
}

impl Switch {
    /// A switch in [`Phase::Running`].
    pub fn new() -> Self {
        Self::default()
    }

    /// A view of this switch.
    pub fn watch(&self) -> Watch {
        Watch { shared: self.0.clone(), entered: None, seen: Phase::Running }
    }

    /// Asks everyone to finish what they have.
    pub fn drain(&self) {
        self.0.advance(Phase::Draining);
    }

    /// Has it drain when the last clone of the result is gone.
    pub fn hold(&self) -> Hold {
        Hold(Arc::new(Held(self.0.clone())))
    }

    /// Asks everyone to end at once.
    pub fn stop(&self) {
        self.0.advance(Phase::Stopped);
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        self.0.phase()
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
        self.shared.phase()
    }

    /// The phase now, of which [`Watch::poll_moved`] waits for the end.
    pub fn look(&mut self) -> Phase {
        self.seen = self.phase();
        self.seen
    }

    /// Completes when the phase is later than at the last [`Watch::look`]: another thread may move the switch
    /// between that look and this wait.
    pub fn poll_moved(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_reached(cx, self.seen.next())
    }

    /// Completes when the phase is `phase` or later.
    pub fn poll_reached(&mut self, cx: &mut Context<'_>, phase: Phase) -> Poll<()> {
        if self.entered.as_ref().is_none_or(|(_, waker)| !waker.will_wake(cx.waker())) {
            self.leave();
            let waker = cx.waker().clone();
            self.entered = Some((self.shared.waiting().insert(waker.clone()), waker));
        }
        // After it was entered: it hears of every move from here on.
        if self.phase() >= phase { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Waits until the phase is `phase` or later. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        std::future::poll_fn(|cx| self.poll_reached(cx, phase)).await;
    }

    fn leave(&mut self) {
        if let Some((key, _)) = self.entered.take() {
            self.shared.waiting().remove(key);
        }
    }
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), entered: None, seen: self.seen }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.leave();
    }
}

/// The earliest of some points in time; `None` is never.
pub fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    let mut earliest = None;
    for time in times {
        if time.is_some() && (earliest.is_none() || time < earliest) {
            earliest = time;
        }
    }
    earliest
}

pin_project! {
    /// One timer of a task, set anew at every turn. Setting it later than it already is costs nothing: it
    /// then goes off early, and the task looks at the clock once for nothing.
    #[derive(Debug, Default)]
    pub struct Alarm {
        #[pin]
        sleep: Option<Sleep>,
    }
}

impl Alarm {
    /// Completes at `at` or somewhat before; never, if there is nothing to wait for.
    pub fn poll_reached(self: Pin<&mut Self>, cx: &mut Context<'_>, at: Option<Instant>) -> Poll<()> {
        let Some(at) = at else { return Poll::Pending };
        let mut place = self.project().sleep;
        let Some(mut sleep) = place.as_mut().as_pin_mut() else {
            place.set(Some(sleep_until(at)));
            return place.as_pin_mut().map_or(Poll::Pending, |sleep| sleep.poll(cx));
        };
        if sleep.is_elapsed() || at < sleep.deadline() {
            sleep.as_mut().reset(at);
        }
        sleep.poll(cx)
    }

    /// Waits for `at` or somewhat less; for ever, if there is nothing to wait for. Cancel-safe.
    pub async fn reached(mut self: Pin<&mut Self>, at: Option<Instant>) {
        std::future::poll_fn(|cx| self.as_mut().poll_reached(cx, at)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

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

    #[tokio::test]
    async fn a_move_between_the_look_and_the_wait_is_not_missed() {
        let switch = Switch::new();
        let mut watch = switch.watch();
        for (move_on, seen) in
            [(Switch::drain as fn(&Switch), Phase::Running), (Switch::stop, Phase::Draining)]
        {
            assert_eq!(watch.look(), seen);
            move_on(&switch);
            std::future::poll_fn(|cx| watch.poll_moved(cx)).await;
        }
        assert_eq!(watch.look(), Phase::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_moves_both_ways() {
        let start = Instant::now();
        let after = |seconds| Some(start + std::time::Duration::from_secs(seconds));
        let mut alarm = pin!(Alarm::default());
        assert!(is_pending(alarm.as_mut(), after(9)).await && is_pending(alarm.as_mut(), after(3)).await);
        alarm.as_mut().reached(after(3)).await;
        assert_eq!(Some(Instant::now()), after(3));
        while Some(Instant::now()) < after(20) {
            alarm.as_mut().reached(after(20)).await;
        }
        assert_eq!(Some(Instant::now()), after(20));
        assert!(is_pending(alarm, None).await);
    }

    async fn is_pending(mut alarm: Pin<&mut Alarm>, at: Option<Instant>) -> bool {
        std::future::poll_fn(|cx| Poll::Ready(alarm.as_mut().poll_reached(cx, at).is_pending())).await
    }

    #[tokio::test]
    async fn every_task_that_waits_is_woken_at_each_move_and_forgotten_in_the_end() {
        let switch = Switch::new();
        let waits = |phase| {
            let mut watch = switch.watch();
            tokio::spawn(async move { watch.reached(phase).await })
        };
        let (first, second) = (waits(Phase::Draining), waits(Phase::Stopped));
        tokio::task::yield_now().await;
        switch.drain();
        first.await.unwrap();
        assert!(!second.is_finished());
        switch.stop();
        second.await.unwrap();
        assert!(switch.0.waiting().is_empty());
    }

    #[test]
    fn never_is_later_than_anything() {
        let now = Instant::now();
        let later = now + std::time::Duration::from_secs(1);
        assert_eq!(earliest([None, Some(later), Some(now), None]), Some(now));
        assert_eq!(earliest([None, None]), None);
    }

    #[tokio::test]
    async fn the_last_hold_drains() {
        let switch = Switch::new();
        let first = switch.hold();
        let second = first.clone();
        drop(first);
        assert_eq!(switch.phase(), Phase::Running);
        drop(second);
        assert_eq!(switch.phase(), Phase::Draining);
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
