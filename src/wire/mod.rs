//! Both directions of a connection, over TCP, a unix socket or an in-memory pair, and the buffers beside
//! it. Reading and writing never wait by themselves: a task tries, and waits once for all it wants.

pub mod budget;
mod input;
pub mod memory;
mod output;
pub mod parts;

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep};

use crate::lifecycle::Permit;
pub use crate::net::Interest;
use crate::net::Stream;
pub use budget::{Budget, Charge, Charging, Purpose};
pub use input::Input;
pub use output::Output;
pub use parts::Parts;

/// Bytes read at a time into no buffer in particular: what a client may send ahead of its turn.
pub const CHUNK: usize = budget::FREE;
/// The most that is read and thrown away before a close.
const DISCARD: usize = 256 * 1024;
/// Last bytes that may go out together with the FIN: so few are with the peer's kernel at once.
const TOGETHER: usize = 16 * 1024;
/// First and longest pause between two looks at what the peer has not acknowledged yet.
const DRAIN_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(50));

/// How to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// FIN. The peer may keep no state; we keep TIME_WAIT if it has not closed first.
    Fin,
    /// FIN, and RST once it is acknowledged: the peer reads everything and a clean end, and nobody keeps
    /// TIME_WAIT. Only for an exchange that is over.
    FinReset,
    /// RST: after the peer's FIN, or because of an error.
    Reset,
}

/// A connection. Dropping it closes it with FIN.
#[derive(Debug)]
pub struct Wire {
    end: End,
    /// The last bytes wait for the close.
    held_back: bool,
    /// Counts the socket in a cap; declared last, so it is given back after the close.
    permit: Option<Permit>,
}

#[derive(Debug)]
enum End {
    Net(Stream),
    Memory(memory::Pipe),
}

impl From<Stream> for Wire {
    fn from(stream: Stream) -> Self {
        Self { end: End::Net(stream), held_back: false, permit: None }
    }
}

impl From<memory::Pipe> for Wire {
    fn from(pipe: memory::Pipe) -> Self {
        Self { end: End::Memory(pipe), held_back: false, permit: None }
    }
}

impl Wire {
    /// Holds `permit` until the socket is closed.
    #[must_use]
    pub fn holding(mut self, permit: Permit) -> Self {
        self.permit = Some(permit);
        self
    }

    /// Makes the next read ask the kernel, whatever the reactor knows.
    pub fn ask_kernel(&mut self) {
        if let End::Net(stream) = &mut self.end {
            stream.ask_kernel();
        }
    }

