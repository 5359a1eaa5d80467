//! What a connection owes, and to whom.
//!
//! Invariant: an entry leaves only with its reply, with one to a later request where they come in order, or with the
//! connection. An exchange that ended earlier leaves its entry behind, owed to nobody, so its reply can never be taken
//! for another's. A reply in parts is due until its last part. A request is kept as long as it may have to be sent
//! again.
//! Long because its tests look at what is private here.

use std::collections::VecDeque;
use std::ops::Range;

use tokio::time::Instant;

use super::tags::Tags;
use crate::events::Rung;
use crate::exchange::Exchange;
use crate::lifecycle::earliest;
use crate::protocol::{Mode, Refusal, Tag, TagSpace};

/// The end of a request of which more parts are to come.
pub(super) const OPEN_END: u64 = u64::MAX;

/// A request whose reply is due, or that is on its way if there will be none.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) exchange: Exchange,
    pub(super) tag: Tag,
    /// Positions in the output of its first byte and after its last.
    place: Range<u64>,
    pub(super) since: Instant,
    written: bool,
    /// Its deadline has passed, and the endpoint was blamed for it.
    pub(super) late: bool,
    again: Again,
}

/// When a request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// Not once it was taken: some of it may be with nobody any more.
    Never,
    /// As long as the kernel has no byte of it.
    Unsent,
    /// As long as no byte of its reply was seen.
    Unanswered,
}

impl Entry {
    pub(super) fn new(exchange: Exchange, tag: Tag, place: Range<u64>, since: Instant, again: Again) -> Self {
        Self { exchange, tag, place, since, written: false, late: false, again }
    }

    /// Whether the kernel does not have all of it.
    pub(super) fn is_unwritten(&self, written: u64) -> bool {
        written < self.place.end
    }

    /// Whether its reply tells something about the endpoint: one that comes late does not, nor that to a probe.
    pub(super) fn is_telling(&self) -> bool {
        !self.late && !self.exchange.bound
    }

    /// Whether the kernel has some of it.
    fn is_begun(&self, written: u64) -> bool {
        self.place.start < written
    }

    /// Why it may be sent again, if it may: the kernel has what comes before `written`.
    fn rung(&self, written: u64, reply_seen: bool) -> Option<Rung> {
        if self.again != Again::Never && !self.is_begun(written) {
            return Some(Rung::Unsent);
        }
        (self.again == Again::Unanswered && !reply_seen).then_some(Rung::Idempotent)
    }
}

/// What a connection leaves behind.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) exchange: Exchange,
    /// Why it may be tried again, if it may.
    pub(super) rung: Option<Rung>,
    /// The endpoint was blamed for it already.
    pub(super) late: bool,
}

/// All that is in flight on one connection.
#[derive(Debug)]
pub(super) struct InFlight {
    by_tag: bool,
    /// In the order of sending.
    entries: VecDeque<Entry>,
    /// The one whose reply has begun and comes in parts.
    begun: Option<Entry>,
    /// One-way requests the kernel does not have whole.
    oneways: VecDeque<Entry>,
    tags: Tags,
    /// The server has brought a tag back: so it always does.
    brings_back: bool,
}

impl InFlight {
    pub(super) fn new(mode: Mode, space: Option<TagSpace>) -> Self {
        let by_tag = mode == Mode::Multiplex;
        let (entries, oneways) = (VecDeque::new(), VecDeque::new());
        Self { by_tag, entries, begun: None, oneways, tags: Tags::new(space), brings_back: false }
    }

    /// A tag for the next request; `None` if they are used up, and the connection with them.
    pub(super) fn next_tag(&mut self) -> Option<Tag> {
        self.tags.next()
    }

    /// Whether there will be another tag.
    pub(super) fn has_tags(&self) -> bool {
        self.tags.has_next()
    }

    /// Adds a request that was put into the output. If it ends at [`OPEN_END`], [`InFlight::uploaded`] follows its
    /// last part.
    pub(super) fn push(&mut self, entry: Entry) {
        if entry.exchange.request.oneway {
            // Nobody will answer it.
            self.tags.free(entry.tag);
            self.oneways.push_back(entry);
        } else {
            self.entries.push_back(entry);
        }
    }

