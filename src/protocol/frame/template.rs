//! Bytes written as hex, with holes for an id: what `error` and `heartbeat.reply` are.
//!
//! Invariant: rendering cannot fail and fills every hole. Parsed by `config`, rendered by the codecs.

/// The hole, as it is written.
const HOLE: &str = "{id}";

/// A message of warmline's own, but for the id in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The bytes before, between and after the holes; never empty.
    chunks: Vec<Vec<u8>>,
}

/// A text that is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct TemplateError {
    /// The part of the text that is meant, in bytes.
    pub span: std::ops::Range<usize>,
    /// What is wrong there.
    pub reason: &'static str,
}

impl Template {
    /// Reads pairs of hex digits, with `{id}` and white space between them.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut start = 0;
        let mut chunks = Vec::new();
        for piece in text.split(HOLE) {
            chunks.push(parse_hex(piece, start)?);
            start += piece.len() + HOLE.len();
        }
        Ok(Self { chunks })
    }

    /// Whether it has a hole.
    pub(super) fn has_id(&self) -> bool {
        self.chunks.len() > 1
    }

    /// The bytes, with `id` in every hole.
    pub(super) fn render(&self, id: &[u8]) -> Vec<u8> {
        self.chunks.join(id)
    }
}

/// The bytes of `piece`, which begins at `start` of the whole text.
fn parse_hex(piece: &str, start: usize) -> Result<Vec<u8>, TemplateError> {
    let mut bytes = Vec::with_capacity(piece.len() / 2);
    let mut rest = piece;
    while let Some(first) = rest.chars().next() {
        if first.is_ascii_whitespace() {
            rest = &rest[1..];
            continue;
        }
        let at = start + piece.len() - rest.len();
        let wrong = |len, reason| TemplateError { span: at..at + len, reason };
        let mut digits = rest.chars().map_while(|c| c.to_digit(16));
        match (digits.next(), digits.next()) {
            (Some(high), Some(low)) => bytes.extend(u8::try_from(high << 4 | low)),
            (Some(_), None) => return Err(wrong(1, "half a byte: hex digits come in pairs")),
            (None, _) if first == '{' => return Err(wrong(1, "the only hole there is is {id}")),
            (None, _) => return Err(wrong(first.len_utf8(), "not a hex digit")),
        }
        rest = &rest[2..];
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_filled() {
        let template = Template::parse("daBB 02\n{id} ff {id}").unwrap();
        assert!(template.has_id());
        assert_eq!(template.render(&[1, 2]), [0xda, 0xbb, 0x02, 1, 2, 0xff, 1, 2]);
        let plain = Template::parse("").unwrap();
        assert!(!plain.has_id());
        assert_eq!(plain.render(&[1, 2]), b"");
    }

    #[test]
    fn errors_say_where() {
        let error = |text| Template::parse(text).map_err(|e| (e.span, e.reason));
        assert_eq!(error("ab c"), Err((3..4, "half a byte: hex digits come in pairs")));
        assert_eq!(error("a b"), Err((0..1, "half a byte: hex digits come in pairs")));
        assert_eq!(error("{id} {tag}"), Err((5..6, "the only hole there is is {id}")));
        assert_eq!(error("00 {id} ü"), Err((8..10, "not a hex digit")));
        assert_eq!(error("00 0ü"), Err((3..4, "half a byte: hex digits come in pairs")));
        assert_eq!(error("0x00"), Err((0..1, "half a byte: hex digits come in pairs")));
    }
}
