//! Where log lines go and how they look: standard error, one line an event, for people or as JSON.
//!
//! Invariant: whatever a value holds, a line stays one line and cannot steer a terminal. The daemon
//! calls [`init`] once, before anything else happens; `config` calls [`check`].

use std::fmt::{self, Write as _};
use std::io::IsTerminal as _;

use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, fmt as layer, reload};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Pretty on a terminal, else JSON.
    Auto,
    /// For people.
    Pretty,
    /// For machines.
    Json,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not an env-filter directive.
    #[error(
        "`{directive}` is not a log level: write one of error, warn, info, debug, trace, off, or `module=level`"
    )]
    Level {
        /// The part of the text that is none.
        directive: String,
    },
    /// The process logs somewhere else already.
    #[error("the log is set up already")]
    Taken,
}

/// What is logged, to be changed while it is.
#[derive(Clone, Debug)]
pub struct Level(reload::Handle<EnvFilter, Registry>);

impl Level {
    /// Logs what `level` says from now on.
    pub fn set(&self, level: &str) -> Result<(), Error> {
        self.0.reload(filter(level)?).map_err(|_| Error::Taken)
    }
}

/// Starts logging to standard error. `level` is one or more env-filter directives with commas between.
pub fn init(level: &str, format: Format) -> Result<Level, Error> {
    let terminal = std::io::stderr().is_terminal();
    let pretty = match format {
        Format::Auto => terminal,
        Format::Pretty => true,
        Format::Json => false,
    };
    let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let (subscriber, level) = subscriber(filter(level)?, pretty, colour, std::io::stderr);
    subscriber.try_init().map_err(|_| Error::Taken)?;
    Ok(level)
}

/// Whether [`init`] would accept this level.
pub fn check(level: &str) -> Result<(), Error> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, Error> {
    let bad = |directive: &str| Error::Level { directive: directive.trim().escape_debug().to_string() };
    // EnvFilter takes a bare word for a module name: a misspelt level would silence the log.
    let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
    let known = |part: &&str| part.contains(['=', '[']) || is_level(part.trim());
    if let Some(word) = level.split(',').find(|part| !known(part)) {
        return Err(bad(word));
    }
    // What the resolver says on its own is neither limited in rate nor anything that `events` does not tell.
    let quiet = format!("hickory_net=off,hickory_resolver=off,{level}");
    EnvFilter::builder().parse(quiet).map_err(|_| bad(level))
}

fn subscriber<W>(
    filter: EnvFilter,
    pretty: bool,
    colour: bool,
    writer: W,
) -> (Box<dyn Subscriber + Send + Sync>, Level)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(filter);
    let registry = Registry::default().with(filter);
    let layer = layer::layer().with_writer(writer).with_ansi(colour);
    let subscriber: Box<dyn Subscriber + Send + Sync> = if pretty {
        let fields = format::debug_fn(|writer, field, value| match field.name() {
            "message" => write!(OneLine::text(writer), "{value:?}"),
            name => write!(OneLine::text(writer), "{name}={value:?}"),
        });
        Box::new(registry.with(layer.fmt_fields(fields.delimited(" "))))
    } else {
        let json = format::json().flatten_event(true).with_current_span(false).with_span_list(false);
        Box::new(registry.with(layer.json().event_format(Json(json))))
    };
    (subscriber, Level(handle))
}

/// JSON leaves DEL, the C1 controls and Unicode's line ends as they are; this does not.
struct Json(format::Format<format::Json>);

impl<S, N> FormatEvent<S, N> for Json
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.0.format_event(ctx, Writer::new(&mut line), event)?;
        OneLine::json(&mut writer).write_str(line.trim_end_matches('\n'))?;
        writer.write_char('\n')
    }
}

/// Escapes what could end a line or steer a terminal.
struct OneLine<'a, 'w> {
    writer: &'a mut Writer<'w>,
    json: bool,
}

impl<'a, 'w> OneLine<'a, 'w> {
    fn text(writer: &'a mut Writer<'w>) -> Self {
        Self { writer, json: false }
    }

    /// For text that is JSON already: such characters stand only inside its strings.
    fn json(writer: &'a mut Writer<'w>) -> Self {
        Self { writer, json: true }
    }
}

