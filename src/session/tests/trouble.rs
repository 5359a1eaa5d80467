//! Stories that once went wrong.

use std::io::Write;

use tokio::time::timeout;

use super::*;
use crate::events::Reason;
use crate::frame::Endian;
use crate::net::{self, Access, Address};
use crate::protocol::frame;
use crate::protocol::frame::{Condition, Frame, Heartbeat, Length, Size};
use crate::protocol::jsonrpc::{self, JsonRpc};

fn lines(max_message: usize) -> Arc<dyn Protocol> {
    Arc::new(line::Line::new(&line::Settings { max_message, ..line::Settings::default() }).unwrap())
}

fn connect(front: &Front, capacity: usize) -> Client {
    let (near, far) = memory::pair(capacity);
    let session = Session::new(far.into(), front.shared.clone());
    Client { wire: near.into(), session: tokio::spawn(session.run(())) }
}

#[tokio::test(start_paused = true)]
async fn a_request_behind_a_large_reply_is_served() {
    let mut failed = Vec::new();
    for fin in [false, true] {
        let mut front = Front::with(Mode::Exclusive, lines(1 << 18), |_| {}, Budget::new(1 << 20));
        let mut server = front.server().await;
        let mut client = connect(&front, 1 << 20);
        client.wire.write_all(b"a\nb\n").await.unwrap();
        if fin {
            client.wire.shut_down();
        }
        server.wire.read_exact(&mut [0; 2]).await.unwrap();
        server.wire.write_all(&[&vec![b'x'; 100_000][..], b"\n"].concat()).await.unwrap();
        let mut next = [0; 2];
        let read = timeout(SECOND, server.wire.read_exact(&mut next)).await;
        failed.extend((!matches!(read, Ok(Ok(_)))).then_some(fin));
    }
    assert!(failed.is_empty(), "not within a second with FIN = {failed:?}");
}

fn bind() -> (net::Listener, u16) {
    let address = Address::Tcp { host: "127.0.0.1".into(), port: 0 };
    let access = Access { mode: 0o600, uids: Vec::new() };
    let listener =
        net::Listener::bind(&address, &access, crate::net::Inherited::default()).unwrap().remove(0);
    let Address::Tcp { port, .. } = *listener.address() else { unreachable!() };
    (listener, port)
}

