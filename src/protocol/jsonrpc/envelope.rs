//! What a client's object says: a call, a notification, or nothing that a server should see.
//!
//! Invariant: what passes is a request by JSON-RPC 1.0 or 2.0, and no server can read another id in it than the one
//! written here, whatever its reader makes of double or oddly written names. Used by the half that reads requests,
//! and by `batch`.

use super::scan::Seen;
use super::walk::{compact, end_of_text, members, numbers, quote, text};

/// The longest id in bytes: ids are kept aside until the reply comes.
pub(super) const MAX_ID: usize = 1024;

/// The longest number in characters. Python's reader takes up to 4,300 digits.
const MAX_NUMBER: usize = 1000;

/// What tells a server to give a call up, with the id that its client gave it (Language Server Protocol).
const CANCEL: &str = "$/cancelRequest";

/// What is wrong with a call of that name.
pub(super) const CANCELS: &str = "a cancellation with an id";

/// How a call begins. Its id is a placeholder.
pub(super) const CALL: &[u8] = b"{\"id\":0";

/// The edition of JSON-RPC that a message follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    /// Without a member `jsonrpc`.
    V1,
    /// With `"jsonrpc":"2.0"`.
    V2,
}

/// An object that a client sent.
#[derive(Debug)]
pub(super) struct Envelope<'j> {
    object: &'j [u8],
    pub(super) version: Version,
    method: Option<&'j [u8]>,
    params: Option<&'j [u8]>,
    /// As the client wrote it. Without one it is a notification.
    pub(super) id: Option<&'j [u8]>,
    has_more: bool,
    seen: Seen,
}

/// An object that is no request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid<'j> {
    /// What is wrong with it.
    pub(super) reason: &'static str,
    /// Its id, if it has one that a request could have.
    pub(super) id: Option<&'j [u8]>,
    /// What its sender seems to speak.
    pub(super) version: Version,
}

/// The members that mean something to a server or a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Version,
    Method,
    Params,
    Id,
    /// Of a reply.
    Outcome,
    Other,
    /// As good as one of the above to readers that are not strict.
    Doubtful,
}

const NAMES: [(&str, Name); 6] = [
    ("jsonrpc", Name::Version),
    ("method", Name::Method),
    ("params", Name::Params),
    ("id", Name::Id),
    ("result", Name::Outcome),
    ("error", Name::Outcome),
];

impl<'j> Envelope<'j> {
    /// Reads `object`, which is one, with what is known to be `seen` in it.
    ///
    /// # Errors
    /// If it is no request.
    pub(super) fn read(object: &'j [u8], seen: Seen) -> Result<Self, Invalid<'j>> {
        let (mut version, mut method, mut params, mut id) = (None, None, None, None);
        let (mut has_more, mut twice, mut wrong) = (false, false, None);
        for (name, value) in members(object) {
            let name = Name::of(name);
            // An id does not travel.
            if seen.large && name != Name::Id && !numbers(value).all(is_taken) {
                wrong = Some("a number that not every reader takes");
            }
            let place = match name {
                Name::Version => &mut version,
                Name::Method => &mut method,
                Name::Params => &mut params,
                Name::Id => &mut id,
                Name::Outcome => {
                    wrong = Some("a request with `result` or `error`");
                    continue;
                }
                Name::Doubtful => {
                    wrong = Some("a name that differs from a known one in letter case only");
                    continue;
                }
                Name::Other => {
                    has_more = true;
                    continue;
                }
            };
            twice |= place.replace(value).is_some();
        }
        let is_2 = |value| text(value).is_some_and(|version| version == "2.0");
        let edition = if version.is_none() && method.is_some() { Version::V1 } else { Version::V2 };
        let wrong = twice
            .then_some("two members of the same name")
            .or(wrong)
            .or_else(|| version.is_some_and(|v| !is_2(v)).then_some("`jsonrpc` is not \"2.0\""))
            .or_else(|| wrong_method(method))
            .or_else(|| wrong_params(params))
            .or_else(|| wrong_id(id, edition));
        if let Some(reason) = wrong {
            let id = id.filter(|_| !twice && wrong_id(id, edition).is_none());
            return Err(Invalid { reason, id, version: edition });
        }
        // In the first edition, a notification has the id null.
        let id = id.filter(|id| edition == Version::V2 || *id != b"null");
        let params = params.filter(|params| *params != b"null");
        Ok(Self { object, version: edition, method, params, id, has_more, seen })
    }

    /// Whether it is about another request, by an id that means that to its sender only.
    pub(super) fn is_cancel(&self) -> bool {
        self.method.and_then(text).is_some_and(|method| method == CANCEL)
    }

    /// Appends it as servers get it: in the one way that there is to write it, a call with [`CALL`] in front.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let put = |value: &[u8], out: &mut Vec<u8>| {
            if self.seen.spaced { compact(value, out) } else { out.extend_from_slice(value) }
        };
        out.extend_from_slice(head(self.version, self.id.is_some()));
        quote(&self.method.and_then(text).unwrap_or_default(), out);
        if let Some(params) = self.params {
            out.extend_from_slice(b",\"params\":");
            put(params, out);
        }
        let more = members(self.object).filter(|(name, _)| self.has_more && Name::of(name) == Name::Other);
        for (name, value) in more {
            out.push(b',');
            out.extend_from_slice(name);
            out.push(b':');
            put(value, out);
        }
        out.push(b'}');
    }
}

