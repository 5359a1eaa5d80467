//! Endpoints by name, whose addresses change under load: no request fails, nothing is cut, and a resolver that fails
//! changes nothing. Each test has a network and name service files of its own; behind the feature `peers`.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

#[path = "../common/mod.rs"]
mod common;
#[cfg(feature = "dns")]
mod records;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use common::{Crowd, Daemon, End, Folder, Plan, Protocol, Server, UPSTREAM, becomes, in_own_network};

const PORT: u16 = 9090;
const CLIENTS: usize = 8;
/// Requests that are served between two changes.
const SOME: u64 = 200;

/// The files that say how names are looked up, in the place of the host's own.
struct NameService {
    folder: Folder,
}

impl NameService {
    /// `/etc/hosts` alone answers.
    fn of_files() -> Self {
        Self::with("hosts: files\n", "")
    }

    fn with(order: &str, resolv: &str) -> Self {
        let this = Self { folder: Folder::new() };
        for (name, text) in [("nsswitch.conf", order), ("resolv.conf", resolv), ("hosts", "")] {
            let file = this.file(name);
            fs::write(&file, text).unwrap();
            let mounted = Command::new("mount").arg("--bind").arg(&file).arg(format!("/etc/{name}")).status();
            assert!(mounted.unwrap().success(), "{name} is not mounted");
        }
        this
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The addresses of `name` from now on.
    fn hosts(&self, name: &str, addresses: &[&str]) {
        let lines: Vec<_> = addresses.iter().map(|address| format!("{address} {name}\n")).collect();
        fs::write(self.file("hosts"), lines.concat()).unwrap();
    }
}

fn server(p: &Protocol, host: &str) -> Server {
    Server::for_mode_at(&format!("{host}:{PORT}"), p.wire, p.mode)
}

fn plan(p: &Protocol, endpoint: &str) -> Plan {
    p.plan(endpoint).level("info").set("pool.max_connections", "8").set("balance.resolve", "\"1s\"")
}

/// The endpoints that there are, in order.
fn endpoints(daemon: &Daemon) -> Vec<String> {
    let (_, text) = daemon.get("/metrics");
    let lines = text.lines().filter(|line| line.starts_with("warmline_endpoint_up{"));
    let mut found: Vec<_> = lines
        .map(|line| line.split("endpoint=\"").nth(1).unwrap().split('"').next().unwrap().to_owned())
        .collect();
    found.sort();
    found
}

#[track_caller]
fn stands_for(daemon: &Daemon, hosts: &[&str]) {
    let expected: Vec<_> = hosts.iter().map(|host| format!("{host}:{PORT}")).collect();
    becomes("endpoints", expected, || endpoints(daemon));
}

fn resolves(daemon: &Daemon, result: &str) -> u64 {
    daemon.metric("resolves_total", &[("upstream", UPSTREAM), ("result", result)])
}

fn closed(daemon: &Daemon, reason: &str) -> u64 {
    daemon.metric("upstream_closed_total", &[("upstream", UPSTREAM), ("reason", reason)])
}

/// Each request had its reply, and no connection was cut that owed one.
fn judge(daemon: &Daemon, crowd: Crowd, servers: &mut [Server]) {
    let calls = crowd.finish();
    let failed = calls.iter().filter(|call| call.end != End::Replied).count();
    assert_eq!(failed, 0, "of {} requests\n{}", calls.len(), daemon.log_text());
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), calls.len() as u64);
    assert_eq!(closed(daemon, "lost"), 0);
    servers.iter_mut().for_each(Server::assert_no_violation);
}

