//! Listening sockets. Several threads may accept from one socket: each has a [`Listener`] of its own, and the last
//! one closes the socket and removes the file of a unix socket.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use socket2::{Domain, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::socket_file::SocketFile;
use super::stream::{register, reset_when_finished};
use super::{Access, Address, Inherited, Stream};

/// What is asked for; the kernel caps it at `net.core.somaxconn`.
pub const BACKLOG: i32 = 65535;

/// How often a free port is looked for that both families have.
const SHARED_PORT_TRIES: usize = 16;

/// A listening socket, as the reactor of one thread knows it. To be used by tasks of that thread only: what
/// is known of it is looked at and then forgotten, and between the two nothing new may be learnt.
#[derive(Debug)]
pub struct Listener {
    fd: AsyncFd<Arc<Bound>>,
}

/// The socket itself, and where it is bound.
#[derive(Debug)]
struct Bound {
    socket: Socket,
    address: Address,
    /// What it accepts is reset as soon as the FIN of a close is acknowledged.
    resets: AtomicBool,
    file: Option<SocketFile>,
}

/// The options of a listening socket, to be changed while others accept from it. Does not keep it open.
#[derive(Clone, Debug)]
pub struct Options(Weak<Bound>);

impl AsRawFd for Bound {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Listener {
    fn new(bound: Bound) -> io::Result<Self> {
        Ok(Self { fd: register(Arc::new(bound))? })
    }

    /// The same socket for the thread whose runtime is entered.
    ///
    /// # Errors
    /// Those of `epoll_ctl(2)`.
    pub fn share(&self) -> io::Result<Self> {
        Ok(Self { fd: register(self.bound().clone())? })
    }

    /// Its options.
    pub fn options(&self) -> Options {
        Options(Arc::downgrade(self.bound()))
    }

    /// Listens on `address`: one socket, or two for `localhost`.
    ///
    /// # Errors
    /// Those of the kernel, with the file or address at fault in the text where the kernel's do not say.
    pub fn bind(address: &Address, access: &Access, inherited: Inherited) -> io::Result<Vec<Self>> {
        match address {
            Address::Unix(path) => Ok(vec![Self::unix(path, access)?]),
            Address::Srv(_) => Err(io::ErrorKind::Unsupported.into()),
            Address::Tcp { host, port } if host == "localhost" => Self::both_families(*port, inherited),
            Address::Tcp { host, port } => {
                let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
                let ip = host.parse().map_err(|_| invalid("a listener needs an address or `localhost`"))?;
                Ok(vec![Self::tcp(SocketAddr::new(ip, *port), inherited)?])
            }
        }
    }

    /// As [`Listener::bind`], where some sockets of `address` listen already.
    ///
    /// # Errors
    /// Those of [`Listener::bind`].
    pub fn bind_beside(
        listening: &[Address],
        address: &Address,
        access: &Access,
        inherited: Inherited,
    ) -> io::Result<Vec<Self>> {
        if listening.is_empty() {
            return Self::bind(address, access, inherited);
        }
        let mut bound = Vec::new();
        for missing in address.families().into_iter().filter(|it| !listening.iter().any(|l| it.covers(l))) {
            match Self::bind(&missing, access, inherited) {
                Err(e) if is_missing_family(&e) => {}
                result => bound.extend(result?),
            }
        }
        Ok(bound)
    }

    fn both_families(port: u16, inherited: Inherited) -> io::Result<Vec<Self>> {
        let mut tries = SHARED_PORT_TRIES;
        loop {
            let four = Self::tcp((Ipv4Addr::LOCALHOST, port).into(), inherited)?;
            let Address::Tcp { port: bound, .. } = *four.address() else { return Ok(vec![four]) };
            match Self::tcp((Ipv6Addr::LOCALHOST, bound).into(), inherited) {
                Ok(six) => return Ok(vec![four, six]),
                // A host without IPv6 is a host with one family.
                Err(e) if is_missing_family(&e) => return Ok(vec![four]),
                Err(e) if port == 0 && tries > 0 && e.kind() == io::ErrorKind::AddrInUse => tries -= 1,
                Err(e) => return Err(e),
            }
        }
    }

    fn tcp(address: SocketAddr, inherited: Inherited) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
        socket.set_reuse_address(true)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_tcp_nodelay(inherited.nodelay)?;
        if inherited.reset_when_finished {
            reset_when_finished(&socket, true)?;
        }
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let bound = socket.local_addr()?.as_socket().unwrap_or(address);
        let address = Address::Tcp { host: bound.ip().to_string(), port: bound.port() };
        let resets = inherited.reset_when_finished.into();
        Self::new(Bound { socket, address, resets, file: None })
    }

