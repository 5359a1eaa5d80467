//! What a queue does about the cap on its connections: it has some leave.
//!
//! Invariant: a connection that leaves finishes what it has begun, and the rest goes back in front of the queue.

use super::Queue;

impl Queue {
    /// The cap is reached: until a socket closes, requests are no reason to look for endpoints to connect to.
    pub fn set_full(&self) {
        self.inner().roster.full = true;
    }

    /// Another connection to `endpoint` needs room under the cap, which is reached: one to another endpoint leaves, if
    /// that has too many.
    pub fn make_room(&self, endpoint: usize) {
        self.set_full();
        self.locked(|inner| {
            let inbox = inner.roster.make_room(endpoint);
            inner.put_back(inbox);
        });
    }

    /// Another queue needs room under the cap: a connection leaves, the least used one. False if there is none.
    pub fn give_way(&self) -> bool {
        self.locked(|inner| {
            let inbox = inner.roster.give_way();
            inner.put_back(inbox);
            !inner.roster.members.is_empty()
        })
    }

    /// The cap keeps others from serving what waits: a connection leaves that nobody may use.
    pub fn make_use_of_cap(&self) {
        self.locked(|inner| inner.roster.call_off_left_out());
    }

    /// Connections beyond so many leave as soon as nothing is lost by it, the least used ones first.
    pub fn shed(&self, most: usize) {
        self.locked(|inner| {
            let inbox = inner.roster.shed(most);
            inner.put_back(inbox);
        });
    }
}
