//! Messages in parts: stories that once went wrong.

use tokio::time::timeout;

use super::parts::{
    LARGE, MAX_BUFFERED, MODES, call, frame, large_frames, payload, receive, start, start_with,
};
use super::*;
use crate::connection::{Connecting, Connector};
use crate::events;
use crate::net::{Access, Address, Listener};
use crate::pool::Pool;
use crate::pool::tests::world::means;

/// A client begins a large request, and the server has read the front of it. Returns the tag too.
async fn begin_upload(front: &mut Front, extra: usize) -> (Client, Server, u32, Vec<u8>) {
    let mut server = front.server().await;
    let mut client = front.connect();
    let request = frame(0, 1, &payload(LARGE, 6));
    client.wire.write_all(&request[..MAX_BUFFERED + extra]).await.unwrap();
    let mut head = [0; 9];
    server.wire.read_exact(&mut head).await.unwrap();
    (client, server, u32::from_be_bytes(head[5..9].try_into().unwrap()), request)
}

/// A reply cut short with a clean FIN.
#[tokio::test(start_paused = true)]
async fn a_progress_timeout_during_an_early_reply_is_no_clean_end() {
    for mode in MODES {
        let mut front = start_with(mode, |pool, _| pool.acquire_timeout = 60 * SECOND);
        let (mut client, mut server, tag, _) = begin_upload(&mut front, 4000).await;
        let reply = frame(0, tag, &payload(LARGE, 7));
        server.wire.write_all(&reply[..20_000]).await.unwrap();
        let rest = client.rest().await;
        assert!(rest.is_err(), "{mode:?}: {} bytes of {}, and then a FIN", rest.unwrap().len(), reply.len());
    }
}

/// Two thresholds of progress that differ.
#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_64_kib_each_second_is_not_cut() {
    let mut front = start_with(Mode::Multiplex, |pool, session| {
        pool.request_timeout = 600 * SECOND;
        pool.connection.stall = 1200 * SECOND;
        pool.connection.max_reply_buffered = 256 << 10;
        session.max_reply_buffered = Some(256 << 10);
    });
    let mut server = front.server().await;
    let mut client = front.connect();
    client.wire.write_all(&frame(0, 1, b"large")).await.unwrap();
    let (_, tag, _) = receive(&mut server.wire).await.unwrap();
    let reply = frame(0, tag, &payload(10 * LARGE, 10));
    tokio::spawn(async move {
        for part in reply.chunks(3000) {
            server.wire.write_all(part).await?;
            settle().await;
        }
        io::Result::Ok(server)
    });
    let mut received = vec![0; 9 + 10 * LARGE];
    for (n, part) in received.chunks_mut(70_000).enumerate() {
        tokio::time::sleep(SECOND * 9 / 10).await;
        let read = client.wire.read_exact(part).await;
        assert!(read.is_ok(), "cut after {n} times 70000 bytes each 0.9 s");
    }
    assert!(received[9..] == payload(10 * LARGE, 10), "other bytes");
}

/// "No deadline yet" is not "ended", and what is owed is not owed from the first part of the request on.
#[tokio::test(start_paused = true)]
async fn an_early_reply_in_parts_comes_however_long_the_upload_has_taken() {
    for (mode, seconds, acquire_timeout) in MODES.into_iter().flat_map(|mode| [(mode, 4, 3), (mode, 32, 600)])
    {
        let mut front = start_with(mode, |pool, _| pool.acquire_timeout = acquire_timeout * SECOND);
        let (mut client, mut server, tag, request) = begin_upload(&mut front, 4000).await;
        for part in request[MAX_BUFFERED + 4000..].chunks(5000).take(seconds) {
            tokio::time::sleep(SECOND).await;
            let mut read = vec![0; 5000];
            client.wire.write_all(part).await.unwrap();
            server.wire.read_exact(&mut read).await.unwrap();
        }
        let early = payload(LARGE, 7);
        let reply = frame(0, tag, &early);
        let (_, got) =
            tokio::join!(timeout(SECOND, server.wire.write_all(&reply)), receive(&mut client.wire));
        assert!(got.is_ok_and(|got| got == (0, 1, early)), "{mode:?}: cut after {seconds} s");
    }
}

