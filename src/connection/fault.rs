//! A server that breaks the protocol: what is said of it. Nothing it sent reaches a client any more.

use std::fmt;

use super::Connection;
use crate::events::CloseReason;

impl Connection {
    pub(super) fn desync(&mut self, fault: &dyn fmt::Display) -> CloseReason {
        let front = self.input.bytes.split().freeze();
        self.broke_protocol(fault, &front)
    }

    pub(super) fn unasked(&self, front: &[u8]) -> CloseReason {
        self.broke_protocol(&"bytes that answer nothing", front)
    }

    fn broke_protocol(&self, fault: &dyn fmt::Display, front: &[u8]) -> CloseReason {
        if self.carried == 0 {
            self.shared.events.speaks_first(&self.endpoint, front);
        }
        self.shared.events.desync(&self.endpoint, fault, front);
        CloseReason::Desync
    }
}
