//! What a request asks the rig's server to do with it: the first word of its payload. Used by `conversation`.

use std::str::FromStr;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `echo`: reply with the payload.
    Echo,
    /// `probe`: the same, but it is counted apart and may come again and again.
    Probe,
    /// `delay:MS`: reply after that many milliseconds.
    Delay(u64),
    /// `hold`: reply at the command `release`.
    Hold,
    /// `hang`: never reply.
    Hang,
    /// `close`, `reset`, `half`: end the connection instead of replying.
    End(End),
    /// `partial:K:END`: send the first K bytes of the reply, then end like that.
    Partial(usize, End),
    /// `after:END`: reply, then end the connection.
    After(End),
    /// `garbage`: 64 bytes that are no message.
    Garbage,
    /// `dup`: reply twice.
    Dup,
    /// `stray:N:MS`: reply, and N bytes of nothing after that many milliseconds.
    Stray(usize, u64),
    /// `early:MS`: reply before the request is whole, then do not read for so long.
    Early(u64),
    /// `slow`: one byte of the reply every 10 ms.
    Slow,
    /// `big:N`: reply with N bytes.
    Big,
    /// `heartbeat`: send a heartbeat, wait for its answer, then reply.
    Heartbeat,
    /// `closing`: reply, and say that the connection will close.
    Closing,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both directions, politely.
    Fin,
    /// At once.
    Rst,
    /// Nothing more is sent, all is still read.
    Half,
    /// Not at all, but nothing more is sent.
    Hang,
}

impl FromStr for End {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Ok(match word {
            "fin" | "close" => Self::Fin,
            "rst" | "reset" => Self::Rst,
            "half" => Self::Half,
            "hang" => Self::Hang,
            _ => return Err(format!("`{word}` is no end")),
        })
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("`{text}` is no verb");
        let mut words = text.split(':');
        let verb = words.next().unwrap_or_default();
        let mut next = || words.next().ok_or_else(bad);
        let number = |word: &str| word.parse::<u64>().map_err(|_| bad());
        let size = |word: &str| word.parse::<usize>().map_err(|_| bad());
        Ok(match verb {
            "echo" => Self::Echo,
            "probe" => Self::Probe,
            "delay" => Self::Delay(number(next()?)?),
            "hold" => Self::Hold,
            "hang" => Self::Hang,
            "close" | "reset" | "half" => Self::End(verb.parse()?),
            "partial" => Self::Partial(size(next()?)?, next()?.parse()?),
            "after" => Self::After(next()?.parse()?),
            "garbage" => Self::Garbage,
            "dup" => Self::Dup,
            "stray" => Self::Stray(size(next()?)?, number(next()?)?),
            "early" => Self::Early(number(next()?)?),
            "slow" => Self::Slow,
            "big" => Self::Big,
            "heartbeat" => Self::Heartbeat,
            "closing" => Self::Closing,
            _ => return Err(bad()),
        })
    }
}
