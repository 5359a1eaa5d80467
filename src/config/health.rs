//! Makes the settings of health: what a probe is, and the counts around it.
//!
//! Invariant: a probe that comes out of here is a request that the protocol takes and the server answers. Called by
//! `upstream`.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytes::Bytes;

use super::forms;
use super::report::{Report, TIMES};
use super::units::{Count, Text};
use super::{file, request};
use crate::pool::health::{Probe, Settings};
use crate::protocol::Protocol;

const MAX_PROBES: usize = 100;
const MAX_FAILURES: usize = 10_000;
const INTERVAL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(86_400);
/// The longest ejection, which each further one approaches by doubling.
const EJECT_FOR: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60);
/// In bytes, each way. What `max_buffered` may be at least: a probe never travels in parts.
const MAX_ASKED: usize = 4096;

/// The settings of `health` of the upstream `at`.
pub(super) fn health(
    report: &mut Report<'_>,
    at: &[&str],
    it: &file::Health,
    protocol: &dyn Protocol,
) -> Settings {
    let at = &[at, &["health"]].concat();
    let seconds = Duration::from_secs;
    let interval = report.time_or_off(at, "interval", it.interval, seconds(5), INTERVAL);
    let probe = match &it.probe {
        None | Some(forms::Probe::Connect) => Some(Probe::Connect),
        Some(forms::Probe::Ping) => ping(report, at, protocol),
        Some(forms::Probe::Ask(it)) => ask(report, at, it, protocol),
    };
    let mut count = |key, value: Option<Count>, default, most| {
        u32::try_from(report.count(at, key, value, default, 1..=most)).unwrap_or(u32::MAX)
    };
    Settings {
        unhealthy_after: count("unhealthy_after", it.unhealthy_after, 3, MAX_PROBES),
        healthy_after: count("healthy_after", it.healthy_after, 1, MAX_PROBES),
        eject_after: count("eject_after", it.eject_after, 5, MAX_FAILURES),
        eject_for: report.time_within(at, "eject_for", it.eject_for, seconds(1), EJECT_FOR),
        timeout: timeout(report, at, it.timeout, interval),
        // Where there is none, the report says why.
        probe: probe.unwrap_or(Probe::Connect),
        interval,
    }
}

fn timeout(
    report: &mut Report<'_>,
    at: &[&str],
    written: Option<Text<Duration>>,
    interval: Option<Duration>,
) -> Duration {
    let longest = interval.unwrap_or(Duration::MAX);
    let timeout = report.time(at, "timeout", written, longest.min(Duration::from_secs(1)));
    if timeout > longest && TIMES.contains(&timeout) && INTERVAL.contains(&longest) {
        let message =
            format!("`timeout` is longer than `interval`, which is {}", humantime::format_duration(longest));
        let help = "a probe ends before the next one: lower it, or raise `interval`";
        report.wrong(at, "timeout", message, help.to_owned());
    }
    timeout
}

fn ping(report: &mut Report<'_>, at: &[&str], protocol: &dyn Protocol) -> Option<Probe> {
    let Some(request) = protocol.ping() else {
        let message = format!("`{}` has no ping of its own", protocol.name());
        let help =
            "write a request that is cheap to answer, as in `probe = { send = \"...\", expect = \"...\" }`";
        report.wrong(at, "probe", message, help.to_owned());
        return None;
    };
    Some(Probe::Ask { request, expect: Bytes::new() })
}

fn ask(report: &mut Report<'_>, at: &[&str], it: &file::Ask, protocol: &dyn Protocol) -> Option<Probe> {
    let at = &[at, &["probe"]].concat();
    if it.expect.is_some() && it.send.is_none() {
        let help = "write the request with `send`, or leave `expect` out";
        report.wrong(at, "expect", "`expect` goes with `send`", help.to_owned());
    }
    let request = match (&it.send, &it.method) {
        (Some(Text(send)), None) => sent(report, at, send, protocol),
        (None, Some(Text(method))) => called(report, at, method, protocol),
        (Some(_), Some(_)) => {
            let help = "`send` is the whole request: leave one of the two out";
            report.wrong(at, "method", "a probe asks once", help.to_owned());
            None
        }
        (None, None) => {
            let help = "write a request, as in `{ send = \"...\", expect = \"...\" }`";
            report.wrong(at, "", "nothing is asked", help.to_owned());
            None
        }
    }?;
    let expect = it.expect.clone().map_or_else(Bytes::new, |Text(expect)| expect);
    is_short(report, at, "expect", &expect).then_some(Probe::Ask { request, expect })
}

fn sent(report: &mut Report<'_>, at: &[&str], send: &Bytes, protocol: &dyn Protocol) -> Option<Bytes> {
    if !is_short(report, at, "send", send) {
        return None;
    }
    let wrong = |(message, help)| report.wrong(at, "send", message, help);
    request::check(send, protocol).map_err(wrong).ok().map(|_| send.clone())
}

fn called(report: &mut Report<'_>, at: &[&str], method: &Bytes, protocol: &dyn Protocol) -> Option<Bytes> {
    let called = request::call(method, protocol).and_then(|request| {
        request.ok_or_else(|| {
            let message = format!("`{}` cannot call a method by its name alone", protocol.name());
            (
                message,
                Some("write the whole request, as in `{ send = \"...\", expect = \"...\" }`".to_owned()),
            )
        })
    });
    called.map_err(|(message, help)| report.wrong(at, "method", message, help)).ok()
}

fn is_short(report: &mut Report<'_>, at: &[&str], key: &str, bytes: &Bytes) -> bool {
    let short = bytes.len() <= MAX_ASKED;
    if !short {
        let message = format!("`{key}` is {} bytes long", bytes.len());
        report.wrong(at, key, message, format!("write at most {MAX_ASKED} bytes"));
    }
    short
}
