//! An exchange from its opening to the answer.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use divan::Bencher;
use tokio::time::Instant;
use warmline::events;
use warmline::exchange::{self, Exchange, Ticket};
use warmline::protocol::{Reply, Request};

/// An exchange of `events`, as the pool opens it.
pub(crate) fn open(events: &Arc<events::Upstream>) -> (Exchange, Ticket) {
    let now = Instant::now();
    let request = Request::new(Bytes::from_static(&[b'.'; 64]), false);
    exchange::open(request, false, now, Some(now + Duration::from_secs(15)), events)
}

pub(crate) fn answer() -> Reply {
    Reply::new(Bytes::from_static(&[b'.'; 64]))
}

/// All clocks included: opened, given to a connection, written, finished.
#[divan::bench]
fn open_finish_and_answer(bencher: Bencher<'_, '_>) {
    let events = Arc::new(events::Upstream::new("x"));
    let mut cx = Context::from_waker(Waker::noop());
    bencher.bench_local(|| {
        let (exchange, mut ticket) = open(&events);
        assert!(ticket.poll_answer(&mut cx).is_pending());
        exchange.slot.mark_given_at_once();
        exchange.slot.mark_written(Instant::now());
        assert_eq!(exchange.slot.finish(answer()), Ok(()));
        assert!(matches!(ticket.poll_answer(&mut cx), Poll::Ready(Ok(Some(_)))));
    });
}
