//! Where to listen and where to connect: what addresses a file may give for which purpose.
//!
//! Invariant: no two listeners want the same socket, and none is reachable from elsewhere unless the file
//! says so. Used by `check` and `upstream`.

use std::net::IpAddr;
use std::path::Path;

use super::file;
use super::forms::Endpoint;
use super::report::Report;
use super::units::{List, Text};
use crate::net::{Address, HAS_SRV, MAX_PATH, TEMPORARY_NAME};
use crate::{admin, pool};

/// Addresses of one listener.
const MAX_LISTEN: usize = 16;
/// Endpoints of one upstream.
const MAX_ENDPOINTS: usize = 256;
/// Requests that an endpoint may get for one of another.
const MAX_WEIGHT: usize = 1000;

/// The addresses that are listened on, with the key that gave them.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    taken: Vec<(Address, String)>,
}

impl Addresses {
    /// The admin endpoint.
    pub(super) fn admin(&mut self, report: &mut Report<'_>, it: file::Admin) -> Option<admin::Settings> {
        let at = &["admin"];
        let Some(List(listen)) = it.listen else {
            return report.missing(at, "listen", "\"unix:/run/warmline/admin.sock\"");
        };
        let local = "the admin endpoint is for this host: write a unix socket or a loopback address";
        let addresses = self.take(report, at, listen, Some(local));
        Some(admin::Settings { addresses })
    }

    /// The addresses of an upstream's listener; `expose` allows any.
    pub(super) fn listen(
        &mut self,
        report: &mut Report<'_>,
        at: &[&str],
        it: Option<List<Text<Address>>>,
        expose: bool,
    ) -> Option<Vec<Address>> {
        let Some(List(listen)) = it else {
            return report.missing(at, "listen", "\"127.0.0.1:7600\"");
        };
        let local = "write a loopback address, or `expose = true` if others may connect";
        Some(self.take(report, at, listen, (!expose).then_some(local)))
    }

    /// Checks addresses to listen on. `local` says what would do instead of one that others can reach.
    fn take(
        &mut self,
        report: &mut Report<'_>,
        at: &[&str],
        listen: Vec<Text<Address>>,
        local: Option<&str>,
    ) -> Vec<Address> {
        if !(1..=MAX_LISTEN).contains(&listen.len()) {
            let message = format!("{} addresses to listen on", listen.len());
            report.wrong(at, "listen", message, format!("write 1 to {MAX_LISTEN}"));
        }
        for (place, Text(address)) in listen.iter().enumerate().take(MAX_LISTEN) {
            let key = format!("listen.{place}");
            if let Address::Unix(path) = address {
                socket_file(report, at, &key, path);
            } else if !is_bindable(address) {
                let message = format!("`{address}` is no address of this host");
                report.wrong(
                    at,
                    &key,
                    message,
                    "write an IP address, `localhost` or `unix:/path`".to_owned(),
                );
            } else if let Some(local) = local
                && !address.is_local()
            {
                report.wrong(at, &key, format!("`{address}` can be reached by others"), local.to_owned());
            }
            let twice = self.taken.iter().find(|(other, _)| clash(other, address));
            if let Some((_, by)) = twice {
                let help = match address {
                    Address::Tcp { .. } | Address::Srv(_) => "give one of the two another port",
                    Address::Unix(_) => "give one of the two another path",
                };
                report.wrong(at, &key, format!("`{address}` clashes with `{by}`"), help.to_owned());
            }
            self.taken.push((address.clone(), format!("{}.listen", at.join("."))));
        }
        listen.into_iter().map(|Text(address)| address).collect()
    }
}