    /// The last part of the request that came in parts ends at `end`.
    pub(super) fn uploaded(&mut self, end: u64, since: Instant) {
        let mut sending = self.entries.iter_mut().chain(&mut self.oneways);
        if let Some(entry) = sending.find(|e| e.place.end == OPEN_END) {
            (entry.place.end, entry.since) = (end, since);
        }
    }

    /// The reply of `entry` has begun and comes in parts.
    pub(super) fn begin(&mut self, entry: Entry) {
        let mut begun = Entry { again: Again::Never, ..entry };
        begun.exchange.request.forget();
        self.begun = Some(begun);
    }

    /// The one whose reply has begun and comes in parts.
    pub(super) fn begun(&self) -> Option<&Entry> {
        self.begun.as_ref()
    }

    /// The last part of its reply was read.
    pub(super) fn end_begun(&mut self) -> Option<Entry> {
        self.begun.take()
    }

    /// Everything that is due, what has begun first.
    fn due(&self) -> impl Iterator<Item = &Entry> {
        self.begun.iter().chain(&self.entries)
    }

    /// The request that a reply with `tag` answers; `None` if it answers nothing.
    pub(super) fn answer(&mut self, tag: Option<Tag>) -> Option<Entry> {
        let entry = if self.by_tag {
            let tag = tag?;
            let index = self.entries.iter().position(|e| e.tag == tag)?;
            self.entries.remove(index)?
        } else {
            let fits = |e: &Entry| tag.map_or(!self.brings_back, |tag| tag == e.tag);
            self.entries.front().is_some_and(fits).then(|| self.entries.pop_front()).flatten()?
        };
        self.brings_back |= tag.is_some();
        self.tags.free(entry.tag);
        Some(entry)
    }

    /// Whether a reply with `tag` is a server's answer to a one-way request, the first to it.
    pub(super) fn answers_oneway(&mut self, tag: Option<Tag>) -> bool {
        tag.is_some_and(|tag| self.tags.take_oneway(tag))
    }

    /// Whether a server may yet answer a one-way request.
    pub(super) fn may_answer_oneways(&self) -> bool {
        self.tags.has_oneways()
    }

    /// Those that a reply with `tag` shows to get none, as replies come in order: all sent before what it answers. None
    /// where tags are used again: a reply that comes after all would be taken for another one's.
    pub(super) fn overtaken(&mut self, tag: Option<Tag>, written: u64) -> Vec<Entry> {
        let in_order = !self.by_tag && !self.tags.are_recycled() && self.begun.is_none();
        if !in_order || self.entries.len() < 2 {
            return Vec::new();
        }
        let fits = |e: &Entry| Some(e.tag) == tag && !e.is_unwritten(written);
        let count = self.entries.iter().position(fits).unwrap_or(0);
        self.entries.drain(..count).collect()
    }

    /// Notes that the kernel has everything before `written`; returns the one-way requests thereby sent.
    pub(super) fn written(&mut self, written: u64) -> Vec<Exchange> {
        let mut now = None;
        for entry in self.entries.iter_mut().rev().take_while(|e| !e.written) {
            if entry.place.end <= written {
                entry.written = true;
                entry.exchange.slot.mark_written(*now.get_or_insert_with(Instant::now));
            }
            if entry.is_begun(written) && entry.again != Again::Unanswered {
                entry.exchange.request.forget();
            }
        }
        let sent = self.oneways.iter().take_while(|e| !e.is_unwritten(written)).count();
        let tags = &mut self.tags;
        self.oneways.drain(..sent).inspect(|e| tags.note_oneway(e.tag)).map(|e| e.exchange).collect()
    }

    /// Replies due.
    pub(super) fn owed(&self) -> usize {
        self.entries.len() + usize::from(self.begun.is_some())
    }

    /// Nothing due and nothing half sent.
    pub(super) fn is_empty(&self) -> bool {
        self.owed() == 0 && self.oneways.is_empty()
    }

    /// The one that has been due longest.
    pub(super) fn oldest(&self) -> Option<&Entry> {
        self.begun.iter().chain(self.entries.front()).min_by_key(|e| e.since)
    }

