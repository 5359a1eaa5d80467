//! The listener over real sockets, its pools scripted.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::*;
use crate::lifecycle::Switch;
use crate::pool::tests::world::{HEARTBEAT, World, message, protocol, settings, settle};
use crate::protocol::Mode;
use crate::session::ClientClose;
use crate::wire::Budget;

const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    world: World,
    port: u16,
    open: Switch,
    front: Switch,
    aim: Aim,
    task: tokio::task::JoinHandle<()>,
}

fn target(
    world: &World,
    front: &Switch,
    max_clients: usize,
    process: Arc<Permits>,
    idle: &IdleClients,
) -> Arc<Target> {
    let session = session::Shared {
        settings: session::Settings {
            one_shot: false,
            client_close: ClientClose::Auto,
            client_read: 10 * SECOND,
            client_idle: 300 * SECOND,
            client_write: 30 * SECOND,
            client_progress: 5 * SECOND,
            max_per_client: 4,
            max_buffered: 64 << 10,
            max_reply_buffered: None,
        },
        protocol: protocol(),
        pool: world.pool.clone(),
        budget: Budget::new(1 << 20),
        idle: IdleClients::within(idle),
        front: front.watch(),
        back: world.back.hold(),
    };
    let places = Places { process, upstream: Permits::new(max_clients), idle: idle.clone() };
    Arc::new(Target { uids: Vec::new(), places, session: Arc::new(session) })
}

fn start(max_clients: usize, process: Arc<Permits>, idle: &IdleClients) -> Fixture {
    let world = World::new(settings(Mode::Multiplex, 0, 1));
    let (open, front) = (Switch::new(), Switch::new());
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let access = Access { mode: 0o600, uids: Vec::new() };
    let socket = net::Listener::bind(&address, &access, Inherited::default()).unwrap().remove(0);
    let Address::Tcp { port, .. } = *socket.address() else { unreachable!() };
    let target = target(&world, &front, max_clients, process, idle);
    let listener = Listener::new(socket, target);
    let aim = listener.aim();
    let task = tokio::spawn(listener.run(open.watch()));
    Fixture { world, port, open, front, aim, task }
}

/// A client between two requests.
async fn idle_client(port: u16) -> TcpStream {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&message(HEARTBEAT, 1, b"")).unwrap();
    sleep(SECOND / 10).await;
    client.read_exact(&mut [0; 5]).unwrap();
    client
}

#[tokio::test]
async fn at_the_cap_nobody_gives_way_to_nobody() {
    let it = start(2, Permits::new(100), &IdleClients::default());
    let _clients = [idle_client(it.port).await, idle_client(it.port).await];
    sleep(SECOND / 2).await;
    assert_eq!(it.world.events.clients_evicted.get(), 0);
}

#[tokio::test]
async fn a_drain_takes_in_whom_the_reactor_has_not_seen_yet() {
    let it = start(10, Permits::new(100), &IdleClients::default());
    sleep(SECOND / 10).await;
    let _client = TcpStream::connect(("127.0.0.1", it.port)).unwrap();
    it.open.drain();
    it.task.await.unwrap();
    settle().await;
    assert_eq!(it.world.events.clients_opened.get(), 1);
}

#[tokio::test]
async fn at_the_cap_of_the_process_idle_clients_of_others_give_way() {
    let process = Permits::new(2);
    let idle = IdleClients::default();
    let (a, b) = (start(2, process.clone(), &idle), start(2, process, &idle));
    let _idle = [idle_client(a.port).await, idle_client(a.port).await];
    sleep(SECOND / 2).await;
    let _new: Vec<_> = (0..2).map(|_| TcpStream::connect(("127.0.0.1", b.port)).unwrap()).collect();
    let start = Instant::now();
    while b.world.events.clients_opened.get() < 2 && start.elapsed() < 2 * SECOND {
        sleep(SECOND / 20).await;
    }
    assert_eq!(b.world.events.clients_opened.get(), 2);
}

#[tokio::test]
async fn one_place_and_two_listeners_that_wait_for_it() {
    let process = Permits::new(1);
    let idle = IdleClients::default();
    let (a, b) = (start(2, process.clone(), &idle), start(2, process.clone(), &idle));
    let opened = || a.world.events.clients_opened.get() + b.world.events.clients_opened.get();
    let first = TcpStream::connect(("127.0.0.1", a.port)).unwrap();
    sleep(SECOND / 20).await;
    assert_eq!(opened(), 1);
    let _waiting = [a.port, b.port].map(|port| TcpStream::connect(("127.0.0.1", port)).unwrap());
    sleep(SECOND / 20).await;
    drop(first);
    sleep(SECOND).await;
    assert_eq!(opened(), 2, "a place is free and nobody gets it");
}