#[tokio::test(start_paused = true)]
async fn two_long_lines_in_a_row_are_two_requests() {
    let mut front = Front::with(Mode::Exclusive, lines(1 << 16), |_| {}, Budget::new(1 << 20));
    let mut server = front.server().await;
    let (listener, port) = bind();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    client.write_all(&[&vec![b'x'; 17_000][..], b"\n", &vec![b'y'; 20_000][..], b"\n"].concat()).unwrap();
    let stream = listener.accept().await.unwrap();
    tokio::spawn(Session::new(stream.into(), front.shared.clone()).run(()));
    for length in [17_001, 20_001] {
        let mut got = vec![0; length];
        let read = timeout(60 * SECOND, server.wire.read_exact(&mut got)).await;
        assert!(matches!(read, Ok(Ok(_))), "{length}: {read:?}");
        server.wire.write_all(b"ok\n").await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn half_requests_do_not_hold_all_memory_for_ever() {
    let budget = Budget::new(Budget::floor(16 * 1024));
    let mut front = Front::with(Mode::Exclusive, lines(16 * 1024), |_| {}, budget);
    let mut server = front.server().await;
    let mut clients: Vec<_> = (0..6).map(|_| front.connect()).collect();
    for client in &mut clients {
        client.wire.write_all(&[b'x'; 6000]).await.unwrap();
        settle().await;
    }
    for client in &mut clients {
        client.wire.write_all(&[b'x'; 4000]).await.unwrap();
        settle().await;
    }
    // They hold half of what each of them needs, and wait for the other half: after `client_read` they make
    // place.
    let mut late = front.connect();
    late.wire.write_all(&[&[b'y'; 6000][..], b"\n"].concat()).await.unwrap();
    let mut got = vec![0; 6001];
    let read = timeout(11 * SECOND, server.wire.read_exact(&mut got)).await;
    assert!(matches!(read, Ok(Ok(_))), "{read:?}");
}

#[tokio::test(start_paused = true)]
async fn the_time_to_write_begins_with_the_reply() {
    let mut front =
        Front::with(Mode::Exclusive, lines(1 << 16), |s| s.client_write = 5 * SECOND, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = front.connect();
    client.wire.write_all(b"a\n").await.unwrap();
    server.wire.read_exact(&mut [0; 2]).await.unwrap();
    tokio::time::sleep(6 * SECOND).await;
    let sending = tokio::spawn(async move {
        server.wire.write_all(&[&vec![b'x'; 20_000][..], b"\n"].concat()).await.unwrap();
        server
    });
    let mut got = vec![0; 20_001];
    client.wire.read_exact(&mut got).await.unwrap();
    sending.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_reply_cut_short_is_a_cut() {
    let mut front = Front::with(Mode::Exclusive, lines(1 << 16), |_| {}, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = front.connect();
    client.wire.write_all(b"a\n").await.unwrap();
    server.wire.read_exact(&mut [0; 2]).await.unwrap();
    server.wire.write_all(&[&vec![b'x'; 20_000][..], b"\n"].concat()).await.unwrap();
    tokio::time::sleep(100 * SECOND).await;
    assert!(client.session.is_finished());
    let end = client.rest().await;
    assert!(end.is_err(), "a clean end after {} of 20001 bytes", end.map_or(0, |b| b.len()));
}

#[tokio::test]
async fn a_flood_of_unanswered_heartbeats_leaves_time_for_others() {
    let mut settings =
        frame::Settings::new(Length { offset: 0, size: Size::Bytes(1), endian: Endian::Big, adjust: 0 });
    let conditions = vec![Condition { offset: 1, mask: HEARTBEAT, equals: HEARTBEAT }];
    settings.heartbeat = Some(Heartbeat { conditions, reply: None, is_request: false });
    let protocol = Arc::new(Frame::new(settings).unwrap());
    let front = Front::with(Mode::Exclusive, protocol, |_| {}, Budget::new(1 << 20));
    let (listener, port) = bind();
    let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    let stream = listener.accept().await.unwrap();
    let flood = std::thread::spawn(move || {
        let start = Instant::now();
        let block: Vec<u8> = (0..16_384).flat_map(|_| message(HEARTBEAT, 1, b"")).collect();
        while start.elapsed() < 4 * SECOND && client.write_all(&block).is_ok() {}
    });
    tokio::time::sleep(SECOND / 5).await;
    tokio::spawn(Session::new(stream.into(), front.shared.clone()).run(()));
    let start = Instant::now();
    tokio::time::sleep(SECOND / 5).await;
    let late = start.elapsed();
    while !flood.is_finished() {
        tokio::time::sleep(SECOND / 20).await;
    }
    assert!(late < SECOND, "a timer of 0.2 s took {late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_only_asks_is_not_answered_into_memory() {
    let mut front = Front::with(Mode::Exclusive, lines(1 << 16), |_| {}, Budget::new(1 << 20));
    let mut server = front.server().await;
    let mut client = connect(&front, 1024);
    tokio::spawn(async move {
        loop {
            server.wire.read_exact(&mut [0; 2]).await.unwrap();
            server.wire.write_all(&[&[b'x'; 999][..], b"\n"].concat()).await.unwrap();
        }
    });
    let _ = timeout(SECOND, client.wire.write_all(&b"a\n".repeat(2000))).await;
    tokio::time::sleep(SECOND).await;
    let answered = front.world.outcomes(crate::events::Outcome::Ok);
    assert!(
        (2..=7).contains(&answered),
        "{answered} replies of 1000 bytes wait for a client that does not read"
    );
}

/// What is no request in the middle of a pipeline is answered where it stands, and what follows it goes on.
#[tokio::test(start_paused = true)]
async fn what_is_refused_in_a_pipeline_is_answered_in_its_place() {
    for mode in [Mode::Pipeline, Mode::Exclusive] {
        let protocol = Arc::new(JsonRpc::new(jsonrpc::Settings::default()).unwrap());
        let mut front = Front::with(mode, protocol, |_| {}, Budget::new(1 << 20));
        let mut server = front.server().await;
        let mut client = front.connect();
        let call = |id: u32| format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"method\":\"a\"}}\n");
        let nonsense = "{\"jsonrpc\":\"2.0\",\"id\":7}\n";
        let said = [call(5), call(6), nonsense.to_owned(), call(8)].concat();
        client.wire.write_all(said.as_bytes()).await.unwrap();
        for number in 1..=3 {
            let mut got = Vec::new();
            while !got.ends_with(b"\n") {
                got.push(server.wire.read_u8().await.unwrap());
            }
            let got = String::from_utf8(got).unwrap();
            let tag = got.chars().filter(char::is_ascii_digit).collect::<String>();
            let tag = tag.strip_suffix("20").unwrap().parse().unwrap();
            assert_eq!(got, call(tag), "{mode:?}");
            let reply = format!("{{\"id\":{tag},\"jsonrpc\":\"2.0\",\"result\":\"r{number}\"}}\n");
            server.wire.write_all(reply.as_bytes()).await.unwrap();
        }
        let told = "{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32600,\
                    \"message\":\"Invalid Request: a request without `method`\"},\"id\":7}\n";
        let reply =
            |id: u32, result: &str| format!("{{\"id\":{id},\"jsonrpc\":\"2.0\",\"result\":\"{result}\"}}\n");
        let expected = [reply(5, "r1"), reply(6, "r2"), told.to_owned(), reply(8, "r3")].concat();
        let mut got = vec![0; expected.len()];
        client.wire.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), expected, "{mode:?}");
        assert_eq!(front.world.outcomes(Outcome::Ok), 3);
        assert_eq!(front.world.outcomes(Outcome::Refused), 1);
        assert_eq!(front.world.events.refused.of(Reason::Malformed).get(), 1);
        front.world.assert_conserved();
        // It was not the end: the client goes on.
        assert!(!client.session.is_finished());
    }
}