    /// How many are past their deadline.
    pub(super) fn late(&self) -> usize {
        self.due().filter(|e| e.late).count()
    }

    /// Whether every reply due is owed to nobody, and nothing is half sent.
    pub(super) fn owes_nobody(&self) -> bool {
        self.oneways.is_empty() && self.due().all(|e| e.exchange.slot.is_ended())
    }

    /// Ends what is past its deadline, if its session has not done so already; says how many requests of clients are
    /// late that were not before. The order of sending is mostly the order of deadlines: what is late behind what is not may be
    /// left to its session.
    pub(super) fn expire(&mut self, now: Instant, held_up: bool) -> usize {
        let is_late = |e: &Entry| e.late || e.exchange.slot.deadline().is_some_and(|at| at <= now);
        // Its client is to blame for one that it does not take.
        if let Some(begun) = self.begun.as_mut().filter(|e| held_up && !e.late && is_late(e)) {
            let _ = begun.exchange.slot.refuse(Refusal::Timeout);
            begun.late = true;
        }
        let mut count = 0;
        for entry in self.entries.iter_mut().take_while(|e| is_late(e)).chain(self.begun.iter_mut()) {
            if !entry.late && is_late(entry) {
                let _ = entry.exchange.slot.refuse(Refusal::Timeout);
                // It will not be sent again, and its reply may never come.
                entry.exchange.request.forget();
                entry.late = true;
                count += usize::from(!entry.exchange.bound);
            }
        }
        count
    }

    /// Nobody wants to know any more how the endpoint is.
    pub(super) fn give_up_probes(&self) {
        for entry in self.due().filter(|e| e.exchange.bound) {
            let _ = entry.exchange.slot.refuse(Refusal::Draining);
        }
    }

    /// When the next one is late.
    pub(super) fn next_late(&self) -> Option<Instant> {
        let begun = self.begun.iter().find(|e| !e.late).and_then(|e| e.exchange.slot.deadline());
        earliest([begun, self.entries.iter().find(|e| !e.late).and_then(|e| e.exchange.slot.deadline())])
    }

    /// The last deadline of a reply still owed to somebody.
    pub(super) fn last_open_deadline(&self) -> Option<Instant> {
        let open = self.due().filter(|e| !e.exchange.slot.is_ended());
        open.filter_map(|e| e.exchange.slot.deadline()).max()
    }

    /// The last of all deadlines.
    pub(super) fn last_deadline(&self) -> Option<Instant> {
        self.due().filter_map(|e| e.exchange.slot.deadline()).max()
    }

