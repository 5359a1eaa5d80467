//! The keeper's other half: to know which endpoints are well.
//!
//! Probes stay within the cap: one that connects joins the pool, one that asks takes room of a connection there is.

use tokio::task::JoinError;
use tokio::time::Instant;

use super::{Keeper, UNUSED_DEATHS};
use crate::connection::DialError;
use crate::events::{ConnectResult, ProbeResult};
use crate::pool::probe::Found;
use crate::queue::EndpointDemand;

impl Keeper {
    /// Ejects, readmits and probes what is due.
    pub(super) fn look_after_health(&mut self, now: Instant) {
        for (endpoint, demand) in self.core.queue.endpoints().into_iter().enumerate() {
            if self.kept[endpoint].removed {
                continue;
            }
            let was_open = std::mem::replace(&mut self.kept[endpoint].was_open, demand.open > 0);
            if demand.open > 0 && !was_open {
                self.reached(endpoint);
            }
            self.health.note_failing(endpoint, demand.failing, now);
            if demand.ejected
                && let Some(duration) = self.health.eject(endpoint, now)
            {
                self.core.events.ejected(&self.kept[endpoint].name, duration);
            }
            if self.health.is_readmitted(endpoint, now) {
                self.core.queue.readmit(endpoint);
                self.core.events.readmitted(&self.kept[endpoint].name);
            }
            if self.health.is_due(endpoint, now) && !demand.ejected {
                self.probe(endpoint, demand, now);
            } else if self.kept[endpoint].unasked && demand.open > 0 {
                self.ask(endpoint, now);
            }
        }
    }

    fn probe(&mut self, endpoint: usize, demand: EndpointDemand, now: Instant) {
        if demand.open > 0 {
            if self.question.is_none() {
                self.found(endpoint, &(ProbeResult::Ok, String::new()));
            } else if !self.ask(endpoint, now) && demand.connecting == 0 {
                self.connect_to_ask(endpoint);
            }
            return;
        }
        // A pool that is left cold is one whose server closes unused connections.
        let cold = self.unused_deaths >= UNUSED_DEATHS && !self.kept[endpoint].backoff.has_failed();
        if cold || demand.connecting > 0 || !self.kept[endpoint].backoff.is_over(now) {
            return;
        }
        match self.cap.try_take(&self.core.queue) {
            Some(permit) => {
                self.kept[endpoint].probing = true;
                self.spawn(endpoint, permit);
            }
            // Without a connection nothing would ever show that it is well again.
            None => self.kept[endpoint].without_room = true,
        }
    }

    /// False if no connection has room for the question.
    fn ask(&mut self, endpoint: usize, now: Instant) -> bool {
        let Some(question) = self.question.clone() else { return true };
        let (exchange, ticket) = question.put(now);
        let asked = self.core.queue.push_at(endpoint, exchange);
        self.kept[endpoint].unasked = !asked;
        if asked {
            self.kept[endpoint].busy += 1;
            self.asked.spawn(async move { (endpoint, question.answer(ticket).await) });
        }
        asked
    }

    /// All connections to an endpoint are busy, for whatever reason: another one asks.
    fn connect_to_ask(&mut self, endpoint: usize) {
        if let Some(permit) = self.cap.try_take(&self.core.queue) {
            self.spawn(endpoint, permit);
        }
    }

    /// A connection to an endpoint stands that had none.
    fn reached(&mut self, endpoint: usize) {
        let probing = std::mem::take(&mut self.kept[endpoint].probing);
        match (&self.question, probing) {
            (Some(_), true) => {
                self.ask(endpoint, Instant::now());
            }
            (Some(_), false) => {}
            (None, true) => self.found(endpoint, &(ProbeResult::Ok, String::new())),
            (None, false) => self.judge(endpoint, true, ""),
        }
    }

    /// An endpoint could not be reached.
    pub(super) fn missed(&mut self, endpoint: usize, error: &DialError) {
        let result =
            if error.result == ConnectResult::Timeout { ProbeResult::Timeout } else { ProbeResult::Failed };
        if std::mem::take(&mut self.kept[endpoint].probing) {
            self.found(endpoint, &(result, error.text.clone()));
        } else if !self.kept[endpoint].was_open {
            self.judge(endpoint, false, &error.text);
        }
    }

    /// An endpoint answered a question, or did not.
    pub(super) fn answered(&mut self, asked: Result<(usize, Found), JoinError>) {
        // A panic in a protocol's codec says nothing about the endpoint.
        if let Ok((endpoint, found)) = asked {
            self.kept[endpoint].busy -= 1;
            self.found(endpoint, &found);
        }
    }

    fn found(&mut self, endpoint: usize, (result, fault): &Found) {
        self.core.events.probed(&self.kept[endpoint].name, *result, fault);
        self.judge(endpoint, *result == ProbeResult::Ok, fault);
    }

    fn judge(&mut self, endpoint: usize, well: bool, fault: &str) {
        if self.settings.health.interval.is_none() || self.kept[endpoint].removed {
            // Without probes nothing would ever show that it is well again.
            return;
        }
        let Some(healthy) = self.health.note(endpoint, well) else { return };
        self.core.queue.set_healthy(endpoint, healthy);
        if healthy {
            self.core.events.healthy(&self.kept[endpoint].name);
        } else {
            self.core.events.unhealthy(&self.kept[endpoint].name, &fault);
        }
    }
}
