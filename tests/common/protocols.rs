//! The protocols under test, one line each. What a test does for one of them it does for all: a protocol
//! joins the fault matrix by its line here and its wire in the rig.

use super::{Answer, Asked, Client, Message, Plan, Server, Wire};

/// A protocol in a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Protocol {
    pub(crate) name: &'static str,
    pub(crate) wire: Wire,
    pub(crate) mode: &'static str,
    /// A refusal is a message; without words it is a close.
    pub(crate) has_words: bool,
}

const fn protocol(name: &'static str, wire: Wire, mode: &'static str, has_words: bool) -> Protocol {
    Protocol { name, wire, mode, has_words }
}

pub(crate) const PROTOCOLS: &[Protocol] = &[
    protocol("frame exclusive", Wire::Tagged, "exclusive", true),
    protocol("frame pipeline", Wire::Tagged, "pipeline", true),
    protocol("frame multiplex", Wire::Tagged, "multiplex", true),
    protocol("frame without ids or words", Wire::Plain, "exclusive", false),
    protocol("line", Wire::Line, "exclusive", true),
    protocol("dubbo", Wire::Dubbo, "multiplex", true),
    protocol("bolt", Wire::Bolt, "multiplex", true),
    protocol("thrift exclusive", Wire::ThriftBinary, "exclusive", true),
    protocol("thrift pipeline", Wire::ThriftBinary, "pipeline", true),
    protocol("thrift multiplex", Wire::ThriftBinary, "multiplex", true),
    protocol("thrift compact", Wire::ThriftCompact, "multiplex", true),
    protocol("thrift buffered", Wire::ThriftBuffered, "exclusive", true),
    protocol("jsonrpc exclusive", Wire::JsonLine, "exclusive", true),
    protocol("jsonrpc pipeline", Wire::JsonLine, "pipeline", true),
    protocol("jsonrpc multiplex", Wire::JsonLine, "multiplex", true),
    protocol("jsonrpc content-length", Wire::JsonHeader, "multiplex", true),
];

impl Protocol {
    pub(crate) fn named(name: &str) -> Self {
        *PROTOCOLS.iter().find(|protocol| protocol.name == name).expect("a protocol of the table")
    }

    /// Carries it to `endpoint`.
    pub(crate) fn plan(&self, endpoint: &str) -> Plan {
        let plan = Plan::new(self.wire, self.mode, endpoint);
        if self.has_words { plan } else { plan.without_words() }
    }

    /// The key that bounds its messages.
    pub(crate) fn max_message(&self) -> &'static str {
        match self.wire {
            Wire::Line => "protocol.line.max_message",
            Wire::ThriftBinary | Wire::ThriftCompact | Wire::ThriftBuffered => "protocol.thrift.max_message",
            Wire::JsonLine | Wire::JsonHeader => "protocol.jsonrpc.max_message",
            Wire::Tagged | Wire::Plain | Wire::Wide | Wire::Dubbo | Wire::Bolt => {
                "protocol.frame.max_message"
            }
        }
    }

    /// A pool of exactly so many connections.
    pub(crate) fn pool(&self, server: &Server, connections: u32) -> Plan {
        self.plan(&server.address)
            .set("pool.min_connections", &connections.to_string())
            .set("pool.max_connections", &connections.to_string())
    }

    pub(crate) fn server(&self) -> Server {
        Server::for_mode(self.wire, self.mode)
    }

    pub(crate) fn client(&self, address: &str) -> Client {
        Client::connect(address, self.wire)
    }

    /// A request of the least size there is.
    pub(crate) fn request(&self, verb: &str) -> Asked {
        Asked::new(self.wire, verb, 0)
    }

    /// One request at a time on a connection.
    pub(crate) fn is_exclusive(&self) -> bool {
        self.mode == "exclusive"
    }

    /// Has a layout, so that not every byte can be the front of a message.
    pub(crate) fn is_framed(&self) -> bool {
        self.wire != Wire::Line
    }

    /// Whether `message` is what a client with this id is told when there is no reply.
    pub(crate) fn is_refusal(&self, message: &Message, id: u64) -> bool {
        self.has_words && self.wire.is_refusal(message, id)
    }

    /// Whether `bytes` are how a refusal begins.
    pub(crate) fn begins_refusal(&self, bytes: &[u8], id: u64) -> bool {
        self.has_words && self.wire.begins_refusal(bytes, id)
    }

    /// Requires a refusal as the protocol has it.
    #[track_caller]
    pub(crate) fn expect_refusal(&self, client: &mut Client) {
        let refused = if self.has_words { Answer::Refused } else { Answer::Closed };
        assert_eq!(client.receive(), refused, "{}", self.name);
    }
}

/// Makes a test of each function for each protocol of the table, and of those after `framed` where a message
/// has a layout.
macro_rules! in_each_protocol {
    (all: $($all:ident),*; framed: $($framed:ident),*;) => {
        $crate::common::in_protocol!(exclusive, "frame exclusive", $($all,)* $($framed),*);
        $crate::common::in_protocol!(pipeline, "frame pipeline", $($all,)* $($framed),*);
        $crate::common::in_protocol!(multiplex, "frame multiplex", $($all,)* $($framed),*);
        $crate::common::in_protocol!(no_ids, "frame without ids or words", $($all,)* $($framed),*);
        $crate::common::in_protocol!(line, "line", $($all),*);
    };
}

macro_rules! in_protocol {
    ($module:ident, $name:literal, $($function:ident),*) => {
        mod $module {
            $(#[test] fn $function() { super::$function(&$crate::common::Protocol::named($name)); })*
        }
    };
}

pub(crate) use {in_each_protocol, in_protocol};
