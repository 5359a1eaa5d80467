//! A client that needs an upstream connection of its own gets one, until either ends.

use tokio::time::Instant;

use super::{End, Session};
use crate::connection::{Over, Patience};
use crate::events::HandOver;
use crate::exchange;
use crate::lifecycle::Phase;
use crate::protocol::{Id, Refusal};
use crate::wire::{Charge, Interest, Output};

/// What is to go there first.
#[derive(Debug)]
pub(super) struct Handed {
    id: Id,
    reason: HandOver,
    first: Output,
}

impl Session {
    /// Nothing more is taken in, until what was asked before is answered.
    pub(super) fn begin_hand_over(&mut self, id: Id, reason: HandOver, front: bytes::Bytes) {
        let mut first = Output::new();
        first.put_bytes(front, self.input.take_charge());
        self.handed = Some(Box::new(Handed { id, reason, first }));
    }

    /// Everything asked before is answered: returns how the session ends after the client has had its connection, or
    /// goes on after it was refused one.
    pub(super) async fn hand_over(&mut self) -> Result<(), End> {
        let Some(handed) = self.handed.take() else { return Ok(()) };
        let Handed { id, reason, mut first } = *handed;
        let mut front = self.front.clone();
        let reset = Interest { read: false, write: false, reset: true };
        let dedicated = tokio::select! {
            biased;
            () = front.reached(Phase::Stopped) => return Err(End::Gone),
            // Nothing else completes it.
            _ = self.wire.ready(reset) => return Err(End::Gone),
            dedicated = self.shared.pool.dedicated(reason) => dedicated,
        };
        let dedicated = match dedicated {
            Ok(dedicated) => dedicated,
            Err(refusal) => {
                self.refuse_hand_over(&id, &refusal);
                return Ok(());
            }
        };
        first.put_bytes(self.input.bytes.split().freeze(), Charge::none());
        self.input.clear();
        let settings = &self.shared.settings;
        let patience = Patience {
            idle: settings.client_idle,
            write: settings.client_write,
            end: self.shared.pool.settings().request_timeout,
        };
        Err(match dedicated.carry(&mut self.wire, first, &mut self.front, patience).await {
            Over::Client => End::EarlyFin,
            Over::ClientGone | Over::Stopped => End::Gone,
            Over::Server | Over::Drained => End::Drained,
            Over::ServerGone | Over::Slow => End::Cut,
            Over::Idle => End::Idle,
        })
    }

    fn refuse_hand_over(&mut self, id: &Id, refusal: &Refusal) {
        exchange::refuse_unopened(refusal, self.events());
        self.requests = self.requests.saturating_add(1);
        self.reading_since = Instant::now();
        if !self.codec.refuse(id, refusal, &mut self.output) {
            self.ending = self.ending.or(Some(End::NoWords));
        }
    }
}
