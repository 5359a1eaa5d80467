//! Connections that sessions have for themselves. No queue is involved: nobody else could take one.
//!
//! Invariant: each counts in the cap from before it is opened until it is closed, and there are never more than
//! `max_dedicated`.

use std::cmp::Reverse;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Known, Pool};
use crate::connection::{Dedicated, Held, dial};
use crate::events::HandOver;
use crate::lifecycle::Permit;
use crate::protocol::Refusal;
use crate::queue::TURN;

impl Pool {
    /// A connection for a session alone, which needs it for `reason`. Cancel-safe.
    ///
    /// # Errors
    /// What its client is to be told: there were too many of them, or the cap left no room for it, for all of
    /// `acquire_timeout`; or no endpoint could be connected to.
    pub async fn dedicated(&self, reason: HandOver) -> Result<Dedicated, Refusal> {
        let core = &self.core;
        let deadline = Instant::now() + self.settings.acquire_timeout;
        let place =
            timeout_at(deadline, core.means.cap.dedicate()).await.map_err(|_| Refusal::DedicatedFull)?;
        let permit = self.room(deadline).await?;
        let mut fault = String::from("it has no endpoint");
        for known in self.in_order() {
            if Instant::now() >= deadline {
                break;
            }
            let at = (known.place, &known.address);
            let held = Held::new([known.dedicated.clone(), core.dedicated.clone()]);
            match dial(&*core.means.connector, at, &self.settings.connection).await {
                Ok(wire) => {
                    core.events.connected(&known.name);
                    core.events.handed_over(&known.name, reason);
                    let (wire, events) = (wire.holding(permit), core.events.clone());
                    return Ok(Dedicated::new(wire, known.name, events, (held, place)));
                }
                Err(error) => {
                    core.events.connect_failed(&known.name, error.result, &error.text, Duration::ZERO);
                    fault = format!("{}: {}", known.name, error.text);
                }
            }
        }
        Err(Refusal::Down(fault))
    }

    /// Room under the cap: before the pools get any more, and if there is none, one of their connections leaves.
    async fn room(&self, deadline: Instant) -> Result<Permit, Refusal> {
        let cap = &self.core.means.cap;
        let turn = cap.take_turn();
        let mut asks_busy = false;
        loop {
            // Before the look: of what changes after it this hears.
            let mut changed = pin!(cap.changed());
            if let Some(permit) = turn.try_take() {
                return Ok(permit);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(Refusal::AcquireTimeout);
            }
            cap.make_room(asks_busy);
            tokio::select! {
                () = &mut changed => {}
                () = sleep_until(deadline.min(now + TURN)) => asks_busy = true,
            }
        }
    }

    /// The endpoints, the one to be tried first in front.
    fn in_order(&self) -> Vec<Known> {
        let fitness = self.core.queue.fitness();
        let mut all: Vec<Known> = self.core.endpoints().clone();
        let fill = |known: &Known| {
            ((known.dedicated.load(Ordering::Relaxed) as u64) << 32) / u64::from(known.weight.max(1))
        };
        all.sort_by_cached_key(|known| (Reverse(fitness.get(known.place).copied()), fill(known)));
        all
    }
}
