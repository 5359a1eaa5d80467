//! Where in a file a value stands, by the path of its keys.
//!
//! Invariant: it always finds a place: where the path ends early, the last table that is there. The file
//! is read again for it, which only errors pay. Called by `report`.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The bytes of `text` to mark for `path`. What an upstream takes from `[defaults]` is found there, and
/// the only item of a list may stand without its brackets.
pub(super) fn locate(text: &str, path: &[&str]) -> Range<usize> {
    let Ok(file) = DeTable::parse(text) else { return 0..0 };
    let (found, span) = walk(file.get_ref(), path);
    if let ["upstreams", _, rest @ ..] = path
        && found < path.len()
    {
        let inherited = [&["defaults"], rest].concat();
        let (found, span) = walk(file.get_ref(), &inherited);
        if found == inherited.len() {
            return span;
        }
    }
    span
}

/// How many keys of `path` are there, and where the last of them stands.
fn walk(file: &DeTable<'_>, path: &[&str]) -> (usize, Range<usize>) {
    let Some((first, rest)) = path.split_first() else { return (0, 0..0) };
    let Some((mut value, mut span)) = entry(file, first) else { return (0, 0..0) };
    for (depth, key) in rest.iter().enumerate() {
        let next = match (value.get_ref(), key.parse::<usize>()) {
            (DeValue::Table(table), _) if table.contains_key(*key) => entry(table, key),
            (DeValue::Array(items), Ok(at)) => items.get(at).map(|item| (item, item.span())),
            (_, Ok(0)) => Some((value, span.clone())),
            _ => None,
        };
        match next {
            Some(next) => (value, span) = next,
            None => return (depth + 1, span),
        }
    }
    (path.len(), span)
}

/// The value of `key`, and what to mark for it: the value, or the key of a table.
fn entry<'a, 'i>(table: &'a DeTable<'i>, key: &str) -> Option<(&'a Spanned<DeValue<'i>>, Range<usize>)> {
    let (name, value) = table.get_key_value(key)?;
    let span = if value.get_ref().is_table() { name.span() } else { value.span() };
    Some((value, span))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "[defaults.pool]\nmode = 1\n[upstreams.a]\nlisten = ['b', 'c']\nlength = { size = 5 }\n";

    fn found(path: &[&str]) -> &'static str {
        &TEXT[locate(TEXT, path)]
    }

    #[test]
    fn values_are_found() {
        assert_eq!(found(&["upstreams", "a", "listen"]), "['b', 'c']");
        assert_eq!(found(&["upstreams", "a", "listen", "1"]), "'c'");
        assert_eq!(found(&["upstreams", "a", "length", "0", "size"]), "5");
    }

    #[test]
    fn what_is_absent_marks_its_table() {
        assert_eq!(found(&["upstreams", "a"]), "a");
        assert_eq!(found(&["upstreams", "a", "endpoints"]), "a");
        assert_eq!(found(&["upstreams", "a", "length", "offset"]), "length");
        assert_eq!(found(&["nothing", "here"]), "");
    }

    #[test]
    fn what_is_inherited_is_found_where_it_is_written() {
        assert_eq!(found(&["upstreams", "a", "pool", "mode"]), "1");
        assert_eq!(found(&["upstreams", "a", "pool", "max_waiting"]), "a");
    }
}
