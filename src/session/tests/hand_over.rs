//! Clients with an upstream connection of their own: here those of JSON-RPC with `server_messages = "pass"`.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Client, Front, SECOND};
use crate::events::{CloseReason, HandOver, Outcome, Reason};
use crate::pool::tests::world::{World, settings, settle};
use crate::protocol::Mode;
use crate::protocol::jsonrpc::{JsonRpc, ServerMessages, Settings};
use crate::wire::{Budget, Wire};

const ASK: &[u8] = b"{\"jsonrpc\" :\"2.0\",\"method\":\"a\",\"id\":1}\n";
const TELL: &[u8] = b"{\"jsonrpc\":\"2.0\",\"method\":\"progress\"}\n";
const TELL_AND_ANSWER: &[u8] =
    b"{\"jsonrpc\":\"2.0\",\"method\":\"progress\"}\n{\"jsonrpc\":\"2.0\",\"result\":1,\"id\":1}\n";

/// A front with at most `max` connections, `dedicated` of them for one client each.
fn front(min: usize, max: usize, dedicated: usize) -> Front {
    let passing = Settings { server_messages: ServerMessages::Pass, ..Settings::default() };
    let protocol = std::sync::Arc::new(JsonRpc::new(passing).unwrap());
    let mut settings = settings(Mode::Exclusive, min, max);
    settings.max_dedicated = dedicated;
    let world = World::with(settings, protocol.clone());
    Front::of(world, protocol, Front::settings(Mode::Exclusive), Budget::new(1 << 20))
}

async fn read(wire: &mut Wire, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    wire.read_exact(&mut bytes).await.unwrap();
    bytes
}

async fn asked(front: &mut Front) -> (Client, Wire) {
    let mut client = front.connect();
    client.wire.write_all(ASK).await.unwrap();
    let mut server = front.server().await.wire;
    assert_eq!(read(&mut server, ASK.len()).await, ASK, "as it came");
    (client, server)
}

fn dedicated(front: &Front) -> usize {
    front.world.pool.figures().dedicated
}

#[tokio::test(start_paused = true)]
async fn bytes_go_both_ways_as_they_are() {
    let mut front = front(0, 4, 2);
    let (mut client, mut server) = asked(&mut front).await;
    server.write_all(TELL_AND_ANSWER).await.unwrap();
    assert_eq!(read(&mut client.wire, TELL_AND_ANSWER.len()).await, TELL_AND_ANSWER);
    // Not even what is no request is looked at.
    client.wire.write_all(b"]\xff").await.unwrap();
    assert_eq!(read(&mut server, 2).await, b"]\xff");
    assert_eq!(dedicated(&front), 1);
    assert_eq!(front.world.events.handed_over.of(HandOver::ServerMessages).get(), 1);

    client.wire.shut_down();
    assert!(read_end(&mut server).await, "the server is told");
    server.write_all(TELL).await.unwrap();
    drop(server);
    assert_eq!(client.rest().await.unwrap(), TELL, "and may still say something");
    settle().await;
    assert!(client.session.is_finished());
    assert_eq!(dedicated(&front), 0);
    assert_eq!(front.world.events.closed.of(CloseReason::Client).get(), 1);
    assert_eq!(front.world.events.accepted.get(), 0, "nobody counts what nobody reads");
}

async fn read_end(wire: &mut Wire) -> bool {
    wire.read(&mut [0; 1]).await.unwrap() == 0
}

