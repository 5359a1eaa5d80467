//! Sessions in paused time, the client and the server played by the test.
//! Long because it is a list: one story after another, none needing the next.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{ClientClose, IdleClients, Session, Settings, Shared};
use crate::events::{ClientTimeout, Outcome};
use crate::lifecycle::Switch;
use crate::pool::tests::world::{
    ERROR, HEARTBEAT, ONEWAY, Server, World, message, protocol, settings, settle,
};
use crate::protocol::{
    Answered, Downstream, Malformed, Mode, Protocol, Request, Tag, TagSpace, Upstream, line,
};
use crate::wire::{Budget, Output, Wire, memory};

const SECOND: Duration = Duration::from_secs(1);

mod hand_over;
mod jsonrpc;
mod oneway;
mod parts;
mod parts_trouble;
mod thrift;
mod trouble;

struct Front {
    world: World,
    shared: Arc<Shared>,
    switch: Switch,
}

impl Front {
    fn new(mode: Mode) -> Self {
        Self::with(mode, protocol(), |_| {}, Budget::new(1 << 20))
    }

    fn settings(mode: Mode) -> Settings {
        Settings {
            one_shot: false,
            client_close: ClientClose::Auto,
            client_read: 10 * SECOND,
            client_progress: 5 * SECOND,
            client_idle: 300 * SECOND,
            client_write: 30 * SECOND,
            max_per_client: if mode == Mode::Multiplex { 4 } else { 1 },
            max_buffered: 64 << 10,
            max_reply_buffered: (mode != Mode::Exclusive).then_some(1 << 20),
        }
    }

    fn with(mode: Mode, protocol: Arc<dyn Protocol>, change: fn(&mut Settings), budget: Budget) -> Self {
        let mut session = Self::settings(mode);
        change(&mut session);
        let world = World::with(settings(mode, 1, 1), protocol.clone());
        Self::of(world, protocol, session, budget)
    }

    fn of(world: World, protocol: Arc<dyn Protocol>, session: Settings, budget: Budget) -> Self {
        let switch = Switch::new();
        let shared = Arc::new(Shared {
            settings: session,
            protocol,
            pool: world.pool.clone(),
            budget,
            idle: IdleClients::default(),
            front: switch.watch(),
            back: world.back.hold(),
        });
        Self { world, shared, switch }
    }

    fn connect(&self) -> Client {
        let (near, far) = memory::pair(8192);
        let session = Session::new(far.into(), self.shared.clone());
        Client { wire: near.into(), session: tokio::spawn(session.run(())) }
    }

    async fn server(&mut self) -> Server {
        let server = self.world.accept().await;
        settle().await;
        server
    }
}

struct Client {
    wire: Wire,
    session: JoinHandle<()>,
}

