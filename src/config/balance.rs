//! Makes the settings of balancing: who gets the next request, and what of it decides that.
//!
//! Invariant: a key that comes out of here is one that requests of the protocol have, and every endpoint it can lead to may
//! have a connection. Called by `upstream`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::file::{self, inherit};
use super::forms;
use super::report::Report;
use super::request;
use super::units::{self, Text};
use crate::pool::balance::{Endpoint, Key, Policy, Settings};
use crate::protocol::Protocol;
use crate::protocol::frame::MAX_HEADER;

const MAX_SUBSET: usize = 256;
const SLOW_START: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(60 * 60);
const RESOLVE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
/// In bytes, from the front of a request: a head has that many.
const MAX_END: usize = MAX_HEADER;
/// In bytes.
const MAX_KEY: usize = 64;
const EXAMPLE: &str = "`key = { offset = 0, size = 8 }`, the place of bytes that tell requests apart";

/// The settings of `balance` of the upstream `at`.
pub(super) fn balance(
    report: &mut Report<'_>,
    at: &[&str],
    own: Option<file::Balance>,
    defaults: Option<&file::Balance>,
    protocol: &dyn Protocol,
) -> Settings {
    let at = &[at, &["balance"]].concat();
    // The defaults are for upstreams of either kind.
    let has_key = own.as_ref().is_some_and(|own| own.key.is_some());
    let it = inherit(own, defaults);
    let seconds = Duration::from_secs;
    let slow_start = report.time_or_off(at, "slow_start", it.slow_start, seconds(10), SLOW_START);
    let policy = it.policy.map_or(units::Policy::LeastInFlight, |Text(policy)| policy);
    if has_key && policy != units::Policy::Hash {
        let help = "write `policy = \"hash\"`, or leave `key` out";
        report.wrong(at, "key", "`key` goes with the policy `hash`", help.to_owned());
    }
    Settings {
        policy: match policy {
            units::Policy::LeastInFlight => Policy::LeastInFlight,
            units::Policy::RoundRobin => Policy::RoundRobin,
            units::Policy::Hash => Policy::Hash(key(report, at, it.key.as_ref(), protocol)),
        },
        subset: report.count(at, "subset", it.subset, 0, 0..=MAX_SUBSET),
        slow_start: slow_start.unwrap_or_default(),
        resolve: report.time_within(at, "resolve", it.resolve, seconds(30), RESOLVE),
    }
}

fn key(report: &mut Report<'_>, at: &[&str], it: Option<&forms::Key>, protocol: &dyn Protocol) -> Key {
    match it {
        Some(forms::Key::Bytes(place)) => return bytes(report, at, place),
        Some(forms::Key::Id) => {
            if protocol.tags().is_none() {
                let message = "`id` cannot be with this protocol: its messages carry no id";
                report.wrong(at, "key", message, format!("write {EXAMPLE}"));
            }
            return Key::Id;
        }
        None | Some(forms::Key::Method) => {}
    }
    if !request::has_methods(protocol) {
        let option = format!("protocol.{}.method", protocol.name());
        let message = format!("without `{option}` nobody knows what a request calls");
        let wrong = if it.is_some() { "key" } else { "policy" };
        report.wrong(at, wrong, message, format!("say it with `{option}`, or write {EXAMPLE}"));
    }
    Key::Method
}

fn bytes(report: &mut Report<'_>, at: &[&str], place: &file::Place) -> Key {
    let at = &[at, &["key"]].concat();
    if place.size.is_none() {
        report.wrong(at, "", "`size` is missing", "add it, as in `size = 8`".to_owned());
    }
    let size = report.count(at, "size", place.size, 1, 1..=MAX_KEY);
    let most = MAX_END - size.min(MAX_KEY);
    Key::Bytes { offset: report.count(at, "offset", place.offset, 0, 0..=most), size }
}

/// Checks that `hash` may have a connection to each endpoint it leads to: no other one would do for its requests.
pub(super) fn check_connections(
    report: &mut Report<'_>,
    at: &[&str],
    balance: &Settings,
    endpoints: Option<&[Endpoint]>,
    max_connections: usize,
) {
    let all = endpoints.unwrap_or_default().iter().filter(|it| !it.backup).count();
    let used = if balance.subset == 0 { all } else { all.min(balance.subset) };
    if matches!(balance.policy, Policy::Hash(_)) && used > max_connections && max_connections > 0 {
        let message = format!(
            "`hash` leads to {used} endpoints, more than `max_connections`, which is {max_connections}"
        );
        let help = format!(
            "write {used} or more, one for each endpoint, or use fewer of them with `balance.subset`"
        );
        report.wrong(at, "pool.max_connections", message, help);
    }
}
