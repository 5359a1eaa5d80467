//! Opening a connection to an endpoint. The caller bounds the time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};

use super::{Address, Interest, Stream, Tuning};

/// Keepalive probes without an answer before the kernel gives a connection up.
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to `address`. A name is looked up now, and its addresses are tried in turn.
///
/// # Errors
/// That of the last address tried; `NotFound` where a name has none.
pub async fn connect(address: &Address, tuning: &Tuning) -> io::Result<Stream> {
    match address {
        Address::Unix(path) => open(&SockAddr::unix(path)?, Domain::UNIX, tuning).await,
        Address::Tcp { host, port } => {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in resolve(host, *port).await? {
                match open(&address.into(), Domain::for_address(address), tuning).await {
                    Ok(stream) => return Ok(stream),
                    Err(e) => last = e,
                }
            }
            Err(last)
        }
    }
}

async fn resolve(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    tokio::net::lookup_host((host, port))
        .await
        .map(Iterator::collect)
        .map_err(|e| io::Error::new(io::ErrorKind::NotFound, e))
}

async fn open(address: &SockAddr, domain: Domain, tuning: &Tuning) -> io::Result<Stream> {
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), None)?;
    let tcp = domain != Domain::UNIX;
    if tcp {
        tune(&socket, tuning)?;
        bind_source(&socket, address, tuning.source)?;
    }
    match socket.connect(address) {
        Ok(()) => return Ok(Stream::new(socket, tcp)),
        Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(e) => return Err(e),
    }
    let mut stream = Stream::new(socket, tcp);
    stream.ready(Interest { read: false, write: true }).await?;
    if let Some(error) = stream.options()?.take_error()? {
        return Err(error);
    }
    refuse_self(&stream.options()?)?;
    Ok(stream)
}

fn tune(socket: &Socket, tuning: &Tuning) -> io::Result<()> {
    socket.set_tcp_nodelay(tuning.nodelay)?;
    if let Some(interval) = tuning.keepalive {
        let keepalive =
            TcpKeepalive::new().with_time(interval).with_interval(interval).with_retries(KEEPALIVE_PROBES);
        socket.set_tcp_keepalive(&keepalive)?;
    }
    socket.set_tcp_user_timeout(tuning.user_timeout.filter(|t| *t > Duration::ZERO))
}

/// Binds to the configured source address, where its family fits. The port is chosen at connect, so
/// that connections to different endpoints may share one.
fn bind_source(socket: &Socket, to: &SockAddr, source: Option<IpAddr>) -> io::Result<()> {
    let Some(source) = source.filter(|ip| ip.is_ipv4() == to.is_ipv4()) else { return Ok(()) };
    choose_port_at_connect(socket)?;
    socket.bind(&SocketAddr::new(source, 0).into())
}

fn choose_port_at_connect(socket: &Socket) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let on: libc::c_int = 1;
    #[expect(unsafe_code, reason = "no safe wrapper for IP_BIND_ADDRESS_NO_PORT")]
    // SAFETY: the descriptor is open for as long as `socket` lives; the option reads one int.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            libc::socklen_t::try_from(size_of_val(&on)).unwrap_or(0),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A connect to a local ephemeral port where nobody listens may meet itself (simultaneous open).
fn refuse_self(socket: &SockRef<'_>) -> io::Result<()> {
    let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
    if local.as_socket().is_some() && local.as_socket() == peer.as_socket() {
        return Err(io::Error::new(io::ErrorKind::ConnectionRefused, "connected to itself"));
    }
    Ok(())
}
