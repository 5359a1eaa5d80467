//! Reloads: whatever another configuration changes, nobody who is being served notices, and a wrong one changes
//! nothing.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]
#![allow(clippy::disallowed_methods, reason = "plain threads, no runtime")]

mod common;

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{
    Crowd, Daemon, End, Folder, Plan, Protocol, Server, UPSTREAM, becomes, call, eventually, in_protocol,
    sampling, socket,
};
use rustix::process::{Pid, Signal, kill_process};

const RELOADS: usize = 100;
const CLIENTS: usize = 4;
/// Requests that are served between two reloads.
const SOME: u64 = 10;
/// The most upstream connections of any plan of the long run.
const CAP: u64 = 8;

in_protocol!(multiplex, "frame multiplex", on_one_thread, on_two_threads, one_place, removed);
in_protocol!(exclusive, "frame exclusive", on_one_thread, on_two_threads, one_place, removed, resized);
in_protocol!(line, "line", on_one_thread, on_two_threads, swapped, whole_process, too_late);

fn on_one_thread(p: &Protocol) {
    many(p, 1);
}

fn on_two_threads(p: &Protocol) {
    many(p, 2);
}

/// Everybody that takes part in the long run.
struct Scene {
    protocol: Protocol,
    workers: usize,
    folder: Folder,
    servers: [Server; 3],
    /// An address that belongs to somebody else.
    taken: TcpListener,
}

impl Scene {
    fn new(protocol: Protocol, workers: usize) -> Self {
        let servers = [(); 3].map(|()| protocol.server());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { protocol, workers, folder: Folder::new(), servers, taken }
    }

    fn socket(&self, name: &str) -> String {
        format!("unix:{}", self.folder.path().join(name).display())
    }

    fn base(&self, cap: u64) -> Plan {
        let plan = self.protocol.plan(&self.servers[0].address).level("info").workers(self.workers);
        plan.set("pool.max_connections", &cap.to_string()).set("pool.idle_timeout", "\"300ms\"")
    }

    /// Plans that differ from each other and from the base in all that may change.
    fn valid(&self, number: usize) -> Plan {
        let base = self.base(CAP);
        match number % 7 {
            0 => base.set("timeouts.request", "\"14s\"").set("pool.min_connections", "3"),
            1 => base.endpoints(&[&self.servers[0].address, &self.servers[1].address]),
            2 => base.set("sockets.nodelay", "false"),
            3 => {
                let other = self.protocol.plan(&self.servers[2].address).listen(&self.socket("other"));
                base.beside("other", &other)
            }
            4 => base.set(self.protocol.max_message(), "\"1MiB\""),
            5 => base.listen_on(&["127.0.0.1:0", &self.socket("also")]),
            _ => self.base(CAP / 2).set("max_clients", "100").set("health.interval", "\"1s\""),
        }
    }

    /// A text that cannot be run, and what becomes of it.
    fn invalid(&self, daemon: &Daemon, number: usize) -> &'static str {
        match number % 3 {
            0 => daemon.reload_text("[upstreams.x\n"),
            1 => daemon.reload(&self.base(CAP).set("pool.max_connectoins", "3")),
            _ => {
                let taken = self.taken.local_addr().unwrap().to_string();
                daemon.reload(&self.base(CAP).listen_on(&["127.0.0.1:0", &self.socket("no"), &taken]))
            }
        }
    }

    /// What only some plans have is there.
    fn look(&self, number: usize) {
        match number % 7 {
            3 => drop(call(&self.socket("other"), self.protocol.wire, "echo")),
            5 => drop(call(&self.socket("also"), self.protocol.wire, "echo")),
            _ => {}
        }
        assert!(!self.folder.path().join("no").exists(), "a refused plan has left a socket");
    }
}

