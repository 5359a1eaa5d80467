//! Makes the settings of one upstream of its table and the defaults.
//!
//! Invariant: what comes out goes together: mode and protocol, floors and caps, timeouts and each other.
//! Called by `check`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::addresses::{Addresses, endpoints};
use super::check::{MAX_CLIENTS, MEMORY};
use super::file::{self, inherit};
use super::plan::{Limits, Upstream};
use super::report::{Report, TIMES};
use super::units::{Count, Permissions, Text};
use super::{balance, health, protocol, retry};
use crate::connection::{self, Preamble};
use crate::net::{Access, Address, Inherited, Tuning};
use crate::protocol::{Mode, Protocol};
use crate::session::ClientClose;
use crate::wire::{Budget, CHUNK, parts};
use crate::{listener, pool, session};

/// In bytes.
const MAX_NAME: usize = 64;
const MAX_CONNECTIONS: usize = 10_000;
const MAX_CONNECTING: usize = 1_000;
const MAX_IN_FLIGHT: usize = 65_536;
const MAX_WAITING: usize = 1_000_000;
const MAX_REQUESTS: usize = 1 << 40;
/// In bytes. Up to 4 KiB a message is stored whole in any case.
const MAX_BUFFERED: RangeInclusive<u64> = 4096..=1 << 30;
/// In bytes.
const MAX_REPLY_BUFFERED: RangeInclusive<u64> = 64 << 10..=1 << 30;
/// In bytes, each way.
const MAX_PREAMBLE: usize = 4096;
const MAX_UIDS: usize = 256;
/// What the kernel takes for `TCP_KEEPIDLE`.
const KEEPALIVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(32_767);
const USER_TIMEOUT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(86_400);

/// The settings of the upstream `name`; `None` if they cannot be, and the report says why.
pub(super) fn upstream(
    report: &mut Report<'_>,
    addresses: &mut Addresses,
    limits: &Limits,
    defaults: &file::Defaults,
    name: String,
    it: file::Upstream,
) -> Option<Upstream> {
    let at = &["upstreams", name.as_str()];
    check_name(report, at, &name);
    let max_clients = max_clients(report, at, limits, it.max_clients);
    let listen = addresses.listen(report, at, it.listen, it.expose.unwrap_or(false));
    let endpoints = endpoints(report, at, it.endpoints, listen.as_deref().unwrap_or_default());
    let access = access(report, at, it.access, defaults.access.as_ref(), listen.as_deref());
    let sockets = sockets(report, at, &inherit(it.sockets, defaults.sockets.as_ref()));
    let preamble = preamble(report, at, inherit(it.preamble, defaults.preamble.as_ref()));
    let timeouts = timeouts(report, at, &inherit(it.timeouts, defaults.timeouts.as_ref()));
    let protocol = match it.protocol {
        Some(protocol) => protocol::build(report, at, protocol),
        None => report.missing(at, "protocol", "\"netty4\"` or `protocol = \"line\""),
    }?;
    let pool = pool(report, at, &inherit(it.pool, defaults.pool.as_ref()), &*protocol);
    let memory_floor = memory_floor(report, at, limits, &*protocol, &pool);
    let written = inherit(it.health, defaults.health.as_ref());
    let health = health::health(report, at, &written, &*protocol);
    let written = inherit(it.retry, defaults.retry.as_ref());
    let (retry, idempotent) = retry::retry(report, at, written, &*protocol);
    let balance = balance::balance(report, at, it.balance, defaults.balance.as_ref(), &*protocol);
    balance::check_connections(report, at, &balance, endpoints.as_deref(), pool.max_connections);

    Some(Upstream {
        required: it.required.unwrap_or(true),
        memory_floor,
        listener: listener::Settings {
            addresses: listen?,
            access,
            inherited: Inherited {
                nodelay: sockets.tuning.nodelay,
                reset_when_finished: sockets.one_shot && sockets.client_close != ClientClose::Fin,
            },
            max_clients,
        },
        session: session(&sockets, &timeouts, &pool),
        pool: pool::Settings {
            endpoints: endpoints?,
            balance,
            mode: pool.mode,
            min_connections: pool.min_connections,
            max_connections: pool.max_connections,
            max_dedicated: pool.max_dedicated,
            max_connecting: pool.max_connecting,
            max_in_flight: pool.max_in_flight,
            max_waiting: pool.max_waiting,
            acquire_timeout: pool.acquire_timeout,
            request_timeout: timeouts.request,
            health,
            retry,
            connection: connection::Settings {
                connect_timeout: timeouts.connect,
                stall: timeouts.stall,
                idle_timeout: pool.idle_timeout,
                max_lifetime: pool.max_lifetime,
                max_requests: pool.max_requests,
                max_buffered: pool.max_buffered,
                max_reply_buffered: pool.max_reply_buffered,
                idempotent,
                preamble,
                tuning: sockets.tuning,
            },
        },
        protocol,
        name,
    })
}