    fn unix(path: &Path, access: &Access) -> io::Result<Self> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
        let file = SocketFile::place(&socket, path, access.mode, BACKLOG)?;
        let address = Address::Unix(path.into());
        Self::new(Bound { socket, address, resets: false.into(), file: Some(file) })
    }

    /// The address it is bound to, with the port that the kernel chose.
    pub fn address(&self) -> &Address {
        &self.bound().address
    }

    /// Whether it listens on a TCP port.
    pub fn is_tcp(&self) -> bool {
        matches!(self.address(), Address::Tcp { .. })
    }

    fn bound(&self) -> &Arc<Bound> {
        self.fd.get_ref()
    }

    /// Takes one waiting client, if there is one.
    ///
    /// # Errors
    /// `WouldBlock` if nobody waits; a client that left again is not an error but the next one's turn.
    pub fn try_accept(&self) -> io::Result<Stream> {
        self.fd.try_io(tokio::io::Interest::READABLE, |_| self.accept_now())
    }

    /// As [`Listener::try_accept`], but asks the kernel even if the reactor knows of nobody.
    pub fn accept_now(&self) -> io::Result<Stream> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        loop {
            match rustix::net::accept_with(&self.bound().socket, flags).map_err(io::Error::from) {
                Ok(fd) if self.bound().resets.load(Relaxed) => return Ok(Stream::resetting(fd.into())),
                Ok(fd) => return Ok(Stream::new(fd.into(), self.is_tcp())),
                Err(e) if is_passing(&e) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whether somebody waits, as the kernel knows it. If not, [`Listener::readable`] waits anew.
    pub fn is_asked(&self) -> bool {
        let mut fds = [PollFd::new(&self.bound().socket, PollFlags::IN)];
        let asked = poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0);
        if !asked {
            let nobody = |_: &Arc<Bound>| Err(io::ErrorKind::WouldBlock.into());
            let _: io::Result<()> = self.fd.try_io(tokio::io::Interest::READABLE, nobody);
        }
        asked
    }

    /// Waits until somebody may be waiting. Cancel-safe.
    pub async fn readable(&self) -> io::Result<()> {
        self.fd.readable().await.map(drop)
    }

    /// The next client. Cancel-safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        loop {
            match self.try_accept() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable().await?,
                done => return done,
            }
        }
    }
}

impl Options {
    /// Changes them for clients that come from now on.
    ///
    /// # Errors
    /// Those of `setsockopt(2)` and `chmod(2)`.
    pub fn set(&self, access: &Access, inherited: Inherited) -> io::Result<()> {
        let Some(bound) = self.0.upgrade() else { return Ok(()) };
        if let Some(file) = &bound.file {
            return file.set_mode(access.mode);
        }
        bound.socket.set_tcp_nodelay(inherited.nodelay)?;
        reset_when_finished(&bound.socket, inherited.reset_when_finished)?;
        bound.resets.store(inherited.reset_when_finished, Relaxed);
        Ok(())
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address().fmt(f)
    }
}