/// A FIN abandons nothing.
#[tokio::test(start_paused = true)]
async fn a_client_that_half_closes_on_an_early_reply_gets_the_rest_of_it() {
    for (size, mode) in [5, LARGE].into_iter().flat_map(|size| MODES.map(|mode| (size, mode))) {
        let mut front = start(mode, 1);
        let (mut client, mut server, tag, _) = begin_upload(&mut front, 4000).await;
        let early = payload(size, 7);
        let reply = frame(0, tag, &early);
        let (_, got) = tokio::join!(timeout(SECOND, server.wire.write_all(&reply)), async {
            let mut got = vec![0; 9];
            client.wire.read_exact(&mut got).await.unwrap();
            client.wire.shut_down();
            client.rest().await
        });
        assert!(got.is_ok_and(|got| got == early), "{size} {mode:?}: the rest of the reply is cut");
    }
}

/// What the server said before it closed is still there to be read.
#[tokio::test(start_paused = true)]
async fn an_early_reply_of_a_server_that_closes_after_it_is_whole() {
    for (mode, less) in (0..8).flat_map(|n| MODES.map(|mode| (mode, n * 4096))) {
        let mut front = start_with(mode, |pool, _| pool.acquire_timeout = 60 * SECOND);
        let (mut client, mut server, tag, _) = begin_upload(&mut front, 4000).await;
        let early = payload(LARGE - less, 7);
        let reply = frame(0, tag, &early);
        let mut got = vec![0; reply.len()];
        tokio::spawn(async move { server.wire.write_all(&reply).await });
        let mut cut = 0;
        for part in got.chunks_mut(10_000) {
            tokio::time::sleep(SECOND / 10).await;
            cut += usize::from(client.wire.read_exact(part).await.is_err());
        }
        assert_eq!(cut, 0, "{mode:?} {less}: cut");
    }
}

/// A request cut short ends with a reset, whatever else the connection was about to end for.
#[tokio::test(start_paused = true)]
async fn an_early_reply_on_a_retiring_connection_ends_with_a_reset() {
    for (mode, max_requests) in [0, 1].into_iter().flat_map(|max| MODES.map(|mode| (mode, max))) {
        let mut front = start_with(mode, |pool, _| pool.connection.max_requests = max_requests);
        let (mut client, mut server, tag, _) = begin_upload(&mut front, 4000).await;
        let mut read = vec![0; MAX_BUFFERED + 4000 - 9];
        server.wire.read_exact(&mut read).await.unwrap();
        server.wire.write_all(&frame(0, tag, b"early")).await.unwrap();
        assert_eq!(receive(&mut client.wire).await.unwrap(), (0, 1, b"early".to_vec()));
        let end = server.wire.read_to_end(&mut Vec::new()).await;
        assert!(end.is_err(), "{mode:?} {max_requests}: a FIN in the middle of the request");
        assert_eq!(front.world.events.closed.of(events::CloseReason::Early).get(), 1);
    }
}

/// A wake-up that is lost.
#[tokio::test(start_paused = true)]
async fn when_a_place_for_uploads_is_free_a_connection_is_opened() {
    let mut front = start(Mode::Exclusive, 2);
    let mut server = front.server().await;
    let (mut first, mut second) = (front.connect(), front.connect());
    let request = frame(0, 1, &payload(LARGE, 6));
    first.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
    settle().await;
    second.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
    settle().await;
    let (sent, _) = tokio::join!(first.wire.write_all(&request[MAX_BUFFERED..]), receive(&mut server.wire));
    sent.unwrap();
    // The first is being worked on, and may be for long. The second could have a connection of its own.
    assert!(!front.world.nobody_connects(2 * SECOND).await, "there is room for another connection");
}

/// Connections that take much at once, as those of a kernel.
#[derive(Debug)]
struct Wide(tokio::sync::mpsc::Sender<Wire>);

impl Connector for Wide {
    fn connect(&self, _: usize, _: &Address, _: Duration) -> Connecting {
        let (near, far) = memory::pair(1 << 20);
        let doors = self.0.clone();
        Box::pin(async move {
            doors.send(far.into()).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
            Ok(near.into())
        })
    }
}

