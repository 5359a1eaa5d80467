//! What a connection owes, and to whom.
//!
//! Invariant: an entry leaves only with its reply, or with the connection. An exchange that ended earlier
//! leaves its entry behind, owed to nobody, so its reply can never be taken for another's. A reply in parts is
//! due until its last part.

use std::collections::VecDeque;

use tokio::time::Instant;

use crate::exchange::ReplySlot;
use crate::protocol::{Mode, Refusal, Tag, TagSpace};

/// The end of a request of which more parts are to come.
const OPEN_END: u64 = u64::MAX;
/// Tags of at least this many values count up and are never used twice; fewer are recycled.
const NEVER_RECYCLED: u64 = u32::MAX as u64;

/// A request whose reply is due.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) slot: ReplySlot,
    pub(super) tag: Tag,
    /// Position in the output after its last byte.
    end: u64,
    pub(super) since: Instant,
    written: bool,
}

impl Entry {
    /// Whether the kernel does not have all of it.
    pub(super) fn is_unwritten(&self, written: u64) -> bool {
        written < self.end
    }
}

/// All that is in flight on one connection.
#[derive(Debug)]
pub(super) struct InFlight {
    by_tag: bool,
    /// In the order of sending.
    entries: VecDeque<Entry>,
    /// The one whose reply has begun and comes in parts.
    begun: Option<Entry>,
    /// One-way requests the kernel does not have whole, by their end in the output.
    oneways: VecDeque<(u64, ReplySlot)>,
    tags: Tags,
}

impl InFlight {
    pub(super) fn new(mode: Mode, space: Option<TagSpace>) -> Self {
        let by_tag = mode == Mode::Multiplex;
        let (entries, oneways) = (VecDeque::new(), VecDeque::new());
        Self { by_tag, entries, begun: None, oneways, tags: Tags::new(space) }
    }

    /// A tag for the next request; `None` if they are used up, and the connection with them.
    pub(super) fn next_tag(&mut self) -> Option<Tag> {
        self.tags.next()
    }

    /// Whether there will be another tag.
    pub(super) fn has_tags(&self) -> bool {
        self.tags.has_next()
    }

    pub(super) fn push(&mut self, slot: ReplySlot, tag: Tag, end: u64, since: Instant) {
        self.entries.push_back(Entry { slot, tag, end, since, written: false });
    }

    pub(super) fn push_oneway(&mut self, slot: ReplySlot, tag: Tag, end: u64) {
        self.oneways.push_back((end, slot));
        // Nobody will answer it.
        self.tags.free(tag);
    }

    /// Adds a request of which only the head is there; [`InFlight::uploaded`] follows its last part.
    pub(super) fn push_upload(&mut self, slot: ReplySlot, tag: Tag, oneway: bool, since: Instant) {
        if oneway {
            self.push_oneway(slot, tag, OPEN_END);
        } else {
            self.push(slot, tag, OPEN_END, since);
        }
    }

    /// The last part of the request that came in parts ends at `end`.
    pub(super) fn uploaded(&mut self, end: u64, since: Instant) {
        if let Some(entry) = self.entries.iter_mut().find(|e| e.end == OPEN_END) {
            (entry.end, entry.since) = (end, since);
        } else if let Some(oneway) = self.oneways.iter_mut().find(|(at, _)| *at == OPEN_END) {
            oneway.0 = end;
        }
    }

    /// The reply of `entry` has begun and comes in parts.
    pub(super) fn begin(&mut self, entry: Entry) {
        self.begun = Some(entry);
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
            let fits = |e: &Entry| tag.is_none_or(|tag| tag == e.tag);
            self.entries.front().is_some_and(fits).then(|| self.entries.pop_front()).flatten()?
        };
        self.tags.free(entry.tag);
        Some(entry)
    }

    /// Notes that the kernel has everything before `written`; returns the one-way requests thereby sent.
    pub(super) fn written(&mut self, written: u64) -> Vec<ReplySlot> {
        let mut now = None;
        for entry in self.entries.iter_mut().rev().take_while(|e| !e.written) {
            if entry.end <= written {
                entry.written = true;
                entry.slot.mark_written(*now.get_or_insert_with(Instant::now));
            }
        }
        let sent = self.oneways.iter().take_while(|(end, _)| *end <= written).count();
        self.oneways.drain(..sent).map(|(_, slot)| slot).collect()
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

    /// Whether every reply due is owed to nobody, and nothing is half sent.
    pub(super) fn owes_nobody(&self) -> bool {
        self.oneways.is_empty() && self.due().all(|e| e.slot.is_ended())
    }

    /// Ends what is past its deadline, if its session has not done so already. The order of sending is the
    /// order of deadlines, but for a request in parts: what follows one may be left to its session.
    pub(super) fn expire(&self, now: Instant) {
        let is_late = |e: &&Entry| e.slot.deadline().is_some_and(|at| at <= now);
        let late = self.entries.iter().take_while(is_late).chain(self.begun.iter().filter(is_late));
        for entry in late {
            let _ = entry.slot.refuse(Refusal::Timeout);
        }
    }

    /// The last deadline of a reply still owed to somebody.
    pub(super) fn last_open_deadline(&self) -> Option<Instant> {
        self.due().filter(|e| !e.slot.is_ended()).filter_map(|e| e.slot.deadline()).max()
    }

    /// The last of all deadlines.
    pub(super) fn last_deadline(&self) -> Option<Instant> {
        self.due().filter_map(|e| e.slot.deadline()).max()
    }

    /// Everything, because the connection ends.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = ReplySlot> {
        let entries = self.begun.take().into_iter().chain(std::mem::take(&mut self.entries));
        entries.map(|e| e.slot).chain(std::mem::take(&mut self.oneways).into_iter().map(|(_, slot)| slot))
    }
}

