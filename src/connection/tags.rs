//! The tags of one connection.
//!
//! Invariant: a tag is never one that is owed. Where there are many of them none is used twice, and they begin where
//! nobody can know: a client whose bytes a server reads as a request more than warmline does cannot give it
//! the tag of a neighbour, and the first wrong one ends the connection.

use std::collections::VecDeque;

use crate::protocol::{Tag, TagSpace};

/// Tags of at least this many values count up and are never used twice; fewer are recycled. All four bytes are so many,
/// with or without a sign.
const NEVER_RECYCLED: u64 = 1 << 30;
/// They begin at most here: servers may read eight bytes as floating-point numbers, of which few are exact, and a
/// connection shall last.
const MAX_FIRST: u64 = 1 << 30;
/// One-way requests that a server may still answer; about older ones nothing is known.
const MAX_ONEWAYS: usize = 1024;

/// The numbers of one connection: fresh ones first, then, if there are few, the one free for longest.
#[derive(Debug)]
pub(super) struct Tags {
    fresh: u64,
    space: TagSpace,
    recycled: Option<VecDeque<Tag>>,
    /// Of one-way requests that were sent and not answered, which is as it should be; oldest first. Empty if tags
    /// are recycled: they are somebody else's then.
    oneways: VecDeque<Tag>,
}

impl Tags {
    pub(super) fn new(space: Option<TagSpace>) -> Self {
        let space = space.unwrap_or(TagSpace { last: u64::MAX, avoid: Vec::new() });
        let recycled = (space.last < NEVER_RECYCLED).then(VecDeque::new);
        let fresh = if recycled.is_some() { 1 } else { fastrand::u64(1..=MAX_FIRST.min(space.last / 2)) };
        let mut tags = Self { fresh, space, recycled, oneways: VecDeque::new() };
        tags.skip_avoided();
        tags
    }

    /// Whether a tag may come again.
    pub(super) fn are_recycled(&self) -> bool {
        self.recycled.is_some()
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

    pub(super) fn has_next(&self) -> bool {
        // With recycling, every tag comes back with the reply that it waits for.
        self.has_fresh() || self.recycled.is_some()
    }

    pub(super) fn next(&mut self) -> Option<Tag> {
        if self.has_fresh() {
            let tag = Tag(self.fresh);
            // Past the last one there is no fresh tag any more; u64::MAX is out of reach.
            self.fresh = self.fresh.saturating_add(1);
            self.skip_avoided();
            return Some(tag);
        }
        self.recycled.as_mut()?.pop_front()
    }

    pub(super) fn free(&mut self, tag: Tag) {
        if let Some(recycled) = &mut self.recycled {
            recycled.push_back(tag);
        }
    }

    /// A one-way request with `tag` was sent.
    pub(super) fn note_oneway(&mut self, tag: Tag) {
        if self.recycled.is_some() {
            return;
        }
        if self.oneways.len() == MAX_ONEWAYS {
            self.oneways.pop_front();
        }
        self.oneways.push_back(tag);
    }

    /// Whether `tag` is that of a one-way request that was sent; once.
    pub(super) fn take_oneway(&mut self, tag: Tag) -> bool {
        // In the order of sending, and so of their numbers.
        let place = self.oneways.binary_search(&tag);
        place.is_ok_and(|place| self.oneways.remove(place).is_some())
    }

    pub(super) fn has_oneways(&self) -> bool {
        !self.oneways.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(last: u64, avoid: &[u64]) -> TagSpace {
        TagSpace { last, avoid: avoid.to_vec() }
    }

    #[test]
    fn wide_tags_count_up_and_end() {
        let last = u64::from(u32::MAX);
        let mut tags = Tags::new(Some(space(last, &[11, 13, last])));
        tags.fresh = 10;
        assert_eq!([tags.next(), tags.next(), tags.next()], [10, 12, 14].map(|tag| Some(Tag(tag))));
        tags.free(Tag(12));
        tags.fresh = last - 1;
        assert_eq!(tags.next(), Some(Tag(last - 1)));
        assert!(!tags.has_next());
        assert_eq!(tags.next(), None);
    }

    #[test]
    fn nobody_can_know_where_wide_tags_begin() {
        for last in [NEVER_RECYCLED, i32::MAX as u64, u64::from(u32::MAX), u64::MAX] {
            let avoid: Vec<_> = (0..last).take(1000).collect();
            let mut seen = [0, 0];
            for _ in 0..64 {
                let Some(Tag(first)) = Tags::new(Some(space(last, &avoid))).next() else { panic!("none") };
                assert!((1000..=MAX_FIRST).contains(&first) && first <= last / 2, "{first} of {last}");
                seen = [seen[0] | first, seen[1] | !first];
            }
            // Each of the lower 29 bits was 1 at times, and 0 at times.
            let bits = (1 << 29) - 1;
            assert_eq!(seen.map(|seen| seen & bits), [bits, bits]);
        }
    }

    #[test]
    fn narrow_tags_come_back_oldest_freed_first() {
        let mut tags = Tags::new(Some(space(3, &[2])));
        assert_eq!([tags.next(), tags.next(), tags.next()], [Some(Tag(1)), Some(Tag(3)), None]);
        tags.free(Tag(3));
        tags.free(Tag(1));
        assert_eq!([tags.next(), tags.next(), tags.next()], [Some(Tag(3)), Some(Tag(1)), None]);
    }

    #[test]
    fn a_bounded_number_of_oneways_is_remembered_each_for_one_answer() {
        let mut tags = Tags::new(None);
        let all: Vec<_> = (0..=MAX_ONEWAYS).filter_map(|_| tags.next()).collect();
        for tag in &all {
            tags.note_oneway(*tag);
        }
        let next = tags.next().unwrap();
        assert!(!tags.take_oneway(all[0]) && !tags.take_oneway(next));
        for tag in all[1..].iter().rev() {
            assert!(tags.take_oneway(*tag) && !tags.take_oneway(*tag));
        }
        assert!(!tags.has_oneways());
    }

    #[test]
    fn tags_that_come_back_are_no_oneways() {
        let mut tags = Tags::new(Some(space(255, &[])));
        let tag = tags.next().unwrap();
        tags.note_oneway(tag);
        assert!(!tags.take_oneway(tag));
    }
}