    /// Everything, because the connection ends. The kernel has what comes before `written`; `seen` bytes were read
    /// that may belong to replies.
    pub(super) fn drain(&mut self, written: u64, seen: usize) -> impl Iterator<Item = Left> + use<> {
        // The front of a reply is the first one's where they come in order. Behind one that was held up there may be
        // several.
        let anybodys = seen > 0 && (self.by_tag || self.begun.is_some());
        let firsts = seen > 0;
        let begun = self.begun.take().map(|e| (e, true));
        let entries = std::mem::take(&mut self.entries).into_iter().enumerate();
        let due = entries.map(move |(place, e)| (e, anybodys || (firsts && place == 0)));
        let oneways = std::mem::take(&mut self.oneways).into_iter().map(|e| (e, false));
        begun.into_iter().chain(due).chain(oneways).map(move |(entry, reply_seen)| {
            let rung = entry.rung(written, reply_seen);
            let (begun, late) = (entry.is_begun(written), entry.late);
            let mut exchange = entry.exchange;
            exchange.tried.begun |= begun;
            Left { exchange, rung, late }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{events, exchange};

    fn entry(flight: &mut InFlight, place: Range<u64>, oneway: bool) -> Entry {
        let now = Instant::now();
        let events = Arc::new(events::Upstream::new("u"));
        let mut request = exchange::tests::request(b"q");
        request.oneway = oneway;
        let deadline = Some(now + Duration::from_secs(1));
        let exchange = exchange::open(request, false, now, deadline, &events).0;
        Entry::new(exchange, flight.next_tag().unwrap(), place, now, Again::Unsent)
    }

    fn space(last: u64, avoid: &[u64]) -> TagSpace {
        TagSpace { last, avoid: avoid.to_vec() }
    }

    #[tokio::test]
    async fn in_order_a_wrong_tag_answers_nothing() {
        let mut flight = InFlight::new(Mode::Pipeline, Some(space(255, &[])));
        for start in [0, 5] {
            let entry = entry(&mut flight, start..start + 5, false);
            flight.push(entry);
        }
        assert!(flight.answer(Some(Tag(2))).is_none());
        assert_eq!(flight.answer(None).unwrap().tag, Tag(1));
        assert_eq!(flight.answer(Some(Tag(2))).unwrap().tag, Tag(2));
        assert!(flight.answer(None).is_none());
    }

    /// Or a reply that somebody's bytes brought about would need no tag to be taken for a neighbour's.
    #[tokio::test]
    async fn in_order_who_has_brought_a_tag_back_always_does() {
        let mut flight = InFlight::new(Mode::Exclusive, Some(space(255, &[])));
        for start in [0, 5] {
            let entry = entry(&mut flight, start..start + 5, false);
            flight.push(entry);
        }
        assert_eq!(flight.answer(Some(Tag(1))).unwrap().tag, Tag(1));
        assert!(flight.answer(None).is_none());
    }

    #[tokio::test]
    async fn in_order_a_later_tag_overtakes_what_was_sent_before() {
        let overtaken = |mode, last, nth, written| {
            let mut flight = InFlight::new(mode, Some(space(last, &[])));
            let mut before_first = 0;
            for start in [0, 5, 10] {
                let entry = entry(&mut flight, start..start + 5, false);
                before_first = if start == 0 { entry.tag.0 - 1 } else { before_first };
                flight.push(entry);
            }
            let (tag, nth) = (Some(Tag(before_first + nth)), |e: Entry| e.tag.0 - before_first);
            let overtaken: Vec<_> = flight.overtaken(tag, written).into_iter().map(nth).collect();
            (overtaken, flight.answer(tag).map(nth))
        };
        assert_eq!(overtaken(Mode::Pipeline, u64::MAX, 3, 15), (vec![1, 2], Some(3)));
        assert_eq!(overtaken(Mode::Pipeline, u64::MAX, 4, 15), (vec![], None));
        // It cannot be the answer to what is not sent.
        assert_eq!(overtaken(Mode::Pipeline, u64::MAX, 3, 14), (vec![], None));
        assert_eq!(overtaken(Mode::Pipeline, 255, 3, 15), (vec![], None));
    }

    #[tokio::test]
    async fn a_oneway_is_over_when_the_kernel_has_its_last_byte() {
        let mut flight = InFlight::new(Mode::Multiplex, Some(space(255, &[])));
        let entry = entry(&mut flight, 0..10, true);
        flight.push(entry);
        assert!(flight.written(9).is_empty());
        assert!(!flight.is_empty());
        assert_eq!(flight.written(10).len(), 1);
        assert!(flight.is_empty());
    }

    proptest! {
        /// Against a map of what is due: a tag is never used while it is owed, and each reply finds the
        /// very request it belongs to.
        #[test]
        fn multiplexing_never_mixes_up(steps in prop::collection::vec((any::<bool>(), any::<u8>()), 1..300)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _guard = runtime.enter();
            let mut flight = InFlight::new(Mode::Multiplex, Some(space(15, &[4])));
            let mut due: BTreeMap<Tag, u64> = BTreeMap::new();
            let mut end = 0;
            for (send, pick) in steps {
                if send && due.len() < 7 {
                    end += 1;
                    let entry = entry(&mut flight, end - 1..end, false);
                    let tag = entry.tag;
                    flight.push(entry);
                    prop_assert!(due.insert(tag, end).is_none(), "{tag:?} is owed already");
                    prop_assert!(tag.0 != 4 && (1..=15).contains(&tag.0));
                } else {
                    let tag = Tag(u64::from(pick) % 17);
                    let found = flight.answer(Some(tag)).map(|e| e.place.end);
                    prop_assert_eq!(found, due.remove(&tag));
                }
                prop_assert_eq!(flight.owed(), due.len());
            }
        }
    }
}
