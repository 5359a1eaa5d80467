//! Several threads: how many there are, that caps stay hard, that nothing is lost between them.
//!
//! The main job on several threads is in `main_job`, faults in `matrix`. Any process test runs on N threads with
//! `WARMLINE_WORKERS=N`.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod common;

use common::{Client, Daemon, Load, Plan, Server, Wire, becomes, call, eventually, stream};
use rustix::process::Signal;

const WIRE: Wire = Wire::Tagged;
/// The name of the second upstream.
const OTHER: &str = "y";

#[test]
fn there_are_as_many_as_asked_for() {
    let server = Server::start(WIRE, &[]);
    let cores = std::thread::available_parallelism().unwrap().get();
    for (workers, threads) in [(1, 1), (3, 3), (0, cores)] {
        let mut daemon = Plan::new(WIRE, "exclusive", &server.address).workers(workers).start_ready();
        assert_eq!(daemon.threads(), threads);
        assert_eq!(daemon.bounds()["workers"], threads);
        assert!(daemon.open_fds() < daemon.bounds()["file_descriptors"].as_u64().unwrap() - 10_000);
        assert_eq!(daemon.terminate(), Some(0));
    }
}

/// Two upstreams, and so two homes.
struct Pair {
    servers: [Server; 2],
    daemon: Daemon,
}

impl Pair {
    fn start(workers: usize, mode: &str, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let servers = [(); 2].map(|()| Server::start(WIRE, args));
        let plan = |server: &Server| {
            let plan = Plan::new(WIRE, mode, &server.address);
            settings.iter().fold(plan, |plan, (key, value)| plan.set(key, value))
        };
        let plan = plan(&servers[0]).beside(OTHER, &plan(&servers[1])).workers(workers);
        Self { daemon: plan.start_ready(), servers }
    }

    fn addresses(&self) -> [String; 2] {
        [self.daemon.address.clone(), self.daemon.address_of(OTHER).unwrap()]
    }
}

/// Connections that retire, and that the server resets, are replaced as fast as they go: never before they are
/// closed. The server counts those that the kernel has not heard the end of.
fn the_cap_is_hard(mode: &str, workers: usize) {
    const CAP: u64 = 3;
    let settings = [
        ("pool.min_connections", "2"),
        ("pool.max_connections", &CAP.to_string()),
        ("pool.max_requests", "3"),
        ("pool.acquire_timeout", "\"1m\""),
    ];
    let mut pair = Pair::start(workers, mode, &[], &settings);
    let addresses = pair.addresses();
    let start = |address: &String| {
        let ask = |verb, count| format!("--verb {verb} --connections {count} --concurrency 8");
        [ask("echo", 6000), ask("after:rst", 600), ask("close", 300)]
            .map(|args| Load::start(address, WIRE, &args))
    };
    let loads = addresses.each_ref().map(start);
    let totals = loads.map(|loads| loads.map(Load::finish));
    for ([echo, after, close], server) in totals.iter().zip(&mut pair.servers) {
        let ended = |totals: &common::Totals| totals.count("ok") + totals.count("refused");
        assert_eq!([echo, after, close].map(ended), [6000, 600, 300], "{echo:?} {after:?} {close:?}");
        assert!(server.count("accepted") > 1000, "connections came and went");
        assert_eq!(server.count("max_open"), CAP, "{mode} on {workers} threads");
        server.assert_no_violation();
    }
    pair.daemon.assert_conserved();
    assert_eq!(pair.daemon.threads(), workers);
    assert_eq!(pair.daemon.terminate(), Some(0));
}

#[test]
fn the_cap_is_hard_on_one_thread() {
    the_cap_is_hard("exclusive", 1);
}

#[test]
fn the_cap_is_hard_on_two_threads() {
    the_cap_is_hard("exclusive", 2);
    the_cap_is_hard("multiplex", 2);
}

#[test]
fn the_cap_is_hard_on_four_threads() {
    the_cap_is_hard("pipeline", 4);
}

/// Clients whose requests are at the server, until every worker has some of them: a worker knows an epoll
/// entry for each.
fn clients_on_every_worker(pair: &mut Pair) -> Vec<(Client, common::Asked)> {
    let addresses = pair.addresses();
    let before = pair.daemon.known_to_reactors();
    let mut clients = Vec::new();
    eventually("clients on every worker", || {
        // A stopped daemon finds them all at once when it goes on, and no worker is fast enough to take them all.
        pair.daemon.signal(Signal::STOP);
        for address in addresses.iter().cycle().take(40) {
            let client = Client::connect(address, WIRE);
            let asked = client.ask("hold");
            clients.push((client, asked));
        }
        pair.daemon.signal(Signal::CONT);
        let held = |server: &mut Server| server.count("held");
        becomes("requests held", clients.len() as u64, || pair.servers.iter_mut().map(held).sum());
        let known = pair.daemon.known_to_reactors();
        known.iter().zip(&before).all(|(now, before)| now > before).then_some(())
    });
    clients
}