/// Clients that ask again and again on connections of their own, which some of them change now and then. Gives
/// what they were served in the end.
fn regulars(p: &Protocol, address: &str, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<u64>> {
    let regular = |requests: u64| {
        let (p, address, stop) = (*p, address.to_owned(), stop.clone());
        std::thread::spawn(move || {
            let mut served = 0;
            while !stop.load(SeqCst) {
                let mut client = p.client(&address);
                for _ in (0..requests).take_while(|_| !stop.load(SeqCst)) {
                    let asked = client.ask("echo");
                    client.expect(&asked);
                    served += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            served
        })
    };
    [u64::MAX, 40, 7].map(regular).into()
}

fn many(p: &Protocol, workers: usize) {
    let mut scene = Scene::new(*p, workers);
    let daemon = scene.base(CAP).start_ready();
    daemon.wait_still();
    let fds = daemon.open_fds();
    let stop = Arc::<AtomicBool>::default();
    let regulars = regulars(p, &daemon.address, &stop);
    let crowd = Crowd::start(*p, &daemon.address, CLIENTS, &["echo", "delay:2"]);
    for number in 0..RELOADS / 2 {
        assert_eq!(daemon.reload(&scene.valid(number)), "ok", "{number}");
        scene.look(number);
        crowd.is_served(SOME);
        let expected = ["invalid", "invalid", "failed"][number % 3];
        assert_eq!(scene.invalid(&daemon, number), expected, "{number}");
        scene.look(number);
        crowd.is_served(SOME);
    }
    let calls = crowd.finish();
    stop.store(true, SeqCst);
    let others: u64 = regulars.into_iter().map(|regular| regular.join().unwrap()).sum();
    let failed = calls.iter().filter(|call| call.end != End::Replied).count();
    assert_eq!(failed, 0, "of {} requests", calls.len());
    assert_eq!(daemon.reloads(), [50, 34, 16]);
    let log = daemon.log_text();
    assert!(log.contains("unknown key `max_connectoins`") && log.contains("^^^^"), "no caret in\n{log}");

    assert_eq!(daemon.reload(&scene.base(CAP)), "ok");
    becomes("file descriptors", fds, || daemon.open_fds());
    daemon.assert_conserved();
    let through_also = (0..RELOADS / 2).filter(|number| number % 7 == 5).count() as u64 * 2;
    assert_eq!(daemon.outcome("ok"), calls.len() as u64 + others + through_also);
    for server in &mut scene.servers {
        assert!(server.count("max_open") <= CAP, "more connections than allowed");
        server.assert_no_violation();
    }
}

/// Two generations share the only connection there may be.
fn one_place(p: &Protocol) {
    let mut server = p.server();
    let plan = p.pool(&server, 1);
    let daemon = plan.clone().start_ready();
    let mut before = p.client(&daemon.address);
    let held = before.ask("hold");
    server.reaches("held", 1);
    assert_eq!(daemon.reload(&plan.set("sockets.nodelay", "false")), "ok");
    let mut after = p.client(&daemon.address);
    let waiting = after.ask("echo");
    becomes("waiting requests", 1, || daemon.metric("queue_waiting", &[("upstream", UPSTREAM)]));
    server.ask("release");
    before.expect(&held);
    after.expect(&waiting);
    for _ in 0..10 {
        for client in [&mut before, &mut after] {
            let asked = client.ask("echo");
            client.expect(&asked);
        }
    }
    assert_eq!(daemon.metric("upstream_connections", &[]), 1);
    drop(before);
    server.reaches("open", 1);
    assert_eq!(server.count("max_open"), 1);
    server.assert_no_violation();
}

/// What a removed upstream took in, it answers; then nothing is left of it.
fn removed(p: &Protocol) {
    let (mut server, mut other) = (p.server(), p.server());
    let folder = Folder::new();
    let address = format!("unix:{}", folder.path().join("other").display());
    let plan = p.plan(&server.address);
    let both = plan.clone().beside("other", &p.plan(&other.address).listen(&address));
    let daemon = both.start_ready();
    let idle = call(&address, p.wire, "echo");
    let mut busy = p.client(&address);
    let held = busy.ask("hold");
    other.reaches("held", 1);
    assert_eq!(daemon.reload(&plan), "ok");
    idle.expect_end();
    eventually("nobody listens", || socket::Stream::connect(&address).is_err().then_some(()));
    assert_eq!(daemon.metric("requests_in_flight", &[("upstream", "other")]), 1);
    other.ask("release");
    busy.expect(&held);
    busy.expect_end();
    other.reaches("open", 0);
    becomes("metrics", false, || daemon.get("/metrics").1.contains("upstream=\"other\""));
    drop(call(&daemon.address, p.wire, "echo"));
    for server in [&mut server, &mut other] {
        server.assert_no_violation();
    }
}

/// A lower cap cuts nobody, and holds from then on; a higher one is used.
fn resized(p: &Protocol) {
    let mut server = p.server();
    let with = |cap: &str| p.plan(&server.address).set("pool.max_connections", cap);
    let (low, high) = (with("2"), with("8"));
    let daemon = high.clone().start_ready();
    let mut clients: Vec<_> = (0..8).map(|_| p.client(&daemon.address)).collect();
    let held: Vec<_> = clients.iter().map(|client| client.ask("hold")).collect();
    server.reaches("held", 8);
    assert_eq!(daemon.reload(&low), "ok");
    server.ask("release");
    clients.iter_mut().zip(&held).for_each(|(client, asked)| client.expect(asked));
    becomes("connections", 2, || daemon.upstream_sockets(&server.address));
    let at_most_two = || assert!(daemon.upstream_sockets(&server.address) <= 2);
    let calls = sampling(at_most_two, || {
        let crowd = Crowd::start(*p, &daemon.address, 8, &["delay:3"]);
        crowd.is_served(200);
        crowd.finish()
    });
    assert!(calls.iter().all(|call| call.end == End::Replied));

    assert_eq!(daemon.reload(&high), "ok");
    let held: Vec<_> = clients.iter().map(|client| client.ask("hold")).collect();
    server.reaches("held", 8);
    server.ask("release");
    clients.iter_mut().zip(&held).for_each(|(client, asked)| client.expect(asked));
    server.assert_no_violation();
}

/// Two upstreams change their addresses with each other, again and again.
fn swapped(p: &Protocol) {
    let mut servers = [p.server(), p.server()];
    let folder = Folder::new();
    let sockets = ["a", "b"].map(|name| format!("unix:{}", folder.path().join(name).display()));
    let plan = |x: usize| {
        let other = p.plan(&servers[1].address).listen(&sockets[1 - x]);
        p.plan(&servers[0].address).listen(&sockets[x]).beside("y", &other)
    };
    let (straight, crossed) = (plan(0), plan(1));
    let daemon = straight.clone().start_ready();
    let mut early = call(&sockets[0], p.wire, "echo");
    let crowds = [0, 1].map(|at| Crowd::start(*p, &sockets[at], CLIENTS, &["echo"]));
    for round in 0..20 {
        assert_eq!(daemon.reload(if round % 2 == 0 { &crossed } else { &straight }), "ok");
        for crowd in &crowds {
            crowd.is_served(SOME);
        }
    }
    for crowd in crowds {
        assert!(crowd.finish().iter().all(|call| call.end == End::Replied));
    }
    assert_eq!(daemon.reload(&crossed), "ok");
    let mut seen = |nonce: u128| {
        servers.each_mut().map(|server| server.ask(&format!("seen {nonce:032x}"))["seen"].as_u64().unwrap())
    };
    let asked = early.ask("echo");
    early.expect(&asked);
    assert_eq!(seen(asked.request.nonce), [1, 0], "who was there before stays where it is");
    for (socket, expected) in sockets.iter().zip([[0, 1], [1, 0]]) {
        let mut late = p.client(socket);
        let asked = late.ask("echo");
        late.expect(&asked);
        assert_eq!(seen(asked.request.nonce), expected, "{socket}");
    }
}

/// What holds for the whole process, and what needs a restart.
fn whole_process(p: &Protocol) {
    let mut server = p.server();
    let address = server.address.clone();
    let plan = |clients: &str| p.plan(&address).global("limits.max_clients", clients);
    let daemon = plan("1").level("info").start_ready();
    let mut first = p.client(&daemon.address);
    let held = first.ask("hold");
    server.reaches("held", 1);
    let mut second = p.client(&daemon.address);
    let asked = second.ask("echo");
    assert_eq!(daemon.metric("client_connections", &[]), 1);
    let other =
        plan("2").level("debug").global("limits.memory", "\"128MiB\"").set("sockets.nodelay", "false");
    assert_eq!(daemon.reload(&other), "ok");
    second.expect(&asked);
    let log = daemon.log_text();
    assert!(log.contains("\"keys\":\"limits.memory\""), "{log}");
    assert!(log.contains("\"replaced\":\"x\""), "{log}");
    eventually("a line of the new level", || daemon.log_text().contains("\"connected\"").then_some(()));
    server.ask("release");
    first.expect(&held);
}

/// In a drain a reload is ignored, and the drain goes on.
fn too_late(p: &Protocol) {
    let mut server = p.server();
    let mut daemon = p.plan(&server.address).start_ready();
    let mut client = p.client(&daemon.address);
    let held = client.ask("hold");
    server.reaches("held", 1);
    daemon.signal(Signal::TERM);
    eventually("a drain", || daemon.log_text().contains("\"draining\"").then_some(()));
    daemon.signal(Signal::HUP);
    eventually("a warning", || daemon.log_text().contains("SIGHUP ignored: draining").then_some(()));
    server.ask("release");
    client.expect(&held);
    assert_eq!(daemon.wait(), Some(0));
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let p = Protocol::named("line");
    let mut server = p.server();
    let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
    command.args(["run", "--listen", "127.0.0.1:0", "--protocol", "line", "--endpoint", &server.address]);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    server.reaches("open", 1);
    let pid = Pid::from_child(&child);
    let signal = |signal| kill_process(pid, signal).unwrap();
    signal(Signal::HUP);
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(log.any(|line| line.contains("SIGHUP ignored: there is no configuration file")));
    signal(Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_plan_that_needs_more_than_the_host_allows_changes_nothing() {
    let p = Protocol::named("line");
    let server = p.server();
    let daemon = p.plan(&server.address).global("limits.max_clients", "100").fd_limit(1000).start_ready();
    let greedy = p.plan(&server.address).global("limits.max_clients", "5000");
    assert_eq!(daemon.reload(&greedy), "failed");
    assert!(daemon.log_text().contains("file descriptors"), "{}", daemon.log_text());
    drop(call(&daemon.address, p.wire, "echo"));
}

/// A pipe would wait for who writes it, for ever.
#[test]
fn a_pipe_in_place_of_the_file_is_refused() {
    let p = Protocol::named("line");
    let server = p.server();
    let daemon = p.plan(&server.address).start_ready();
    std::fs::remove_file(daemon.config()).unwrap();
    assert!(Command::new("mkfifo").arg(daemon.config()).status().unwrap().success());
    assert_eq!(daemon.reload_as_it_is(), "invalid");
    eventually("a line of the log", || daemon.log_text().contains("is not a regular file").then_some(()));
    drop(call(&daemon.address, p.wire, "echo"));
    std::fs::remove_file(daemon.config()).unwrap();
    assert_eq!(daemon.reload(&p.plan(&server.address)), "ok");
}