    /// Reads what is there. 0 is the peer's end.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.end {
            End::Net(stream) => stream.try_read(into),
            End::Memory(pipe) => pipe.try_read(into),
        }
    }

    /// Reads at the end of `into`, at most `limit` bytes. 0 is the peer's end.
    pub fn try_read_buf(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        match &mut self.end {
            End::Net(stream) => stream.try_read_buf(into, limit),
            End::Memory(pipe) => {
                let mut scratch = [0; CHUNK];
                let read = pipe.try_read(&mut scratch[..limit.min(CHUNK)])?;
                into.extend_from_slice(&scratch[..read]);
                Ok(read)
            }
        }
    }

    fn try_write(&mut self, slices: &[IoSlice<'_>], last: bool) -> io::Result<usize> {
        match &mut self.end {
            End::Net(stream) => stream.try_write(slices, last),
            End::Memory(pipe) => pipe.try_write(slices),
        }
    }

    /// Writes of `output` what the kernel takes now. True if it took everything.
    pub fn try_flush(&mut self, output: &mut Output) -> io::Result<bool> {
        self.flush(output, false)
    }

    /// As [`Wire::try_flush`], after [`Wire::ask_kernel`]; if it is true, [`Close::FinReset`] must follow at once.
    /// Where that is safe, the last bytes and the FIN go out together, so the peer cannot close in between.
    pub fn try_flush_last(&mut self, output: &mut Output) -> io::Result<bool> {
        let together = output.len() <= TOGETHER && (output.written() == 0 || self.is_drained());
        let everything = self.flush(output, together)?;
        self.held_back = together && everything;
        Ok(everything)
    }

    fn flush(&mut self, output: &mut Output, last: bool) -> io::Result<bool> {
        while !output.is_empty() {
            match output.write_once(|slices| self.try_write(slices, last)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Completes when a read or write may succeed.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        match &mut self.end {
            End::Net(stream) => stream.poll_ready(cx, interest),
            End::Memory(pipe) => pipe.poll_ready(cx, interest),
        }
    }

    /// Waits until a read or write may succeed; for ever if `interest` is empty. Cancel-safe.
    pub async fn ready(&mut self, interest: Interest) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_ready(cx, interest)).await
    }

    /// Whether the peer has acknowledged every byte.
    pub fn is_drained(&self) -> bool {
        match &self.end {
            End::Net(stream) => stream.unacknowledged() == 0,
            End::Memory(pipe) => pipe.is_drained(),
        }
    }

    /// What of the bytes written the peer has not taken yet, more or less.
    pub fn untaken(&self) -> usize {
        match &self.end {
            End::Net(stream) => stream.untaken(),
            End::Memory(pipe) => pipe.untaken(),
        }
    }

    /// The peer for log lines.
    pub fn peer(&self) -> String {
        match &self.end {
            End::Net(stream) => stream.peer(),
            End::Memory(_) => "memory".into(),
        }
    }

    /// Sends FIN; reading goes on.
    pub fn shut_down(&mut self) {
        match &mut self.end {
            End::Net(stream) => stream.shut_down(),
            End::Memory(pipe) => pipe.shut_down(),
        }
    }

    /// Whether nothing that was written is at risk when the connection is closed.
    pub fn is_ready_to_close(&self) -> bool {
        self.held_back || self.is_drained()
    }

    /// Waits up to `patience` for the peer to acknowledge what was written, before a close: on a closed socket,
    /// whatever the peer still sends destroys the rest. Cancel-safe.
    pub async fn drained_within(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let (mut pause, longest) = DRAIN_PAUSE;
        while !self.is_ready_to_close() && Instant::now() < deadline {
            sleep(pause).await;
            pause = (pause * 2).min(longest);
        }
    }

    /// Closes. What was written reaches the peer, unless it is [`Close::Reset`].
    pub fn close(mut self, how: Close) {
        match how {
            Close::Reset => self.reset(),
            // Unread bytes would turn the close into an RST that destroys what we wrote last.
            Close::Fin => self.discard(),
            Close::FinReset => {
                // Taken apart, so that the permit is given back after the close.
                let Self { end, held_back, permit } = self;
                match end {
                    End::Net(stream) => stream.finish_and_reset(held_back),
                    End::Memory(pipe) => drop(pipe),
                }
                drop(permit);
            }
        }
    }

    /// Sends FIN and waits for the peer's, throwing away what comes before it. For a peer that was told
    /// why it is cut off while it may still be sending: closing at once would destroy the message.
    pub async fn linger(&mut self, patience: Duration) {
        self.shut_down();
        let gone = async {
            let mut left = DISCARD;
            let mut scratch = [0; CHUNK];
            while left > 0 {
                match self.try_read(&mut scratch) {
                    Ok(0) => return,
                    Ok(read) => left = left.saturating_sub(read),
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                        if self.ready(Interest::READ).await.is_err() {
                            return;
                        }
                    }
                    Err(_) => return,
                }
            }
        };
        let _ = tokio::time::timeout(patience, gone).await;
    }

    /// Closes with RST, now.
    pub fn reset(self) {
        // Taken apart, so that the permit is given back after the close.
        let Self { end, permit, .. } = self;
        match end {
            End::Net(stream) => stream.reset(),
            End::Memory(pipe) => pipe.reset(),
        }
        drop(permit);
    }

    /// Reads and throws away what is there, up to a bound.
    fn discard(&mut self) {
        let mut scratch = [0; CHUNK];
        let mut left = DISCARD;
        while left > 0 {
            match self.try_read(&mut scratch) {
                Ok(read) if read > 0 => left = left.saturating_sub(read),
                _ => break,
            }
        }
    }
}

/// For libraries that want tokio's traits: the admin server, and tests.
impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match self.try_read(buf.initialize_unfilled()) {
                Ok(read) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(cx, Interest::READ))?;
                }
                Err(e) => return Poll::Ready(Err(e)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.try_write(&[IoSlice::new(buf)], false) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    ready!(self.poll_ready(cx, Interest::WRITE))?;
                }
                done => return Poll::Ready(done),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shut_down();
        Poll::Ready(Ok(()))
    }
}