#[test]
fn a_drain_answers_the_clients_of_every_worker() {
    for workers in [2, 4] {
        let mut pair = Pair::start(workers, "multiplex", &["--out-of-order"], &[]);
        let mut clients = clients_on_every_worker(&mut pair);
        let addresses = pair.addresses();
        let idle = addresses.each_ref().map(|address| call(address, WIRE, "echo"));
        pair.daemon.signal(Signal::TERM);
        for address in &addresses {
            eventually("refused connects", || std::net::TcpStream::connect(address).is_err().then_some(()));
        }
        idle.iter().for_each(Client::expect_end);
        for server in &mut pair.servers {
            server.ask("release");
        }
        for (client, asked) in &mut clients {
            client.expect(asked);
        }
        assert_eq!(pair.daemon.wait(), Some(0));
        for server in &mut pair.servers {
            server.reaches("open", 0);
            assert_eq!(server.count("ended_fin"), server.count("accepted"), "a plain end of each connection");
            server.assert_no_violation();
        }
    }
}

#[test]
fn a_second_signal_cuts_the_clients_of_every_worker() {
    let mut pair = Pair::start(3, "multiplex", &["--out-of-order"], &[]);
    let clients = clients_on_every_worker(&mut pair);
    pair.daemon.signal(Signal::TERM);
    eventually("draining", || (pair.daemon.get("/readyz").0 == 503).then_some(()));
    pair.daemon.signal(Signal::TERM);
    assert_eq!(pair.daemon.wait(), Some(75));
    let ends = clients.iter().map(|(client, _)| client.read_to_end());
    let is_reset = |(bytes, end): &(Vec<u8>, std::io::Result<usize>)| {
        end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
            && bytes.is_empty()
    };
    let plain = ends.filter(|end| !is_reset(end)).collect::<Vec<_>>();
    assert!(plain.is_empty(), "{} of {} are no resets: {:?}", plain.len(), clients.len(), plain[0]);
}

#[test]
fn a_drain_in_the_middle_of_a_load_loses_nothing() {
    for (mode, args) in [("exclusive", "--exclusive"), ("multiplex", "--out-of-order")] {
        let mut pair = Pair::start(2, mode, &[args], &[]);
        let loads = pair
            .addresses()
            .map(|address| Load::start(&address, WIRE, "--connections 20000 --concurrency 8"));
        eventually("load", || pair.servers.iter_mut().all(|s| s.count("requests") > 500).then_some(()));
        pair.daemon.signal(Signal::TERM);
        let totals = loads.map(Load::finish);
        assert_eq!(pair.daemon.wait(), Some(0));
        for (totals, server) in totals.iter().zip(&mut pair.servers) {
            server.assert_no_violation();
            assert_eq!(server.count("requests"), totals.count("ok"), "{mode}: answered if it travelled");
            assert!(totals.count("ok") < 20_000, "the drain came in the middle");
        }
    }
}

#[test]
fn at_the_cap_one_idle_client_goes_for_each_new_one() {
    const CAP: u64 = 6;
    let server = Server::start(WIRE, &["--exclusive"]);
    // A client that takes long to go on a busy machine has another one asked: the best of some rounds counts.
    let evicted = (0..5).map(|_| {
        let daemon = Plan::new(WIRE, "exclusive", &server.address)
            .global("limits.max_clients", &CAP.to_string())
            .workers(4)
            .start_ready();
        let idle = (0..CAP).map(|_| call(&daemon.address, WIRE, "echo")).collect::<Vec<_>>();
        let new = (0..CAP).map(|_| call(&daemon.address, WIRE, "echo")).collect::<Vec<_>>();
        // Who was served last need not be the last to be idle.
        eventually("clients that went", || {
            let ended =
                idle.iter().chain(&new).filter(|client| !client.stream.is_held_by_peer()).count() as u64;
            (ended >= CAP && daemon.metric("clients_evicted_total", &[]) == ended).then_some(())
        });
        assert!(daemon.metric("client_connections", &[]) <= CAP);
        drop(new);
        daemon.metric("clients_evicted_total", &[])
    });
    let mut seen = Vec::new();
    let fine = evicted.inspect(|evicted| seen.push(*evicted)).any(|evicted| evicted == CAP);
    assert!(fine, "{seen:?} clients went for {CAP}");
}

