//! Phases of the daemon's two halves: a [`Switch`] moves one way, from running to draining to
//! stopped, and every [`Watch`] made from it sees the move. Signals end up here and nowhere else.

use tokio::sync::watch;

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
    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until the phase is `phase` or later. A dropped switch counts as stopped: whoever could
    /// still have moved it is gone. Cancel-safe.
    pub async fn reached(&mut self, phase: Phase) {
        // An error means the sender is gone, which is the end as well.
        let _ = self.0.wait_for(|now| *now >= phase).await;
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

    #[tokio::test]
    async fn a_dropped_switch_releases_its_watchers() {
        let switch = Switch::new();
        let mut watch = switch.watch();
        drop(switch);
        watch.reached(Phase::Draining).await;
    }
}
