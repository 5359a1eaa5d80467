//! A connected stream socket, TCP or unix, registered with the reactor only when it first has to wait:
//! most short requests are there before anyone asks, and registering costs two system calls.

use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use rustix::net::RecvFlags;
use socket2::{SockRef, Socket};
use tokio::io::Interest as Ready;
use tokio::io::unix::AsyncFd;

/// Reads at most, at a close, of bytes that nobody wants, 4 KiB each.
const MAX_REST: usize = 64;

/// What a task waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Bytes to read, or the peer's end.
    pub read: bool,
    /// Room to write.
    pub write: bool,
    /// The peer's RST, where nothing is read. It is told as an error.
    pub reset: bool,
}

impl Interest {
    /// Bytes to read, or the peer's end.
    pub const READ: Self = Self { read: true, write: false, reset: false };
    /// Room to write.
    pub const WRITE: Self = Self { read: false, write: true, reset: false };
}

/// Registers a socket, or one that is shared, with the reactor.
///
/// # Errors
/// Those of `epoll_ctl(2)`; the socket is given up then.
pub(super) fn register<S: AsRawFd>(socket: S) -> io::Result<AsyncFd<S>> {
    #[expect(unsafe_code, reason = "the promise that AsyncFd asks for")]
    // SAFETY: what `net` registers owns a `Socket` or a share of one. A `Socket` owns its descriptor and always
    // returns the same one; nothing in this module takes it out again.
    let registered = unsafe { AsyncFd::register(socket) };
    Ok(registered?)
}

/// Asks to be woken by an RST. The reactor tells of bytes and of their end by the same event, and would tell
/// again and again: so it is made to forget them, which is what is returned. After a FIN it cannot.
///
/// # Errors
/// `ConnectionReset`, if it is there.
fn poll_reset(fd: &AsyncFd<Socket>, cx: &mut Context<'_>) -> io::Result<bool> {
    let mut forgotten = false;
    while let Poll::Ready(guard) = fd.poll_read_ready(cx) {
        let mut guard = guard?;
        if guard.ready().is_read_closed() {
            // A FIN, or an RST: that one leaves an error behind.
            fd.get_ref().take_error()?.map_or(Ok(()), Err)?;
            break;
        }
        guard.clear_ready_matching(tokio::io::Ready::READABLE);
        forgotten = true;
    }
    Ok(forgotten)
}

/// One connected socket, non-blocking.
#[derive(Debug)]
pub struct Stream {
    state: State,
    kind: Kind,
    /// There was nothing to read any more when it was last looked at, before the reactor knew the socket.
    dry: bool,
    /// Reads ask the kernel, whatever the reactor knows, until it has no more.
    ask: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unix,
    Tcp,
    /// The kernel resets it as soon as the FIN of a close is acknowledged.
    TcpResetting,
}

#[derive(Debug)]
enum State {
    Raw(Socket),
    Registered(AsyncFd<Socket>),
    /// Only while one state turns into the other; a failed registration leaves it behind.
    Gone,
}

impl Stream {
    /// Wraps a non-blocking socket.
    pub(super) fn new(socket: Socket, tcp: bool) -> Self {
        let kind = if tcp { Kind::Tcp } else { Kind::Unix };
        Self { state: State::Raw(socket), kind, dry: false, ask: false }
    }

    /// Wraps a non-blocking socket from a listener that was told to [`reset_when_finished`].
    pub(super) fn resetting(socket: Socket) -> Self {
        Self { kind: Kind::TcpResetting, ..Self::new(socket, true) }
    }

    /// Whether it is a TCP socket, with all that means for closing.
    pub fn is_tcp(&self) -> bool {
        self.kind != Kind::Unix
    }

