//! Finds where a JSON value ends (RFC 8259), in bytes that come piece by piece.
//!
//! Invariant: a value that ends is one by the grammar, nested no deeper than allowed; no byte is looked at twice.
//! Called by `framing`.

use memchr::memchr2;
use smallvec::SmallVec;

/// How strict a scan is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rules {
    /// Values within values, the outermost included.
    pub(super) max_depth: usize,
    /// Text is Unicode: half a surrogate pair is no character. The scan leaves it to its caller to look for UTF-8.
    /// Otherwise what usual libraries write against the grammar is let through: control characters in text, `NaN` and
    /// `Infinity`.
    pub(super) strict: bool,
}

/// The search for the end of a value.
#[derive(Debug)]
pub(super) struct Scan {
    rules: Rules,
    state: State,
    /// The lists and objects that are open.
    open: SmallVec<[Open; 16]>,
    /// The string is the name of a member.
    is_name: bool,
    /// How long the number is so far.
    number: usize,
    seen: Seen,
}

/// What a scan saw on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// White space that means nothing.
    pub(super) spaced: bool,
    /// A number that is worth a second look: it is long, or has a long exponent.
    pub(super) large: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    List,
    Object,
}

/// What may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Value,
    /// A value or the end of the list.
    FirstItem,
    /// A member or the end of the object.
    FirstName,
    Name,
    Colon,
    /// A comma or the end of what is open.
    After,
    Text(Pair),
    Escape(Pair),
    /// So many hex digits, after those of this value.
    Hex(u8, u16, Pair),
    /// The rest of `true`, `false` or `null`.
    Word(&'static [u8]),
    Number(Number),
    Over,
}

/// How far a surrogate pair has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pair {
    None,
    /// Its second half must follow.
    Half,
}

/// How far a number has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    Sign,
    /// So many digits.
    Power(u8),
}

/// A number of so many characters, with an exponent of so many digits, is in the range of any reader.
const MAX_DIGITS: usize = 200;
const MAX_POWER: u8 = 2;

const NOT_JSON: &str = "not JSON";
const TOO_DEEP: &str = "JSON nested too deep";
const CONTROL: &str = "not JSON: a control character in a string";
const HALF_PAIR: &str = "not JSON: half a surrogate pair";

