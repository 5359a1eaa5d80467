//! Messages in parts, in paused time. Long because it is a list: one story after another.

use std::ops::Range;

use tokio::time::timeout;

use super::*;
use crate::events::CloseReason;
use crate::frame::Endian;
use crate::pool;
use crate::pool::tests::world::ANYBODY;
use crate::protocol::frame::{self, Condition, Field, Frame, Heartbeat, Length, Size, Template};

/// What messages travel in parts above, in these stories.
pub(super) const MAX_BUFFERED: usize = 8 << 10;
pub(super) const LARGE: usize = 300_000;

/// Frames: length (4, of the whole), flags (1), id (4), payload.
pub(super) fn large_frames() -> Arc<dyn Protocol> {
    large_frames_with(Some("0000000a 80 {id} 21"))
}

pub(super) fn large_frames_with(error: Option<&str>) -> Arc<dyn Protocol> {
    let mut settings =
        frame::Settings::new(Length { offset: 0, size: Size::Bytes(4), endian: Endian::Big, adjust: 0 });
    settings.id = Some(Field { offset: 5, size: 4, endian: Endian::Big, avoid: vec![] });
    settings.oneway = vec![Condition { offset: 4, mask: ONEWAY, equals: ONEWAY }];
    settings.heartbeat = Some(Heartbeat {
        conditions: vec![Condition { offset: 4, mask: HEARTBEAT, equals: HEARTBEAT }],
        reply: Some(Template::parse("0000000a 40 {id} 21").unwrap()),
        is_request: false,
    });
    settings.error = error.map(|error| Template::parse(error).unwrap());
    settings.in_order = true;
    Arc::new(Frame::new(settings).unwrap())
}

pub(super) fn frame(flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(9 + payload.len()).unwrap();
    [&length.to_be_bytes()[..], &[flags], &id.to_be_bytes(), payload].concat()
}

/// Bytes that are different wherever one looks.
pub(super) fn payload(size: usize, seed: u32) -> Vec<u8> {
    (0..).flat_map(|n: u32| (n.wrapping_mul(2_654_435_761) ^ seed).to_be_bytes()).take(size).collect()
}

pub(super) async fn receive(wire: &mut Wire) -> io::Result<(u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    wire.read_exact(&mut head).await?;
    let number = |range: Range<usize>| u32::from_be_bytes(head[range].try_into().unwrap());
    let mut payload = vec![0; usize::try_from(number(0..4)).unwrap() - 9];
    wire.read_exact(&mut payload).await?;
    Ok((head[4], number(5..9), payload))
}

/// Answers the next request with its own payload.
async fn echo(server: &mut Server) {
    let (_, id, payload) = receive(&mut server.wire).await.unwrap();
    server.wire.write_all(&frame(0, id, &payload)).await.unwrap();
}

pub(super) fn start(mode: Mode, connections: usize) -> Front {
    start_with(mode, |pool, _| pool.max_connections = connections)
}

pub(super) fn start_with(mode: Mode, change: impl FnOnce(&mut pool::Settings, &mut Settings)) -> Front {
    let mut pool = settings(mode, 1, 1);
    pool.connection.max_buffered = MAX_BUFFERED;
    pool.connection.max_reply_buffered = 64 << 10;
    let mut session = Front::settings(mode);
    session.max_buffered = MAX_BUFFERED;
    session.max_reply_buffered = session.max_reply_buffered.map(|_| 64 << 10);
    change(&mut pool, &mut session);
    let budget = Budget::new(8 << 20);
    Front::of(World::within(pool, large_frames(), budget.clone()), large_frames(), session, budget)
}

pub(super) const MODES: [Mode; 3] = [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex];

