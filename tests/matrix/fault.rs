//! The table of what a server may do wrong: how it is made, and what may come of a request.
//!
//! A fault joins the matrix by one line in [`FAULTS`]. Read by `block`.

use crate::common::Protocol;

/// What makes the fault happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Each request that asks for it.
    Asked,
    /// Nobody listens, from before the requests on.
    Refuse,
    /// The accept queue is full.
    HangOnConnect,
    /// The rig's behaviour towards new connections.
    OnConnect(&'static str),
    /// SIGSTOP before the requests.
    Stop,
    /// SIGKILL in the middle of the requests.
    Kill,
    /// The same, and a new server at once.
    Restart,
    /// A command of the rig, one second after the last reply.
    Idle(&'static str),
}

/// What a client may get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum May {
    /// Its reply, nothing else.
    Reply,
    /// An explicit "no", nothing else.
    Refusal,
    /// One of both.
    Either,
}

/// What a protocol must have for a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// A layout, so that not all bytes are messages.
    Layout,
    /// A message that says that the connection will close.
    Closing,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) name: &'static str,
    pub(crate) event: Event,
    /// What the request asks the server for; `{k}` is how many bytes of the reply it sends before.
    verb: &'static str,
    /// For requests with this verb.
    asked: May,
    /// For requests beside them that ask for an echo.
    beside: May,
    /// Where a connection has one request at a time, those beside it get their reply.
    pub(crate) spares_others: bool,
    /// Replies are given up after 200 ms, because they do not come. Otherwise no timeout may help.
    pub(crate) is_awaited_in_vain: bool,
    /// Bytes of a request with this verb.
    pub(crate) size: usize,
    /// Where it can be at all.
    needs: Needs,
}

const fn fault(name: &'static str, event: Event, verb: &'static str, asked: May, beside: May) -> Fault {
    let (spares_others, is_awaited_in_vain, size, needs) = (false, false, 0, Needs::Nothing);
    Fault { name, event, verb, asked, beside, spares_others, is_awaited_in_vain, size, needs }
}

impl Fault {
    const fn in_vain(self) -> Self {
        Self { is_awaited_in_vain: true, ..self }
    }

    const fn sparing_others(self) -> Self {
        Self { spares_others: true, ..self }
    }

    const fn needing(self, needs: Needs) -> Self {
        Self { needs, ..self }
    }

    /// With requests too large for the sockets in between.
    const fn large(self) -> Self {
        Self { size: 8 << 20, ..self }
    }
}

use Event::{Asked, HangOnConnect, Idle, Kill, OnConnect, Refuse, Restart, Stop};
use May::{Either, Refusal, Reply};
use Needs::{Closing, Layout};

pub(crate) const FAULTS: &[Fault] = &[
    fault("none", Asked, "echo", Reply, Reply),
    fault("refuses", Refuse, "echo", Refusal, Refusal).in_vain(),
    fault("hangs on connect", HangOnConnect, "echo", Refusal, Refusal).in_vain(),
    fault("closes on connect", OnConnect("close"), "echo", Refusal, Refusal).in_vain(),
    fault("resets on connect", OnConnect("reset"), "echo", Refusal, Refusal).in_vain(),
    // Where any line is a reply, the greeting may pass for one: that server needs `preamble`.
    fault("speaks first", OnConnect("greet:hello\\n"), "echo", Refusal, Refusal).in_vain().needing(Layout),
    fault("hangs after k bytes", Asked, "partial:{k}:hang", Refusal, Either).in_vain(),
    fault("resets at k", Asked, "partial:{k}:rst", Refusal, Either).in_vain(),
    fault("closes at k", Asked, "partial:{k}:fin", Refusal, Either).in_vain(),
    fault("half-closes at k", Asked, "partial:{k}:half", Refusal, Either).in_vain(),
    fault("closes after the reply", Asked, "after:fin", Either, Either).in_vain(),
    fault("resets after the reply", Asked, "after:rst", Either, Either).in_vain(),
    fault("1 byte per 10 ms", Asked, "slow", Reply, Reply),
    fault("garbage", Asked, "garbage", Refusal, Either).in_vain(),
    fault("early reply", Asked, "early:50", Either, Reply).large(),
    fault("late reply", Asked, "delay:300", Either, Either).in_vain(),
    fault("duplicate reply", Asked, "dup", Reply, Reply).sparing_others(),
    fault("says it closes", Asked, "closing", Reply, Reply).needing(Closing),
    fault("unsolicited reply", Idle("unsolicited"), "echo", Reply, Reply),
    fault("1 stray byte", Idle("stray 1"), "echo", Reply, Reply),
    fault("12 stray bytes", Idle("stray 12"), "echo", Reply, Reply),
    fault("SIGSTOP", Stop, "echo", Refusal, Refusal).in_vain(),
    fault("kill -9", Kill, "hold", Refusal, Either).in_vain(),
    fault("restart", Restart, "delay:20", Either, Either).in_vain(),
];

impl Fault {
    pub(crate) fn fits(&self, protocol: &Protocol) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Layout => protocol.is_framed(),
            Closing => protocol.wire.has_closing(),
        }
    }

    /// Whether it may come after any byte of the reply.
    pub(crate) fn has_places(&self) -> bool {
        self.verb.contains("{k}")
    }

    /// Whether it costs time, not the connection.
    pub(crate) fn hangs(&self) -> bool {
        self.verb.ends_with("hang")
    }

    /// Whether its replies take their time.
    pub(crate) fn is_slow(&self) -> bool {
        self.verb == "slow"
    }

    /// What to ask for, of the same length for every place.
    pub(crate) fn verb(&self, place: usize) -> String {
        self.verb.replace("{k}", &format!("{place:03}"))
    }

    /// What a client that asks for it leaves the protocol to say, with `whole` bytes of reply.
    pub(crate) fn asked(&self, place: usize, whole: usize, protocol: &Protocol) -> May {
        match self.asked {
            Refusal if self.has_places() && place == whole => Either,
            may => self.where_shared(may, protocol),
        }
    }

    pub(crate) fn beside(&self, protocol: &Protocol) -> May {
        self.where_shared(self.beside, protocol)
    }

    fn where_shared(&self, may: May, protocol: &Protocol) -> May {
        if self.spares_others && !protocol.is_exclusive() { Either } else { may }
    }
}