impl Scan {
    /// A scan of the next value.
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: State::Value,
            open: SmallVec::new(),
            is_name: false,
            number: 0,
            seen: Seen::default(),
        }
    }

    /// Goes on with the bytes that come next; says how many of them belong to the value once it is over.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if self.state == State::Text(Pair::None) {
                let text = self.plain(&bytes[at..])?;
                if text > 0 {
                    at += text;
                    continue;
                }
            }
            if let State::Number(number) = self.state {
                if let Some(number) = number.and(byte) {
                    self.state = State::Number(number);
                    self.number += 1;
                    at += 1;
                    continue;
                }
                if number == Number::Minus && byte == b'I' && !self.rules.strict {
                    (self.state, self.number) = (State::Word(b"nfinity"), 0);
                    at += 1;
                    continue;
                }
                if !number.is_whole() {
                    return Err(NOT_JSON);
                }
                let is_long = matches!(number, Number::Power(digits) if digits > MAX_POWER);
                self.seen.large |= is_long || self.number > MAX_DIGITS;
                self.number = 0;
                self.ended();
            }
            if self.state == State::Over {
                return Ok(Some(at));
            }
            self.state = self.after(byte)?;
            at += 1;
        }
        Ok((self.state == State::Over).then_some(at))
    }

    /// The bytes at the front of a string that are nothing special.
    fn plain(&self, text: &[u8]) -> Result<usize, &'static str> {
        let end = memchr2(b'"', b'\\', text).unwrap_or(text.len());
        let is_control = |byte: &u8| *byte < 0x20;
        if self.rules.strict && text[..end].iter().any(is_control) { Err(CONTROL) } else { Ok(end) }
    }

    /// What the value has in it.
    pub(super) fn seen(&self) -> Seen {
        self.seen
    }

    /// What may follow `byte`, which is not in a number.
    fn after(&mut self, byte: u8) -> Result<State, &'static str> {
        let between = !matches!(
            self.state,
            State::Text(_) | State::Escape(_) | State::Hex(..) | State::Word(_) | State::Number(_)
        );
        if between && is_space(byte) {
            self.seen.spaced = true;
            return Ok(self.state);
        }
        match (self.state, byte) {
            (State::FirstItem, b']') | (State::FirstName, b'}') => Ok(self.close()),
            (State::Value | State::FirstItem, _) => self.begin(byte),
            (State::FirstName | State::Name, b'"') => {
                self.is_name = true;
                Ok(State::Text(Pair::None))
            }
            (State::Colon, b':') => Ok(State::Value),
            (State::After, _) => match (self.open.last(), byte) {
                (Some(Open::List), b',') => Ok(State::Value),
                (Some(Open::Object), b',') => Ok(State::Name),
                (Some(Open::List), b']') | (Some(Open::Object), b'}') => Ok(self.close()),
                _ => Err(NOT_JSON),
            },
            (State::Text(_) | State::Escape(_) | State::Hex(..), _) => self.within_text(byte),
            (State::Word([first, rest @ ..]), _) if *first == byte => {
                Ok(if rest.is_empty() { self.ended() } else { State::Word(rest) })
            }
            _ => Err(NOT_JSON),
        }
    }

    /// The first byte of a value.
    fn begin(&mut self, byte: u8) -> Result<State, &'static str> {
        match byte {
            b'{' => self.open(Open::Object, State::FirstName),
            b'[' => self.open(Open::List, State::FirstItem),
            b'"' => {
                self.is_name = false;
                Ok(State::Text(Pair::None))
            }
            b't' => Ok(State::Word(b"rue")),
            b'f' => Ok(State::Word(b"alse")),
            b'n' => Ok(State::Word(b"ull")),
            b'N' if !self.rules.strict => Ok(State::Word(b"aN")),
            b'I' if !self.rules.strict => Ok(State::Word(b"nfinity")),
            b'-' => Ok(State::Number(Number::Minus)),
            b'0' => Ok(State::Number(Number::Zero)),
            b'1'..=b'9' => Ok(State::Number(Number::Digits)),
            _ => Err(NOT_JSON),
        }
    }

    fn within_text(&mut self, byte: u8) -> Result<State, &'static str> {
        let is_half = matches!(self.state, State::Text(Pair::Half) | State::Escape(Pair::Half));
        let next = match (self.state, byte) {
            (State::Text(pair), b'\\') => return Ok(State::Escape(pair)),
            (State::Escape(pair), b'u') => return Ok(State::Hex(4, 0, pair)),
            (State::Hex(1, high, pair), _) => return self.escaped(high << 4 | digit(byte)?, pair),
            (State::Hex(left, high, pair), _) => {
                return Ok(State::Hex(left - 1, high << 4 | digit(byte)?, pair));
            }
            (State::Text(_), b'"') if self.is_name => State::Colon,
            (State::Text(_), b'"') => self.ended(),
            (State::Text(_), 0x20..) => State::Text(Pair::None),
            (State::Escape(_), b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                State::Text(Pair::None)
            }
            (State::Text(_), _) if self.rules.strict => return Err(CONTROL),
            (State::Text(_), _) => State::Text(Pair::None),
            _ => return Err(NOT_JSON),
        };
        self.unpaired(is_half)?;
        Ok(next)
    }

    /// The UTF-16 `unit` was escaped.
    fn escaped(&self, unit: u16, pair: Pair) -> Result<State, &'static str> {
        let (is_first, is_second) = ((0xd800..0xdc00).contains(&unit), (0xdc00..0xe000).contains(&unit));
        self.unpaired(is_second != (pair == Pair::Half))?;
        Ok(State::Text(if is_first { Pair::Half } else { Pair::None }))
    }

    fn unpaired(&self, is: bool) -> Result<(), &'static str> {
        if is && self.rules.strict { Err(HALF_PAIR) } else { Ok(()) }
    }

    fn open(&mut self, what: Open, then: State) -> Result<State, &'static str> {
        if self.open.len() >= self.rules.max_depth {
            return Err(TOO_DEEP);
        }
        self.open.push(what);
        Ok(then)
    }

    fn close(&mut self) -> State {
        self.open.pop();
        self.ended()
    }

    /// A value is over.
    fn ended(&mut self) -> State {
        self.state = if self.open.is_empty() { State::Over } else { State::After };
        self.state
    }
}

impl Number {
    /// The number with one byte more, if that belongs to it.
    fn and(self, byte: u8) -> Option<Self> {
        match (self, byte) {
            (Self::Minus, b'0') => Some(Self::Zero),
            (Self::Minus, b'1'..=b'9') | (Self::Digits, b'0'..=b'9') => Some(Self::Digits),
            (Self::Zero | Self::Digits, b'.') => Some(Self::Point),
            (Self::Point | Self::Fraction, b'0'..=b'9') => Some(Self::Fraction),
            (Self::Zero | Self::Digits | Self::Fraction, b'e' | b'E') => Some(Self::Exponent),
            (Self::Exponent, b'+' | b'-') => Some(Self::Sign),
            (Self::Exponent | Self::Sign, b'0'..=b'9') => Some(Self::Power(1)),
            (Self::Power(digits), b'0'..=b'9') => Some(Self::Power(digits.saturating_add(1))),
            _ => None,
        }
    }

    fn is_whole(self) -> bool {
        matches!(self, Self::Zero | Self::Digits | Self::Fraction | Self::Power(_))
    }
}

/// White space between tokens.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

fn digit(byte: u8) -> Result<u16, &'static str> {
    char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok()).ok_or(NOT_JSON)
}
