//! What goes no further. What is no request is answered, counted and logged.

use super::{End, Session, words};
use crate::exchange;
use crate::protocol::{BadRequest, Malformed, Refusal};

impl Session {
    /// What is no request is answered like one.
    pub(super) fn refuse_and_go_on(&mut self, reason: Malformed, front: &[u8], answer: &[u8]) {
        self.events().malformed(&self.wire.peer(), &reason, front);
        exchange::refuse_unopened(&refusal(reason), self.events());
        self.requests = self.requests.saturating_add(1);
        self.reading_since = self.now;
        self.unanswered = false;
        words(&mut self.download, &mut self.output).put(answer);
    }

    /// A message that no server is to see is answered with this.
    pub(super) fn answer_in_place(&mut self, answer: &[u8]) {
        self.input.take_charge();
        self.reading_since = self.now;
        self.unanswered = true;
        words(&mut self.download, &mut self.output).put(answer);
    }

    /// What follows a malformed request cannot be understood either: the client is told, and cut off.
    pub(super) fn refuse_malformed(&mut self, bad: &BadRequest) {
        let refusal = refusal(bad.reason);
        self.events().malformed(&self.wire.peer(), &bad.reason, &self.input.bytes);
        exchange::refuse_unopened(&refusal, self.events());
        self.codec.refuse(&bad.id, &refusal, words(&mut self.download, &mut self.output));
        // Some of it may be with the server already: that connection ends with it.
        self.cut_upload();
        self.input.clear();
        self.ending = Some(End::CutOff);
    }
}

fn refusal(reason: Malformed) -> Refusal {
    match reason {
        Malformed::TooLarge(_) => Refusal::TooLarge,
        Malformed::Invalid(_) => Refusal::Malformed,
    }
}
