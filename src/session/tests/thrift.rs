//! Thrift servers that do not bring the seqid back, or put another name into a reply.

use super::*;
use crate::protocol::thrift;

const CALL: u8 = 1;
const REPLY: u8 = 2;
const EXCEPTION: u8 = 3;
const ONEWAY: u8 = 4;

fn front(mode: Mode) -> Front {
    front_of(mode, true)
}

/// Of an upstream that is said to echo seqids, or not to.
fn front_of(mode: Mode, echoes_seqid: bool) -> Front {
    let settings = thrift::Settings { echoes_seqid, ..thrift::Settings::default() };
    let protocol = thrift::Thrift::new(settings).unwrap();
    Front::with(mode, Arc::new(protocol), |_| {}, Budget::new(1 << 26))
}

fn message(kind: u8, name: &str, seqid: i32) -> Vec<u8> {
    let size = |size: usize| u32::try_from(size).unwrap().to_be_bytes();
    let head = [&[0x80, 1, 0, kind][..], &size(name.len()), name.as_bytes(), &seqid.to_be_bytes()].concat();
    [&size(head.len() + 1)[..], &head, &[0]].concat()
}

async fn heard(wire: &mut Wire) -> Vec<u8> {
    settle().await;
    let mut all = vec![0; 4096];
    let count = wire.try_read(&mut all).unwrap_or(0);
    all.truncate(count);
    all
}

async fn say(wire: &mut Wire, kind: u8, name: &str, seqid: i32) {
    wire.write_all(&message(kind, name, seqid)).await.unwrap();
    settle().await;
}

/// The seqid of the last message in `bytes`, which has no arguments.
fn seqid(bytes: &[u8]) -> i32 {
    let end = bytes.len() - 1;
    i32::from_be_bytes(bytes[end - 4..end].try_into().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_reply_with_another_name_reaches_nobody() {
    for mode in [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex] {
        let mut front = front(mode);
        let mut server = front.server().await;
        let mut client = front.connect();
        say(&mut client.wire, CALL, "get", 7).await;
        let tag = seqid(&heard(&mut server.wire).await);
        say(&mut server.wire, REPLY, "smuggled", tag).await;
        let told = heard(&mut client.wire).await;
        assert_eq!(told[7], EXCEPTION, "{mode:?}: {}", told.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn without_seqids_an_unlisted_oneway_gives_nobody_anothers_reply() {
    for second in ["get", "log"] {
        let mut front = front(Mode::Pipeline);
        let mut server = front.server().await;
        let (mut a, mut b) = (front.connect(), front.connect());
        say(&mut a.wire, CALL, "log", 7).await;
        say(&mut b.wire, CALL, second, 9).await;
        assert!(!heard(&mut server.wire).await.is_empty());
        // `log` is one-way to the server, or is the first time.
        say(&mut server.wire, REPLY, second, 0).await;
        let told = heard(&mut a.wire).await;
        assert_eq!(told[7], EXCEPTION, "{}", told.escape_ascii());
    }
}

/// It has its connection for itself: nobody could tell what the next reply is to.
#[tokio::test(start_paused = true)]
async fn without_seqids_a_oneway_costs_the_next_call_nothing() {
    let mut front = front_of(Mode::Exclusive, false);
    let mut server = front.server().await;
    let (mut a, mut b) = (front.connect(), front.connect());
    for _ in 0..3 {
        say(&mut b.wire, CALL, "get", 9).await;
        assert!(!heard(&mut server.wire).await.is_empty());
        say(&mut server.wire, REPLY, "get", 0).await;
        let told = heard(&mut b.wire).await;
        assert_eq!(told, message(REPLY, "get", 9), "{}", told.escape_ascii());
        say(&mut a.wire, ONEWAY, "get", 7).await;
        assert!(!heard(&mut server.wire).await.is_empty());
        server = front.server().await;
    }
}

/// Whatever has come before.
#[tokio::test(start_paused = true)]
async fn no_client_can_make_a_server_pass_for_one_without_seqids() {
    for mode in [Mode::Exclusive, Mode::Pipeline, Mode::Multiplex] {
        let mut front = front(mode);
        let mut server = front.server().await;
        let (mut evil, mut neighbour) = (front.connect(), front.connect());
        // Its call is slow, or one-way to the server; one that is hidden in it is answered first.
        say(&mut evil.wire, CALL, "slow:get", 7).await;
        assert!(!heard(&mut server.wire).await.is_empty());
        say(&mut server.wire, REPLY, "get", 0).await;
        assert_eq!(heard(&mut evil.wire).await[7], EXCEPTION, "{mode:?}");
        tokio::time::sleep(5 * SECOND).await;
        say(&mut evil.wire, ONEWAY, "note", 7).await;
        let mut server = front.server().await;
        say(&mut neighbour.wire, CALL, "get", 9).await;
        assert!(seqid(&heard(&mut server.wire).await) > 0);
        say(&mut server.wire, REPLY, "get", 0).await;
        let told = heard(&mut neighbour.wire).await;
        assert_eq!(told[7], EXCEPTION, "{mode:?}: {}", told.escape_ascii());
    }
}

/// A server may read more out of a one-way request than warmline, and answer that under seqid 0.
#[tokio::test(start_paused = true)]
async fn what_is_hidden_in_a_oneway_answers_no_neighbour() {
    for mode in [Mode::Exclusive, Mode::Pipeline] {
        let mut front = front(mode);
        let mut server = front.server().await;
        let (mut evil, mut neighbour) = (front.connect(), front.connect());
        say(&mut evil.wire, ONEWAY, "note", 7).await;
        say(&mut neighbour.wire, CALL, "shout", 9).await;
        assert!(!heard(&mut server.wire).await.is_empty());
        say(&mut server.wire, REPLY, "shout", 0).await;
        let told = heard(&mut neighbour.wire).await;
        assert_eq!(told[7], EXCEPTION, "{mode:?}: {}", told.escape_ascii());
    }
}

/// What gets no reply because a later one has come in order is forgotten by all who knew of it.
#[tokio::test(start_paused = true)]
async fn in_pipeline_nothing_is_kept_of_what_a_reply_overtakes() {
    let protocol = Fragile::new(Arc::new(thrift::Thrift::new(thrift::Settings::default()).unwrap()));
    let held = protocol.held.clone();
    let mut front = Front::with(Mode::Pipeline, Arc::new(protocol), |_| {}, Budget::new(1 << 26));
    let mut server = front.server().await;
    let (mut evil, mut good) = (front.connect(), front.connect());
    let (mut after_one, mut after_all) = (0, 0);
    for _ in 0..100 {
        say(&mut evil.wire, CALL, "log", 7).await;
        say(&mut good.wire, CALL, "get", 9).await;
        let second = seqid(&heard(&mut server.wire).await);
        say(&mut server.wire, REPLY, "get", second).await;
        assert_eq!(heard(&mut evil.wire).await[7], EXCEPTION);
        assert_eq!(heard(&mut good.wire).await, message(REPLY, "get", 9));
        after_all = held.load(Ordering::Relaxed);
        after_one = if after_one == 0 { after_all } else { after_one };
    }
    assert!(after_all <= after_one + 8, "{after_one} grew to {after_all}");
}
