//! A connection inside the process, for tests in paused time: bounded both ways, and each side sees how
//! the other one closed.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Interest;

/// One side of a pair made by [`pair`].
#[derive(Debug)]
pub struct Pipe {
    shared: Arc<Mutex<[Flow; 2]>>,
    side: usize,
}

/// Sees from outside whether a side is closed.
#[derive(Clone, Debug)]
pub struct Witness {
    shared: Arc<Mutex<[Flow; 2]>>,
    side: usize,
}

/// What flows towards one side.
#[derive(Debug, Default)]
struct Flow {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer sent FIN.
    ended: bool,
    /// Either side sent RST.
    reset: bool,
    /// The reader has closed.
    unheard: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// Two connected sides; each holds up to `capacity` bytes on their way to it.
pub fn pair(capacity: usize) -> (Pipe, Pipe) {
    let flow = || Flow { capacity, ..Flow::default() };
    let shared = Arc::new(Mutex::new([flow(), flow()]));
    (Pipe { shared: shared.clone(), side: 0 }, Pipe { shared, side: 1 })
}

impl Flow {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    fn can_read(&self) -> bool {
        !self.bytes.is_empty() || self.ended || self.reset
    }

    fn can_write(&self) -> bool {
        self.bytes.len() < self.capacity || self.unheard || self.reset
    }
}

impl Witness {
    /// Whether the side it looks at is still held by somebody.
    pub fn is_open(&self) -> bool {
        !self.shared.lock().unwrap_or_else(PoisonError::into_inner)[self.side].unheard
    }
}

impl Pipe {
    /// One that looks at this side, whoever holds it.
    pub fn witness(&self) -> Witness {
        Witness { shared: self.shared.clone(), side: self.side }
    }

    fn flows(&self) -> MutexGuard<'_, [Flow; 2]> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut flows = self.flows();
        let flow = &mut flows[self.side];
        if flow.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let count = into.len().min(flow.bytes.len());
        if count == 0 {
            return if flow.ended { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        for (slot, byte) in into.iter_mut().zip(flow.bytes.drain(..count)) {
            *slot = byte;
        }
        flow.wake();
        Ok(count)
    }

    pub(super) fn try_write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut flows = self.flows();
        let flow = &mut flows[1 - self.side];
        if flow.reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if flow.ended || flow.unheard {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = flow.capacity - flow.bytes.len();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = flow.bytes.len();
        flow.bytes.extend(slices.iter().flat_map(|s| s.iter()).take(room));
        let written = flow.bytes.len() - before;
        flow.wake();
        Ok(written)
    }

    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        let mut flows = self.flows();
        let mut ready = false;
        if interest.reset {
            if flows[self.side].reset {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            flows[self.side].reader = Some(cx.waker().clone());
        }
        if interest.read {
            ready |= flows[self.side].can_read();
            flows[self.side].reader = Some(cx.waker().clone());
        }
        if interest.write {
            ready |= flows[1 - self.side].can_write();
            flows[1 - self.side].writer = Some(cx.waker().clone());
        }
        if ready { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    pub(super) fn untaken(&self) -> usize {
        self.flows()[1 - self.side].bytes.len()
    }

    pub(super) fn is_drained(&self) -> bool {
        let flows = self.flows();
        flows[1 - self.side].bytes.is_empty() || flows[1 - self.side].unheard
    }

    pub(super) fn shut_down(&mut self) {
        let mut flows = self.flows();
        flows[1 - self.side].ended = true;
        flows[1 - self.side].wake();
    }

    /// After a FIN the peer still reads what is queued and a clean end, as with FIN+RST in the kernel.
    pub(super) fn reset(self) {
        let mut flows = self.flows();
        for flow in flows.iter_mut() {
            flow.reset |= !flow.ended;
            flow.wake();
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        let mut flows = self.flows();
        flows[1 - self.side].ended = true;
        flows[self.side].unheard = true;
        flows.iter_mut().for_each(Flow::wake);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::wire::{Close, Wire};

    fn wires(capacity: usize) -> (Wire, Wire) {
        let (a, b) = pair(capacity);
        (a.into(), b.into())
    }

    #[tokio::test]
    async fn bytes_cross_a_small_pipe_in_order() {
        let (mut a, mut b) = wires(7);
        let sent: Vec<u8> = (0..1000).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            a.write_all(&sent).await.unwrap();
        });
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        writer.await.unwrap();
        assert_eq!(got, expected);
    }

    #[tokio::test]
    async fn after_fin_and_reset_the_peer_has_everything() {
        let (mut a, mut b) = wires(64);
        a.write_all(b"reply").await.unwrap();
        a.close(Close::FinReset);
        let mut got = Vec::new();
        b.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"reply");
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_not_taken_everything_is_waited_for() {
        let patience = std::time::Duration::from_secs(5);
        let (mut a, mut b) = wires(64);
        a.write_all(b"reply").await.unwrap();
        let waiting = tokio::spawn(async move { a.drained_within(patience).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        b.read_exact(&mut [0; 5]).await.unwrap();
        waiting.await.unwrap();
    }

    #[tokio::test]
    async fn a_witness_sees_the_close_and_nothing_before_it() {
        let (mut a, b) = pair(64);
        let (of_a, of_b) = (a.witness(), b.witness());
        a.shut_down();
        assert!(of_a.is_open() && of_b.is_open());
        drop(b);
        assert!(of_a.is_open() && !of_b.is_open());
        a.reset();
        assert!(!of_a.is_open());
    }

    #[tokio::test]
    async fn a_bare_reset_is_an_error_to_the_peer() {
        let (a, mut b) = wires(64);
        a.reset();
        assert_eq!(b.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
}