fn session(sockets: &Sockets, timeouts: &Timeouts, pool: &Pool) -> session::Settings {
    session::Settings {
        one_shot: sockets.one_shot,
        client_close: sockets.client_close,
        client_read: timeouts.client_read,
        client_idle: timeouts.client_idle,
        client_progress: timeouts.client_progress,
        client_write: timeouts.client_write,
        max_per_client: pool.max_per_client,
        max_buffered: pool.max_buffered,
        max_reply_buffered: (pool.mode != Mode::Exclusive).then_some(pool.max_reply_buffered),
    }
}

fn check_name(report: &mut Report<'_>, at: &[&str], name: &str) {
    let known = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !(1..=MAX_NAME).contains(&name.len()) || !name.bytes().all(known) {
        let help = format!("write 1 to {MAX_NAME} letters, digits, `_` and `-`");
        report.wrong(at, "", "this cannot be the name of an upstream", help);
    }
}

fn max_clients(report: &mut Report<'_>, at: &[&str], limits: &Limits, written: Option<Count>) -> usize {
    let default = limits.max_clients.min(10_000);
    let max_clients = report.count(at, "max_clients", written, default, 1..=MAX_CLIENTS);
    if max_clients > limits.max_clients && limits.max_clients > 0 && max_clients <= MAX_CLIENTS {
        let message = format!("{max_clients} clients are more than all listeners may have");
        let help = format!("raise `limits.max_clients`, which is {}", limits.max_clients);
        report.wrong(at, "max_clients", message, help);
    }
    max_clients
}

fn access(
    report: &mut Report<'_>,
    at: &[&str],
    own: Option<file::Access>,
    defaults: Option<&file::Access>,
    listen: Option<&[Address]>,
) -> Access {
    let unix = |it: &Address| matches!(it, Address::Unix(_));
    if own.is_some() && listen.is_some_and(|all| !all.iter().any(unix)) {
        let help = "listen on \"unix:/path\", or leave the table out";
        report.wrong(at, "access", "`access` is for unix sockets, and there is none here", help.to_owned());
    }
    let written = inherit(own, defaults);
    let Text(Permissions(mode)) = written.mode.unwrap_or(Text(Permissions(0o660)));
    let uids = written.uids.unwrap_or_default();
    if uids.len() > MAX_UIDS {
        let help = format!("write at most {MAX_UIDS}, or let a group in with `mode`");
        report.wrong(at, "access.uids", format!("{} users are too many", uids.len()), help);
    }
    Access { mode, uids }
}

struct Sockets {
    client_close: ClientClose,
    one_shot: bool,
    tuning: Tuning,
}

fn sockets(report: &mut Report<'_>, at: &[&str], it: &file::Sockets) -> Sockets {
    let at = &[at, &["sockets"]].concat();
    let seconds = Duration::from_secs;
    Sockets {
        client_close: it.client_close.map_or(ClientClose::Auto, |Text(close)| close),
        one_shot: it.one_shot.unwrap_or(false),
        tuning: Tuning {
            nodelay: it.nodelay.unwrap_or(true),
            keepalive: report.time_or_off(at, "keepalive", it.keepalive, seconds(60), KEEPALIVE),
            user_timeout: report.time_or_off(at, "user_timeout", it.user_timeout, seconds(30), USER_TIMEOUT),
            source: it.source.map(|Text(source)| source),
        },
    }
}

fn preamble(report: &mut Report<'_>, at: &[&str], it: file::Preamble) -> Option<Preamble> {
    let at = &[at, &["preamble"]].concat();
    let mut bytes = |key, written: Option<Text<bytes::Bytes>>| {
        let bytes = written.map_or_else(Default::default, |Text(bytes)| bytes);
        if bytes.len() > MAX_PREAMBLE {
            let message = format!("`{key}` is {} bytes long", bytes.len());
            report.wrong(at, key, message, format!("write at most {MAX_PREAMBLE} bytes"));
        }
        bytes
    };
    let (expect, send) = (bytes("expect", it.expect), bytes("send", it.send));
    (!expect.is_empty() || !send.is_empty()).then_some(Preamble { expect, send })
}

