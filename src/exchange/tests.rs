//! Exchanges ended in every order.

use std::time::Duration;

use bytes::Bytes;

use super::*;

pub(crate) fn request(bytes: &'static [u8]) -> Request {
    Request::new(Bytes::from_static(bytes), false)
}

fn reply(bytes: &'static [u8]) -> Reply {
    Reply::new(Bytes::from_static(bytes))
}

fn new() -> (Exchange, Ticket, Arc<events::Upstream>) {
    let events = Arc::new(events::Upstream::new("u"));
    let now = Instant::now();
    let (exchange, ticket) = open(request(b"q"), true, now, Some(now + Duration::from_secs(1)), &events);
    (exchange, ticket, events)
}

fn poll(ticket: &mut Ticket) -> Poll<Answer> {
    ticket.poll_answer(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test]
async fn the_first_to_end_it_wins_and_the_second_is_told() {
    let (exchange, mut ticket, events) = new();
    assert_eq!(exchange.slot.finish(reply(b"1")), Ok(()));
    assert_eq!(exchange.slot.finish(reply(b"2")), Err(AlreadyEnded));
    assert_eq!(ticket.refuse(Refusal::Timeout), Err(AlreadyEnded));
    assert_eq!(ticket.abandon(), Err(AlreadyEnded));
    drop(exchange);
    let Poll::Ready(Ok(Some(answer))) = poll(&mut ticket) else { panic!("no answer") };
    assert_eq!(answer.bytes, "1");
    assert!(poll(&mut ticket).is_pending());
    assert_eq!((events.accepted.get(), events.outcomes.sum()), (1, 1));
}

#[tokio::test]
async fn dropping_an_open_exchange_answers_lost() {
    let (exchange, mut ticket, events) = new();
    drop(exchange);
    assert!(matches!(poll(&mut ticket), Poll::Ready(Err(Refusal::Lost))));
    assert_eq!(events.outcomes.of(Outcome::Lost).get(), 1);
}

#[tokio::test]
async fn a_reply_in_parts_ends_with_its_last_part() {
    let (exchange, mut ticket, events) = new();
    exchange.slot.begin(reply(b"head")).unwrap();
    assert_eq!(exchange.slot.begin(reply(b"again")), Err(AlreadyEnded));
    assert_eq!((ticket.held(), ticket.is_ended(), events.outcomes.sum()), (4, false, 0));
    let Poll::Ready(Ok(Some(head))) = poll(&mut ticket) else { panic!("no head") };
    assert_eq!(head.bytes, "head");
    assert!(poll(&mut ticket).is_pending());
    exchange.slot.finish_begun().unwrap();
    assert!(poll(&mut ticket).is_pending() && ticket.is_ended());
    assert_eq!(events.outcomes.of(Outcome::Ok).get(), 1);
}

#[tokio::test]
async fn a_head_outlives_the_end_of_its_reply_but_not_a_refusal() {
    let (exchange, mut ticket, _) = new();
    exchange.slot.begin(reply(b"head")).unwrap();
    exchange.slot.finish_begun().unwrap();
    assert!(matches!(poll(&mut ticket), Poll::Ready(Ok(Some(_)))));
    let (exchange, mut ticket, _) = new();
    exchange.slot.begin(reply(b"head")).unwrap();
    drop(exchange);
    assert!(matches!(poll(&mut ticket), Poll::Ready(Err(Refusal::Lost))));
}

#[tokio::test]
async fn what_has_ended_does_not_begin_to_wait() {
    let (exchange, ticket, _) = new();
    let turn = Turn { round: 7, arrival: 7 };
    assert!(exchange.slot.begin_waiting(turn).is_some());
    assert_eq!(ticket.waiting(), Some(turn));
    exchange.slot.end_waiting();
    ticket.abandon().unwrap();
    assert!(exchange.slot.begin_waiting(turn).is_none());
    assert_eq!(ticket.waiting(), None);
}

#[tokio::test]
async fn a_dropped_ticket_ends_nothing() {
    let (exchange, ticket, _) = new();
    drop(ticket);
    assert_eq!(exchange.slot.sent(), Ok(()));
}

#[tokio::test]
async fn the_session_is_woken() {
    let (exchange, mut ticket, _) = new();
    let waiting = tokio::spawn(std::future::poll_fn(move |cx| ticket.poll_answer(cx)));
    tokio::task::yield_now().await;
    exchange.slot.refuse(Refusal::Desync).unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Refusal::Desync)));
}

#[tokio::test(start_paused = true)]
async fn overhead_is_what_the_upstream_did_not_take() {
    let (exchange, _ticket, events) = new();
    tokio::time::advance(Duration::from_millis(3)).await;
    exchange.slot.mark_given(Instant::now());
    exchange.slot.mark_written(Instant::now());
    tokio::time::advance(Duration::from_millis(500)).await;
    exchange.slot.finish(reply(b"r")).unwrap();
    assert!((events.overhead.sum_seconds() - 0.003).abs() < 1e-6);
    assert!((events.queue_wait.sum_seconds() - 0.003).abs() < 1e-6);
    assert!((events.request_duration.sum_seconds() - 0.503).abs() < 1e-6);
}
