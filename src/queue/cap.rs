//! What a queue does about the cap on its connections: it has some leave.
//!
//! Invariant: a connection that leaves finishes what it has begun, and the rest goes back in front of the queue.

use std::time::Duration;

use super::Queue;

/// How long a connection may be used before it is somebody else's turn: many requests for one connect.
pub const TURN: Duration = Duration::from_millis(50);

impl Queue {
    /// The cap is reached: until a socket closes, requests are no reason to look for endpoints to connect to.
    fn set_full(&self) {
        self.inner().roster.full = true;
    }

    /// There can be no connection to `endpoint` yet: what is led there goes elsewhere until there is one.
    pub fn set_out_of_reach(&self, endpoint: usize) {
        self.locked(|inner| {
            inner.roster.full = true;
            inner.roster.endpoints[endpoint].unreachable |= inner.roster.endpoints[endpoint].open == 0;
            inner.dispatch();
        });
    }

    /// Another connection to `endpoint` needs room under the cap, which is reached: one to another endpoint leaves, if
    /// that has too many; its `last` one may, if what is led there has had its turn.
    pub fn make_room(&self, endpoint: usize, last: bool) {
        self.set_full();
        self.locked(|inner| {
            let inbox = inner.roster.make_room(endpoint, last);
            inner.put_back(inbox);
        });
    }

    /// Another queue, which has `theirs`, needs room under the cap: a connection leaves; only an `idle` one, if so. False
    /// if there is none to leave.
    pub fn give_way(&self, idle: bool, theirs: usize) -> bool {
        self.locked(|inner| {
            let Some(inbox) = inner.roster.give_way(idle, theirs) else { return false };
            inner.put_back(inbox);
            true
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
