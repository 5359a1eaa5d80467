//! Phases of the daemon's two halves: a [`Switch`] moves one way, from running to draining to
//! stopped, and every [`Watch`] made from it sees the move. Signals end up here and nowhere else. And the
//! [`Alarm`] by which a task keeps its deadlines.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;
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
#[derive(Debug)]
pub struct Switch(watch::Sender<Phase>);

/// A view of a [`Switch`]. Clones see the same switch.
#[derive(Clone, Debug)]
pub struct Watch(watch::Receiver<Phase>);

impl Switch {
    /// A switch in [`Phase::Running`].
    pub fn new() -> Self {
        Self(watch::Sender::new(Phase::Running))
    }

    /// A view of this switch.
    pub fn watch(&self) -> Watch {
        Watch(self.0.subscribe())
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
        *self.0.borrow()
    }

    fn advance(&self, to: Phase) {
        self.0.send_if_modified(|phase| {
            let forward = *phase < to;
            *phase = (*phase).max(to);
            forward
        });
    }
}

impl Default for Switch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// The phase now. A dropped switch counts as stopped: whoever could still have moved it is gone.
    pub fn phase(&self) -> Phase {
        if self.0.has_changed().is_err() { Phase::Stopped } else { *self.0.borrow() }
    }

    /// Waits until the phase is `phase` or later. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means the sender is gone, which is the end as well.
        let _ = self.0.wait_for(|now| *now >= phase).await;
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
