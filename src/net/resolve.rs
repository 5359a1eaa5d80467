//! Looking names up: what the system's resolver knows of a host, and what records say of a service.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::task::spawn_blocking;

use super::Address;
#[cfg(feature = "dns")]
use super::records::{services, ttl};

/// Looks names up.
#[derive(Clone, Copy, Debug)]
pub struct Lookup;

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// In no order.
    pub found: Vec<Found>,
    /// How long it holds, where that is known.
    pub ttl: Option<Duration>,
}

/// One address of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub address: SocketAddr,
    /// Its share of the requests, beside those of the name's other addresses; at least 1.
    pub weight: u32,
    /// Used only while no other one can be.
    pub backup: bool,
}

impl From<SocketAddr> for Found {
    fn from(address: SocketAddr) -> Self {
        Self { address, weight: 1, backup: false }
    }
}

impl Answer {
    /// This answer, if there is anything in it.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn or_not_found(self) -> io::Result<Self> {
        if self.found.is_empty() { Err(not_found("the name has no address")) } else { Ok(self) }
    }
}

impl Lookup {
    /// What `name` stands for. Addresses that this host has no route to are left out if there are others.
    ///
    /// # Errors
    /// `NotFound` where it stands for nothing or nobody knows, with the resolver's words.
    pub async fn resolve(&self, name: &Address) -> io::Result<Answer> {
        let answer = match name {
            Address::Tcp { host, port } => hosts(host, *port).await?,
            Address::Srv(name) => services(name).await?,
            Address::Unix(_) => return Err(not_found("a unix socket is no name")),
        };
        Ok(Answer { found: prefer(answer.found, is_reachable), ..answer })
    }
}

/// Those that are `good`, if there are any.
fn prefer(found: Vec<Found>, good: impl Fn(SocketAddr) -> bool) -> Vec<Found> {
    let (those, others): (Vec<_>, Vec<_>) = found.into_iter().partition(|found| good(found.address));
    if those.is_empty() { others } else { those }
}

/// Whether service records can be looked up.
pub const HAS_SRV: bool = cfg!(feature = "dns");

async fn hosts(host: &str, port: u16) -> io::Result<Answer> {
    let (found, ttl) = tokio::join!(addresses(host, port, ()), ttl(host));
    Ok(Answer { found: found?.into_iter().map(Found::from).collect(), ttl })
}

#[cfg(not(feature = "dns"))]
#[expect(clippy::unused_async, reason = "with the feature it waits")]
async fn ttl(_: &str) -> Option<Duration> {
    None
}

#[cfg(not(feature = "dns"))]
#[expect(clippy::unused_async, reason = "with the feature it waits")]
async fn services(_: &str) -> io::Result<Answer> {
    Err(not_found("this build has no service records"))
}

/// The addresses of a host by the system's resolver. Nothing can cut it short; what is `held` is held until it ends.
pub(super) async fn addresses(
    host: &str,
    port: u16,
    held: impl Send + 'static,
) -> io::Result<Vec<SocketAddr>> {
    let host = host.to_owned();
    let found = spawn_blocking(move || {
        let _held = held;
        Ok((host.as_str(), port).to_socket_addrs()?.collect())
    });
    found.await?.map_err(|fault: io::Error| not_found(fault))
}

pub(super) fn not_found(fault: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, fault)
}

/// Whether this host has a route to an address. Nothing is sent.
fn is_reachable(address: SocketAddr) -> bool {
    let connected = Socket::new(Domain::for_address(address), Type::DGRAM, None)
        .and_then(|socket| socket.connect(&address.into()));
    let no_route = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT];
    connected.err().and_then(|fault| fault.raw_os_error()).is_none_or(|code| !no_route.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(name: &str) -> io::Result<Answer> {
        Lookup.resolve(&name.parse().unwrap()).await
    }

    #[tokio::test]
    async fn a_host_stands_for_its_addresses() {
        let answer = resolve("localhost:9090").await.unwrap();
        assert!(answer.found.contains(&Found::from(SocketAddr::from(([127, 0, 0, 1], 9090)))), "{answer:?}");
        let literal = resolve("10.0.0.1:9090").await.unwrap();
        assert_eq!(literal.found, [Found::from(SocketAddr::from(([10, 0, 0, 1], 9090)))]);
    }

    /// `.invalid` is reserved for names that are none (RFC 6761).
    #[tokio::test]
    async fn what_has_no_address_is_not_found() {
        let fault = resolve("nobody.invalid:9090").await.unwrap_err();
        assert_eq!(fault.kind(), io::ErrorKind::NotFound, "{fault}");
        let nothing = Answer::default().or_not_found().unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn addresses_without_a_route_are_left_out_unless_there_are_no_others() {
        let found = |last| Found::from(SocketAddr::from(([10, 0, 0, last], 9090)));
        let all = || vec![found(1), found(2), found(3)];
        assert_eq!(prefer(all(), |address| address != found(2).address), [found(1), found(3)]);
        assert_eq!(prefer(all(), |_| false), all());
        assert!(is_reachable(SocketAddr::from(([127, 0, 0, 1], 9))));
    }
}