/// The endpoints of an upstream that listens on `listen`.
pub(super) fn endpoints(
    report: &mut Report<'_>,
    at: &[&str],
    it: Option<List<Endpoint>>,
    listen: &[Address],
) -> Option<Vec<pool::balance::Endpoint>> {
    let Some(List(endpoints)) = it else {
        return report.missing(at, "endpoints", "[\"127.0.0.1:9090\"]");
    };
    if !(1..=MAX_ENDPOINTS).contains(&endpoints.len()) {
        let message = format!("{} endpoints", endpoints.len());
        report.wrong(at, "endpoints", message, format!("write 1 to {MAX_ENDPOINTS}"));
        return None;
    }
    if endpoints.iter().all(|it| it.backup == Some(true)) {
        let help = "leave `backup` out of one: it gets the requests, the others stand by";
        report.wrong(at, "endpoints", "every endpoint is a backup", help.to_owned());
    }
    for (place, Endpoint { address: endpoint, .. }) in endpoints.iter().enumerate() {
        let key = format!("endpoints.{place}.address");
        if matches!(endpoint, Address::Tcp { port: 0, .. }) {
            let help = "write the port that the server listens on";
            report.wrong(at, &key, "nothing can be reached at port 0", help.to_owned());
        }
        if matches!(endpoint, Address::Srv(_)) && !HAS_SRV {
            let help = "build with `--features dns`, or write a host and its port";
            report.wrong(at, &key, "this build has no service records", help.to_owned());
        }
        if endpoints[..place].iter().any(|other| other.address == *endpoint) {
            report.wrong(at, &key, format!("`{endpoint}` is given twice"), "write it once".to_owned());
        }
        if listen.iter().any(|listen| clash(listen, endpoint)) {
            let message = format!("`{endpoint}` is where this upstream listens: it would call itself");
            let help = "write where the server listens, or let this upstream listen elsewhere";
            report.wrong(at, &key, message, help.to_owned());
        }
    }
    Some(endpoints.into_iter().enumerate().map(|(place, it)| weighed(report, at, place, it)).collect())
}

fn weighed(report: &mut Report<'_>, at: &[&str], place: usize, it: Endpoint) -> pool::balance::Endpoint {
    let place = place.to_string();
    let at = &[at, &["endpoints", &place]].concat();
    let weight = report.count(at, "weight", it.weight, 1, 1..=MAX_WEIGHT);
    pool::balance::Endpoint {
        address: it.address,
        weight: u32::try_from(weight).unwrap_or(u32::MAX),
        backup: it.backup.unwrap_or(false),
    }
}

/// Checks that a socket file can be made there: first under a name beside it, then put in its place.
fn socket_file(report: &mut Report<'_>, at: &[&str], key: &str, path: &Path) {
    let bytes = path.as_os_str().as_encoded_bytes();
    let folder = bytes.iter().rposition(|b| *b == b'/').map_or(0, |slash| slash + 1);
    let max = MAX_PATH - TEMPORARY_NAME;
    if matches!(&bytes[folder..], b"" | b"." | b"..") {
        let help = "write the path of a file, as in \"unix:/run/warmline/users.sock\"";
        report.wrong(at, key, "the path of a unix socket needs a file name", help.to_owned());
    } else if folder > max {
        let message = format!("the folder of this socket is {folder} bytes long");
        let help = format!(
            "choose a folder of at most {max}: while it is made, the socket has a name of up to \
             {TEMPORARY_NAME} bytes there"
        );
        report.wrong(at, key, message, help);
    }
}

/// Whether a socket can listen there without a name being looked up.
fn is_bindable(address: &Address) -> bool {
    match address {
        Address::Unix(_) => true,
        Address::Tcp { .. } | Address::Srv(_) => !address.is_name(),
    }
}

/// Whether two listeners cannot have these addresses at the same time.
fn clash(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp { host: one, port }, Address::Tcp { host: other, port: other_port }) => {
            let same = |one: &IpAddr, other: &IpAddr| {
                let any = one.is_unspecified() || other.is_unspecified();
                one == other || any && one.is_ipv4() == other.is_ipv4()
            };
            let (one, other) = (ips(one), ips(other));
            *port != 0
                && port == other_port
                && one.iter().any(|one| other.iter().any(|other| same(one, other)))
        }
        _ => false,
    }
}

/// The addresses a host stands for without being looked up.
fn ips(host: &str) -> Vec<IpAddr> {
    if host == "localhost" {
        return vec![std::net::Ipv4Addr::LOCALHOST.into(), std::net::Ipv6Addr::LOCALHOST.into()];
    }
    host.parse().into_iter().collect()
}

/// The listening sockets of `addresses`.
pub(super) fn sockets(addresses: &[Address]) -> usize {
    let of = |address: &Address| match address {
        Address::Tcp { host, .. } if host == "localhost" => 2,
        _ => 1,
    };
    addresses.iter().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_that_cannot_be_at_the_same_time() {
        let clashes = |one: &str, other: &str| clash(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(clashes("127.0.0.1:80", "127.0.0.1:80"));
        assert!(clashes("localhost:80", "127.0.0.1:80"));
        assert!(clashes("[::1]:80", "localhost:80"));
        assert!(clashes("0.0.0.0:80", "127.0.0.1:80"));
        assert!(clashes("unix:/a", "unix:/a"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.1:81"));
        assert!(!clashes("127.0.0.1:0", "127.0.0.1:0"));
        assert!(!clashes("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!clashes("0.0.0.0:80", "[::1]:80"));
        assert!(!clashes("unix:/a", "unix:/b"));
    }
}