/// One request and its reply, both sides reading as they write.
pub(super) async fn call(client: &mut Client, server: &mut Server, id: u32, payload: &[u8]) {
    let request = frame(0, id, payload);
    let asking = async {
        client.wire.write_all(&request).await.unwrap();
        receive(&mut client.wire).await.unwrap()
    };
    let (answer, ()) = tokio::join!(asking, echo(server));
    assert!(answer == (0, id, payload.to_vec()), "another reply");
}

async fn assert_all_over(front: &Front) {
    settle().await;
    front.world.assert_conserved();
    assert_eq!(front.shared.budget.taken(), 0);
    assert_eq!(front.world.pool.figures().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn large_messages_arrive_whole_both_ways() {
    for mode in MODES {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let mut client = front.connect();
        for size in [0, MAX_BUFFERED - 9, MAX_BUFFERED - 8, MAX_BUFFERED + 40_000, LARGE] {
            call(&mut client, &mut server, 7, &payload(size, 1)).await;
        }
        drop(client);
        assert_all_over(&front).await;
        assert_eq!(front.world.outcomes(Outcome::Ok), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_request_is_on_its_way_before_it_is_whole() {
    let mut front = start(Mode::Multiplex, 1);
    let mut server = front.server().await;
    let (mut large, mut small) = (front.connect(), front.connect());
    let request = frame(0, 1, &payload(LARGE, 2));
    large.wire.write_all(&request[..MAX_BUFFERED - 1]).await.unwrap();
    assert!(server.is_quiet().await, "the head is not whole");
    large.wire.write_all(&request[MAX_BUFFERED - 1..MAX_BUFFERED]).await.unwrap();
    let mut received = vec![0; MAX_BUFFERED];
    server.wire.read_exact(&mut received).await.unwrap();
    // Nothing else is on that connection meanwhile, and the time of the request has not begun.
    small.wire.write_all(&frame(0, 2, b"small")).await.unwrap();
    for part in request[MAX_BUFFERED..].chunks(100_000) {
        tokio::time::sleep(2 * SECOND).await;
        let (sent, ()) = tokio::join!(large.wire.write_all(part), async {
            let mut rest = vec![0; part.len()];
            server.wire.read_exact(&mut rest).await.unwrap();
            received.extend(rest);
        });
        sent.unwrap();
    }
    assert!(received[9..] == request[9..], "other bytes");
    small.wire.write_all(&frame(0, 3, b"again")).await.unwrap();
    let tag = u32::from_be_bytes(received[5..9].try_into().unwrap());
    server.wire.write_all(&frame(0, tag, b"done")).await.unwrap();
    assert_eq!(receive(&mut large.wire).await.unwrap(), (0, 1, b"done".to_vec()));
    // The small one was refused when it had waited for `acquire_timeout`; the next one had its turn.
    assert_eq!(receive(&mut small.wire).await.unwrap(), (ERROR, 2, b"!".to_vec()));
    echo(&mut server).await;
    assert_eq!(receive(&mut small.wire).await.unwrap(), (0, 3, b"again".to_vec()));
    drop((large, small));
    assert_all_over(&front).await;
}

#[tokio::test(start_paused = true)]
async fn large_requests_take_half_the_connections() {
    for mode in MODES {
        let mut front = start(mode, 4);
        let mut servers = vec![front.server().await];
        let uploads: Vec<_> = (0..4).map(|_| front.connect()).collect();
        let mut clients = Vec::new();
        for mut upload in uploads {
            upload.wire.write_all(&frame(0, 1, &payload(LARGE, 3))[..MAX_BUFFERED]).await.unwrap();
            clients.push(upload);
        }
        while let Ok(server) = timeout(SECOND / 100, front.world.accept()).await {
            servers.push(server);
        }
        let mut small = front.connect();
        small.wire.write_all(&frame(0, 9, b"small")).await.unwrap();
        let (mut uploading, mut free) = (0, Vec::new());
        if let Ok(server) = timeout(SECOND / 100, front.world.accept()).await {
            servers.push(server);
        }
        for mut server in servers {
            let mut head = [0; 10];
            let got = timeout(SECOND / 100, server.wire.read_exact(&mut head)).await;
            match got {
                Ok(Ok(_)) if u32::from_be_bytes(head[..4].try_into().unwrap()) > 100 => uploading += 1,
                Ok(_) => free.push((head, server)),
                Err(_) => {}
            }
        }
        assert_eq!((uploading, free.len()), (2, 1), "{mode:?}");
        let (head, mut server) = free.remove(0);
        let mut rest = [0; 4];
        server.wire.read_exact(&mut rest).await.unwrap();
        let tag = u32::from_be_bytes(head[5..9].try_into().unwrap());
        server.wire.write_all(&frame(0, tag, b"small")).await.unwrap();
        assert_eq!(receive(&mut small.wire).await.unwrap(), (0, 9, b"small".to_vec()));
        drop((clients, small));
        assert_all_over(&front).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_leaves_in_the_middle_takes_its_connection_with_it() {
    for mode in MODES {
        for reset in [false, true] {
            let mut front = start(mode, 1);
            let mut server = front.server().await;
            let mut client = front.connect();
            client.wire.write_all(&frame(0, 1, &payload(LARGE, 4))[..MAX_BUFFERED + 500]).await.unwrap();
            settle().await;
            let Client { wire, session } = client;
            if reset {
                wire.reset();
            } else {
                drop(wire);
            }
            session.await.unwrap();
            let mut read = Vec::new();
            assert!(server.wire.read_to_end(&mut read).await.is_err(), "never a shorter request");
            let mut next = front.connect();
            let mut server = front.server().await;
            call(&mut next, &mut server, 2, b"next").await;
            drop(next);
            assert_all_over(&front).await;
            assert_eq!(front.world.outcomes(Outcome::ClientGone), 1);
            assert_eq!(front.world.events.closed.of(CloseReason::Cut).get(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sender_without_progress_is_cut() {
    // Bytes at a time, how often, and whether that is progress.
    for (bytes, pause, progress) in [(1, SECOND, false), (1000, SECOND, true), (4096, 4 * SECOND, true)] {
        let mut front = start(Mode::Exclusive, 1);
        let mut server = front.server().await;
        let mut client = front.connect();
        let request = frame(0, 1, &payload(MAX_BUFFERED + 50_000, 5));
        client.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
        let reading = tokio::spawn(async move {
            let received = receive(&mut server.wire).await;
            if let Ok((_, id, _)) = &received {
                server.wire.write_all(&frame(0, *id, b"done")).await.unwrap();
            }
            (server, received)
        });
        let mut cut = false;
        for part in request[MAX_BUFFERED..].chunks(bytes) {
            tokio::time::sleep(pause).await;
            cut |= client.wire.write_all(part).await.is_err();
            if cut {
                break;
            }
        }
        assert_eq!(cut, !progress, "{bytes} bytes each {pause:?}");
        let (_server, received) = reading.await.unwrap();
        assert_eq!(received.is_ok(), progress);
        let timeouts = &front.world.events.clients_timed_out;
        assert_eq!(timeouts.of(ClientTimeout::Progress).get(), u64::from(cut));
        drop(client);
        assert_all_over(&front).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_early_reply_is_passed_on_and_its_connection_closed() {
    for mode in MODES {
        for size in [5, LARGE] {
            let mut front = start(mode, 1);
            let mut server = front.server().await;
            let mut client = front.connect();
            let request = frame(0, 1, &payload(LARGE, 6));
            client.wire.write_all(&request[..MAX_BUFFERED + 4000]).await.unwrap();
            let mut head = [0; 9];
            server.wire.read_exact(&mut head).await.unwrap();
            let early = payload(size, 7);
            let reply = frame(0, u32::from_be_bytes(head[5..9].try_into().unwrap()), &early);
            let (sent, got) = tokio::join!(server.wire.write_all(&reply), receive(&mut client.wire));
            sent.unwrap();
            assert!(got.unwrap() == (0, 1, early), "another reply");
            // The rest of the request is swallowed, and the client goes on.
            client.wire.write_all(&request[MAX_BUFFERED + 4000..]).await.unwrap();
            assert!(server.wire.read_to_end(&mut Vec::new()).await.is_err(), "closed");
            let mut server = front.server().await;
            call(&mut client, &mut server, 2, b"next").await;
            drop(client);
            assert_all_over(&front).await;
            assert_eq!(front.world.outcomes(Outcome::Ok), 2);
            assert_eq!(front.world.events.closed.of(CloseReason::Early).get(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_is_swallowed_and_the_client_goes_on() {
    let mut front = start_with(Mode::Multiplex, |pool, _| pool.max_waiting = 1);
    let mut server = front.server().await;
    let (mut first, mut second, mut third) = (front.connect(), front.connect(), front.connect());
    let request = frame(0, 1, &payload(LARGE, 8));
    for client in [&mut first, &mut second, &mut third] {
        client.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
        settle().await;
    }
    // One is sent, one waits, and the third is one too many.
    assert_eq!(receive(&mut third.wire).await.unwrap(), (ERROR, 1, b"!".to_vec()));
    third.wire.write_all(&request[MAX_BUFFERED..]).await.unwrap();
    let (sent, ()) = tokio::join!(first.wire.write_all(&request[MAX_BUFFERED..]), echo_small(&mut server));
    sent.unwrap();
    assert_eq!(receive(&mut first.wire).await.unwrap(), (0, 1, b"small".to_vec()));
    let (sent, ()) = tokio::join!(second.wire.write_all(&request[MAX_BUFFERED..]), echo_small(&mut server));
    sent.unwrap();
    assert_eq!(receive(&mut second.wire).await.unwrap(), (0, 1, b"small".to_vec()));
    call(&mut third, &mut server, 2, b"next").await;
    drop((first, second, third));
    assert_all_over(&front).await;
}

/// Answers a large request with a small reply.
async fn echo_small(server: &mut Server) {
    let (_, id, _) = receive(&mut server.wire).await.unwrap();
    server.wire.write_all(&frame(0, id, b"small")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_large_request_that_ends_before_it_is_begun_leaves_its_place() {
    let mut front = start(Mode::Multiplex, 1);
    let mut server = front.server().await;
    let (_sender, rest) = crate::wire::parts::pipe(1, crate::wire::Charge::none());
    let mut request = Request::new(frame(0, 1, b"head").into(), false);
    request.rest = Some(rest);
    let ticket = front.world.pool.admit(request, ANYBODY, Instant::now());
    front.world.pool.abandon(&ticket);
    let mut next = front.connect();
    call(&mut next, &mut server, 2, &payload(LARGE, 12)).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_oneway_is_over_when_the_kernel_has_its_last_part() {
    let mut front = start(Mode::Exclusive, 1);
    let mut server = front.server().await;
    let mut client = front.connect();
    let request = frame(ONEWAY, 1, &payload(LARGE, 9));
    let (sent, received) = tokio::join!(client.wire.write_all(&request), receive(&mut server.wire));
    sent.unwrap();
    let (flags, _, received) = received.unwrap();
    assert!(flags == ONEWAY && received == payload(LARGE, 9), "other bytes");
    call(&mut client, &mut server, 2, b"next").await;
    drop(client);
    assert_all_over(&front).await;
    assert_eq!(front.world.outcomes(Outcome::Sent), 1);
}

/// Asks, and lets the server begin a reply of [`LARGE`] bytes.
pub(super) async fn ask(client: &mut Client, server: &mut Server) -> Vec<u8> {
    client.wire.write_all(&frame(0, 1, b"large")).await.unwrap();
    let (_, id, _) = receive(&mut server.wire).await.unwrap();
    frame(0, id, &payload(LARGE, 10))
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_its_own_connection_makes_the_server_wait() {
    let mut front = start(Mode::Exclusive, 1);
    let mut server = front.server().await;
    let mut client = front.connect();
    let reply = ask(&mut client, &mut server).await;
    assert!(timeout(9 * SECOND, server.wire.write_all(&reply)).await.is_err(), "all of it was stored");
    assert!(front.shared.budget.taken() < LARGE as u64);
    drop(client);
    settle().await;
    assert_eq!(front.world.outcomes(Outcome::ClientGone), 1);
    // What nobody reads is swallowed, and the connection goes on.
    let mut next = front.connect();
    next.wire.write_all(&frame(0, 2, b"next")).await.unwrap();
    assert!(timeout(SECOND, server.wire.write_all(&reply)).await.is_ok(), "not swallowed");
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_of_a_shared_connection_is_cut_and_its_neighbours_are_served() {
    for mode in [Mode::Pipeline, Mode::Multiplex] {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let (mut slow, mut neighbour) = (front.connect(), front.connect());
        let reply = ask(&mut slow, &mut server).await;
        neighbour.wire.write_all(&frame(0, 2, b"neighbour")).await.unwrap();
        let (_, id, _) = receive(&mut server.wire).await.unwrap();
        let began = Instant::now();
        server.wire.write_all(&reply).await.unwrap();
        server.wire.write_all(&frame(0, id, b"neighbour")).await.unwrap();
        assert_eq!(receive(&mut neighbour.wire).await.unwrap(), (0, 2, b"neighbour".to_vec()));
        assert!(began.elapsed() <= 2 * SECOND, "{:?}", began.elapsed());
        assert!(slow.rest().await.is_err(), "a reply cut short is never a shorter one");
        assert_eq!(front.world.events.clients_timed_out.of(ClientTimeout::NotTaken).get(), 1);
        call(&mut neighbour, &mut server, 3, b"goes on").await;
        drop(neighbour);
        assert_all_over(&front).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_cut_once_and_at_once() {
    for mode in [Mode::Pipeline, Mode::Multiplex] {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let mut slow = front.connect();
        let reply = ask(&mut slow, &mut server).await;
        let writing = tokio::spawn(async move { server.wire.write_all(&reply).await });
        tokio::time::sleep(SECOND / 2).await;
        slow.wire.read_exact(&mut vec![0; 80_000]).await.unwrap();
        let began = Instant::now();
        slow.session.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 1, "{mode:?}: {:?}", began.elapsed());
        writing.await.unwrap().unwrap();
        assert_eq!(front.world.events.clients_timed_out.of(ClientTimeout::NotTaken).get(), 1);
        assert_all_over(&front).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_makes_progress_is_not_cut() {
    let mut front = start(Mode::Multiplex, 1);
    let mut server = front.server().await;
    let mut client = front.connect();
    let reply = ask(&mut client, &mut server).await;
    let writing = tokio::spawn(async move { server.wire.write_all(&reply).await.map(|()| server) });
    let mut received = vec![0; 9 + LARGE];
    for part in received.chunks_mut(80_000) {
        tokio::time::sleep(SECOND * 9 / 10).await;
        client.wire.read_exact(part).await.unwrap();
    }
    assert!(received[9..] == payload(LARGE, 10), "other bytes");
    writing.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reply_cut_short_by_the_server_is_cut_for_the_client() {
    for mode in MODES {
        for reset in [false, true] {
            let mut front = start(mode, 1);
            let mut server = front.server().await;
            let mut client = front.connect();
            let reply = ask(&mut client, &mut server).await;
            let (sent, read) = tokio::join!(server.wire.write_all(&reply[..LARGE / 2]), async {
                let mut read = vec![0; LARGE / 4];
                client.wire.read_exact(&mut read).await
            });
            sent.unwrap();
            read.unwrap();
            if reset {
                server.wire.reset();
            } else {
                drop(server);
            }
            assert!(client.rest().await.is_err(), "{mode:?} {reset}");
            client.session.await.unwrap();
            assert_all_over(&front).await;
            assert_eq!(front.world.outcomes(Outcome::Lost), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_a_reply_that_has_begun_is_cut() {
    for mode in MODES {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let mut client = front.connect();
        let reply = ask(&mut client, &mut server).await;
        server.wire.write_all(&reply[..20_000]).await.unwrap();
        let began = Instant::now();
        assert!(client.rest().await.is_err());
        assert_eq!(began.elapsed().as_secs(), 15);
        assert_eq!(front.world.outcomes(Outcome::Timeout), 1);
        client.session.await.unwrap();
        // The rest is swallowed where there is time for it.
        server.wire.write_all(&reply[20_000..]).await.unwrap();
        let mut next = front.connect();
        call(&mut next, &mut server, 2, b"next").await;
        drop(next);
        assert_all_over(&front).await;
    }
}

#[tokio::test(start_paused = true)]
async fn many_small_replies_that_are_not_taken_cut_their_client() {
    let mut front = start_with(Mode::Multiplex, |_, session| session.max_per_client = 32);
    let mut server = front.server().await;
    let (mut slow, mut neighbour) = (front.connect(), front.connect());
    for id in 0..32 {
        slow.wire.write_all(&frame(0, id, b"8000 bytes")).await.unwrap();
    }
    for _ in 0..32 {
        let (_, id, _) = receive(&mut server.wire).await.unwrap();
        server.wire.write_all(&frame(0, id, &payload(8000, id))).await.unwrap();
    }
    tokio::time::sleep(2 * SECOND).await;
    assert!(slow.session.is_finished());
    assert!(slow.rest().await.is_err());
    assert_eq!(front.world.events.clients_timed_out.of(ClientTimeout::NotTaken).get(), 1);
    call(&mut neighbour, &mut server, 3, b"goes on").await;
    drop(neighbour);
    assert_all_over(&front).await;
}

#[tokio::test(start_paused = true)]
async fn who_does_not_take_replies_does_not_keep_the_memory_that_others_wait_for() {
    let budget = Budget::new(256 << 10);
    let mut pool = settings(Mode::Exclusive, 2, 2);
    pool.request_timeout = 100 * SECOND;
    pool.acquire_timeout = 100 * SECOND;
    let world = World::within(pool, large_frames(), budget.clone());
    let mut front = Front::of(world, large_frames(), Front::settings(Mode::Exclusive), budget);
    for _ in 0..2 {
        let mut server = front.server().await;
        tokio::spawn(async move {
            while let Ok((_, id, payload)) = receive(&mut server.wire).await {
                let size = if payload == b"large" { 60_000 } else { 5 };
                server.wire.write_all(&frame(0, id, &vec![0; size])).await.unwrap();
            }
        });
    }
    let mut slow: Vec<_> = (0..9).map(|_| front.connect()).collect();
    for client in &mut slow {
        client.wire.write_all(&frame(0, 1, b"large")).await.unwrap();
        settle().await;
    }
    assert!(front.shared.budget.is_starved());
    let mut other = front.connect();
    other.wire.write_all(&frame(0, 2, b"small")).await.unwrap();
    let reply = timeout(10 * SECOND, receive(&mut other.wire)).await;
    assert_eq!(reply.expect("before client_write").unwrap(), (0, 2, vec![0; 5]));
    assert!(front.world.events.clients_timed_out.of(ClientTimeout::NotTaken).get() > 0);
    drop((slow, other));
    tokio::time::sleep(SECOND).await;
    assert_all_over(&front).await;
    assert!(!front.shared.budget.is_starved());
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_is_in_parts() {
    let mut front = start(Mode::Exclusive, 1);
    let mut server = front.server().await;
    let mut client = front.connect();
    let request = frame(0, 1, &payload(LARGE, 11));
    client.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
    settle().await;
    front.switch.drain();
    settle().await;
    let (sent, (_, id, received)) = tokio::join!(client.wire.write_all(&request[MAX_BUFFERED..]), async {
        receive(&mut server.wire).await.unwrap()
    });
    sent.unwrap();
    front.world.back.drain();
    let reply = frame(0, id, &received);
    let (sent, got) = tokio::join!(server.wire.write_all(&reply), receive(&mut client.wire));
    sent.unwrap();
    assert!(got.unwrap() == (0, 1, received), "another reply");
    assert_eq!(client.rest().await.unwrap(), b"");
    client.session.await.unwrap();
    assert!(server.end().await.is_ok());
    front.world.keeper.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_heartbeat_of_the_server_is_not_answered_into_a_request() {
    let mut front = start(Mode::Multiplex, 1);
    let mut server = front.server().await;
    let mut client = front.connect();
    let request = frame(0, 1, &payload(20_000, 5));
    client.wire.write_all(&request[..10_000]).await.unwrap();
    settle().await;
    server.wire.write_all(&frame(HEARTBEAT, 77, b"")).await.unwrap();
    settle().await;
    client.wire.write_all(&request[10_000..]).await.unwrap();
    let (_, tag, got) = receive(&mut server.wire).await.unwrap();
    assert!(got == request[9..], "other bytes");
    assert_eq!(receive(&mut server.wire).await.unwrap(), (0x40, 77, b"!".to_vec()));
    server.wire.write_all(&frame(0, tag, b"done")).await.unwrap();
    assert_eq!(receive(&mut client.wire).await.unwrap(), (0, 1, b"done".to_vec()));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_said_into_a_reply() {
    for (said, answer) in [
        (frame(HEARTBEAT, 8, b""), (0x40, 8, b"!".to_vec())),
        (vec![0xff; 9], (ERROR, u32::MAX, b"!".to_vec())),
    ] {
        let mut front = start(Mode::Multiplex, 1);
        let mut server = front.server().await;
        let mut client = front.connect();
        client.wire.write_all(&frame(0, 1, b"ask")).await.unwrap();
        let (_, tag, _) = receive(&mut server.wire).await.unwrap();
        let reply = frame(0, tag, &payload(20_000, 6));
        server.wire.write_all(&reply[..10_000]).await.unwrap();
        // The client has all that there is of its reply, and says something.
        let mut got = vec![0; 8_000];
        client.wire.read_exact(&mut got).await.unwrap();
        settle().await;
        client.wire.write_all(&said).await.unwrap();
        settle().await;
        let mut rest = vec![0; reply.len() - got.len()];
        let (sent, read) =
            tokio::join!(server.wire.write_all(&reply[10_000..]), client.wire.read_exact(&mut rest));
        sent.unwrap();
        read.unwrap();
        got.extend(rest);
        assert!(got[9..] == reply[9..], "other bytes");
        assert_eq!(receive(&mut client.wire).await.unwrap(), answer);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_refused_without_words_does_not_hold_an_upload_for_ever() {
    let mut front = start_with(Mode::Multiplex, |pool, _| {
        (pool.min_connections, pool.max_connections) = (2, 2);
        pool.request_timeout = SECOND;
    });
    Arc::get_mut(&mut front.shared).unwrap().protocol = large_frames_with(None);
    for mut server in [front.server().await, front.server().await] {
        tokio::spawn(async move { server.wire.read_to_end(&mut Vec::new()).await });
    }
    let mut client = front.connect();
    // The call is refused when its time is up, and the client is to be told by a close.
    client.wire.write_all(&frame(0, 1, b"hangs")).await.unwrap();
    client.wire.write_all(&frame(0, 2, &payload(LARGE, 7))[..MAX_BUFFERED + 500]).await.unwrap();
    let end = timeout(60 * SECOND, client.session).await;
    assert!(end.is_ok(), "the session waits for a client that sends nothing");
}