    fn socket(&self) -> io::Result<&Socket> {
        match &self.state {
            State::Raw(socket) => Ok(socket),
            State::Registered(fd) => Ok(fd.get_ref()),
            State::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Makes the next reads ask the kernel: the reactor learns of a FIN only when it is next polled, and
    /// sometimes that is too late.
    pub fn ask_kernel(&mut self) {
        self.ask = true;
    }

    fn attempt_read<T>(&mut self, mut call: impl FnMut(&Socket) -> io::Result<T>) -> io::Result<T> {
        if self.ask {
            let result = uninterrupted(|| call(self.socket()?));
            self.ask = !matches!(&result, Err(e) if e.kind() == io::ErrorKind::WouldBlock);
            return result;
        }
        if self.dry {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.attempt(Ready::READABLE, call)
    }

    /// Runs one system call; it is not made where the reactor knows that it would block.
    fn attempt<T>(&self, interest: Ready, mut call: impl FnMut(&Socket) -> io::Result<T>) -> io::Result<T> {
        match &self.state {
            State::Registered(fd) => fd.try_io(interest, |socket| uninterrupted(|| call(socket))),
            _ => uninterrupted(|| call(self.socket()?)),
        }
    }

    /// Reads what is there into `into`. 0 is the peer's end.
    pub fn try_read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = into.len();
        let (read, _) =
            self.attempt_read(|socket| Ok(rustix::net::recv(socket, &mut *into, RecvFlags::empty())?))?;
        self.after_read(read, room);
        Ok(read)
    }

    /// Reads at the end of `into`, at most `limit` bytes. 0 is the peer's end.
    pub fn try_read_buf(&mut self, into: &mut BytesMut, limit: usize) -> io::Result<usize> {
        let read = self.attempt_read(|socket| {
            // Only now: a buffer whose last bytes are still held somewhere would be replaced.
            into.reserve(limit);
            let spare = &mut into.spare_capacity_mut()[..limit];
            let ((filled, _), _) = rustix::net::recv(socket, spare, RecvFlags::empty())?;
            Ok(filled.len())
        })?;
        #[expect(unsafe_code, reason = "the one way to tell BytesMut what was written into it")]
        // SAFETY: the kernel has just initialised the first `read` bytes of the spare capacity.
        unsafe {
            into.advance_mut(read);
        }
        self.after_read(read, limit);
        Ok(read)
    }

    /// A short read has emptied the socket: the next bytes come with a new event.
    fn after_read(&mut self, read: usize, room: usize) {
        if (1..room).contains(&read) {
            self.ask = false;
            self.dry = matches!(self.state, State::Raw(_));
            self.expect_event(Ready::READABLE);
        }
    }

    /// Writes what the kernel takes now. With `last` the end may wait for the FIN of a close, which must
    /// follow at once.
    pub fn try_write(&mut self, slices: &[IoSlice<'_>], last: bool) -> io::Result<usize> {
        let length: usize = slices.iter().map(|s| s.len()).sum();
        // A peer that is gone is an error, not a signal.
        let flags = libc::MSG_NOSIGNAL | if last && self.is_tcp() { libc::MSG_MORE } else { 0 };
        let written = self.attempt(Ready::WRITABLE, |socket| match slices {
            [one] => socket.send_with_flags(one, flags),
            many => socket.send_vectored_with_flags(many, flags),
        })?;
        if written < length {
            self.expect_event(Ready::WRITABLE);
        }
        Ok(written)
    }

    fn expect_event(&self, interest: Ready) {
        if let State::Registered(fd) = &self.state {
            let _: io::Result<()> = fd.try_io(interest, |_| Err(io::ErrorKind::WouldBlock.into()));
        }
    }

    /// Completes when a read or write may succeed.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>, interest: Interest) -> Poll<io::Result<()>> {
        if matches!(self.state, State::Raw(_)) {
            let State::Raw(socket) = std::mem::replace(&mut self.state, State::Gone) else { unreachable!() };
            // The reactor reports what is there already.
            self.state = State::Registered(register(socket)?);
            self.dry = false;
        }
        let State::Registered(fd) = &self.state else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let mut result = Poll::Pending;
        if interest.reset {
            self.ask |= poll_reset(fd, cx)?;
        }
        if interest.read && (self.ask || fd.poll_read_ready(cx)?.is_ready()) {
            result = Poll::Ready(Ok(()));
        }
        if interest.write && fd.poll_write_ready(cx)?.is_ready() {
            result = Poll::Ready(Ok(()));
        }
        result
    }

    /// Bytes the peer has not acknowledged yet; 0 on unix sockets, where close loses nothing.
    pub fn unacknowledged(&self) -> usize {
        if self.is_tcp() { self.untaken() } else { 0 }
    }

    /// What of the bytes written the peer has not taken yet (`SIOCOUTQ`): not acknowledged on TCP, not read on
    /// unix sockets, where the kernel's own overhead counts too.
    pub fn untaken(&self) -> usize {
        let Ok(socket) = self.socket() else { return 0 };
        let mut count: libc::c_int = 0;
        #[expect(unsafe_code, reason = "no safe wrapper for SIOCOUTQ")]
        // SAFETY: the descriptor is open for as long as `socket` lives, and TIOCOUTQ (which is SIOCOUTQ on
        // sockets) writes one int.
        let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
        if result == 0 { usize::try_from(count).unwrap_or(0) } else { 0 }
    }

    /// Sends FIN; reading goes on.
    pub fn shut_down(&mut self) {
        if let Ok(socket) = self.socket() {
            let _ = socket.shutdown(Shutdown::Write);
        }
    }

    /// Closes with RST on TCP, plainly on unix sockets.
    pub fn reset(self) {
        if let (true, Ok(socket)) = (self.is_tcp(), self.socket()) {
            let _ = socket.set_linger(Some(Duration::ZERO));
        }
    }

    /// Closes on TCP with FIN, and with RST when the peer has acknowledged it; plainly on unix sockets. `asked`:
    /// a moment ago the reads were made to ask the kernel, and if one has, there was nothing.
    ///
    /// The kernel sends both by itself. Between two calls of ours the peer would often wake up and send its
    /// own FIN, which leaves TIME_WAIT behind; and so the RST never overtakes what was written.
    pub fn finish_and_reset(self, asked: bool) {
        let Ok(socket) = self.socket() else { return };
        let empty = asked && !self.ask;
        if !self.is_tcp() {
            return;
        }
        match if empty { Rest::Nothing } else { rest(socket) } {
            // Too late to be first: only RST frees the peer's socket now, if it destroys nothing.
            Rest::End if self.unacknowledged() == 0 => drop(socket.set_linger(Some(Duration::ZERO))),
            Rest::End => {}
            Rest::Nothing if self.kind == Kind::TcpResetting => {}
            Rest::Nothing => drop(reset_when_finished(socket, true)),
        }
    }

    /// Whom the other end belongs to, on unix sockets.
    pub fn peer_uid(&self) -> io::Result<u32> {
        Ok(rustix::net::sockopt::socket_peercred(self.socket()?)?.uid.as_raw())
    }

    /// The peer for log lines.
    pub fn peer(&self) -> String {
        let address = self.socket().and_then(Socket::peer_addr);
        match address.ok().and_then(|a| a.as_socket()) {
            Some(address) => address.to_string(),
            None => "unix".into(),
        }
    }

    /// Access to socket options.
    pub(super) fn options(&self) -> io::Result<SockRef<'_>> {
        Ok(SockRef::from(self.socket()?))
    }

    /// Waits for readiness. Cancel-safe.
    pub async fn ready(&mut self, interest: Interest) -> io::Result<()> {
        std::future::poll_fn(|cx| {
            ready!(self.poll_ready(cx, interest))?;
            Poll::Ready(Ok(()))
        })
        .await
    }
}

fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// What the peer has left in a socket that is about to be closed.
enum Rest {
    Nothing,
    /// Its FIN, or an error.
    End,
}

/// Throws away what can be read: at a close, unread bytes destroy what was written. The reactor is not
/// asked, it may not know of them yet.
fn rest(socket: &Socket) -> Rest {
    let mut scratch = [0; 4096];
    for _ in 0..MAX_REST {
        match rustix::net::recv(socket, &mut scratch, RecvFlags::empty()) {
            Ok((read, _)) if read > 0 => {}
            Err(rustix::io::Errno::AGAIN) => break,
            Ok(_) | Err(_) => return Rest::End,
        }
    }
    Rest::Nothing
}

/// Has the kernel reset the connection as soon as the FIN of the close is acknowledged, in place of waiting
/// for the peer's: `TCP_LINGER2` below zero, see tcp(7). What a listener accepts inherits it.
///
/// # Errors
/// Those of `setsockopt(2)`.
pub(super) fn reset_when_finished(socket: &Socket, resets: bool) -> io::Result<()> {
    let linger: libc::c_int = if resets { -1 } else { 0 };
    let value = (&raw const linger).cast();
    let length = libc::socklen_t::try_from(size_of_val(&linger)).unwrap_or(0);
    #[expect(unsafe_code, reason = "no safe wrapper takes a negative TCP_LINGER2")]
    // SAFETY: the descriptor is open for as long as `socket` lives, and `value` points at one int.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_LINGER2, value, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::TcpStream;

    use super::*;
    use crate::net::{Access, Address, Listener};

    const RESET: Interest = Interest { read: false, write: false, reset: true };

    /// A stream and its peer, which has sent 10,000 bytes.
    async fn connected() -> (Stream, TcpStream) {
        let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
        let access = Access { mode: 0o600, uids: Vec::new() };
        let listener = Listener::bind(&address, &access, crate::net::Inherited::default()).unwrap().remove(0);
        let Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
        let mut peer = TcpStream::connect(("127.0.0.1", port)).unwrap();
        peer.write_all(&[7; 10_000]).unwrap();
        (listener.accept().await.unwrap(), peer)
    }

    async fn waits(stream: &mut Stream) -> bool {
        let ready = poll_fn(|cx| stream.poll_ready(cx, RESET));
        tokio::time::timeout(Duration::from_millis(20), ready).await.is_err()
    }

    #[tokio::test]
    async fn a_reset_is_heard_of_behind_bytes_that_nobody_reads() {
        let (mut stream, peer) = connected().await;
        assert!(waits(&mut stream).await, "bytes are no reset");
        SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        let heard = poll_fn(|cx| stream.poll_ready(cx, RESET)).await;
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn bytes_that_waited_meanwhile_are_read_without_a_new_event() {
        for step in [1000, 3000, 20_000] {
            let (mut stream, mut peer) = connected().await;
            assert!(waits(&mut stream).await);
            peer.write_all(&[7; 500]).unwrap();
            assert!(waits(&mut stream).await);
            poll_fn(|cx| stream.poll_ready(cx, Interest::READ)).await.unwrap();
            let (mut into, mut read) = (vec![0; step], 0);
            while read < 10_500 {
                match stream.try_read(&mut into) {
                    Ok(count) => read += count,
                    Err(_) => poll_fn(|cx| stream.poll_ready(cx, Interest::READ)).await.unwrap(),
                }
            }
        }
    }

    #[tokio::test]
    async fn a_fin_is_no_reset_and_no_spin() {
        let (mut stream, peer) = connected().await;
        peer.shutdown(Shutdown::Write).unwrap();
        assert!(waits(&mut stream).await);
        let mut all = Vec::new();
        loop {
            let mut into = [0; 4096];
            match stream.try_read(&mut into) {
                Ok(0) => break,
                Ok(count) => all.extend_from_slice(&into[..count]),
                Err(_) => poll_fn(|cx| stream.poll_ready(cx, Interest::READ)).await.unwrap(),
            }
        }
        assert_eq!(all.len(), 10_000);
    }
}
