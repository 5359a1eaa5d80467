//! Servers that answer what nobody asked them to answer: one-way requests, and requests that only they saw.

use super::parts::{LARGE, MODES, frame, payload, receive, start};
use super::*;
use crate::events::CloseReason;

/// The client's own id of every request here.
const ID: u32 = 7;

impl Client {
    async fn ask(&mut self, flags: u8, payload: &[u8]) {
        self.wire.write_all(&frame(flags, ID, payload)).await.unwrap();
    }
}

async fn reply(server: &mut Server, tag: u32, payload: &[u8]) {
    server.wire.write_all(&frame(0, tag, payload)).await.unwrap();
}

/// The next request at the server, which says `payload`: its tag.
async fn tag_of(server: &mut Server, payload: &[u8]) -> u32 {
    let (_, tag, received) = receive(&mut server.wire).await.unwrap();
    assert_eq!(received, payload);
    tag
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_oneway_is_swallowed_and_disturbs_nobody() {
    for mode in MODES {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let (mut one, mut two) = (front.connect(), front.connect());
        for size in [1, 200, LARGE] {
            // While nothing is owed, the front of it first.
            one.ask(ONEWAY, b"note").await;
            let note = tag_of(&mut server, b"note").await;
            let answer = frame(0, note, &payload(size, note));
            server.wire.write_all(&answer[..8]).await.unwrap();
            settle().await;
            server.wire.write_all(&answer[8..]).await.unwrap();
            settle().await;
            // Before the reply to a call, whoever's it is.
            one.ask(ONEWAY, b"note").await;
            let note = tag_of(&mut server, b"note").await;
            two.ask(0, b"call").await;
            let call = tag_of(&mut server, b"call").await;
            reply(&mut server, note, &payload(size, note)).await;
            reply(&mut server, call, b"CALL").await;
            assert_eq!(receive(&mut two.wire).await.unwrap(), (0, ID, b"CALL".to_vec()), "{mode:?} {size}");
        }
        settle().await;
        assert_eq!(front.world.events.late_replies.get(), 6, "{mode:?}");
        assert_eq!(front.world.events.closed.sum(), 0, "{mode:?}");
        assert_eq!((front.world.outcomes(Outcome::Ok), front.world.outcomes(Outcome::Sent)), (3, 6));
        front.world.assert_conserved();
        assert_eq!(front.shared.budget.taken(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_to_a_oneway_may_take_its_time() {
    for mode in MODES {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let mut client = front.connect();
        client.ask(ONEWAY, b"note").await;
        let note = tag_of(&mut server, b"note").await;
        for part in frame(0, note, &payload(LARGE, 1)).chunks(100_000) {
            server.wire.write_all(part).await.unwrap();
            tokio::time::sleep(2 * SECOND).await;
        }
        client.ask(0, b"call").await;
        let call = tag_of(&mut server, b"call").await;
        reply(&mut server, call, b"CALL").await;
        assert_eq!(receive(&mut client.wire).await.unwrap().2, b"CALL", "{mode:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_answer_to_a_oneway_ends_the_connection() {
    for mode in MODES {
        let mut front = start(mode, 1);
        let mut server = front.server().await;
        let (mut one, mut two) = (front.connect(), front.connect());
        one.ask(ONEWAY, b"note").await;
        let note = tag_of(&mut server, b"note").await;
        two.ask(0, b"call").await;
        tag_of(&mut server, b"call").await;
        reply(&mut server, note, b"first").await;
        reply(&mut server, note, b"second").await;
        assert_eq!(receive(&mut two.wire).await.unwrap(), (ERROR, ID, b"!".to_vec()), "{mode:?}");
        settle().await;
        assert_eq!(front.world.events.late_replies.get(), 1);
        assert_eq!(front.world.events.closed.of(CloseReason::Desync).get(), 1, "{mode:?}");
    }
}

/// What one client's message makes the server answer, beyond that message, reaches no other client, whatever small
/// tag it has.
#[tokio::test(start_paused = true)]
async fn a_smuggled_reply_reaches_nobody_and_ends_the_connection() {
    for mode in MODES {
        for guess in [1, 2, 3] {
            let mut front = start(mode, 1);
            let mut server = front.server().await;
            let (mut attacker, mut victim) = (front.connect(), front.connect());
            attacker.ask(0, b"attack").await;
            let first = tag_of(&mut server, b"attack").await;
            reply(&mut server, first, b"ok").await;
            assert_eq!(receive(&mut attacker.wire).await.unwrap().2, b"ok");
            victim.ask(0, b"call").await;
            tag_of(&mut server, b"call").await;
            reply(&mut server, guess, b"EVIL").await;
            assert_eq!(receive(&mut victim.wire).await.unwrap(), (ERROR, ID, b"!".to_vec()), "{mode:?}");
            settle().await;
            assert_eq!(front.world.events.closed.of(CloseReason::Desync).get(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_two_connections_begin_with_the_same_tag() {
    let mut tags = Vec::new();
    for mode in MODES {
        for _ in 0..4 {
            let mut front = start(mode, 1);
            let mut server = front.server().await;
            let mut client = front.connect();
            client.ask(0, b"call").await;
            tags.push(tag_of(&mut server, b"call").await);
        }
    }
    tags.sort_unstable();
    tags.dedup();
    assert!(tags.len() > 10, "{tags:?}");
}