impl Client {
    async fn send(&mut self, flags: u8, id: u16, payload: &[u8]) {
        self.wire.write_all(&message(flags, id, payload)).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, u16, Vec<u8>) {
        let mut head = [0; 4];
        self.wire.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(head[0]) - 4];
        self.wire.read_exact(&mut payload).await.unwrap();
        (head[1], u16::from_be_bytes([head[2], head[3]]), payload)
    }

    /// What comes until the end, and how it ends.
    async fn rest(&mut self) -> io::Result<Vec<u8>> {
        let mut rest = Vec::new();
        self.wire.read_to_end(&mut rest).await.map(|_| rest)
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_keeps_its_id_and_its_connection() {
    let mut front = Front::new(Mode::Multiplex);
    let mut server = front.server().await;
    let mut client = front.connect();
    for n in 0..3 {
        client.send(0, 0xbeef, &[n]).await;
        assert_eq!(server.echo().await, [n]);
        assert_eq!(client.receive().await, (0, 0xbeef, vec![n]));
    }
}

#[tokio::test(start_paused = true)]
async fn a_one_shot_client_is_closed_cleanly_after_its_reply() {
    let mut front = Front::with(Mode::Exclusive, protocol(), |s| s.one_shot = true, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = front.connect();
    // A second request that waits already is served too.
    client.wire.write_all(&[message(0, 1, b"a"), message(0, 2, b"b")].concat()).await.unwrap();
    server.echo().await;
    server.echo().await;
    let all = [message(0, 1, b"a"), message(0, 2, b"b")].concat();
    assert_eq!(client.rest().await.unwrap(), all);
    client.session.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_a_oneway_or_a_heartbeat_a_one_shot_client_is_waited_for() {
    let mut front = Front::with(Mode::Exclusive, protocol(), |s| s.one_shot = true, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = front.connect();
    client.send(HEARTBEAT, 5, b"").await;
    assert_eq!(client.receive().await, (0x40, 5, b"!".to_vec()));
    client.send(ONEWAY, 6, b"fire").await;
    assert_eq!(server.receive().await.2, b"fire");
    tokio::time::sleep(SECOND).await;
    assert!(!client.session.is_finished());
    client.send(0, 7, b"call").await;
    server.echo().await;
    assert_eq!(client.rest().await.unwrap(), message(0, 7, b"call"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_asks_without_end_lets_others_have_their_turn() {
    let front = Front::new(Mode::Multiplex);
    let mut client = front.connect();
    client.wire.write_all(&message(HEARTBEAT, 5, b"").repeat(1000)).await.unwrap();
    client.wire.shut_down();
    let mut buffer = [0; 8192];
    let first = client.wire.read(&mut buffer).await.unwrap();
    assert!(first < 1000, "{first} bytes before anybody else could do anything");
    // And it loses nothing by that.
    assert_eq!(first + client.rest().await.unwrap().len(), 1000 * message(0x40, 5, b"!").len());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_sends_without_end_gets_its_reply_meanwhile() {
    const BEATS: usize = 1500;
    let mut front = Front::new(Mode::Multiplex);
    let mut server = front.server().await;
    let mut client = front.connect();
    let beats = message(HEARTBEAT, 5, b"").repeat(BEATS);
    client.wire.write_all(&[message(0, 7, b"r"), beats].concat()).await.unwrap();
    client.wire.shut_down();
    server.echo().await;
    let mut before = 0;
    while client.receive().await.0 != 0 {
        before += 1;
    }
    assert!(before < BEATS, "it came last");
}

/// Or a client whose requests were refused would be behind all others, however little it asks from then on.
#[tokio::test(start_paused = true)]
async fn what_was_refused_leaves_its_round_to_the_next() {
    let mut plan = settings(Mode::Multiplex, 1, 1);
    plan.max_in_flight = 1;
    let world = World::with(plan, protocol());
    let mut front = Front::of(world, protocol(), Front::settings(Mode::Multiplex), Budget::new(1 << 20));
    let _server = front.server().await;
    let mut other = front.connect();
    other.send(0, 1, b"in flight").await;
    settle().await;
    let (near, far) = memory::pair(8192);
    let mut client = Wire::from(near);
    let mut session = Session::new(far.into(), front.shared.clone());
    assert_eq!(session.next_round(), 0);
    client
        .write_all(&[message(0, 1, b"a"), message(0, 2, b"b"), message(0, 3, b"c")].concat())
        .await
        .unwrap();
    session.turn().unwrap();
    let rounds: Vec<_> = session.outstanding.iter().filter_map(|(_, ticket)| ticket.round()).collect();
    let [first, second, third] = rounds[..] else { panic!("{rounds:?}") };
    assert!(first < second && second < third);
    assert_eq!(session.next_round(), third + 1);
    session.outstanding.remove(1);
    assert_eq!(session.next_round(), second);
    // In the round in which it was served it has had its turn.
    session.round = second;
    assert_eq!(session.next_round(), third + 1);
}

#[tokio::test(start_paused = true)]
async fn a_half_closing_client_gets_its_reply_and_a_clean_end() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let mut client = front.connect();
    client.send(0, 1, b"a").await;
    client.wire.shut_down();
    settle().await;
    server.echo().await;
    assert_eq!(client.rest().await.unwrap(), message(0, 1, b"a"));
}

#[tokio::test(start_paused = true)]
async fn a_fin_after_the_reply_is_answered_with_rst_unless_told_otherwise() {
    for (close, resets) in [(ClientClose::Auto, true), (ClientClose::Reset, true), (ClientClose::Fin, false)]
    {
        let mut front = Front::new(Mode::Exclusive);
        Arc::get_mut(&mut front.shared).unwrap().settings.client_close = close;
        let mut server = front.server().await;
        let mut client = front.connect();
        client.send(0, 1, b"a").await;
        server.echo().await;
        client.receive().await;
        settle().await;
        client.wire.shut_down();
        assert_eq!(client.rest().await.is_err(), resets, "{close:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resets_abandons_its_call() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let mut client = front.connect();
    client.send(0, 1, b"a").await;
    server.receive().await;
    client.wire.reset();
    client.session.await.unwrap();
    assert_eq!(front.world.outcomes(Outcome::ClientGone), 1);
    front.world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn a_oneway_request_outlives_its_client() {
    for reset in [true, false] {
        let front = Front::new(Mode::Exclusive);
        let mut client = front.connect();
        // No connection is open yet: the request waits.
        client.send(ONEWAY, 1, b"fire").await;
        settle().await;
        if reset {
            client.wire.reset();
        } else {
            drop(client.wire);
        }
        let mut front = front;
        let mut server = front.world.accept().await;
        assert_eq!(server.receive().await.2, b"fire");
        client.session.await.unwrap();
        assert_eq!(front.world.outcomes(Outcome::Sent), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_ahead_is_answered_in_order_one_at_a_time() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let mut client = front.connect();
    let ahead: Vec<u8> = (0..200u16).flat_map(|n| message(0, n, b"payload")).collect();
    client.wire.write_all(&ahead).await.unwrap();
    client.wire.shut_down();
    for n in 0..200 {
        settle().await;
        assert_eq!(front.world.events.accepted.get(), n + 1, "one outstanding");
        server.echo().await;
    }
    assert_eq!(client.rest().await.unwrap(), ahead);
}

#[tokio::test(start_paused = true)]
async fn a_tagged_client_has_up_to_max_per_client_outstanding() {
    let mut front = Front::new(Mode::Multiplex);
    let mut server = front.server().await;
    let mut client = front.connect();
    for id in 0..6 {
        client.send(0, id, &[]).await;
    }
    settle().await;
    assert_eq!(front.world.events.accepted.get(), 4);
    let mut tags = Vec::new();
    for _ in 0..4 {
        tags.push(server.receive().await.1);
    }
    server.send(0, tags[3], b"last first").await;
    assert_eq!(client.receive().await, (0, 3, b"last first".to_vec()));
    settle().await;
    assert_eq!(front.world.events.accepted.get(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_comes_in_the_protocols_words_with_the_clients_id() {
    let mut front = Front::new(Mode::Multiplex);
    let mut server = front.server().await;
    let mut client = front.connect();
    client.send(0, 0x1234, b"a").await;
    server.receive().await;
    assert_eq!(client.receive().await, (ERROR, 0x1234, b"!".to_vec()));
    assert_eq!(front.world.outcomes(Outcome::Timeout), 1);
}

#[tokio::test(start_paused = true)]
async fn without_words_the_client_is_told_by_a_close() {
    let line = Arc::new(line::Line::new(&line::Settings::default()).unwrap());
    let mut front = Front::with(Mode::Exclusive, line, |_| {}, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = front.connect();
    client.wire.write_all(b"hello\n").await.unwrap();
    server.wire.read_exact(&mut [0; 6]).await.unwrap();
    server.wire.reset();
    assert_eq!(client.rest().await.unwrap(), b"");
    assert_eq!(front.world.outcomes(Outcome::Lost), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_too_large_is_refused_and_the_words_arrive() {
    let settings = line::Settings {
        error: Some(Bytes::from_static(b"ERR {reason}\n")),
        max_message: 100,
        ..line::Settings::default()
    };
    let line = Arc::new(line::Line::new(&settings).unwrap());
    let front = Front::with(Mode::Exclusive, line, |_| {}, Budget::new(1 << 20));
    let mut client = front.connect();
    client.wire.write_all(&[b'x'; 5000]).await.unwrap();
    assert_eq!(client.rest().await.unwrap(), b"ERR request is too large\n");
    assert_eq!(front.world.outcomes(Outcome::TooLarge), 1);
    front.world.assert_conserved();
}

#[tokio::test(start_paused = true)]
async fn clients_that_do_not_send_are_closed() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let start = Instant::now();
    // Nothing at all; half a request; nothing more after an answer.
    let mut silent = front.connect();
    silent.rest().await.unwrap();
    assert_eq!(start.elapsed(), 10 * SECOND);
    let mut half = front.connect();
    half.wire.write_all(&message(0, 1, b"abc")[..6]).await.unwrap();
    half.rest().await.unwrap();
    assert_eq!(start.elapsed(), 20 * SECOND);
    let mut idle = front.connect();
    idle.send(0, 1, b"a").await;
    server.echo().await;
    idle.receive().await;
    idle.rest().await.unwrap();
    assert_eq!(start.elapsed(), 320 * SECOND);
    let timeouts = &front.world.events.clients_timed_out;
    assert_eq!((timeouts.of(ClientTimeout::Read).get(), timeouts.of(ClientTimeout::Idle).get()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_request_after_a_long_pause_has_its_full_time() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let mut client = front.connect();
    client.send(0, 1, b"a").await;
    server.echo().await;
    client.receive().await;
    tokio::time::sleep(100 * SECOND).await;
    let request = message(0, 2, b"b");
    client.wire.write_all(&request[..3]).await.unwrap();
    tokio::time::sleep(9 * SECOND).await;
    client.wire.write_all(&request[3..]).await.unwrap();
    drop(server);
    front.world.accept().await.echo().await;
    assert_eq!(client.receive().await, (0, 2, b"b".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_is_cut() {
    let mut front = Front::new(Mode::Multiplex);
    let mut server = front.server().await;
    let mut client = front.connect();
    let start = Instant::now();
    let serving = tokio::spawn(async move {
        loop {
            let (_, id, _) = server.receive().await;
            server.send(0, id, &[0; 200]).await;
        }
    });
    // More replies than the pipe holds.
    for id in 0..100 {
        client.send(0, id, &[0; 100]).await;
    }
    client.session.await.unwrap();
    assert_eq!(start.elapsed().as_secs(), 30);
    assert_eq!(front.world.events.clients_timed_out.of(ClientTimeout::Write).get(), 1);
    serving.abort();
}

#[tokio::test(start_paused = true)]
async fn requests_wait_for_memory_and_are_not_refused() {
    let settings = line::Settings { max_message: 16 * 1024, ..line::Settings::default() };
    let line = Arc::new(line::Line::new(&settings).unwrap());
    let budget = Budget::new(Budget::floor(16 * 1024));
    let mut front = Front::with(Mode::Exclusive, line, |_| {}, budget.clone());
    let mut server = front.server().await;
    let hog = budget.try_charge(44 * 1024, crate::wire::Purpose::Request).unwrap();
    let mut client = front.connect();
    let request = [&[b'x'; 6000][..], b"\n"].concat();
    let expected = request.clone();
    let sent = tokio::spawn(async move {
        client.wire.write_all(&request).await.unwrap();
        client
    });
    // Far beyond client_read: waiting for memory is not the client's fault.
    tokio::time::sleep(60 * SECOND).await;
    assert_eq!(front.world.events.memory_waits.get(), 1);
    assert_eq!(front.world.events.accepted.get(), 0);
    drop(hog);
    let mut got = vec![0; expected.len()];
    server.wire.read_exact(&mut got).await.unwrap();
    assert!(got == expected);
    server.wire.write_all(b"ok\n").await.unwrap();
    let mut client = sent.await.unwrap();
    client.wire.read_exact(&mut [0; 3]).await.unwrap();
    settle().await;
    assert_eq!(budget.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_client_gives_way_and_a_new_one_does_not() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let (mut idle, fresh) = (front.connect(), front.connect());
    idle.send(0, 1, b"a").await;
    server.echo().await;
    idle.receive().await;
    settle().await;
    assert!(front.shared.idle.evict_oldest());
    assert!(!front.shared.idle.evict_oldest());
    assert_eq!(idle.rest().await.unwrap(), b"");
    assert!(!fresh.session.is_finished());
    assert_eq!(front.world.events.clients_evicted.get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_was_taken_in() {
    let mut front = Front::new(Mode::Exclusive);
    let mut server = front.server().await;
    let (mut idle, mut fresh, mut silent, mut busy) =
        (front.connect(), front.connect(), front.connect(), front.connect());
    idle.send(0, 1, b"a").await;
    server.echo().await;
    idle.receive().await;
    busy.send(0, 2, b"b").await;
    settle().await;
    let start = Instant::now();
    front.switch.drain();
    assert_eq!(idle.rest().await.unwrap(), b"", "closed at once");
    assert_eq!(start.elapsed(), Duration::ZERO);
    // Its request was on its way when the listener closed.
    fresh.send(0, 3, b"c").await;
    server.echo().await;
    assert_eq!(busy.rest().await.unwrap(), message(0, 2, b"b"));
    server.echo().await;
    assert_eq!(fresh.rest().await.unwrap(), message(0, 3, b"c"));
    silent.rest().await.unwrap();
    assert_eq!(start.elapsed(), SECOND);
    for client in [idle, fresh, silent, busy] {
        client.session.await.unwrap();
    }
}

/// A protocol, but a reply that ends in "panic" makes the codec panic.
#[derive(Debug)]
struct Fragile {
    inner: Arc<dyn Protocol>,
    /// What the last codec of a connection to do anything holds, as bytes of a description.
    held: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct FragileUpstream {
    inner: Box<dyn Upstream>,
    held: Arc<AtomicUsize>,
}

impl Fragile {
    fn new(inner: Arc<dyn Protocol>) -> Self {
        Self { inner, held: Arc::default() }
    }
}

impl Protocol for Fragile {
    fn name(&self) -> &'static str {
        "fragile"
    }

    fn modes(&self) -> &'static [Mode] {
        self.inner.modes()
    }

    fn tags(&self) -> Option<TagSpace> {
        self.inner.tags()
    }

    fn max_message(&self) -> usize {
        self.inner.max_message()
    }

    fn remedy(&self, reason: Malformed) -> &'static str {
        self.inner.remedy(reason)
    }

    fn downstream(&self, max_buffered: usize) -> Box<dyn Downstream> {
        self.inner.downstream(max_buffered)
    }

    fn upstream(&self, max_buffered: usize) -> Box<dyn Upstream> {
        Box::new(FragileUpstream { inner: self.inner.upstream(max_buffered), held: self.held.clone() })
    }
}

impl Upstream for FragileUpstream {
    fn encode(&mut self, request: &Request, tag: Tag, out: &mut Output) {
        self.inner.encode(request, tag, out);
        self.look();
    }

    fn decode(&mut self, input: &mut BytesMut) -> Result<Answered, Malformed> {
        assert!(!input.ends_with(b"panic"), "a bug in a codec");
        let answered = self.inner.decode(input);
        self.look();
        answered
    }

    fn forget(&mut self, tag: Tag) {
        self.inner.forget(tag);
        self.look();
    }
}

impl FragileUpstream {
    fn look(&self) {
        self.held.store(format!("{:?}", self.inner).len(), Ordering::Relaxed);
    }
}

#[tokio::test(start_paused = true)]
async fn item_11_a_panic_ends_its_task_only_exclusive() {
    a_panic_ends_its_task_only_and_the_client_gets_an_answer(Mode::Exclusive).await;
}

#[tokio::test(start_paused = true)]
async fn item_11_a_panic_ends_its_task_only_multiplex() {
    a_panic_ends_its_task_only_and_the_client_gets_an_answer(Mode::Multiplex).await;
}

async fn a_panic_ends_its_task_only_and_the_client_gets_an_answer(mode: Mode) {
    let mut front = Front::with(mode, Arc::new(Fragile::new(protocol())), |_| {}, Budget::new(1 << 20));
    let mut server = front.server().await;
    let (mut one, mut two) = (front.connect(), front.connect());
    one.send(0, 1, b"a").await;
    let (_, id, _) = server.receive().await;
    server.send(0, id, b"panic").await;
    assert_eq!(one.receive().await, (ERROR, 1, b"!".to_vec()));
    two.send(0, 2, b"b").await;
    front.world.accept().await.echo().await;
    assert_eq!(two.receive().await, (0, 2, b"b".to_vec()));
    one.send(0, 3, b"c").await;
    settle().await;
    assert!(!one.session.is_finished());
    assert_eq!(front.world.outcomes(Outcome::Lost), 1);
}

/// An idle client costs its session's task before all else: `docs/scaling.md` promises what it takes.
#[tokio::test(start_paused = true)]
async fn a_session_takes_little_memory() {
    let front = Front::new(Mode::Multiplex);
    let session = Session::new(memory::pair(1).0.into(), front.shared.clone()).run(());
    // The feature brings tokio's other scheduler along, and with it a timer tells which of the two it belongs to.
    let timer = if cfg!(feature = "dns") { 8 } else { 0 };
    assert!(size_of_val(&session) <= 800 + timer, "{}", size_of_val(&session));
}
