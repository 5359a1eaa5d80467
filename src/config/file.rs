//! What may be written in a configuration file: each table is a struct, each key a field.
//!
//! Invariant: what is not named here is refused by serde with its place. Everything is optional here;
//! what is required, the defaults and the ranges are in `check`. Read by `check` only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;

use super::forms::{Endpoint, Key, Probe, Protocol, Width};
use super::units::{Count, List, Marked, Permissions, Policy, Share, Size, Text};
use crate::events::log::Format;
use crate::frame::Endian;
use crate::net::Address;
use crate::protocol::Mode;
use crate::protocol::jsonrpc::{Framing, ServerMessages};
use crate::protocol::thrift::{Encoding, Transport};
use crate::session::ClientClose;

/// A table in which every key is optional.
pub(super) trait Table: Sized {
    /// Its keys.
    const KEYS: &[&str];

    /// What is absent here is taken from `defaults`.
    fn or(self, defaults: &Self) -> Self;
}

/// The table of an upstream, with what it leaves out taken from the defaults.
pub(super) fn inherit<T: Table + Default>(own: Option<T>, defaults: Option<&T>) -> T {
    let own = own.unwrap_or_default();
    match defaults {
        Some(defaults) => own.or(defaults),
        None => own,
    }
}

/// Defines tables.
macro_rules! tables {
    ($($(#[$doc:meta])* $name:ident { $($(#[$key_doc:meta])* $key:ident: $type:ty,)* })*) => { $(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $name { $($(#[$key_doc])* pub $key: Option<$type>,)* }

        impl Table for $name {
            const KEYS: &[&str] = &[$(stringify!($key)),*];

            fn or(self, defaults: &Self) -> Self {
                Self { $($key: self.$key.or_else(|| defaults.$key.clone()),)* }
            }
        }
    )* };
}

tables! {
    /// The whole file.
    File {
        /// How to log.
        log: Log,
        /// The admin endpoint; off where the table is absent.
        admin: Admin,
        /// How to go down.
        shutdown: Shutdown,
        /// Bounds of the whole process.
        limits: Limits,
        /// Tables of an upstream, given once for all of them.
        defaults: Defaults,
        /// The upstreams by name: 1 to 64 letters, digits, `_` and `-`.
        upstreams: BTreeMap<String, Upstream>,
    }

    /// `[log]`
    Log {
        /// An env-filter directive; default `"info"`.
        level: Text<String>,
        /// `"auto"` (pretty on a terminal, else json), `"pretty"` or `"json"`; default `"auto"`.
        format: Text<Format>,
    }

    /// `[admin]`
    Admin {
        /// Where to listen: a unix socket or a loopback address, or a list; required.
        listen: List<Text<Address>>,
    }

    /// `[shutdown]`
    Shutdown {
        /// Longest time for a graceful shutdown; default `"25s"`.
        drain_timeout: Text<Duration>,
    }

    /// `[limits]`
    Limits {
        /// Clients over all listeners; default 10000, lowered where the fd limit is less.
        max_clients: Count,
        /// Byte budget of all buffers; default `"256MiB"`.
        memory: Text<Size>,
        /// Threads; 0 = one per core; default 1.
        workers: Count,
    }

    /// `[defaults]`
    Defaults {
        /// For `[upstreams.NAME.pool]`.
        pool: Pool,
        /// For `[upstreams.NAME.timeouts]`.
        timeouts: Timeouts,
        /// For `[upstreams.NAME.health]`.
        health: Health,
        /// For `[upstreams.NAME.retry]`.
        retry: Retry,
        /// For `[upstreams.NAME.balance]`.
        balance: Balance,
        /// For `[upstreams.NAME.sockets]`.
        sockets: Sockets,
        /// For `[upstreams.NAME.preamble]`.
        preamble: Preamble,
        /// For `[upstreams.NAME.access]`.
        access: Access,
    }

    /// `[upstreams.NAME]`
    Upstream {
        /// `"127.0.0.1:7601"`, `"localhost:7601"` (both families), `"unix:/path"`, or a list; required.
        listen: List<Text<Address>>,
        /// Allows addresses that are not loopback; default false.
        expose: bool,
        /// `"host:port"`, `"unix:/path"` or `{ address = "...", weight = 1, backup = false }`, or a list; required.
        endpoints: List<Endpoint>,
        /// `"line"`, a preset of `frame` as in `"netty4"`, or a table with options; required.
        protocol: Protocol,
        /// Readiness waits for it; default true.
        required: bool,
        /// Clients at a time; at the cap the one idle longest is closed first; default 10000.
        max_clients: Count,
        /// How connections are pooled.
        pool: Pool,
        /// How long things may take.
        timeouts: Timeouts,
        /// How endpoints are watched.
        health: Health,
        /// When requests are tried again.
        retry: Retry,
        /// How endpoints share the requests.
        balance: Balance,
        /// Options of sockets.
        sockets: Sockets,
        /// For servers that speak first.
        preamble: Preamble,
        /// Who may connect to unix listeners.
        access: Access,
    }

    /// `[upstreams.NAME.pool]`
    Pool {
        /// `"exclusive"`, `"pipeline"` or `"multiplex"`; the default is the safe one of the protocol.
        mode: Text<Mode>,
        /// Connections kept warm, spread over endpoints; default 1.
        min_connections: Count,
        /// Connections at a time, hard; default 32, 4 in pipeline and multiplex.
        max_connections: Count,
        /// Connections being opened at a time; default 4.
        max_connecting: Count,
        /// Requests outstanding on one connection; default 128, always 1 in exclusive.
        max_in_flight: Count,
        /// Requests outstanding of one client in multiplex; default 32, otherwise always 1.
        max_per_client: Count,
        /// Requests waiting for a connection; beyond it they are refused at once; default 1024.
        max_waiting: Count,
        /// Longest wait for a connection; default `"3s"`.
        acquire_timeout: Text<Duration>,
        /// Unused connections above `min_connections` close after this; default `"30s"`.
        idle_timeout: Text<Duration>,
        /// Age at which a connection retires, spread by 10 %; default `"30m"`.
        max_lifetime: Text<Duration>,
        /// Requests after which a connection retires; default 0 = no limit.
        max_requests: Count,
        /// Connections that one client has for itself; default 0 = half of `max_connections`.
        max_dedicated: Count,
        /// Larger messages travel in parts where the protocol can; default `"64KiB"`.
        max_buffered: Text<Size>,
        /// Of a client's replies on shared connections; default `"1MiB"`.
        max_reply_buffered: Text<Size>,
    }

    /// `[upstreams.NAME.timeouts]`
    Timeouts {
        /// To connect, the preamble included; default `"1s"`.
        connect: Text<Duration>,
        /// From the whole request read to the whole reply read; default `"15s"`.
        request: Text<Duration>,
        /// Longest time a connection may owe a reply; default 2 x `request`, never below it.
        stall: Text<Duration>,
        /// For a first byte, and for a whole request or its first `max_buffered` bytes; default `"10s"`.
        client_read: Text<Duration>,
        /// Between requests; default `"5m"`.
        client_idle: Text<Duration>,
        /// For a client to go on with a request over `max_buffered`; default `"5s"`.
        client_progress: Text<Duration>,
        /// For the client to take its reply; default `"30s"`.
        client_write: Text<Duration>,
    }

    /// `[upstreams.NAME.health]`
    Health {
        /// `"connect"`, `"ping"`, or a table of what to ask; default `"connect"`.
        probe: Probe,
        /// Between two probes of an endpoint, `"0s"` = off; default `"5s"`.
        interval: Text<Duration>,
        /// For the answer to a probe; default `"1s"`, never above `interval`.
        timeout: Text<Duration>,
        /// Probes in a row that fail until the endpoint is left out; default 3.
        unhealthy_after: Count,
        /// Probes in a row that succeed until it is taken back; default 1.
        healthy_after: Count,
        /// Failures in a row seen in traffic until the endpoint is ejected; default 5.
        eject_after: Count,
        /// For how long the first time, doubling up to 60 s; default `"1s"`.
        eject_for: Text<Duration>,
    }

    /// `[upstreams.NAME.health.probe]`
    Ask {
        /// A whole request, as text or `"hex:..."`.
        send: Text<Bytes>,
        /// What its reply begins with, as text or `"hex:..."`; default `""` = any reply.
        expect: Text<Bytes>,
        /// In place of `send`, what to call, as text or `"hex:..."`.
        method: Text<Bytes>,
    }

    /// `[upstreams.NAME.retry]`
    Retry {
        /// Of one request, the first included; default 2.
        attempts: Count,
        /// Methods that may be run twice, as text or `"hex:..."`; `"*"` = all; default [].
        idempotent: List<Text<Marked>>,
        /// Retries as a share of the requests, from 0 to 1; default 0.2.
        budget: Share,
    }

    /// `[upstreams.NAME.balance]`
    Balance {
        /// `"least_in_flight"`, `"round_robin"` or `"hash"`; default `"least_in_flight"`.
        policy: Text<Policy>,
        /// For `"hash"`: `"method"`, `"id"`, or a table of which bytes; default `"method"`.
        key: Key,
        /// Endpoints that this host uses; default 0 = all.
        subset: Count,
        /// For how long an endpoint that is back gets less than its share, `"0s"` = off; default `"10s"`.
        slow_start: Text<Duration>,
        /// Between two look-ups of a name; default `"30s"`.
        resolve: Text<Duration>,
    }

    /// `[upstreams.NAME.balance.key]`
    Place {
        /// In bytes from the front of the request; default 0.
        offset: Count,
        /// In bytes; required.
        size: Count,
    }

    /// `[upstreams.NAME.sockets]`
    Sockets {
        /// `"auto"`, `"fin"` (never an RST) or `"reset"`; default `"auto"`.
        client_close: Text<ClientClose>,
        /// Clients send one request per connection: warmline closes first; default false.
        one_shot: bool,
        /// `TCP_NODELAY`; default true.
        nodelay: bool,
        /// Time between keepalive probes, `"0s"` = off; default `"60s"`.
        keepalive: Text<Duration>,
        /// `TCP_USER_TIMEOUT`, `"0s"` = the kernel's; default `"30s"`.
        user_timeout: Text<Duration>,
        /// Source address of upstream connections; default the kernel's choice.
        source: Text<IpAddr>,
    }

    /// `[upstreams.NAME.preamble]`
    Preamble {
        /// The bytes the server sends first, exactly, as text or `"hex:..."`; default `""`.
        expect: Text<Bytes>,
        /// The bytes to answer, as text or `"hex:..."`; default `""`.
        send: Text<Bytes>,
    }

    /// `[upstreams.NAME.access]`
    Access {
        /// Permission bits of the socket file; default `"0660"`.
        mode: Text<Permissions>,
        /// User ids allowed to connect; default [] = everyone the file mode lets in.
        uids: Vec<u32>,
    }

    /// `[upstreams.NAME.protocol.frame]`
    Frame {
        /// A layout to start from: `"swoole"`, `"netty4"`, `"dubbo"`, `"bolt"`, `"tars"` or `"brpc"`; the other keys
        /// change it.
        preset: Text<String>,
        /// Where a message says how long it is; a list is summed; required without a preset.
        length: List<Length>,
        /// Where a message carries its id; present = multiplex is possible.
        id: Id,
        /// Requests without a reply; all must match.
        oneway: List<Condition>,
        /// Messages answered in place, in either direction, also while idle.
        heartbeat: Heartbeat,
        /// The peer is about to close; all must match.
        closing: List<Condition>,
        /// Every other request; all must match; default whatever is nothing else.
        message: List<Condition>,
        /// What a client is told when there is no reply: hex digits and `{id}`.
        error: Text<String>,
        /// Where a request says what it calls.
        method: Method,
        /// Overrides for replies.
        reply: Reply,
        /// The longest message in either direction; default `"16MiB"`, or the preset's.
        max_message: Text<Size>,
    }

    /// `[upstreams.NAME.protocol.frame.reply]`
    Reply {
        /// As in `frame`.
        length: List<Length>,
        /// As in `frame`.
        id: Id,
        /// As in `frame`.
        heartbeat: Heartbeat,
        /// As in `frame`.
        closing: List<Condition>,
        /// Every reply that is nothing else; as in `frame`.
        message: List<Condition>,
    }

    /// A number that counts towards the length of a message.
    Length {
        /// In bytes from the front of the message; default 0.
        offset: Count,
        /// 1, 2, 3, 4, 8 or `"varint"`; required.
        size: Width,
        /// `"big"` or `"little"`; default `"big"`.
        endian: Text<Endian>,
        /// Bytes on the wire = value + `adjust`; default 0.
        adjust: i64,
    }

    /// The place of an id.
    Id {
        /// In bytes from the front of the message; default 0.
        offset: Count,
        /// 1 to 8; required.
        size: Count,
        /// `"big"` or `"little"`; default `"big"`.
        endian: Text<Endian>,
        /// Values never used as an id; default [].
        avoid: Vec<Count>,
    }

    /// The place of the name of what a request calls.
    Method {
        /// In bytes from the front of the message; default 0.
        offset: Count,
        /// In bytes; required.
        size: Count,
    }

    /// A byte that tells a message of one kind from others: byte & `mask` = `equals`.
    Condition {
        /// In bytes from the front of the message; default 0.
        offset: Count,
        /// Default 0xff.
        mask: Count,
        /// Required.
        equals: Count,
    }

    /// Messages that keep a connection alive.
    Heartbeat {
        /// Which they are; all must match; required.
        r#match: List<Condition>,
        /// What to answer: hex digits and `{id}`; nothing where absent.
        reply: Text<String>,
        /// Laid out as requests are, and answered as they are, whoever sends it; default false.
        is_request: bool,
    }

    /// `[upstreams.NAME.protocol.line]`
    Line {
        /// What ends a message, as text or `"hex:..."`; default `"\n"`.
        delimiter: Text<Bytes>,
        /// What a client is told when there is no reply, as text or `"hex:..."`; may hold `{reason}`.
        error: Text<Bytes>,
        /// The longest message in either direction; default `"16MiB"`.
        max_message: Text<Size>,
    }

    /// `[upstreams.NAME.protocol.jsonrpc]`
    JsonRpc {
        /// What tells one message from the next; default `"line"`.
        framing: Text<Framing>,
        /// What becomes of messages that a server sends of its own accord; default `"drop"`.
        server_messages: Text<ServerMessages>,
        /// Whether lists of requests are taken; default `true`.
        batches: bool,
        /// The longest message in either direction; default `"16MiB"`.
        max_message: Text<Size>,
    }

    /// `[upstreams.NAME.protocol.thrift]`
    Thrift {
        /// How the upstream sets messages apart: `"framed"`, `"buffered"` or `"header"`; default `"framed"`.
        transport: Text<Transport>,
        /// How messages are written: `"binary"`, `"compact"` or `"json"`; default `"binary"`.
        encoding: Text<Encoding>,
        /// Methods without a reply although their clients mark them as calls; default [].
        oneway: List<Text<Bytes>>,
        /// Whether replies have the seqid of their call; default `true`.
        echoes_seqid: bool,
        /// The longest message in either direction; default `"16MiB"`.
        max_message: Text<Size>,
    }
}