/// The last part fills the output, the kernel takes all of it, and nobody looks again.
#[tokio::test(start_paused = true)]
async fn a_large_oneway_ends_although_the_kernel_takes_its_last_part_at_once() {
    for mode in MODES {
        let mut pool = settings(mode, 1, 1);
        pool.connection.max_buffered = MAX_BUFFERED;
        let mut session = Front::settings(mode);
        session.max_buffered = MAX_BUFFERED;
        let budget = Budget::new(8 << 20);
        let counts = Arc::new(events::Upstream::new("u"));
        let (back, switch) = (Switch::new(), Switch::new());
        let (doors, mut opened) = tokio::sync::mpsc::channel(8);
        let (pool, keeper) = Pool::new(
            pool,
            large_frames(),
            counts.clone(),
            budget.clone(),
            back.watch(),
            means(Arc::new(Wide(doors)), 1),
        );
        tokio::spawn(keeper.run());
        let shared = Arc::new(Shared {
            settings: session,
            protocol: large_frames(),
            pool,
            budget,
            idle: IdleClients::default(),
            front: switch.watch(),
            back: back.hold(),
        });
        let mut server = Server { wire: opened.recv().await.unwrap() };
        settle().await;
        let (near, far) = memory::pair(1 << 20);
        let session = tokio::spawn(Session::new(far.into(), shared).run(()));
        let mut client = Client { wire: near.into(), session };
        let sent = payload(MAX_BUFFERED - 9 + (64 << 10), 9);
        client.wire.write_all(&frame(ONEWAY, 1, &sent)).await.unwrap();
        let (flags, _, received) = receive(&mut server.wire).await.unwrap();
        assert!(flags == ONEWAY && received == sent);
        settle().await;
        assert_eq!(counts.outcomes.of(Outcome::Sent).get(), 1, "{mode:?}: all of it is with the server");
        let next = timeout(60 * SECOND, call(&mut client, &mut server, 2, b"next")).await;
        assert!(next.is_ok(), "{mode:?}: the connection takes nothing any more");
    }
}

/// One client, two replies in parts, from two connections.
#[tokio::test(start_paused = true)]
async fn a_client_that_reads_well_gets_two_large_replies_from_two_connections() {
    let mut front = start_with(Mode::Multiplex, |pool, _| {
        pool.endpoints.push(Address::Tcp { host: "10.0.0.2".into(), port: 1 }.into());
        (pool.min_connections, pool.max_connections) = (2, 2);
    });
    let (mut one, mut two) = (front.server().await, front.server().await);
    settle().await;
    let mut client = front.connect();
    for id in [1, 2] {
        client.wire.write_all(&frame(0, id, &[u8::try_from(id).unwrap()])).await.unwrap();
        settle().await;
    }
    for server in [&mut one, &mut two] {
        let (_, tag, id) = receive(&mut server.wire).await.unwrap();
        let reply = frame(0, tag, &payload(4 * LARGE, id[0].into()));
        let mut wire = std::mem::replace(&mut server.wire, memory::pair(1).0.into());
        tokio::spawn(async move { wire.write_all(&reply).await.map(|()| wire) });
    }
    let mut got = vec![0; 2 * (9 + 4 * LARGE)];
    let mut filled = 0;
    while filled < got.len() {
        tokio::time::sleep(SECOND / 4).await;
        let upto = got.len().min(filled + 100_000);
        let read = timeout(20 * SECOND, client.wire.read_exact(&mut got[filled..upto])).await;
        assert!(matches!(read, Ok(Ok(_))), "one reply is not whole: {filled} bytes came");
        filled = upto;
    }
}

/// An RST abandons at every moment.
#[tokio::test(start_paused = true)]
async fn a_client_that_resets_while_its_upload_is_full_is_gone() {
    let mut front = start(Mode::Exclusive, 1);
    let _server = front.server().await;
    let mut client = front.connect();
    let request = frame(0, 1, &payload(LARGE, 6));
    assert!(timeout(SECOND, client.wire.write_all(&request)).await.is_err(), "all of it was stored");
    client.wire.reset();
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(front.world.outcomes(Outcome::ClientGone), 1);
    assert!(!front.world.nobody_connects(2 * SECOND).await, "it still holds its connection");
}

/// The answer is there already when the client's FIN is read.
#[tokio::test(start_paused = true)]
async fn a_reply_that_is_there_is_not_thrown_away_with_the_rest_of_its_request() {
    for attempt in 0..40 {
        let mut front = start(Mode::Exclusive, 1);
        let (mut client, mut server, tag, _) = begin_upload(&mut front, 4000).await;
        settle().await;
        server.wire.write_all(&frame(0, tag, b"early")).await.unwrap();
        client.wire.shut_down();
        assert_eq!(client.rest().await.unwrap(), frame(0, 1, b"early"), "attempt {attempt}");
    }
}

