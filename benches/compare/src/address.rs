//! Where to listen or connect, TCP or unix, and the two ways to close without TIME_WAIT.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::str::FromStr;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with, sockopt,
};

/// What is asked for; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 65535;

/// `127.0.0.1:7600` or `unix:/path`.
#[derive(Clone, Debug)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(SocketAddrUnix),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some(path) => SocketAddrUnix::new(path).map(Self::Unix).map_err(|e| e.to_string()),
            None => text.parse().map(Self::Tcp).map_err(|_| format!("`{text}` is not like 127.0.0.1:7600")),
        }
    }
}

impl Address {
    /// A non-blocking listening socket.
    pub fn listen(&self) -> io::Result<OwnedFd> {
        let socket = self.socket(SocketFlags::NONBLOCK)?;
        match self {
            Self::Tcp(address) => {
                sockopt::set_socket_reuseaddr(&socket, true)?;
                // Accepted sockets inherit it.
                sockopt::set_tcp_nodelay(&socket, true)?;
                bind(&socket, address)?;
            }
            Self::Unix(address) => bind(&socket, address)?,
        }
        listen(&socket, BACKLOG)?;
        Ok(socket)
    }

    /// A connected socket that blocks.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let socket = self.socket(SocketFlags::empty())?;
        self.connect_to(&socket)?;
        Ok(socket)
    }

    /// A non-blocking socket that is connected, or soon will be.
    pub fn start_connect(&self) -> io::Result<OwnedFd> {
        let socket = self.socket(SocketFlags::NONBLOCK)?;
        match self.connect_to(&socket) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => Ok(socket),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether it has TIME_WAIT and all that.
    pub fn is_tcp(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    fn socket(&self, flags: SocketFlags) -> io::Result<OwnedFd> {
        let family = match self {
            Self::Tcp(SocketAddr::V4(_)) => AddressFamily::INET,
            Self::Tcp(SocketAddr::V6(_)) => AddressFamily::INET6,
            Self::Unix(_) => AddressFamily::UNIX,
        };
        Ok(socket_with(family, SocketType::STREAM, flags | SocketFlags::CLOEXEC, None)?)
    }

    fn connect_to(&self, socket: &OwnedFd) -> rustix::io::Result<()> {
        match self {
            Self::Tcp(address) => connect(socket, address),
            Self::Unix(address) => connect(socket, address),
        }
    }
}

/// Lets a close send FIN, and RST when the peer has acknowledged it: the kernel does both, see tcp(7) on
/// `TCP_LINGER2` below zero. Sockets inherit it from their listener.
pub fn reset_when_finished(socket: &OwnedFd) {
    let at_once: libc::c_int = -1;
    let length = libc::socklen_t::try_from(size_of_val(&at_once)).unwrap_or(0);
    // SAFETY: the descriptor is open for as long as `socket` lives, and the value is one int.
    unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_LINGER2,
            (&raw const at_once).cast(),
            length,
        );
    }
}

/// Closes with RST.
pub fn reset(socket: OwnedFd) {
    let _ = sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
}
