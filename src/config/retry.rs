//! Makes the settings of retries: how many, and of which requests.
//!
//! Invariant: a method that is marked is one that requests can call, so that no mark is without effect. Called by
//! `upstream`.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::file;
use super::report::Report;
use super::request::{self, MAX_METHOD};
use super::units::{List, Marked, Share, Text};
use super::words::Words;
use crate::connection::Idempotent;
use crate::protocol::Protocol;
use crate::queue::Retry;

const MAX_ATTEMPTS: usize = 20;
const MAX_METHODS: usize = 1000;
/// Names of fields up to so many bytes are shown as they should be written.
const MAX_SHOWN: usize = 16;

/// The settings of `retry` of the upstream `at`, and what they mark.
pub(super) fn retry(
    report: &mut Report<'_>,
    at: &[&str],
    it: file::Retry,
    protocol: &dyn Protocol,
) -> (Retry, Idempotent) {
    let at = &[at, &["retry"]].concat();
    let attempts = report.count(at, "attempts", it.attempts, 2, 1..=MAX_ATTEMPTS);
    let retry = Retry {
        attempts: u32::try_from(attempts).unwrap_or(u32::MAX),
        per_thousand: per_thousand(report, at, it.budget.unwrap_or(Share(0.2))),
    };
    let List(marked) = it.idempotent.unwrap_or(List(Vec::new()));
    (retry, idempotent(report, at, marked, protocol))
}

fn per_thousand(report: &mut Report<'_>, at: &[&str], Share(share): Share) -> u32 {
    if !(0.0..=1.0).contains(&share) {
        let help = "write a share of the requests from 0 to 1, as in 0.2";
        report.wrong(at, "budget", "`budget` is not a share", help.to_owned());
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is 0 to 1000")]
    let rounded = (share * 1000.0).round() as u32;
    rounded
}

fn idempotent(
    report: &mut Report<'_>,
    at: &[&str],
    marked: Vec<Text<Marked>>,
    protocol: &dyn Protocol,
) -> Idempotent {
    if marked.len() > MAX_METHODS {
        let help = format!("write at most {MAX_METHODS}, or \"*\" if all requests may run twice");
        report.wrong(at, "idempotent", format!("{} methods are too many", marked.len()), help);
        return Idempotent::None;
    }
    if marked.contains(&Text(Marked::All)) {
        return Idempotent::All;
    }
    // All of a header that there can be shows how long a name is.
    let size = protocol.method(&[0; MAX_METHOD]).map(<[u8]>::len);
    if !request::has_methods(protocol) && !marked.is_empty() {
        let key = format!("protocol.{}.method", protocol.name());
        let help = format!("say it with `{key}`, or write \"*\" if all requests may run twice");
        report.wrong(at, "idempotent", format!("without `{key}` nobody knows what a request calls"), help);
        return Idempotent::None;
    }
    let mut methods = BTreeSet::new();
    for (place, Text(marked)) in marked.into_iter().enumerate() {
        let Marked::Method(name) = marked else { continue };
        if let Err((message, help)) = fits(&name, size.unwrap_or_default(), protocol) {
            report.wrong(at, &format!("idempotent.{place}"), message, help);
        }
        methods.insert(name);
    }
    if methods.is_empty() { Idempotent::None } else { Idempotent::Methods(methods) }
}

/// Whether requests can call the method `name`, where names that are no words have `size` bytes.
fn fits(name: &Bytes, size: usize, protocol: &dyn Protocol) -> Result<(), Words> {
    if request::call(name, protocol)?.is_some() || name.len() == size {
        return Ok(());
    }
    let bytes = if name.len() == 1 { "byte" } else { "bytes" };
    let message = format!("`{}` has {} {bytes}, and a method has {size}", request::shown(name), name.len());
    let mut whole = name.to_vec();
    whole.resize(size, 0);
    let example = match size {
        ..=MAX_SHOWN if name.len() < size => format!(", as in \"{}\"", request::written(&whole)),
        _ => String::new(),
    };
    Err((message, Some(format!("write the whole field, padding included{example}"))))
}
