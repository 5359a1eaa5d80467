//! A server that breaks the protocol, of which nothing reaches a client any more, or that hears no more.

use std::fmt;

use super::Connection;
use crate::events::CloseReason;

impl Connection {
    /// The server takes nothing more. What it said before that is still there to be read, and a reply in
    /// parts as fast as its client takes it.
    pub(super) fn not_heard(&mut self, reason: CloseReason) -> Result<(), CloseReason> {
        // It is with the kernel, whatever the reactor knew before the write failed.
        self.wire.ask_kernel();
        self.read()?;
        if self.download.is_none() {
            return Err(reason);
        }
        self.retire(reason);
        self.unheard = true;
        self.writing_since = None;
        Ok(())
    }

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