#[tokio::test]
async fn from_a_change_on_clients_are_for_the_new_target() {
    let idle = IdleClients::default();
    let (process, other) = (Permits::new(100), World::new(settings(Mode::Multiplex, 0, 1)));
    let it = start(10, process.clone(), &idle);
    let mut before = idle_client(it.port).await;
    it.aim.set(target(&other, &it.front, 10, process, &idle));
    let _after = idle_client(it.port).await;
    let opened = |world: &World| world.events.clients_opened.get();
    assert_eq!((opened(&it.world), opened(&other)), (1, 1));
    before.write_all(&message(HEARTBEAT, 1, b"")).unwrap();
    sleep(SECOND / 10).await;
    before.read_exact(&mut [0; 5]).unwrap();
}

#[tokio::test]
async fn who_waits_for_a_place_gets_one_of_the_new_target() {
    let idle = IdleClients::default();
    let (process, other) = (Permits::new(100), World::new(settings(Mode::Multiplex, 0, 1)));
    let it = start(1, process.clone(), &idle);
    let clients = [it.port; 2].map(|port| TcpStream::connect(("127.0.0.1", port)).unwrap());
    sleep(SECOND / 5).await;
    it.aim.set(target(&other, &it.front, 10, process.clone(), &idle));
    let start = Instant::now();
    while other.events.clients_opened.get() == 0 && start.elapsed() < 2 * SECOND {
        sleep(SECOND / 20).await;
    }
    assert_eq!((it.world.events.clients_opened.get(), other.events.clients_opened.get()), (1, 1));
    drop(clients);
    process.all_returned().await;
}

#[tokio::test]
async fn a_closing_listener_takes_in_who_waits_for_the_new_target() {
    let idle = IdleClients::default();
    let (process, other) = (Permits::new(100), World::new(settings(Mode::Multiplex, 0, 1)));
    let it = start(0, process.clone(), &idle);
    let _waits = TcpStream::connect(("127.0.0.1", it.port)).unwrap();
    sleep(SECOND / 5).await;
    it.open.drain();
    it.aim.set(target(&other, &it.front, 10, process, &idle));
    it.task.await.unwrap();
    settle().await;
    assert_eq!(other.events.clients_opened.get(), 1);
}

/// What a client has sent before it is asked to make room is no less a request because the reactor has not
/// told of it yet.
#[tokio::test]
async fn an_idle_client_that_has_just_asked_is_not_evicted() {
    let idle = IdleClients::default();
    let it = start(10, Permits::new(100), &idle);
    let mut client = idle_client(it.port).await;
    client.write_all(&message(HEARTBEAT, 2, b"")).unwrap();
    assert!(idle.evict_oldest());
    sleep(SECOND / 10).await;
    let mut answer = [0; 5];
    client.set_read_timeout(Some(SECOND)).unwrap();
    client.read_exact(&mut answer).unwrap();
    assert_eq!(it.world.events.clients_evicted.get(), 0);
}

/// Sends `message` without a pause and reads what comes as fast, until it is told to stop: in the end by itself,
/// or broken code would hold up the one who tells it.
fn flood(port: u16, message: &[u8], stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<()> {
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut reader = client.try_clone().unwrap();
    let (chunk, stop) = (message.repeat(4096), stop.clone());
    std::thread::spawn(move || {
        let mut scratch = vec![0; 1 << 16];
        while reader.read(&mut scratch).is_ok_and(|read| read > 0) {}
    });
    std::thread::spawn(move || {
        let start = Instant::now();
        while !stop.load(Relaxed) && start.elapsed() < 5 * SECOND && client.write_all(&chunk).is_ok() {}
        let _ = client.shutdown(std::net::Shutdown::Both);
    })
}

#[tokio::test]
async fn a_client_whose_requests_are_refused_at_once_does_not_hold_up_the_others() {
    let it = start(10, Permits::new(100), &IdleClients::default());
    it.world.back.drain();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = flood(it.port, &message(0, 2, b""), &stop);
    let accepted = || it.world.events.accepted.get();
    while accepted() == 0 {
        sleep(SECOND / 200).await;
    }
    // How many of its requests are taken in between two turns of somebody else.
    let mut most = 0;
    while !flood.is_finished() && accepted() < 1 << 20 {
        let before = accepted();
        tokio::task::yield_now().await;
        most = most.max(accepted() - before);
    }
    assert!(most < 1 << 14, "{most} requests of one client in a row");
    stop.store(true, Relaxed);
}
