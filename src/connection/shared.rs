//! What the connections of a pool have in common.

use std::sync::Arc;

use super::{Settings, Spread};
use crate::events;
use crate::lifecycle::Watch;
use crate::protocol::{Mode, Protocol};
use crate::wire::Budget;

/// What all connections of a pool share.
#[derive(Debug)]
pub struct Shared {
    /// The pool's settings for connections.
    pub settings: Settings,
    /// How they are shared.
    pub mode: Mode,
    /// Replies due at a time.
    pub room: usize,
    /// The protocol spoken.
    pub protocol: Arc<dyn Protocol>,
    /// Where to count and log.
    pub events: Arc<events::Upstream>,
    /// Memory for replies.
    pub budget: Budget,
    /// The back half's switch.
    pub back: Watch,
    /// Keeps connections from acting together.
    pub spread: Arc<Spread>,
}

impl Shared {
    /// The same under other settings.
    #[must_use]
    pub fn retuned(&self, settings: Settings) -> Self {
        Self {
            settings,
            mode: self.mode,
            room: self.room,
            protocol: self.protocol.clone(),
            events: self.events.clone(),
            budget: self.budget.clone(),
            back: self.back.clone(),
            spread: self.spread.clone(),
        }
    }
}