/// How a request begins, up to the name of its method.
fn head(version: Version, is_call: bool) -> &'static [u8] {
    match (version, is_call) {
        (Version::V2, true) => b"{\"id\":0,\"jsonrpc\":\"2.0\",\"method\":",
        (Version::V2, false) => b"{\"jsonrpc\":\"2.0\",\"method\":",
        (Version::V1, true) => b"{\"id\":0,\"method\":",
        (Version::V1, false) => b"{\"id\":null,\"method\":",
    }
}

/// The name of what `request`, as written here, calls, escaped as JSON has it.
pub(super) fn method(request: &[u8]) -> Option<&[u8]> {
    let kinds =
        [Version::V2, Version::V1].into_iter().flat_map(|version| [(version, true), (version, false)]);
    let rest =
        kinds.into_iter().find_map(|(version, is_call)| request.strip_prefix(head(version, is_call)))?;
    rest[..end_of_text(rest, 0)].strip_prefix(b"\"")?.strip_suffix(b"\"")
}

/// Whether readers take `number`: they have double precision, and a bound on digits.
fn is_taken(number: &[u8]) -> bool {
    let value = std::str::from_utf8(number).ok().filter(|_| number.len() <= MAX_NUMBER);
    value.and_then(|value| value.parse().ok()).is_some_and(f64::is_finite)
}

fn wrong_method(method: Option<&[u8]>) -> Option<&'static str> {
    match method {
        None => Some("a request without `method`"),
        Some(name) if text(name).is_none() => Some("`method` is no text"),
        Some(_) => None,
    }
}

fn wrong_params(params: Option<&[u8]>) -> Option<&'static str> {
    match params? {
        [b'[' | b'{', ..] | b"null" => None,
        _ => Some("`params` is neither a list nor an object"),
    }
}

fn wrong_id(id: Option<&[u8]>, version: Version) -> Option<&'static str> {
    match (id, version) {
        (None, Version::V1) => Some("a request without `id`"),
        (Some(id), _) if id.len() > MAX_ID => Some("`id` is too long"),
        (Some([b'[' | b'{' | b't' | b'f', ..]), Version::V2) => Some("`id` is neither text nor a number"),
        _ => None,
    }
}

impl Name {
    fn of(quoted: &[u8]) -> Self {
        let exact = |name: &str| NAMES.iter().find(|(known, _)| *known == name).map(|(_, name)| *name);
        let Some(name) = text(quoted) else { return Self::Doubtful };
        exact(&name).unwrap_or_else(|| {
            // Some readers take no notice of letter case, and some of nothing behind a zero.
            let until_zero = name.split('\0').next().unwrap_or_default();
            let folded: String = until_zero
                .chars()
                .take(MAX_NAME)
                .flat_map(char::to_uppercase)
                .flat_map(char::to_lowercase)
                .collect();
            if exact(&folded).is_some() { Self::Doubtful } else { Self::Other }
        })
    }
}

/// Characters of a name that are compared with letter case left aside: more than any known name has.
const MAX_NAME: usize = 16;