#[test]
fn a_socket_file_goes_with_the_last_of_its_threads() {
    let folder = common::Folder::new();
    let path = folder.path().join("listen.sock");
    let server = Server::start(Wire::Line, &["--exclusive"]);
    let mut daemon = Plan::new(Wire::Line, "exclusive", &server.address)
        .listen(&format!("unix:{}", path.display()))
        .workers(3)
        .start_ready();
    Load::start(&daemon.address, Wire::Line, "--connections 3000 --concurrency 8")
        .finish()
        .assert_all_ok(3000);
    assert!(path.exists());
    assert_eq!(daemon.terminate(), Some(0));
    assert!(!path.exists());
}

/// A client of one thread and a server of another, each faster than the other in turns. Nothing but what one tells
/// the other wakes anybody here: all timeouts are out of reach.
#[test]
fn messages_in_parts_go_on_between_threads() {
    const SIZE: u64 = 3 << 20;
    for mode in ["exclusive", "multiplex"] {
        let wire = Wire::Wide;
        let plan = Plan::new(wire, mode, &stream::serve(wire)).set("pool.max_connections", "2");
        let timeouts = ["timeouts.request", "timeouts.client_progress", "pool.acquire_timeout"];
        let daemon =
            timeouts.iter().fold(plan, |plan, key| plan.set(key, "\"10m\"")).workers(2).start_ready();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let client = stream::connect(&daemon.address);
                    for _ in 0..25 {
                        let head = stream::request_head(wire, SIZE, SIZE, false);
                        std::io::Write::write_all(&mut &client, &head).unwrap();
                        stream::write(&client, SIZE - 16).unwrap();
                        stream::expect_reply(&client, wire, SIZE);
                    }
                });
            }
        });
        assert_eq!(daemon.outcome("ok"), 100);
        let early = daemon.metric("upstream_closed_total", &[("reason", "early")]);
        assert_eq!(early, 0, "{mode}: replies taken for early ones");
        daemon.assert_conserved();
    }
}

/// A server whose replies are in parts, the last bytes some microseconds behind the others.
fn serve_in_two_steps(wire: Wire, front: usize, rest: usize) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move |mut server: std::net::TcpStream| -> std::io::Result<()> {
        server.set_nodelay(true)?;
        let bytes = (front + rest - wire.header()) as u64;
        for turn in 0.. {
            let mut request = vec![0; wire.header() + 16];
            std::io::Read::read_exact(&mut server, &mut request)?;
            let mut reply = wire.head(bytes, 0, 0);
            let at = wire.header() - 8;
            reply[at..].copy_from_slice(&request[at..wire.header()]);
            stream::write(&mut reply, bytes)?;
            std::io::Write::write_all(&mut server, &reply[..front])?;
            (0..turn % 200 * 100).for_each(|_| std::hint::spin_loop());
            std::io::Write::write_all(&mut server, &reply[front..])?;
        }
        Ok(())
    };
    std::thread::spawn(move || {
        for server in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || serve(server));
        }
    });
    address
}

/// The end of a reply in parts comes from another thread, at any moment: also while its session looks whether the
/// reply is late.
#[test]
fn a_reply_in_parts_that_ends_on_another_thread_is_not_cut() {
    const EACH: u64 = 20_000;
    const CLIENTS: u64 = 4;
    const SIZES: (usize, usize) = (4200, 100);
    let wire = Wire::Wide;
    let daemon = Plan::new(wire, "exclusive", &serve_in_two_steps(wire, SIZES.0, SIZES.1))
        .set("pool.max_connections", "4")
        .set("pool.max_buffered", "\"4KiB\"")
        .workers(2)
        .start_ready();
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = stream::connect(&daemon.address);
                for turn in 0..EACH {
                    let head = stream::request_head(wire, 16, 0, false);
                    std::io::Write::write_all(&mut &client, &head).unwrap();
                    stream::expect_reply(&client, wire, (SIZES.0 + SIZES.1 - wire.header()) as u64);
                    if turn % 100 == 99 {
                        client = stream::connect(&daemon.address);
                    }
                }
            });
        }
    });
    assert_eq!(daemon.outcome("ok"), EACH * CLIENTS);
    daemon.assert_conserved();
}
