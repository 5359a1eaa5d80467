//! Whose turn it is, and where an exchange is led: what decides who waits for whom.

use super::waiting::Kind;
use super::{Inner, Rule};
use crate::exchange::{Exchange, Turn};
use crate::protocol::Refusal;

impl Inner {
    /// Gives an exchange its turn, and leads it where its key says. A client with many has one in each round, as the
    /// others do (start-time fair queueing, Goyal, Vin and Cheng 1996). Rounds go by what is served, not by what comes:
    /// asking again and again makes nobody older.
    pub(super) fn line_up(&mut self, exchange: &mut Exchange) {
        self.arrivals += 1;
        let round = self.round.max(exchange.not_before);
        exchange.turn = Turn { round, arrival: self.arrivals };
        self.lead(exchange);
    }

    pub(super) fn lead(&self, exchange: &mut Exchange) {
        let key = exchange.key.filter(|_| self.settings.rule == Rule::Hash);
        exchange.led_to = key.and_then(|key| self.roster.lead(key, exchange.tried.endpoint));
    }

    /// The queue is full: who has the last turn of all is refused, or the last of those who are led to one endpoint,
    /// where that is what fills it.
    pub(super) fn take_the_place_of_the_last(&mut self, exchange: Exchange) {
        let longest = self.waiting.longer_than(Kind::of(&exchange));
        let last = longest.or_else(|| self.waiting.last().filter(|last| exchange.turn < last.turn));
        let last = last.filter(|last| !last.tried.begun);
        if let Some(last) = last.map(|last| last.turn).and_then(|turn| self.waiting.remove(turn)) {
            self.refused.push((last, Refusal::QueueFull));
            self.put_back([exchange]);
        } else {
            self.refused.push((exchange, Refusal::QueueFull));
        }
    }

    /// What waits for an endpoint that it need not wait for any more goes on to the next best one.
    pub(super) fn lead_elsewhere(&mut self) {
        for mut exchange in self.waiting.misled(self.roster.can_wait_for()) {
            self.lead(&mut exchange);
            let over = self.waiting.insert(exchange);
            self.refused.extend(over.map(|exchange| (exchange, Refusal::Lost)));
        }
    }

    /// One whose turn was in `round` was served. A round is over at the latest when as many were served as had their turn
    /// in it when it began: whoever comes meanwhile does not keep the next one waiting for ever.
    pub(super) fn note_served(&mut self, round: u64) {
        self.left_of_round = self.left_of_round.saturating_sub(1);
        if round > self.round || self.left_of_round == 0 {
            self.round = round.max(self.round.saturating_add(1));
            self.left_of_round = self.waiting.count_until(self.round);
        }
    }
}
