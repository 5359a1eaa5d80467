//! The rest of a message that is too large to be stored: a bounded pipe of bytes from the side that reads
//! the message to the side that writes it.
//!
//! Invariant: a pipe holds at most its capacity and one part more; one that ends before the message does
//! says so. `session` and `connection` hold an end each, in both directions.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};

use super::{Charge, Output};

/// The most that is read of a message in parts at a time, in bytes.
pub const PART: usize = 32 * 1024;
/// What of a message in parts is being read and written at a time, in bytes.
const ON_ITS_WAY: usize = 5 * PART;
/// The capacity of a pipe whose reader may be made to wait, in bytes.
pub const CAPACITY: usize = PART;
/// After a pipe was full its reader is told once so many bytes are free, or half of it.
const ROOM: usize = PART / 2;
/// Parts below this many bytes are copied together, so that none pins a buffer much larger than itself.
const COPY_BELOW: usize = PART / 8 * 7;

/// What a message in parts may take of the memory budget besides its head, in bytes, if a pipe of `capacity`
/// bytes is on its way.
pub const fn window(capacity: usize) -> usize {
    ON_ITS_WAY.saturating_add(if capacity > CAPACITY { capacity } else { CAPACITY })
}

/// The end of the one who reads the message. Dropped before [`Sender::finish`], the message is cut.
#[derive(Debug)]
pub struct Sender(Arc<Pipe>);

/// The end of the one who writes the message. Dropped, whatever still comes is of no use to anybody.
#[derive(Debug)]
pub struct Parts(Arc<Pipe>);

/// What became of [`Parts::pour`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Poured {
    /// The output has enough for now.
    Enough,
    /// There is nothing more now.
    Nothing,
    /// The message is whole.
    Whole,
    /// The message ends here, and it is not whole: not even what is in the output is of any use.
    Cut,
}

/// What the pipe has next.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Bytes of the message.
    Part(Bytes),
    /// Nothing now.
    Nothing,
    /// The message is whole.
    Whole,
    /// The message ends here, and it is not whole.
    Cut,
}

#[derive(Debug)]
struct Pipe {
    capacity: usize,
    charge: Charge,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Bytes>,
    /// Small parts, copied together; it comes after all of `parts`.
    tail: BytesMut,
    held: usize,
    /// It was full, and has not been empty enough since.
    full: bool,
    end: Option<End>,
    /// Nobody takes parts any more.
    unwanted: bool,
    /// Signs of life of the one who is to take parts and has other things to do first.
    progress: u64,
    sender: Option<Waker>,
    receiver: Option<Waker>,
}

/// How a message ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Cut,
}

/// A pipe of `capacity` bytes that keeps `charge` as long as one of its ends is there.
pub fn pipe(capacity: usize, charge: Charge) -> (Sender, Parts) {
    let pipe = Arc::new(Pipe { capacity, charge, state: Mutex::default() });
    (Sender(pipe.clone()), Parts(pipe))
}

