//! warmline carries masses of short client connections over a few warm upstream ones.
//!
//! ```text
//!  client ─▶ Session ──Exchange──▶ Queue ──take──▶ Connection ─▶ upstream
//!         ◀─ encode ◀────────── ReplySlot.finish ◀── decode   ◀─
//! ```
//!
//! A pool is a queue, and connections take from it. A [`session`] reads a request, the [`pool`] wraps it in
//! an [`exchange`] and pushes it on the upstream's bounded [`queue`]. A [`connection`] with room is given it,
//! writes it, and answers through the exchange's own slot. The modes are two values, not three code paths:
//!
//! | mode | room | how a reply finds its request |
//! |---|---|---|
//! | exclusive | 1 | front of the line |
//! | pipeline | n | front of the line |
//! | multiplex | n | by tag |
//!
//! # In reading order
//!
//! | step | where | what |
//! |---|---|---|
//! | accept | [`listener`] | permit first, then accept; spawn a session |
//! | read | [`session`] | `Downstream::decode` makes a `Request` |
//! | admit | [`pool`] | phase, bound, deadline; else the protocol's own refusal |
//! | take | [`queue`] | who gets what; what ended while it waited has left |
//! | write | [`connection`] | `Upstream::encode` with a tag |
//! | reply | [`connection`] | `Upstream::decode`, matched by front or tag |
//! | answer | [`exchange`] | it ends, once; its metrics are recorded there |
//! | restore | [`session`] | `Downstream::encode` with the client's id |
//!
//! A message too large to be stored takes the same way in [parts](wire::parts): its head is the request or the
//! reply, and a bounded pipe carries the rest from the side that reads it to the side that writes it.
//!
//! # Layers
//!
//! A file imports only what is to its right; `tests/layers.rs` holds the list:
//!
//! ```text
//! main > cli > daemon > config > admin > listener > session > pool > connection > queue > exchange > protocol > frame
//! leaves, open to all: events  lifecycle  wire > net  systemd
//! ```
//!
//! # Threads
//!
//! One by default, with one current-thread runtime. With `limits.workers = N` there are N of them, each with a runtime
//! of its own, so a task never moves: a session runs on the worker that accepted it, keeper and connections of an
//! upstream on its home; upstreams have their homes in turn. All workers accept from the same listening sockets.
//!
//! Locks are taken in this order: queue, exchange, pipe of [parts](wire::parts). The lists of idle clients, idle
//! limits, permits, the pools under a cap, semaphores and rate limits are leaves; under the aim of a listener a client
//! is accepted and its session begun. None is held across an await; nobody is woken, and nothing that wakes is dropped,
//! under queue or exchange. What must not come apart happens under one lock: a state and the waker for it; the end
//! of an exchange and its place in the queue; the last part of a message and its end.
//!
//! Between two looks at what others change, it may have changed. So a task looks once, and first: a phase by
//! [`lifecycle::Watch::look`], the room of a pipe before it decides what to wait for, its seat before it reads what
//! must not meet a request.
//!
//! # Reload
//!
//! A new plan is checked, and its sockets are bound, before anything is touched. An upstream whose connections can live
//! with the change is retuned: the same queue under other settings. Else another generation of it begins, with switches of
//! its own; a session keeps the one it had at accept, and the last session of a past one drains its connections. All
//! generations are under one [cap](pool::Cap); one that has no socket and something to send has the next one. Listening
//! sockets are [aimed](listener::Aim) anew, and closed only if their address is gone.
//!
//! # What never happens
//!
//! * A reply never reaches another client: only a connection touches its socket, an entry in flight leaves
//!   with its own reply or with the connection, and bytes that answer nothing close the connection.
//! * A request never runs twice unasked: an exchange that a connection has begun to write is given to another only
//!   if its method is marked, and no byte of its reply was seen.
//! * A message cut short never looks whole: the one who reads it sees a reset.
//! * Nothing is lost silently: an exchange ends once, and dropping it unfinished is an end too.
//! * The cap is hard: a socket holds its permit until it is closed.
//! * Nothing is unbounded: queue, buffers, clients, sockets and log lines each have a limit.

pub mod admin;
pub mod cli;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod events;
pub mod exchange;
pub mod frame;
pub mod lifecycle;
pub mod listener;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod queue;
pub mod session;
pub mod systemd;
pub mod wire;