impl fmt::Write for OneLine<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let steers = |c: char| {
            c.is_control()
                || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        };
        for piece in text.split_inclusive(steers) {
            let Some(last) = piece.chars().next_back().filter(|c| steers(*c)) else {
                self.writer.write_str(piece)?;
                continue;
            };
            self.writer.write_str(&piece[..piece.len() - last.len_utf8()])?;
            if self.json {
                write!(self.writer, "\\u{:04x}", u32::from(last))?;
            } else {
                write!(self.writer, "{}", last.escape_default())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use tracing::{debug, info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: &str, pretty: bool, colour: bool, events: impl FnOnce()) -> String {
        logged_at(level, pretty, colour, |_| events())
    }

    fn logged_at(level: &str, pretty: bool, colour: bool, events: impl FnOnce(&Level)) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let (subscriber, level) = subscriber(filter(level).unwrap(), pretty, colour, move || writer.clone());
        tracing::subscriber::with_default(subscriber, || events(&level));
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    /// Every control character, Unicode's other line ends, the marks that reverse text, quotes.
    fn hostile() -> String {
        let controls = (0..=0x9f).filter_map(char::from_u32).filter(|c| c.is_control());
        controls.chain(['\u{2028}', '\u{2029}', '\u{202e}', '\u{2066}', '"', '\\', 'é']).collect()
    }

    fn hostile_events() {
        let text = hostile();
        let error = io::Error::other(text.clone());
        warn!(plain = text, display = %text, debug = ?text, error = &error as &dyn std::error::Error, "{text}");
    }

    fn assert_one_harmless_line(line: &str) {
        let inner = line.strip_suffix('\n').unwrap();
        let bad: Vec<char> = inner
            .chars()
            .filter(|c| c.is_control() || ('\u{2028}'..='\u{202e}').contains(c) || *c == '\u{2066}')
            .collect();
        assert!(bad.is_empty(), "{bad:?} in {inner:?}");
    }

    #[test]
    fn hostile_values_stay_on_one_line_for_people() {
        let line = logged("info", true, false, hostile_events);
        assert_one_harmless_line(&line);
        assert_eq!(line.matches("\\u{1b}").count(), 5, "{line}");
        assert!(line.contains(" WARN ") && line.contains(" plain=\"") && line.contains('é'), "{line}");
    }

    #[test]
    fn hostile_values_stay_on_one_line_and_whole_in_json() {
        let line = logged("info", false, false, hostile_events);
        assert_one_harmless_line(&line);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        for field in ["message", "plain", "display", "error"] {
            assert_eq!(value[field].as_str(), Some(hostile().as_str()), "{field}");
        }
    }

    #[test]
    fn json_is_flat_and_says_when_and_how_bad() {
        let line = logged("info", false, false, || info!(upstream = "users", suppressed = 3, "connected"));
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        let map = value.as_object().unwrap();
        let keys: Vec<&str> = map.keys().map(String::as_str).collect();
        assert_eq!(keys, ["level", "message", "suppressed", "target", "timestamp", "upstream"]);
        assert_eq!((&map["level"], &map["suppressed"]), (&"INFO".into(), &3.into()));
        assert!(humantime::parse_rfc3339(map["timestamp"].as_str().unwrap()).is_ok());
    }

    #[test]
    fn lines_for_people_read_like_a_sentence_with_facts() {
        let line =
            logged("info", true, false, || info!(upstream = "users", carried = 7, "connection closed"));
        assert!(line.ends_with(": connection closed upstream=\"users\" carried=7\n"), "{line}");
    }

    #[test]
    fn colour_is_only_where_it_is_asked_for() {
        assert!(logged("info", true, true, || info!("x")).contains("\u{1b}["));
        assert!(!logged("info", true, false, || info!("x")).contains('\u{1b}'));
        assert!(!logged("info", false, true, || info!("x")).contains('\u{1b}'));
    }

    #[test]
    fn the_level_decides_what_is_written() {
        let both = || {
            info!("kept");
            debug!("dropped");
        };
        let lines = logged("info", true, false, both);
        assert!(lines.contains("kept") && !lines.contains("dropped"));
        assert_eq!(logged("off", true, false, both), "");
        assert_eq!(logged("warmline::events=debug,warn", true, false, both).lines().count(), 2);
    }

    #[test]
    fn another_level_holds_from_then_on() {
        let lines = logged_at("info", true, false, |level| {
            debug!("dropped");
            level.set("debug").unwrap();
            debug!("kept");
            assert!(level.set("loud").is_err());
            debug!("kept too");
            level.set("warn").unwrap();
            info!("dropped");
        });
        assert!(lines.lines().count() == 2 && !lines.contains("dropped"), "{lines}");
    }

    #[test]
    fn what_is_no_level_is_an_error_that_names_it() {
        for level in ["trace", "debug", "info", "warn", "error", "off", "INFO", "warn,warmline=debug"] {
            assert!(check(level).is_ok(), "{level}");
        }
        for (level, named) in [
            ("", "``"),
            ("inof", "`inof`"),
            ("info,", "``"),
            ("warn,verbos", "`verbos`"),
            ("a=b", "`a=b`"),
            ("x\n", "`x`"),
        ] {
            let error = check(level).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{named} is not a log level")), "{level}: {error}");
        }
    }
}
