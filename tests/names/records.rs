//! What needs records: a name server of Debian's (dnsmasq) on loopback answers, and what it answers changes.

use std::process::{Child, Command, Stdio};

use super::*;

/// A name server that can be told other answers.
struct NameServer {
    files: NameService,
    running: Option<Child>,
}

impl NameServer {
    /// Answers nothing yet, and every query is logged.
    fn new() -> Self {
        let resolv = "nameserver 127.0.0.1\nsearch internal\noptions timeout:1 attempts:2\n";
        Self { files: NameService::with("hosts: files dns\n", resolv), running: None }
    }

    /// Answers with these records for `ttl` seconds from now on: options of dnsmasq.
    fn answers(&mut self, ttl: u32, records: &[&str]) {
        self.stop();
        let log = self.files.file("queries");
        let mut child = Command::new("dnsmasq")
            .args([
                "--keep-in-foreground",
                "--conf-file=/dev/null",
                "--no-resolv",
                "--no-hosts",
                "--user=root",
            ])
            .args(["--listen-address=127.0.0.1", "--bind-interfaces", "--pid-file", "--log-queries"])
            .arg(format!("--log-facility={}", log.display()))
            .args([&format!("--local-ttl={ttl}"), "--local=/internal/"])
            .args(records)
            .stdout(Stdio::null())
            .spawn()
            .expect("dnsmasq is installed by `tests/run`");
        becomes("answers", true, || {
            assert_eq!(child.try_wait().unwrap(), None, "dnsmasq ended");
            std::net::UdpSocket::bind("127.0.0.1:53").is_err()
        });
        self.running = Some(child);
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Queries of one kind so far.
    fn queries(&self, what: &str) -> usize {
        fs::read_to_string(self.files.file("queries")).unwrap_or_default().matches(what).count()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn addresses(hosts: &[&str]) -> Vec<String> {
    hosts.iter().map(|host| format!("--host-record=users.internal,{host}")).collect()
}

fn texts(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

/// The answers change long before the names would be looked up again by the clock, and hold as long as they say. Then the
/// server is gone, and the last answer stays.
fn records_change_under_load(p: &Protocol, workers: usize) {
    let mut names = NameServer::new();
    names.answers(1, &texts(&addresses(&["127.0.0.1"])));
    let mut servers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| server(p, host));
    // By its short name: the search domain does the rest.
    let daemon = p
        .plan(&format!("users:{PORT}"))
        .level("info")
        .set("pool.max_connections", "8")
        .set("balance.resolve", "\"1h\"")
        .workers(workers)
        .start_ready();
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:3"]);
    crowd.is_served(SOME);
    for hosts in
        [&["127.0.0.1", "127.0.0.2"][..], &["127.0.0.2"], &["127.0.0.3"], &["127.0.0.1", "127.0.0.3"]]
    {
        names.answers(1, &texts(&addresses(hosts)));
        stands_for(&daemon, hosts);
        crowd.is_served(SOME);
    }
    names.stop();
    let failures = resolves(&daemon, "failed");
    becomes("failed look-ups", true, || resolves(&daemon, "failed") > failures + 1);
    crowd.is_served(SOME);
    stands_for(&daemon, &["127.0.0.1", "127.0.0.3"]);
    // An answer that holds for an hour is not asked for again.
    names.answers(3600, &texts(&addresses(&["127.0.0.2"])));
    stands_for(&daemon, &["127.0.0.2"]);
    let (asked, looked) = (names.queries("query[A] users.internal"), resolves(&daemon, "ok"));
    assert!(asked > 0);
    servers[0].reaches("open", 0);
    servers[2].reaches("open", 0);
    crowd.is_served(10 * SOME);
    assert_eq!((names.queries("query[A] users.internal"), resolves(&daemon, "ok")), (asked, looked));
    judge(&daemon, crowd, &mut servers);
}

#[test]
fn records_change_multiplex() {
    if in_own_network("records::records_change_multiplex") {
        records_change_under_load(&Protocol::named("frame multiplex"), 1);
    }
}

#[test]
fn records_change_exclusive_with_two_workers() {
    if in_own_network("records::records_change_exclusive_with_two_workers") {
        records_change_under_load(&Protocol::named("frame exclusive"), 2);
    }
}

/// Service records give port, weight and priority: the lowest priority serves, by its weights; the next one stands by.
#[test]
fn services_change_under_load() {
    if !in_own_network("records::services_change_under_load") {
        return;
    }
    let p = Protocol::named("frame multiplex");
    let mut names = NameServer::new();
    let host = |name: &str, ip: &str| format!("--host-record={name}.internal,{ip}");
    let hosts = [host("a", "127.0.0.1"), host("b", "127.0.0.2"), host("c", "127.0.0.3")];
    let record = |target: &str, priority: u16, weight: u16| {
        format!("--srv-host=_users._tcp.internal,{target}.internal,{PORT},{priority},{weight}")
    };
    let serve = |names: &mut NameServer, records: &[String]| {
        names.answers(1, &texts(&[&hosts[..], records].concat()));
    };
    serve(&mut names, &[record("a", 10, 30), record("b", 10, 10), record("c", 20, 0), record("gone", 10, 5)]);
    let mut servers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|host| server(&p, host));
    let daemon = p
        .plan("srv:_users._tcp.internal")
        .level("info")
        .set("balance.resolve", "\"1h\"")
        .set("balance.policy", "\"round_robin\"")
        .set("balance.slow_start", "\"0s\"")
        .start_ready();
    stands_for(&daemon, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    let crowd = Crowd::start(p, &daemon.address, CLIENTS, &["echo"]);
    crowd.is_served(20 * SOME);
    let [a, b, c] = servers.each_mut().map(|server| server.count("requests"));
    assert!(a > 2 * b && a < 4 * b && c == 0, "{a}, {b}, {c}");
    // Only what stood by is left; then it has company of its own priority.
    serve(&mut names, &[record("c", 20, 0)]);
    stands_for(&daemon, &["127.0.0.3"]);
    servers[0].reaches("open", 0);
    crowd.is_served(SOME);
    serve(&mut names, &[record("b", 20, 0), record("c", 20, 0)]);
    stands_for(&daemon, &["127.0.0.2", "127.0.0.3"]);
    let before = servers[1].count("requests");
    crowd.is_served(SOME);
    assert!(servers[1].count("requests") > before);
    names.stop();
    let failures = resolves(&daemon, "failed");
    becomes("failed look-ups", true, || resolves(&daemon, "failed") > failures + 1);
    crowd.is_served(SOME);
    stands_for(&daemon, &["127.0.0.2", "127.0.0.3"]);
    judge(&daemon, crowd, &mut servers);
}

/// What `/etc/hosts` says needs no name server, and holds until it is looked up by the clock.
#[test]
fn hosts_need_no_name_server() {
    if !in_own_network("records::hosts_need_no_name_server") {
        return;
    }
    let p = Protocol::named("line");
    let names = NameServer::new();
    names.files.hosts("users.internal", &["127.0.0.1"]);
    let mut servers = [server(&p, "127.0.0.1")];
    let daemon = plan(&p, &format!("users.internal:{PORT}")).start_ready();
    let crowd = Crowd::start(p, &daemon.address, 2, &["echo"]);
    crowd.is_served(SOME);
    assert_eq!(resolves(&daemon, "failed"), 0);
    judge(&daemon, crowd, &mut servers);
}