struct Timeouts {
    connect: Duration,
    request: Duration,
    stall: Duration,
    client_read: Duration,
    client_progress: Duration,
    client_idle: Duration,
    client_write: Duration,
}

fn timeouts(report: &mut Report<'_>, at: &[&str], it: &file::Timeouts) -> Timeouts {
    let at = &[at, &["timeouts"]].concat();
    let seconds = Duration::from_secs;
    let request = report.time(at, "request", it.request, seconds(15));
    let stall = report.time(at, "stall", it.stall, request.saturating_mul(2));
    if stall < request && TIMES.contains(&stall) && TIMES.contains(&request) {
        let help = "a reply may take as long as `request`: write as much or more, or leave it out";
        report.wrong(at, "stall", "`stall` is shorter than `request`", help.to_owned());
    }
    Timeouts {
        connect: report.time(at, "connect", it.connect, seconds(1)),
        request,
        stall,
        client_read: report.time(at, "client_read", it.client_read, seconds(10)),
        client_progress: report.time(at, "client_progress", it.client_progress, seconds(5)),
        client_idle: report.time(at, "client_idle", it.client_idle, seconds(5 * 60)),
        client_write: report.time(at, "client_write", it.client_write, seconds(30)),
    }
}

struct Pool {
    mode: Mode,
    min_connections: usize,
    max_connections: usize,
    max_connecting: usize,
    max_in_flight: usize,
    max_per_client: usize,
    max_waiting: usize,
    acquire_timeout: Duration,
    idle_timeout: Duration,
    max_lifetime: Duration,
    max_requests: u64,
    max_dedicated: usize,
    max_buffered: usize,
    max_reply_buffered: usize,
}

fn pool(report: &mut Report<'_>, at: &[&str], it: &file::Pool, protocol: &dyn Protocol) -> Pool {
    let at = &[at, &["pool"]].concat();
    let seconds = Duration::from_secs;
    let mode = mode(report, at, it.mode, protocol);
    let default = if mode == Mode::Exclusive { 32 } else { 4 };
    let max_connections =
        report.count(at, "max_connections", it.max_connections, default, 1..=MAX_CONNECTIONS);
    let min_connections = report.count(at, "min_connections", it.min_connections, 1, 0..=MAX_CONNECTIONS);
    if min_connections > max_connections && max_connections > 0 && min_connections <= MAX_CONNECTIONS {
        let message = format!("`min_connections` is more than `max_connections`, which is {max_connections}");
        report.wrong(at, "min_connections", message, "lower it, or raise `max_connections`".to_owned());
    }
    let max_connecting = report.count(at, "max_connecting", it.max_connecting, 4, 1..=MAX_CONNECTING);
    let max_per_client = report.count(at, "max_per_client", it.max_per_client, 32, 1..=MAX_IN_FLIGHT);
    let max_requests = report.count(at, "max_requests", it.max_requests, 0, 0..=MAX_REQUESTS);
    let max_dedicated = max_dedicated(report, at, it.max_dedicated, max_connections);
    let mut size = |key, written, default, range| {
        usize::try_from(report.size(at, key, written, default, range)).unwrap_or(usize::MAX)
    };
    let max_buffered = size("max_buffered", it.max_buffered, 64 << 10, MAX_BUFFERED);
    let max_reply_buffered = size("max_reply_buffered", it.max_reply_buffered, 1 << 20, MAX_REPLY_BUFFERED);
    Pool {
        mode,
        min_connections,
        max_connections,
        max_connecting: max_connecting.min(max_connections),
        max_in_flight: max_in_flight(report, at, it.max_in_flight, mode, protocol),
        max_per_client: if mode == Mode::Multiplex { max_per_client } else { 1 },
        max_waiting: report.count(at, "max_waiting", it.max_waiting, 1024, 1..=MAX_WAITING),
        acquire_timeout: report.time(at, "acquire_timeout", it.acquire_timeout, seconds(3)),
        idle_timeout: report.time(at, "idle_timeout", it.idle_timeout, seconds(30)),
        max_lifetime: report.time(at, "max_lifetime", it.max_lifetime, seconds(30 * 60)),
        max_requests: max_requests as u64,
        max_dedicated,
        // A head is more than what is read without asking for memory.
        max_buffered: max_buffered.max(CHUNK + 1),
        max_reply_buffered,
    }
}

