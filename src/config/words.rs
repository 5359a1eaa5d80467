//! Names in a configuration that mean nothing here, and what to say about them.
//!
//! Invariant: what a later version will know is told apart from what is a mistake.
//! Called by `error` for the TOML reader's messages and by `units` for values.

use super::file::{Access, Pool, Preamble, Sockets, Table, Timeouts};

/// Separates message and help inside an error of serde, which holds one string.
pub(super) const HELP: char = '\n';

/// What later versions know: keys, tables, protocols, presets.
const LATER: &[&str] = &[
    "max_dedicated",
    "max_buffered",
    "max_reply_buffered",
    "client_progress",
    "health",
    "retry",
    "balance",
    "tls",
    "weight",
    "backup",
    "method",
    "jsonrpc",
    "thrift",
    "netrpc",
    "http",
    "grpc",
    "resp",
    "dubbo",
    "bolt",
];

/// A message and what would do.
pub(super) type Words = (String, Option<String>);

/// What to say about `word`, a `what` ("key", "protocol", ...) that is none of `known`.
pub(super) fn unknown(what: &str, word: &str, known: &[&str]) -> Words {
    let bare = word.trim_matches(['"', '\'']);
    if what == "protocol" && matches!(bare, "tcp" | "raw") {
        let message = "there is no raw TCP: without frames nobody knows where a message ends, so pooling \
                       would be unsafe";
        return (message.into(), Some("describe the messages with `frame` or `line`".into()));
    }
    if LATER.contains(&bare) {
        return (format!("`{bare}` is not supported by this version yet"), None);
    }
    let short: String = bare.chars().take(60).collect();
    let near = |other: &&&str| strsim::damerau_levenshtein(&short, other);
    let best = known.iter().min_by_key(near).filter(|best| near(best) <= 1 + best.len() / 4);
    if let Some(best) = best {
        return (format!("unknown {what} `{short}`, did you mean `{best}`?"), None);
    }
    let tables: [(&str, &[&str]); 5] = [
        ("pool", Pool::KEYS),
        ("timeouts", Timeouts::KEYS),
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

/// Serde's words for an unknown name, in ours; other messages stay as they are. `word` is the marked
/// text.
pub(super) fn reword(message: &str, word: &str) -> Words {
    let what = match message {
        m if m.starts_with("unknown field") => "key",
        m if m.starts_with("unknown variant") => "protocol",
        m if ["invalid float", "invalid integer", "invalid datetime"].iter().any(|it| m.starts_with(it)) => {
            let help = "text is written in quotes, as in \"127.0.0.1:7600\" or \"30s\"";
            return ("this is no value".to_owned(), Some(help.to_owned()));
        }
        _ => return (message.to_owned(), None),
    };
    let known = message.rsplit_once(", expected ").map_or("", |(_, known)| known);
    unknown(what, word, &known.split('`').skip(1).step_by(2).collect::<Vec<_>>())
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
}