#[tokio::test(start_paused = true)]
async fn when_the_server_ends_so_does_the_client() {
    let mut front = front(0, 4, 2);
    let (mut client, mut server) = asked(&mut front).await;
    server.write_all(TELL).await.unwrap();
    drop(server);
    assert_eq!(client.rest().await.unwrap(), TELL);
    let (mut client, mut server) = asked(&mut front).await;
    server.write_all(b"{\"resu").await.unwrap();
    assert_eq!(read(&mut client.wire, 6).await, b"{\"resu");
    server.reset();
    assert!(client.rest().await.is_err(), "what is cut short does not look whole");
    settle().await;
    assert_eq!(front.world.events.closed.of(CloseReason::Peer).get(), 1);
    assert_eq!(front.world.events.closed.of(CloseReason::Lost).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_gone_takes_its_connection_along() {
    let mut front = front(0, 4, 1);
    for _ in 0..3 {
        let (client, mut server) = asked(&mut front).await;
        client.wire.reset();
        settle().await;
        assert!(server.read(&mut [0; 1]).await.is_err());
        assert_eq!(dedicated(&front), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn there_are_so_many_and_who_waited_in_vain_may_ask_again() {
    let mut front = front(0, 4, 1);
    let (first, _server) = asked(&mut front).await;
    let mut second = front.connect();
    let refused = b"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32060,\"message\":\"too many clients with a \
                    connection of their own\"},\"id\":1}\n";
    for _ in 0..2 {
        let asked = tokio::time::Instant::now();
        second.wire.write_all(ASK).await.unwrap();
        assert_eq!(read(&mut second.wire, refused.len()).await, refused);
        assert_eq!(asked.elapsed(), 3 * SECOND, "pool.acquire_timeout");
    }
    assert_eq!(front.world.events.refused.of(Reason::DedicatedFull).get(), 2);
    assert_eq!(front.world.events.outcomes.of(Outcome::Refused).get(), 2);
    assert_eq!(front.world.events.accepted.get(), 2);
    second.wire.write_all(ASK).await.unwrap();
    tokio::time::sleep(SECOND).await;
    first.wire.reset();
    assert_eq!(read(&mut front.server().await.wire, ASK.len()).await, ASK);
}

#[tokio::test(start_paused = true)]
async fn they_count_in_the_cap_and_the_pool_gives_way() {
    let mut front = front(1, 1, 1);
    let mut warm = front.server().await;
    let (client, server) = asked(&mut front).await;
    assert!(read_end(&mut warm.wire).await, "an unused connection leaves");
    let figures = front.world.pool.figures();
    assert_eq!((figures.idle, figures.busy, figures.connecting, figures.dedicated), (0, 0, 0, 1));
    drop((client, server));
    tokio::time::sleep(SECOND).await;
    front.server().await;
    assert_eq!(front.world.pool.figures().idle, 1, "the floor stands again");
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_there_the_client_is_told() {
    let front = front(0, 4, 2);
    front.world.refuse(0, true);
    let mut client = front.connect();
    client.wire.write_all(ASK).await.unwrap();
    let mut told = vec![0; 47];
    client.wire.read_exact(&mut told).await.unwrap();
    assert!(told.starts_with(b"{\"jsonrpc\":\"2.0\",\"error\":{\"code\":-32053,"), "{}", told.escape_ascii());
    assert_eq!(dedicated(&front), 0);
    assert_eq!(front.world.events.refused.of(Reason::Down).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_the_server_finish() {
    let mut front = front(0, 4, 2);
    let (mut client, mut server) = asked(&mut front).await;
    let (silent, mut slow) = asked(&mut front).await;
    front.switch.drain();
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(10 * SECOND).await;
    server.write_all(TELL_AND_ANSWER).await.unwrap();
    assert!(read_end(&mut server).await);
    assert_eq!(begun.elapsed(), 11 * SECOND, "it seems to owe nothing");
    drop(server);
    assert_eq!(client.rest().await.unwrap(), TELL_AND_ANSWER);
    client.session.await.unwrap();
    assert!(read_end(&mut slow).await);
    assert_eq!(begun.elapsed(), 15 * SECOND, "timeouts.request");
    slow.write_all(TELL).await.unwrap();
    drop(slow);
    settle().await;
    drop(silent);
    assert_eq!(front.world.events.closed.of(CloseReason::Shutdown).get(), 2, "no client has ended");
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not() {
    let mut front = front(0, 4, 2);
    let (mut client, mut server) = asked(&mut front).await;
    front.switch.drain();
    front.switch.stop();
    assert!(client.rest().await.is_err());
    assert_eq!(server.read(&mut [0; 1]).await.ok(), None);
}

#[tokio::test(start_paused = true)]
async fn nothing_may_move_for_so_long() {
    let mut front = front(0, 4, 3);
    let (mut idle, _server) = asked(&mut front).await;
    let (half, mut deaf) = asked(&mut front).await;
    let (_full, mut full_server) = asked(&mut front).await;
    // A client that takes nothing, and a server that does not end after its client has.
    let flood = tokio::spawn(async move { while full_server.write_all(&[b' '; 4096]).await.is_ok() {} });
    let mut half = half;
    half.wire.shut_down();
    assert!(read_end(&mut deaf).await);
    tokio::time::sleep(Duration::from_millis(14_900)).await;
    assert_eq!(dedicated(&front), 3);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(dedicated(&front), 2, "timeouts.request after the end of the client");
    tokio::time::sleep(15 * SECOND).await;
    assert_eq!(dedicated(&front), 1, "timeouts.client_write");
    flood.await.unwrap();
    tokio::time::sleep(269 * SECOND).await;
    assert_eq!(dedicated(&front), 1);
    tokio::time::sleep(2 * SECOND).await;
    assert_eq!(dedicated(&front), 0, "timeouts.client_idle");
    assert_eq!(idle.rest().await.unwrap(), b"");
}

/// That it sends does not make up for it.
#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let mut front = front(0, 4, 1);
    let (mut client, server) = asked(&mut front).await;
    let (mut asks, mut answers) = tokio::io::split(server);
    tokio::spawn(async move { while answers.write_all(&[b' '; 4096]).await.is_ok() {} });
    tokio::spawn(async move { while asks.read(&mut [0; 1]).await.is_ok_and(|read| read > 0) {} });
    for _ in 0..5 {
        client.wire.write_all(b" ").await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(dedicated(&front), 1);
    }
    client.wire.write_all(b" ").await.unwrap();
    tokio::time::sleep(6 * SECOND).await;
    assert_eq!(dedicated(&front), 0, "timeouts.client_write");
    assert!(client.rest().await.is_err(), "what is cut short does not look whole");
    assert_eq!(front.world.events.closed.of(CloseReason::Stalled).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn large_messages_pass_in_pieces() {
    let mut front = front(0, 4, 2);
    let (mut client, server) = asked(&mut front).await;
    let (mut answers, mut asks) = tokio::io::split(server);
    let payload: Vec<u8> = (0..=250).cycle().take(1_000_003).collect();
    let sent = payload.clone();
    let server = tokio::spawn(async move {
        let mut echo = vec![0; sent.len()];
        answers.read_exact(&mut echo).await.unwrap();
        asks.write_all(&echo).await.unwrap();
    });
    let (mut reader, mut writer) = tokio::io::split(client.wire);
    let sent = payload.clone();
    let sends = tokio::spawn(async move {
        writer.write_all(&sent).await.unwrap();
        writer
    });
    let mut back = vec![0; payload.len()];
    reader.read_exact(&mut back).await.unwrap();
    assert!(back == payload);
    client.wire = reader.unsplit(sends.await.unwrap());
    server.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_leaves_while_it_waits_leaves_nothing_behind() {
    let mut front = front(1, 1, 2);
    let warm = front.server().await;
    let (first, mut server) = asked(&mut front).await;
    drop(warm);
    let mut second = front.connect();
    second.wire.write_all(ASK).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert!(!second.session.is_finished(), "it waits for the cap");
    second.wire.reset();
    settle().await;
    assert!(second.session.is_finished());
    first.wire.reset();
    assert!(server.read(&mut [0; 1]).await.is_err());
    front.server().await;
    assert_eq!((dedicated(&front), front.world.pool.figures().idle), (0, 1), "the pool has its socket again");
}

#[tokio::test(start_paused = true)]
async fn a_notification_that_cannot_be_served_is_not_answered() {
    let front = front(0, 4, 2);
    front.world.refuse(0, true);
    let mut client = front.connect();
    client.wire.write_all(TELL).await.unwrap();
    assert_eq!(client.rest().await.unwrap(), b"");
}