fn is_missing_family(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::AddrNotAvailable || e.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Errors of accept(2) that belong to the client that left, not to the listener.
fn is_passing(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted)
        || matches!(
            e.raw_os_error(),
            Some(
                libc::ENETDOWN
                    | libc::EPROTO
                    | libc::ENOPROTOOPT
                    | libc::EHOSTDOWN
                    | libc::ENONET
                    | libc::EHOSTUNREACH
                    | libc::EOPNOTSUPP
                    | libc::ENETUNREACH
            )
        )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::IpAddr;
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use super::*;

    fn open() -> Access {
        Access { mode: 0o600, uids: Vec::new() }
    }

    fn unix(path: &Path) -> Address {
        Address::Unix(path.into())
    }

    #[tokio::test]
    async fn localhost_is_both_families_on_one_port() {
        let address = Address::Tcp { host: "localhost".into(), port: 0 };
        let listeners = Listener::bind(&address, &open(), Inherited::default()).unwrap();
        let ports: Vec<_> = listeners
            .iter()
            .map(|l| {
                let Address::Tcp { host, port } = l.address() else { unreachable!() };
                assert!(host.parse::<IpAddr>().unwrap().is_loopback());
                *port
            })
            .collect();
        assert!(ports.windows(2).all(|w| w[0] == w[1]));
    }

    #[tokio::test]
    async fn what_listens_already_is_not_bound_again() {
        let four = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
        let four = Listener::bind(&four, &open(), Inherited::default()).unwrap().remove(0);
        let Address::Tcp { port, .. } = *four.address() else { unreachable!() };
        let both = Address::Tcp { host: "localhost".into(), port };
        let beside =
            |listening: &[Address]| Listener::bind_beside(listening, &both, &open(), Inherited::default());
        assert_eq!(beside(&[]).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let others = beside(&[four.address().clone()]).unwrap();
        assert!(others.iter().all(|other| other.address().to_string() == format!("[::1]:{port}")));
    }

    #[tokio::test]
    async fn options_are_those_of_the_next_client() {
        let dir = TempDir::new();
        let file = Listener::bind(&unix(&dir.join("s")), &open(), Inherited::default()).unwrap().remove(0);
        file.options().set(&Access { mode: 0o640, uids: Vec::new() }, Inherited::default()).unwrap();
        assert_eq!(fs::symlink_metadata(dir.join("s")).unwrap().mode() & 0o777, 0o640);

        let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
        let tcp = Listener::bind(&address, &open(), Inherited::default()).unwrap().remove(0);
        let Address::Tcp { port, .. } = *tcp.address() else { unreachable!() };
        for nodelay in [false, true] {
            let inherited = Inherited { nodelay, reset_when_finished: nodelay };
            tcp.options().set(&open(), inherited).unwrap();
            let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            let accepted = tcp.accept().await.unwrap();
            assert_eq!(accepted.options().unwrap().tcp_nodelay().unwrap(), nodelay);
        }
        let options = tcp.options();
        drop(tcp);
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "options keep it open");
        options.set(&open(), Inherited::default()).unwrap();
    }

    #[tokio::test]
    async fn a_socket_file_comes_with_its_mode_and_goes_with_its_listener() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let listener = Listener::bind(&unix(&path), &open(), Inherited::default()).unwrap();
        assert_eq!(fs::symlink_metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&dir.0).unwrap().count(), 1, "the temporary name is gone");
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn two_threads_share_a_socket_and_the_last_one_closes_it() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (one, two, access) = (runtime(), runtime(), open());
        let bound = one.block_on(async { Listener::bind(&unix(&path), &access, Inherited::default()) });
        let first = bound.unwrap().remove(0);
        let second = two.block_on(async { first.share() }).unwrap();
        let connect = || std::os::unix::net::UnixStream::connect(&path).unwrap();
        for (runtime, listener) in [(&one, &first), (&two, &second), (&one, &first)] {
            let _client = connect();
            runtime.block_on(listener.accept()).unwrap();
            // Both have been told of the client, and one of them is too late.
            assert!(!first.is_asked() && !second.is_asked());
        }
        drop(first);
        assert!(two.block_on(async { connect() }).peer_addr().is_ok() && path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = TempDir::new();
        let path = dir.join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the file behind");
        let first = Listener::bind(&unix(&path), &open(), Inherited::default()).unwrap();
        let second = Listener::bind(&unix(&path), &open(), Inherited::default()).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
    }

    #[test]
    fn of_two_that_find_a_dead_socket_one_replaces_it() {
        let dir = TempDir::new();
        let path = dir.join("s");
        for round in 0..30 {
            drop(fs::remove_file(&path));
            drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
            let start = std::sync::Barrier::new(2);
            let bind = || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let _guard = runtime.enter();
                start.wait();
                let bound = Listener::bind(&unix(&path), &open(), Inherited::default());
                let ok = bound.is_ok();
                // Both have tried before either goes.
                start.wait();
                drop(bound);
                ok
            };
            let both = std::thread::scope(|scope| {
                let threads = [scope.spawn(bind), scope.spawn(bind)];
                threads.map(|thread| thread.join().unwrap())
            });
            assert_eq!(both.iter().filter(|ok| **ok).count(), 1, "round {round}");
        }
    }

    #[tokio::test]
    async fn other_files_are_never_touched() {
        let dir = TempDir::new();
        let (file, link, socket) = (dir.join("f"), dir.join("l"), dir.join("s"));
        fs::write(&file, "x").unwrap();
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        for path in [&file, &link] {
            let error = Listener::bind(&unix(path), &open(), Inherited::default()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
        assert_eq!(fs::read(&file).unwrap(), b"x");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[tokio::test]
    async fn a_file_that_is_no_longer_ours_stays() {
        let dir = TempDir::new();
        let path = dir.join("s");
        let listener = Listener::bind(&unix(&path), &open(), Inherited::default()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "theirs").unwrap();
        drop(listener);
        assert_eq!(fs::read(&path).unwrap(), b"theirs");
    }

    /// A folder of its own, gone with the test.
    struct TempDir(PathBuf);

    impl TempDir {
        fn new() -> Self {
            let name = format!("warmline-{}-{:x}", std::process::id(), fastrand::u64(..));
            let dir = std::env::temp_dir().join(name);
            fs::create_dir(&dir).unwrap();
            Self(dir)
        }

        fn join(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for TempDir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