impl Pipe {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, end: End, last: Bytes) {
        let mut state = self.state();
        self.push(&mut state, last);
        state.end.get_or_insert(end);
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }

    fn push(&self, state: &mut State, bytes: Bytes) {
        if state.unwanted || bytes.is_empty() {
            return;
        }
        state.held += bytes.len();
        state.full |= state.held >= self.capacity;
        if bytes.len() < COPY_BELOW {
            state.tail.extend_from_slice(&bytes);
            if state.tail.len() >= PART {
                state.close_tail();
            }
        } else {
            state.close_tail();
            state.parts.push_back(bytes);
        }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Sender {
    /// Whether another part may be sent. What nobody wants always may.
    pub fn has_room(&self) -> bool {
        let state = self.0.state();
        !state.full || state.unwanted
    }

    /// Whether nobody takes parts any more.
    pub fn is_unwanted(&self) -> bool {
        self.0.state().unwanted
    }

    /// Signs of life of the other end so far: see [`Parts::note_progress`].
    pub fn progress(&self) -> u64 {
        self.0.state().progress
    }

    /// Passes `bytes` on, the next ones of the message.
    pub fn send(&self, bytes: Bytes) {
        let mut state = self.0.state();
        self.0.push(&mut state, bytes);
        let receiver = state.receiver.take();
        drop(state);
        wake(receiver);
    }

    /// Passes the last bytes on, and that the message is whole with them: never the one without the other.
    pub fn finish(self, last: Bytes) {
        self.0.end(End::Whole, last);
    }

    /// Completes when another part may be sent.
    pub fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if !state.full || state.unwanted {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.end(End::Cut, Bytes::new());
    }
}

impl Parts {
    /// Moves what there is to `output`, as long as that holds less than [`PART`] bytes.
    pub fn pour(&self, output: &mut Output) -> Poured {
        if self.0.state().end == Some(End::Cut) {
            return Poured::Cut;
        }
        while output.len() < PART {
            match self.next() {
                Next::Part(bytes) => output.put_bytes(bytes, self.0.charge.clone()),
                Next::Nothing => return Poured::Nothing,
                Next::Whole => return Poured::Whole,
                Next::Cut => return Poured::Cut,
            }
        }
        Poured::Enough
    }

    /// The next bytes of the message, or how it ends. A cut is told at once, whatever was sent before it.
    fn next(&self) -> Next {
        let mut state = self.0.state();
        if state.end == Some(End::Cut) {
            return Next::Cut;
        }
        if state.parts.is_empty() {
            state.close_tail();
        }
        let Some(part) = state.parts.pop_front() else {
            return if state.end.is_some() { Next::Whole } else { Next::Nothing };
        };
        state.held -= part.len();
        let sender = if state.full && self.0.has_enough_room(&state) {
            state.full = false;
            state.sender.take()
        } else {
            None
        };
        drop(state);
        wake(sender);
        Next::Part(part)
    }

    /// Completes when [`Parts::pour`] into `output` leads further.
    pub fn poll_more(&self, cx: &mut Context<'_>, output: &Output) -> Poll<()> {
        if output.len() < PART { self.poll_ready(cx) } else { self.poll_cut(cx) }
    }

    /// Completes when there is something to take.
    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.held > 0 || state.end.is_some() {
            return Poll::Ready(());
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Completes when the message is cut, however much of it waits to be taken.
    fn poll_cut(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.state();
        if state.end == Some(End::Cut) {
            return Poll::Ready(());
        }
        state.receiver = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Whoever is to take the parts works on something that comes before them.
    pub fn note_progress(&self) {
        self.0.state().progress += 1;
    }

    /// Bytes sent and not taken yet.
    pub fn held(&self) -> usize {
        self.0.state().held
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.unwanted = true;
        state.parts = VecDeque::new();
        state.tail = BytesMut::new();
        state.held = 0;
        let sender = state.sender.take();
        drop(state);
        wake(sender);
    }
}

impl Pipe {
    fn has_enough_room(&self, state: &State) -> bool {
        state.held + ROOM.min(self.capacity / 2) <= self.capacity
    }
}

impl State {
    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = self.tail.split().freeze();
            self.parts.push_back(tail);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    fn bytes(size: usize) -> Bytes {
        vec![7; size].into()
    }

    fn has_room(sender: &Sender) -> bool {
        let polled = sender.poll_room(&mut Context::from_waker(Waker::noop())).is_ready();
        assert_eq!(polled, sender.has_room());
        polled
    }

    #[test]
    fn parts_come_out_in_order_small_ones_together() {
        let (sender, parts) = pipe(CAPACITY, Charge::none());
        assert_eq!(parts.next(), Next::Nothing);
        sender.send(Bytes::from_static(b"ab"));
        sender.send(Bytes::from_static(b"cd"));
        sender.send(bytes(COPY_BELOW));
        sender.send(Bytes::from_static(b"ef"));
        assert_eq!(parts.held(), COPY_BELOW + 6);
        sender.finish(Bytes::from_static(b"gh"));
        assert_eq!(parts.next(), Next::Part(Bytes::from_static(b"abcd")));
        assert_eq!(parts.next(), Next::Part(bytes(COPY_BELOW)));
        assert_eq!(parts.next(), Next::Part(Bytes::from_static(b"efgh")));
        assert_eq!((parts.next(), parts.next(), parts.held()), (Next::Whole, Next::Whole, 0));
    }

    #[test]
    fn a_full_pipe_has_room_again_once_enough_was_taken() {
        let (sender, parts) = pipe(4 * PART, Charge::none());
        let mut sent = 0;
        while has_room(&sender) {
            sender.send(bytes(PART - 1));
            sent += PART - 1;
        }
        assert_eq!(sent, 5 * (PART - 1));
        parts.next();
        assert!(!has_room(&sender), "a few bytes are not enough");
        parts.next();
        assert!(has_room(&sender));
    }

    #[test]
    fn a_sender_that_is_gone_has_cut_the_message() {
        let (sender, parts) = pipe(CAPACITY, Charge::none());
        sender.send(bytes(5));
        drop(sender);
        assert_eq!(parts.next(), Next::Cut);
        let cx = &mut Context::from_waker(Waker::noop());
        assert!(
            parts.poll_ready(cx).is_ready()
                && parts.poll_cut(cx).is_ready()
                && parts.pour(&mut Output::new()) == Poured::Cut
        );
    }

    #[test]
    fn what_nobody_wants_is_swallowed() {
        let (sender, parts) = pipe(CAPACITY, Charge::none());
        sender.send(bytes(2 * CAPACITY));
        assert!(!has_room(&sender) && !sender.is_unwanted());
        drop(parts);
        assert!(has_room(&sender) && sender.is_unwanted());
        sender.send(bytes(CAPACITY));
        assert!(has_room(&sender));
    }

    #[test]
    fn whoever_has_the_last_byte_has_the_end() {
        for _ in 0..2000 {
            let (sender, parts) = pipe(CAPACITY, Charge::none());
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    sender.send(bytes(10));
                    sender.finish(bytes(10));
                });
                let mut left = 20;
                while left > 0 {
                    if let Next::Part(part) = parts.next() {
                        left -= part.len();
                    }
                }
                assert_eq!(parts.next(), Next::Whole);
            });
        }
    }

    #[tokio::test]
    async fn each_end_wakes_the_other() {
        let (sender, parts) = pipe(CAPACITY, Charge::none());
        let receiving = tokio::spawn(async move {
            let mut received = 0;
            loop {
                poll_fn(|cx| parts.poll_ready(cx)).await;
                match parts.next() {
                    Next::Part(part) => received += part.len(),
                    Next::Nothing => {}
                    end => return (received, end),
                }
            }
        });
        for _ in 0..100 {
            poll_fn(|cx| sender.poll_room(cx)).await;
            sender.send(bytes(1000));
        }
        sender.finish(Bytes::new());
        assert_eq!(receiving.await.unwrap(), (100_000, Next::Whole));
    }
}