/// Connections of clients' own: half of all where it is not said, and at least one.
fn max_dedicated(report: &mut Report<'_>, at: &[&str], it: Option<Count>, max_connections: usize) -> usize {
    let max_dedicated = report.count(at, "max_dedicated", it, 0, 0..=MAX_CONNECTIONS);
    if max_dedicated > max_connections && max_connections > 0 && max_dedicated <= MAX_CONNECTIONS {
        let message = format!("`max_dedicated` is more than `max_connections`, which is {max_connections}");
        report.wrong(at, "max_dedicated", message, "lower it, or raise `max_connections`".to_owned());
    }
    if max_dedicated == 0 { (max_connections / 2).max(1) } else { max_dedicated }
}

fn mode(report: &mut Report<'_>, at: &[&str], it: Option<Text<Mode>>, protocol: &dyn Protocol) -> Mode {
    let modes = protocol.modes();
    let Some(Text(mode)) = it else { return modes.first().copied().unwrap_or(Mode::Exclusive) };
    if !modes.contains(&mode) {
        let why = match mode {
            _ if modes == [Mode::Exclusive] && protocol.tags().is_some() => {
                "its messages are not looked at as closely as sharing a connection needs"
            }
            Mode::Multiplex => "its messages carry no id",
            _ => "its servers do not reply in order",
        };
        let message = format!("`{}` cannot be with this protocol: {why}", mode.as_str());
        let possible: Vec<_> = modes.iter().map(|mode| format!("\"{}\"", mode.as_str())).collect();
        report.wrong(at, "mode", message, format!("write {}", possible.join(" or ")));
    }
    mode
}

/// Room of one connection: 1 where it is exclusive, at most half the ids where replies are found by id.
fn max_in_flight(
    report: &mut Report<'_>,
    at: &[&str],
    it: Option<Count>,
    mode: Mode,
    protocol: &dyn Protocol,
) -> usize {
    let ids = match protocol.tags() {
        Some(tags) if mode == Mode::Multiplex => tags.last - tags.avoid.len() as u64,
        _ => u64::MAX,
    };
    let most = usize::try_from(ids / 2).unwrap_or(usize::MAX).clamp(1, MAX_IN_FLIGHT);
    let room = report.count(at, "max_in_flight", it, most.min(128), 1..=MAX_IN_FLIGHT);
    if room > most && room <= MAX_IN_FLIGHT {
        let message = format!("{room} in flight are too many for an id of this size");
        let help = format!("write at most {most}, half the ids there are");
        report.wrong(at, "max_in_flight", message, help);
    }
    if mode == Mode::Exclusive { 1 } else { room }
}

fn memory_floor(
    report: &mut Report<'_>,
    at: &[&str],
    limits: &Limits,
    protocol: &dyn Protocol,
    pool: &Pool,
) -> u64 {
    let shared = pool.mode != Mode::Exclusive;
    let window = parts::window(if shared { pool.max_reply_buffered } else { 0 });
    let in_parts = pool.max_buffered.saturating_add(window);
    let is_cut = protocol.has_parts() && in_parts < protocol.max_message();
    let most = if is_cut { in_parts } else { protocol.max_message() };
    let floor = Budget::floor(most as u64);
    if floor <= limits.memory || !MEMORY.contains(&limits.memory) {
        return floor;
    }
    let show = |bytes: u64| bytesize::ByteSize(bytes).display().iec().to_string();
    let (key, lower) = match (is_cut, shared) {
        (true, true) => ("pool.max_buffered".to_owned(), "`max_buffered` or `max_reply_buffered`"),
        (true, false) => ("pool.max_buffered".to_owned(), "`max_buffered`"),
        (false, _) => (format!("protocol.{}.max_message", protocol.name()), "`max_message`"),
    };
    let what = if is_cut { "messages in parts that hold up to" } else { "messages of" };
    let (need, have) = (show(most as u64), show(limits.memory));
    let message = format!("{what} {need} do not fit into a memory of {have}");
    // Rounded up: what is shown has one digit behind the point.
    let enough = show(floor.next_multiple_of(1 << 20));
    let help = format!("raise `limits.memory` to \"{enough}\" or more, or lower {lower}");
    report.wrong(at, &key, message, help);
    floor
}