/// Addresses are added, removed and moved; then the name is nobody's, which changes nothing.
fn hosts_change_under_load(p: &Protocol, workers: usize) {
    let service = NameService::of_files();
    service.hosts("users.internal", &["127.0.0.1"]);
    let mut servers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| server(p, host));
    let daemon = plan(p, &format!("users.internal:{PORT}")).workers(workers).start_ready();
    stands_for(&daemon, &["127.0.0.1"]);
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:3"]);
    crowd.is_served(SOME);
    for hosts in
        [&["127.0.0.1", "127.0.0.2"][..], &["127.0.0.2"], &["127.0.0.3"], &["127.0.0.1", "127.0.0.3"]]
    {
        service.hosts("users.internal", hosts);
        stands_for(&daemon, hosts);
        // Those that are no longer there are drained.
        for (server, host) in servers.iter_mut().zip(["127.0.0.1", "127.0.0.2", "127.0.0.3"]) {
            if !hosts.contains(&host) {
                server.reaches("open", 0);
            }
        }
        let before = servers.each_mut().map(|server| server.count("requests"));
        crowd.is_served(SOME);
        for ((server, host), before) in
            servers.iter_mut().zip(["127.0.0.1", "127.0.0.2", "127.0.0.3"]).zip(before)
        {
            assert_eq!(server.count("requests") > before, hosts.contains(&host), "{host} of {hosts:?}");
        }
    }
    assert!(closed(&daemon, "removed") > 0);
    service.hosts("somebody.else", &["127.0.0.1"]);
    let failures = resolves(&daemon, "failed");
    becomes("failed look-ups", true, || resolves(&daemon, "failed") > failures + 1);
    crowd.is_served(SOME);
    stands_for(&daemon, &["127.0.0.1", "127.0.0.3"]);
    judge(&daemon, crowd, &mut servers);
}

#[test]
fn hosts_change_multiplex() {
    if in_own_network("hosts_change_multiplex") {
        hosts_change_under_load(&Protocol::named("frame multiplex"), 1);
    }
}

#[test]
fn hosts_change_exclusive_with_two_workers() {
    if in_own_network("hosts_change_exclusive_with_two_workers") {
        hosts_change_under_load(&Protocol::named("frame exclusive"), 2);
    }
}

#[test]
fn hosts_change_pipeline() {
    if in_own_network("hosts_change_pipeline") {
        hosts_change_under_load(&Protocol::named("frame pipeline"), 1);
    }
}

/// A name that nobody knows keeps nobody from starting; its requests are refused with the look-up's error until it is known.
#[test]
fn a_name_that_is_not_known_yet() {
    if !in_own_network("a_name_that_is_not_known_yet") {
        return;
    }
    let p = Protocol::named("line");
    let service = NameService::of_files();
    let mut server = server(&p, "127.0.0.1");
    let daemon = plan(&p, &format!("users.internal:{PORT}")).start();
    becomes("failed look-ups", true, || resolves(&daemon, "failed") > 0);
    let crowd = Crowd::start(p, &daemon.address, 2, &["echo"]);
    crowd.is_refused(5);
    assert!(daemon.metric("upstream_connects_total", &[("upstream", UPSTREAM), ("result", "resolve")]) > 0);
    service.hosts("users.internal", &["127.0.0.1"]);
    crowd.is_served(SOME);
    let calls = crowd.finish();
    assert!(calls.iter().all(|call| call.end != End::Closed), "{calls:?}");
    daemon.assert_conserved();
    server.assert_no_violation();
}

/// A host without IPv6 does not try addresses that it has no route to.
#[test]
fn addresses_without_a_route_are_not_endpoints() {
    if !in_own_network("addresses_without_a_route_are_not_endpoints") {
        return;
    }
    let p = Protocol::named("frame multiplex");
    let service = NameService::of_files();
    service.hosts("users.internal", &["2001:db8::1", "127.0.0.1", "192.0.2.1"]);
    let mut servers = [server(&p, "127.0.0.1")];
    let daemon = plan(&p, &format!("users.internal:{PORT}")).start_ready();
    stands_for(&daemon, &["127.0.0.1"]);
    let crowd = Crowd::start(p, &daemon.address, 2, &["echo"]);
    crowd.is_served(SOME);
    judge(&daemon, crowd, &mut servers);
}
