//! Kernel sockets: addresses, listening, accepting, connecting, closing. The only module that names
//! `tokio::net` and the only one with unsafe code.

mod connect;
mod host;
mod limits;
mod listen;
#[cfg(feature = "dns")]
mod records;
mod resolve;
mod socket_file;
mod stream;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

pub use connect::Dialler;
pub use host::host;
pub use limits::{max_fds, open_fds, raise_fd_limit};
pub use listen::{BACKLOG, Listener, Options};
pub use resolve::{Answer, Found, HAS_SRV, Lookup};
pub use socket_file::TEMPORARY_NAME;
pub use stream::{Interest, Stream};

/// Where to listen or connect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host (name or address, without brackets) and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 lets the kernel choose when listening.
        port: u16,
    },
    /// The path of a unix socket.
    Unix(PathBuf),
    /// The name of service records (RFC 2782), which say where to connect.
    Srv(String),
}

/// Why text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadAddress {
    /// No colon.
    #[error("it needs a port, as in `{0}:7600`")]
    NoPort(String),
    /// Not a number from 0 to 65535.
    #[error("the port is a number from 1 to 65535, not `{0}`")]
    Port(String),
    /// Nothing before the colon.
    #[error("it needs a host before the port, as in `127.0.0.1{0}`")]
    NoHost(String),
    /// An IPv6 address without brackets, or brackets around something else.
    #[error("an IPv6 address is written in brackets, as in `[::1]:7600`")]
    Brackets,
    /// Nothing after `unix:`, or a path longer than a socket address holds (107 bytes).
    #[error("it needs a path of 1 to 107 bytes after `unix:`")]
    Path,
    /// No service, protocol and domain after `srv:`.
    #[error("it needs a service, a protocol and a domain after `srv:`, as in `srv:_users._tcp.internal`")]
    Srv,
}

/// The longest path that `sun_path` holds with its terminating zero, in bytes.
pub const MAX_PATH: usize = 107;

impl FromStr for Address {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = (1..=MAX_PATH).contains(&path.len()) && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(BadAddress::Path) };
        }
        if let Some(name) = text.strip_prefix("srv:") {
            return if is_service(name) { Ok(Self::Srv(name.into())) } else { Err(BadAddress::Srv) };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| BadAddress::NoPort(text.into()))?;
        let number = port.parse().map_err(|_| BadAddress::Port(port.into()))?;
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(BadAddress::Brackets),
            None if host.contains([':', '[', ']']) => return Err(BadAddress::Brackets),
            None if host.is_empty() => return Err(BadAddress::NoHost(text.into())),
            None => host,
        };
        Ok(Self::Tcp { host: host.into(), port: number })
    }
}

/// Whether these are the labels of a service, a protocol and a domain. No name is longer than 253 bytes.
fn is_service(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let labels: Vec<_> = name.strip_suffix('.').unwrap_or(name).split('.').collect();
    let fit = labels.iter().all(|label| (1..=63).contains(&label.len()) && label.chars().all(plain));
    let marked = |label: &&str| label.len() > 1 && label.starts_with('_');
    fit && name.len() <= 253 && labels.len() > 2 && labels.iter().take(2).all(marked)
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Srv(name) => write!(f, "srv:{name}"),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

impl Address {
    /// Whether only this machine can reach it: a unix socket, a loopback address or `localhost`.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Self::Srv(_) => false,
        }
    }

    /// Whether it stands for addresses that must be looked up, and may change.
    pub fn is_name(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp { host, .. } => host != "localhost" && host.parse::<IpAddr>().is_err(),
            Self::Srv(_) => true,
        }
    }
}

impl Address {
    /// Whether a socket that listens on `bound` is one of those that this address stands for.
    pub fn covers(&self, bound: &Address) -> bool {
        self.families().iter().any(|one| match (one, bound) {
            (Self::Tcp { host, port }, Self::Tcp { host: bound_host, port: bound_port }) => {
                let ip = |host: &str| host.parse::<IpAddr>().ok();
                port == bound_port && *port != 0 && ip(host).is_some() && ip(host) == ip(bound_host)
            }
            (one, bound) => one == bound,
        })
    }

    /// `localhost` is one address of each family.
    fn families(&self) -> Vec<Self> {
        match self {
            Self::Tcp { host, port } if host == "localhost" => {
                ["127.0.0.1", "::1"].map(|host| Self::Tcp { host: host.into(), port: *port }).into()
            }
            other => vec![other.clone()],
        }
    }
}

/// Who may connect to a unix listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Permission bits of the socket file.
    pub mode: u32,
    /// User ids allowed to connect; empty = everyone the file mode lets in.
    pub uids: Vec<u32>,
}

/// What accepted TCP sockets have from their listener, without a system call for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// A close with FIN is a [`Stream::finish_and_reset`].
    pub reset_when_finished: bool,
}

impl Default for Inherited {
    fn default() -> Self {
        Self { nodelay: true, reset_when_finished: false }
    }
}

/// Options of upstream sockets; the TCP ones are ignored on unix sockets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// `TCP_NODELAY`.
    pub nodelay: bool,
    /// Time between keepalive probes; `None` = off.
    pub keepalive: Option<Duration>,
    /// `TCP_USER_TIMEOUT`; `None` = the kernel's.
    pub user_timeout: Option<Duration>,
    /// Source address of connections.
    pub source: Option<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in [
            "127.0.0.1:7000",
            "localhost:0",
            "[::1]:65535",
            "a-b.internal:9090",
            "unix:/run/w.sock",
            "srv:_a._tcp.b",
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, error) in [
            ("localhost", BadAddress::NoPort("localhost".into())),
            ("localhost:http", BadAddress::Port("http".into())),
            ("localhost:65536", BadAddress::Port("65536".into())),
            (":7000", BadAddress::NoHost(":7000".into())),
            ("::1:7000", BadAddress::Brackets),
            ("[localhost]:7000", BadAddress::Brackets),
            ("unix:", BadAddress::Path),
            ("srv:", BadAddress::Srv),
            ("srv:users.internal", BadAddress::Srv),
            ("srv:_users._tcp", BadAddress::Srv),
            ("srv:_users._tcp.internal:9090", BadAddress::Srv),
            ("srv:_users._tcp..internal", BadAddress::Srv),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
        assert_eq!(format!("unix:/{}", "x".repeat(107)).parse::<Address>(), Err(BadAddress::Path));
    }

    #[test]
    fn localhost_covers_both_families_of_its_port() {
        let address = |text: &str| text.parse::<Address>().unwrap();
        for (one, bound, covers) in [
            ("localhost:80", "127.0.0.1:80", true),
            ("localhost:80", "[::1]:80", true),
            ("localhost:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "[::1]:80", false),
            ("[0:0::1]:80", "[::1]:80", true),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("unix:/a", "unix:/a", true),
            ("unix:/a", "unix:/b", false),
        ] {
            assert_eq!(address(one).covers(&address(bound)), covers, "{one} {bound}");
        }
    }

    #[test]
    fn what_is_looked_up_is_a_name() {
        for (text, name) in [
            ("127.0.0.1:1", false),
            ("[::1]:1", false),
            ("localhost:1", false),
            ("unix:/x", false),
            ("users.internal:1", true),
            ("srv:_users._tcp.internal", true),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.is_name()), Ok(name), "{text}");
        }
    }

    #[test]
    fn only_this_machine_is_local() {
        for (text, local) in [
            ("127.8.9.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
            ("localhost.evil.example:1", false),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.is_local()), Ok(local), "{text}");
        }
    }
}
