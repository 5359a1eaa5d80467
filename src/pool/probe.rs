//! A probe that asks: a request of its own to one endpoint, and what its reply must begin with.
//!
//! It travels like any request, on a connection of the pool, so it finds what requests would find; it is not counted
//! as one. The keeper sends it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{Instant, timeout};

use super::health::{Probe, Settings};
use crate::events::{self, ProbeResult};
use crate::exchange::{self, Answer, Exchange, Ticket};
use crate::protocol::{Id, Protocol, Received, Refusal, Reply, Request};
use crate::wire::Output;

/// What to ask an endpoint.
#[derive(Debug)]
pub(super) struct Question {
    protocol: Arc<dyn Protocol>,
    /// As its sender calls it.
    id: Id,
    request: Bytes,
    expect: Bytes,
    timeout: Duration,
    /// Nobody looks at these counters: a probe is no request of a client.
    events: Arc<events::Upstream>,
}

/// How a probe ended, and what is wrong if something is.
pub(super) type Found = (ProbeResult, String);

impl Question {
    /// The question of these settings. `None` if endpoints are only connected to, or if it is no whole request with
    /// a reply, which `config` refuses.
    pub(super) fn new(settings: &Settings, protocol: &Arc<dyn Protocol>) -> Option<Self> {
        let Probe::Ask { request, expect } = &settings.probe else { return None };
        let mut codec = protocol.configured();
        let Ok(Received::Request { id, request }) = codec.decode(&mut BytesMut::from(&request[..])) else {
            return None;
        };
        (!request.oneway).then(|| Self {
            protocol: protocol.clone(),
            id,
            request: request.bytes,
            expect: expect.clone(),
            timeout: settings.timeout,
            events: Arc::new(events::Upstream::new("probe")),
        })
    }

    /// A probe that begins now.
    pub(super) fn put(&self, now: Instant) -> (Exchange, Ticket) {
        let request = Request::new(self.request.clone(), false);
        exchange::open(request, false, now, Some(now + self.timeout), &self.events)
    }

    /// Waits for what comes of it.
    pub(super) async fn answer(self: Arc<Self>, mut ticket: Ticket) -> Found {
        let answer = timeout(self.timeout, poll_fn(|cx| ticket.poll_answer(cx))).await;
        let found = answer.map_or_else(|_| self.late(), |answer| self.judge(answer));
        // The rest of a reply in parts is of no interest, nor is one that comes late.
        let _ = ticket.abandon();
        found
    }

    fn judge(&self, answer: Answer) -> Found {
        let reply = match answer {
            Ok(reply) => reply.map_or_else(Vec::new, |reply| self.text(reply)),
            Err(Refusal::Timeout) => return self.late(),
            Err(refusal) => return (ProbeResult::Failed, refusal.to_string()),
        };
        if reply.starts_with(&self.expect) {
            (ProbeResult::Ok, String::new())
        } else {
            (ProbeResult::Failed, "its reply is not the expected one".to_owned())
        }
    }

    fn late(&self) -> Found {
        (ProbeResult::Timeout, format!("no reply to a probe within {:?}", self.timeout))
    }

    /// The reply as its client would read it.
    fn text(&self, reply: Reply) -> Vec<u8> {
        let (mut output, mut text) = (Output::new(), Vec::new());
        self.protocol.configured().encode(&self.id, reply, &mut output);
        while !output.is_empty() {
            let taken = output.write_once(|slices| {
                let before = text.len();
                for slice in slices {
                    text.extend_from_slice(slice);
                }
                Ok::<_, Infallible>(text.len() - before)
            });
            if taken == Ok(0) {
                break;
            }
        }
        text
    }
}
