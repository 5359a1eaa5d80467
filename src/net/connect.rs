//! Opening a connection to an endpoint. The caller bounds the whole time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::resolve::addresses;
use super::{Address, Interest, Stream, Tuning};

/// Keepalive probes without an answer before the kernel gives a connection up. With `user_timeout` set it does not
/// count them: it gives up at the first one after that time that finds another one unanswered (measured, Linux 6.18).
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to endpoints. Clones are the same dialler.
#[derive(Clone, Debug)]
pub struct Dialler {
    tuning: Arc<Tuning>,
    /// One look-up of its name at a time: a resolver that hangs holds one thread, not one for each attempt.
    lookup: Arc<Semaphore>,
}

impl Dialler {
    /// Connects with these options.
    pub fn new(tuning: Tuning) -> Self {
        Self { tuning: Arc::new(tuning), lookup: Arc::new(Semaphore::new(1)) }
    }

    /// Connects to `address`. A name is looked up now, and its addresses are tried in turn; each may take an equal share of
    /// what is left of `patience`, so that one that does not answer leaves time for the next.
    ///
    /// # Errors
    /// That of the last address tried; `NotFound` where a name has none, `TimedOut` where there was no answer.
    pub async fn connect(&self, address: &Address, patience: Duration) -> io::Result<Stream> {
        let deadline = Instant::now() + patience;
        let (host, port) = match address {
            Address::Unix(path) => return open(&SockAddr::unix(path)?, Domain::UNIX, &self.tuning).await,
            Address::Tcp { host, port } => (host, *port),
            Address::Srv(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        self.connect_any(self.resolve(host, port).await?, deadline).await
    }

    async fn connect_any(&self, addresses: Vec<SocketAddr>, deadline: Instant) -> io::Result<Stream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        let mut left = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for address in addresses {
            let share = (deadline - Instant::now()) / left;
            left -= 1;
            let (to, domain) = (address.into(), Domain::for_address(address));
            match timeout(share, open(&to, domain, &self.tuning)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(e)) => last = e,
                Err(_) => {
                    last = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"));
                }
            }
        }
        Err(last)
    }

    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        // The semaphore is never closed. The permit goes with the look-up, which nothing can cut short.
        let permit = self.lookup.clone().acquire_owned().await;
        addresses(host, port, permit).await
    }
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
    stream.ready(Interest::WRITE).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn dialler() -> Dialler {
        let tuning = Tuning { nodelay: true, keepalive: None, user_timeout: None, source: None };
        Dialler::new(tuning)
    }

    /// A listener whose queue is full: further connects get no answer.
    fn silent() -> (Socket, Vec<Socket>, SocketAddr) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap();
        let fill = || {
            let client = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
            let _ = client.connect(&address);
            client
        };
        let queue = (0..4).map(|_| fill()).collect();
        (socket, queue, address.as_socket().unwrap())
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_leaves_time_for_the_next() {
        let (_silent, _queue, first) = silent();
        let good = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addresses = vec![first, good.local_addr().unwrap()];
        let deadline = Instant::now() + Duration::from_secs(2);
        assert!(dialler().connect_any(addresses, deadline).await.is_ok());
        let error = dialler().connect_any(vec![first], Instant::now() + Duration::from_millis(50)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn the_kernel_looks_after_silent_servers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let tuning = Tuning {
            nodelay: true,
            keepalive: Some(Duration::from_secs(7)),
            user_timeout: Some(Duration::from_millis(2500)),
            source: None,
        };
        let port = listener.local_addr().unwrap().port();
        let address = Address::Tcp { host: "127.0.0.1".into(), port };
        let stream = Dialler::new(tuning).connect(&address, Duration::from_secs(5)).await.unwrap();
        let socket = stream.options().unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(7));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_PROBES);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(2500)));
    }

    #[tokio::test]
    async fn a_name_that_is_looked_up_already_is_waited_for() {
        let dialler = dialler();
        let hanging = dialler.lookup.clone().try_acquire_owned().unwrap();
        let (lookup, count) = (dialler.clone(), dialler.clone());
        let second = tokio::spawn(async move { lookup.resolve("localhost", 1).await });
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(hanging);
        assert!(!second.await.unwrap().unwrap().is_empty());
        assert_eq!(count.lookup.available_permits(), 1);
    }
}
