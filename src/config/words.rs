//! Names in a configuration that mean nothing here, and what to say about them.
//!
//! Invariant: what a later version will know is told apart from what is a mistake.
//! Called by `error` for the TOML reader's messages and by `units` for values.

use super::file::{Access, Balance, Health, Pool, Preamble, Retry, Sockets, Table, Timeouts};

/// Separates message and help inside an error of serde, which holds one string.
pub(super) const HELP: char = '\n';

/// What later versions know: keys, tables, protocols, presets.
const LATER: &[&str] = &["tls", "netrpc", "http", "grpc", "resp"];

/// A message and what would do.
pub(super) type Words = (String, Option<String>);

/// A message and its help.
pub(super) fn said(message: &str, help: &str) -> Words {
    (message.to_owned(), Some(help.to_owned()))
}

/// What to say about `word`, a `what` ("key", "protocol", ...) that is none of `known`.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> Words {
    let bare = word.trim_matches(['"', '\'']);
    if what == "protocol" && matches!(bare, "tcp" | "raw") {
        let message = "there is no raw TCP: without frames nobody knows where a message ends, so pooling \
                       would be unsafe";
        return (message.into(), Some("describe the messages with `frame` or `line`".into()));
    }
    if LATER.contains(&bare) {
        let leave = if what == "key" { "leave it out; " } else { "" };
        let help = format!("{leave}known here: {}", known.join(", "));
        return (format!("`{bare}` is not supported by this version yet"), Some(help));
    }
    let short: String = bare.chars().take(60).collect();
    if let Some(best) = nearest(&short, known) {
        return (format!("unknown {what} `{short}`, did you mean `{best}`?"), None);
    }
    let tables: [(&str, &[&str]); 8] = [
        ("pool", Pool::KEYS),
        ("timeouts", Timeouts::KEYS),
        ("health", Health::KEYS),
        ("retry", Retry::KEYS),
        ("balance", Balance::KEYS),
        ("sockets", Sockets::KEYS),
        ("preamble", Preamble::KEYS),
        ("access", Access::KEYS),
    ];
    let home = tables.iter().find(|(table, keys)| keys.contains(&bare) && known.contains(table));
    let help = match home {
        Some((table, _)) => format!("`{bare}` belongs in the `{table}` table"),
        None => format!("known here: {}", known.join(", ")),
    };
    (format!("unknown {what} `{short}`"), Some(help))
}

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let far = |other: &&str| strsim::damerau_levenshtein(word, other);
    known.iter().copied().min_by_key(far).filter(|best| far(best) <= 1 + best.len() / 4)
}

/// The TOML reader's words in ours: what it expected is the help. `word` is the marked text.
pub(super) fn reword(message: &str, word: &str) -> Words {
    let (found, expected) = message.rsplit_once(", expected ").unwrap_or((message, ""));
    let is = |beginnings: &[&str]| beginnings.iter().any(|it| message.starts_with(it));
    let names = || expected.split('`').skip(1).step_by(2).collect::<Vec<_>>();
    if is(&["unknown field"]) {
        return unknown("key", word, &names());
    }
    if is(&["unknown variant"]) {
        return unknown("protocol", word, &names());
    }
    if is(&["invalid float", "invalid integer", "invalid datetime", "string values must be quoted"]) {
        let help = "text is written in quotes, as in \"127.0.0.1:7600\" or \"30s\"";
        return said("this is no value", help);
    }
    if is(&["missing field `address`"]) {
        return said("`address` is missing", "write `address = \"users.internal:9090\"`");
    }
    if is(&["duplicate key"]) {
        return said("duplicate key", "leave one of the two out");
    }
    let found = match found {
        "invalid type: map" => "invalid type: table",
        "invalid type: sequence" => "invalid type: list",
        found => found,
    };
    let help = match expected {
        "" => "this is not TOML as it should be: `warmline init` prints a file to compare with".to_owned(),
        "a boolean" => "write true or false".to_owned(),
        "a sequence" => "write a list, as in `[1, 2]`".to_owned(),
        "i64" => "write a whole number".to_owned(),
        "u32" => "write a whole number from 0 to 4294967295".to_owned(),
        "struct Length" => "write a table, as in `{ offset = 0, size = 4 }`".to_owned(),
        "struct Condition" => "write a table, as in `{ offset = 4, equals = 1 }`".to_owned(),
        table if table == "a map" || table.starts_with("struct ") => {
            "write a table, as in `{ key = value }`".to_owned()
        }
        // Serde expects values in our words, the syntax is in the reader's own.
        value if is(&["invalid type", "invalid value"]) => format!("write {value}"),
        syntax => format!("expected here: {syntax}"),
    };
    // Text is not what was expected: else it would be refused as text of the wrong kind.
    let bare = if is(&["invalid type: string"]) { ", without quotes" } else { "" };
    (found.to_owned(), Some(help + bare))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested() {
        let (message, help) = unknown("key", "max_connectoins", &["mode", "max_connections"]);
        assert_eq!(message, "unknown key `max_connectoins`, did you mean `max_connections`?");
        assert_eq!(help, None);
    }

    #[test]
    fn far_names_are_not() {
        let (message, help) = unknown("key", "zzz", &["mode", "uids"]);
        assert_eq!(message, "unknown key `zzz`");
        assert_eq!(help.as_deref(), Some("known here: mode, uids"));
    }

    #[test]
    fn a_key_in_the_wrong_table_is_sent_home() {
        let (_, help) = unknown("key", "idle_timeout", &["listen", "pool"]);
        assert_eq!(help.as_deref(), Some("`idle_timeout` belongs in the `pool` table"));
    }

    #[test]
    fn what_was_expected_is_the_help() {
        let help = |message: &str| reword(message, "").1.unwrap();
        assert_eq!(
            help("invalid type: integer `7`, expected a size as in \"64KiB\""),
            "write a size as in \"64KiB\""
        );
        assert_eq!(help("invalid type: string \"4\", expected i64"), "write a whole number, without quotes");
        assert_eq!(
            help("invalid type: integer `1`, expected struct Pool"),
            "write a table, as in `{ key = value }`"
        );
        assert_eq!(help("unclosed table, expected `]`"), "expected here: `]`");
        assert!(help("extra comma in array").contains("warmline init"));
    }

    #[test]
    fn what_comes_later_is_left_out() {
        let (message, help) = unknown("key", "tls", &["address"]);
        assert_eq!(message, "`tls` is not supported by this version yet");
        assert_eq!(help.as_deref(), Some("leave it out; known here: address"));
    }
}