/// The numbers of one connection: fresh ones first, then, if there are few, the one free for longest.
#[derive(Debug)]
struct Tags {
    fresh: u64,
    space: TagSpace,
    recycled: Option<VecDeque<Tag>>,
}

impl Tags {
    fn new(space: Option<TagSpace>) -> Self {
        let space = space.unwrap_or(TagSpace { last: u64::MAX, avoid: Vec::new() });
        let recycled = (space.last < NEVER_RECYCLED).then(VecDeque::new);
        let mut tags = Self { fresh: 1, space, recycled };
        tags.skip_avoided();
        tags
    }

    fn skip_avoided(&mut self) {
        while self.fresh < self.space.last && self.space.avoid.contains(&self.fresh) {
            self.fresh += 1;
        }
    }

    fn has_fresh(&self) -> bool {
        self.fresh < self.space.last
            || (self.fresh == self.space.last && !self.space.avoid.contains(&self.fresh))
    }

    fn has_next(&self) -> bool {
        // With recycling, every tag comes back with the reply that it waits for.
        self.has_fresh() || self.recycled.is_some()
    }

    fn next(&mut self) -> Option<Tag> {
        if self.has_fresh() {
            let tag = Tag(self.fresh);
            // Past the last one there is no fresh tag any more; u64::MAX is out of reach.
            self.fresh = self.fresh.saturating_add(1);
            self.skip_avoided();
            return Some(tag);
        }
        self.recycled.as_mut()?.pop_front()
    }

    fn free(&mut self, tag: Tag) {
        if let Some(recycled) = &mut self.recycled {
            recycled.push_back(tag);
        }
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

    fn slot() -> ReplySlot {
        let now = Instant::now();
        let events = Arc::new(events::Upstream::new("u"));
        let request = exchange::tests::request(b"q");
        exchange::open(request, false, now, Some(now + Duration::from_secs(1)), &events).0.slot
    }

    fn space(last: u64, avoid: &[u64]) -> TagSpace {
        TagSpace { last, avoid: avoid.to_vec() }
    }

    #[test]
    fn wide_tags_count_up_and_end() {
        let last = u64::from(u32::MAX);
        let mut tags = Tags::new(Some(space(last, &[1, 3, last])));
        assert_eq!([tags.next(), tags.next()], [Some(Tag(2)), Some(Tag(4))]);
        tags.free(Tag(2));
        tags.fresh = last - 1;
        assert_eq!(tags.next(), Some(Tag(last - 1)));
        assert!(!tags.has_next());
        assert_eq!(tags.next(), None);
    }

    #[test]
    fn narrow_tags_come_back_oldest_freed_first() {
        let mut tags = Tags::new(Some(space(3, &[2])));
        assert_eq!([tags.next(), tags.next(), tags.next()], [Some(Tag(1)), Some(Tag(3)), None]);
        tags.free(Tag(3));
        tags.free(Tag(1));
        assert_eq!([tags.next(), tags.next(), tags.next()], [Some(Tag(3)), Some(Tag(1)), None]);
    }

    #[tokio::test]
    async fn in_order_a_wrong_tag_answers_nothing() {
        let mut flight = InFlight::new(Mode::Pipeline, Some(space(u64::MAX, &[])));
        for end in [5, 10] {
            let tag = flight.next_tag().unwrap();
            flight.push(slot(), tag, end, Instant::now());
        }
        assert!(flight.answer(Some(Tag(2))).is_none());
        assert_eq!(flight.answer(Some(Tag(1))).unwrap().tag, Tag(1));
        assert_eq!(flight.answer(None).unwrap().tag, Tag(2));
        assert!(flight.answer(None).is_none());
    }

    #[tokio::test]
    async fn a_oneway_is_over_when_the_kernel_has_its_last_byte() {
        let mut flight = InFlight::new(Mode::Multiplex, Some(space(255, &[])));
        let tag = flight.next_tag().unwrap();
        flight.push_oneway(slot(), tag, 10);
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
                    let tag = flight.next_tag().unwrap();
                    end += 1;
                    flight.push(slot(), tag, end, Instant::now());
                    prop_assert!(due.insert(tag, end).is_none(), "{tag:?} is owed already");
                    prop_assert!(tag.0 != 4 && (1..=15).contains(&tag.0));
                } else {
                    let tag = Tag(u64::from(pick) % 17);
                    let found = flight.answer(Some(tag)).map(|e| e.end);
                    prop_assert_eq!(found, due.remove(&tag));
                }
                prop_assert_eq!(flight.owed(), due.len());
            }
        }
    }
}