/// A connection kept free for large requests, and a reply that does not come.
#[tokio::test(start_paused = true)]
async fn large_requests_that_wait_for_a_hung_call_do_not_shut_the_others_out() {
    let mut front = start(Mode::Multiplex, 1);
    let mut server = front.server().await;
    let mut hung = front.connect();
    hung.wire.write_all(&frame(0, 1, b"hung")).await.unwrap();
    receive(&mut server.wire).await.unwrap();
    let request = frame(0, 1, &payload(LARGE, 6));
    let mut large = Vec::new();
    let mut small = front.connect();
    for n in 0..2 {
        let mut client = front.connect();
        client.wire.write_all(&request[..MAX_BUFFERED]).await.unwrap();
        large.push(client);
        tokio::time::sleep(SECOND).await;
        if n == 0 {
            small.wire.write_all(&frame(0, 2, b"small")).await.unwrap();
        }
        tokio::time::sleep(SECOND).await;
    }
    tokio::spawn(async move {
        while let Ok((_, tag, bytes)) = receive(&mut server.wire).await {
            server.wire.write_all(&frame(0, tag, &bytes)).await.unwrap();
        }
    });
    assert_eq!(receive(&mut small.wire).await.unwrap(), (0, 2, b"small".to_vec()));
}

/// What follows a large message in the same read may be the head of the next, and nobody asks for its memory.
#[tokio::test]
async fn a_large_request_right_behind_another_is_charged_too() {
    let mut front = start(Mode::Exclusive, 1);
    let mut server = front.server().await;
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let listener =
        Listener::bind(&address, &Access { mode: 0o600, uids: Vec::new() }, crate::net::Inherited::default())
            .unwrap()
            .remove(0);
    let Address::Tcp { port, .. } = *listener.address() else { panic!("no port") };
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let requests = [frame(0, 1, &payload(MAX_BUFFERED - 8, 1)), frame(0, 2, &payload(LARGE, 2))].concat();
    io::Write::write_all(&mut client, &requests[..100_000]).unwrap();
    let wire = listener.accept().await.unwrap();
    let session = tokio::spawn(Session::new(wire.into(), front.shared.clone()).run(()));
    let (_, tag, _) = receive(&mut server.wire).await.unwrap();
    server.wire.write_all(&frame(0, tag, b"one")).await.unwrap();
    server.wire.read_exact(&mut [0; 9]).await.unwrap();
    settle().await;
    // The second one waits for the server now: its head, a full pipe, and what is on its way.
    let taken = front.shared.budget.taken();
    session.abort();
    assert!(taken >= 64 << 10, "only {taken} bytes are counted");
}

/// Where the connection is on another thread, it may make room at any time: also while the session's turn has another
/// reason.
#[tokio::test(start_paused = true)]
async fn a_client_that_was_kept_waiting_is_not_slow_when_room_is_made_during_a_turn() {
    let mut front = start(Mode::Exclusive, 1);
    let mut server = front.server().await;
    let (near, far) = memory::pair(1 << 20);
    let mut client = Wire::from(near);
    let mut session = Session::new(far.into(), front.shared.clone());
    let request = frame(0, 1, &payload(LARGE, 1));
    // The server takes nothing until there is no room left.
    for part in request.chunks(1000) {
        client.write_all(part).await.unwrap();
        session.turn().unwrap();
        settle().await;
        if session.upload.as_ref().is_some_and(|upload| !upload.has_room()) {
            break;
        }
    }
    assert!(!session.upload.as_ref().unwrap().has_room());
    tokio::time::sleep(6 * SECOND).await;
    session.turn().unwrap();
    server.wire.read_exact(&mut vec![0; 60_000]).await.unwrap();
    settle().await;
    assert!(session.upload.as_ref().unwrap().has_room());
    assert_eq!(session.turn().err(), None, "the client has had no time at all");
}

/// While it does not read its reply, nothing is read from it: what it asks meanwhile is there when the reply ends.
#[tokio::test(start_paused = true)]
async fn a_one_shot_client_that_asks_again_during_a_reply_in_parts_has_both() {
    let mut front = start_with(Mode::Exclusive, |_, session| session.one_shot = true);
    let mut server = front.server().await;
    let mut client = front.connect();
    client.wire.write_all(&frame(0, 1, b"first")).await.unwrap();
    let (_, id, _) = receive(&mut server.wire).await.unwrap();
    let reply = frame(0, id, &payload(LARGE, 3));
    let sending = tokio::spawn(async move {
        server.wire.write_all(&reply).await.unwrap();
        server
    });
    settle().await;
    client.wire.write_all(&frame(0, 2, b"second")).await.unwrap();
    assert_eq!(receive(&mut client.wire).await.unwrap().1, 1);
    let mut server = sending.await.unwrap();
    let (_, id, _) = receive(&mut server.wire).await.unwrap();
    server.wire.write_all(&frame(0, id, b"both")).await.unwrap();
    assert_eq!(receive(&mut client.wire).await.unwrap(), (0, 2, b"both".to_vec()));
}
