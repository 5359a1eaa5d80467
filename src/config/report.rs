//! Collects what is wrong with the values of a file, and takes the simple ones out of it.
//!
//! Invariant: a value taken out is in its range, or an error says that it is not. Used by `check` and
//! `protocol`.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use super::error::{Error, Source};
use super::locate::locate;
use super::units::{Count, Size, Text};
use super::words::Words;

/// Errors beyond so many are not shown: each takes a look through the file.
const MAX_ERRORS: usize = 50;
/// The durations a file may ask for.
pub(super) const TIMES: RangeInclusive<Duration> =
    Duration::from_millis(1)..=Duration::from_secs(7 * 24 * 60 * 60);

/// The errors of one file.
#[derive(Debug)]
pub(super) struct Report<'a> {
    source: &'a Source,
    errors: Vec<Error>,
}

impl<'a> Report<'a> {
    /// Nothing is wrong yet.
    pub(super) fn new(source: &'a Source) -> Self {
        Self { source, errors: Vec::new() }
    }

    /// What was wrong, in the order of the file. A default is wrong for each upstream, and is shown once.
    pub(super) fn finish(&mut self) -> Vec<Error> {
        let mut errors: Vec<Error> = Vec::new();
        for error in std::mem::take(&mut self.errors) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        errors.sort_by_key(|error| (error.line, error.column));
        errors
    }

    /// The value of `key` in the table `at` is wrong.
    pub(super) fn wrong(
        &mut self,
        at: &[&str],
        key: &str,
        message: impl Into<String>,
        help: impl Into<Option<String>>,
    ) {
        if self.errors.len() < MAX_ERRORS {
            let span = self.locate(at, key);
            self.errors.push(self.source.error(span, message, help.into()));
        }
    }

    /// The table `at` needs a `key`.
    pub(super) fn missing<T>(&mut self, at: &[&str], key: &str, example: &str) -> Option<T> {
        let help = format!("write `{key} = {example}`");
        self.wrong(at, "", format!("`{}` has no `{key}`", at.join(".")), help);
        None
    }

    /// The bytes `part` of the text that `key` holds are wrong.
    pub(super) fn wrong_part(
        &mut self,
        at: &[&str],
        key: &str,
        text: &str,
        part: Range<usize>,
        (message, help): Words,
    ) {
        if self.errors.len() >= MAX_ERRORS {
            return;
        }
        let span = self.locate(at, key);
        let start = span.start + 1;
        // Without escapes the text stands in the file as it is, between quotes.
        let plain = self.source.text().get(start..).is_some_and(|written| written.starts_with(text));
        let span = if plain { start + part.start..start + part.end } else { span };
        self.errors.push(self.source.error(span, message, help));
    }

    fn locate(&self, at: &[&str], key: &str) -> Range<usize> {
        let keys = key.split('.').filter(|key| !key.is_empty());
        let path: Vec<&str> = at.iter().copied().chain(keys).collect();
        locate(self.source.text(), &path)
    }

    /// A number of things.
    pub(super) fn count(
        &mut self,
        at: &[&str],
        key: &str,
        value: Option<Count>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(Count(number)) = value else { return default };
        let number = usize::try_from(number).unwrap_or(usize::MAX);
        if !range.contains(&number) {
            let help = format!("write a number from {} to {}", range.start(), range.end());
            self.wrong(at, key, format!("`{key}` cannot be {number}"), help);
        }
        number
    }

    /// A number of bytes.
    pub(super) fn size(
        &mut self,
        at: &[&str],
        key: &str,
        value: Option<Text<Size>>,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(Text(Size(bytes))) = value else { return default };
        if !range.contains(&bytes) {
            let show = |bytes: &u64| bytesize::ByteSize(*bytes).display().iec().to_string();
            let help = format!("write a size from \"{}\" to \"{}\"", show(range.start()), show(range.end()));
            self.wrong(at, key, format!("`{key}` cannot be {}", show(&bytes)), help);
        }
        bytes
    }

    /// A duration, longer than none.
    pub(super) fn time(
        &mut self,
        at: &[&str],
        key: &str,
        value: Option<Text<Duration>>,
        default: Duration,
    ) -> Duration {
        self.time_within(at, key, value, default, TIMES)
    }

    /// A duration of a range.
    pub(super) fn time_within(
        &mut self,
        at: &[&str],
        key: &str,
        value: Option<Text<Duration>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let Some(Text(time)) = value else { return default };
        if !range.contains(&time) {
            let show = humantime::format_duration;
            let message = format!("`{key}` cannot be {}", show(time));
            let (from, to) = (show(*range.start()), show(*range.end()));
            self.wrong(at, key, message, format!("write a duration from \"{from}\" to \"{to}\""));
        }
        time
    }

    /// A duration of which zero means off.
    pub(super) fn time_or_off(
        &mut self,
        at: &[&str],
        key: &str,
        value: Option<Text<Duration>>,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let time = value.map_or(default, |Text(time)| time);
        if !time.is_zero() && !range.contains(&time) {
            let show = humantime::format_duration;
            let message = format!("`{key}` cannot be {}", show(time));
            let (from, to) = (show(*range.start()), show(*range.end()));
            self.wrong(
                at,
                key,
                message,
                format!("write a duration from \"{from}\" to \"{to}\", or \"0s\" for off"),
            );
        }
        (!time.is_zero()).then_some(time)
    }
}
