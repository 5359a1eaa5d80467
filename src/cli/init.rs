//! `warmline init`: a commented configuration to start from.
//!
//! It is the shipped sample with another protocol in it, and the admin endpoint off: the folder of its socket
//! is made by the service manager. Called by `cli`.

use super::{Exit, print};

/// The shipped sample.
const SAMPLE: &str = include_str!("../../config/warmline.toml");
/// How its line with the protocol begins.
const PROTOCOL: &str = "protocol = ";
/// How its lines with the admin endpoint begin.
const ADMIN: [&str; 2] = ["[admin]", "listen = \"unix:/run/"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What clients and servers speak.
    #[arg(long, value_enum, default_value_t = Protocol::Netty4)]
    protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Protocol {
    /// Messages that end with a delimiter.
    Line,
    /// JSON-RPC 1.0 and 2.0.
    Jsonrpc,
    /// Apache Thrift.
    Thrift,
    /// Any length-prefixed protocol, from a description of its header.
    Frame,
    /// 4 bytes of length, then so many bytes.
    Netty4,
    /// The same, as Swoole has it.
    Swoole,
    /// Dubbo 2, with its ids and heartbeats.
    Dubbo,
    /// SOFA Bolt 1, with its ids and heartbeats.
    Bolt,
    /// Tars: 4 bytes of length that count themselves.
    Tars,
    /// The standard protocol of brpc.
    Brpc,
}

impl Protocol {
    /// What the sample has to say in place of its own protocol.
    fn lines(self) -> &'static str {
        match self {
            Self::Line => LINE,
            Self::Jsonrpc => JSONRPC,
            Self::Frame => FRAME,
            Self::Thrift => THRIFT,
            Self::Netty4 => "protocol = \"netty4\"               # 4 bytes of length, then so many bytes",
            Self::Swoole => "protocol = \"swoole\"               # 4 bytes of length, then so many bytes",
            Self::Dubbo => "protocol = \"dubbo\"                # set pool.mode = \"multiplex\" with it",
            Self::Bolt => "protocol = \"bolt\"                 # set pool.mode = \"multiplex\" with it",
            Self::Tars => "protocol = \"tars\"                 # 4 bytes of length that count themselves",
            Self::Brpc => {
                "protocol = \"brpc\"                 # baidu_std: \"PRPC\", two lengths, then the body"
            }
        }
    }
}

const LINE: &str = r#"
[upstreams.example.protocol.line]
# delimiter = "\n"                # what ends a message
error = "ERR {reason}\n"          # what a client is told when there is no reply; without it, a close
# max_message = "16MiB""#;

const JSONRPC: &str = r#"
[upstreams.example.protocol.jsonrpc]
# framing = "line"                # or "content-length": with headers, as the Language Server Protocol has them
# server_messages = "drop"        # what a server sends of its own accord; "pass": to its client, one a connection
# batches = true                  # false: lists of requests are refused; for servers that have none, as Go's
# max_message = "16MiB""#;

const THRIFT: &str = r#"
[upstreams.example.protocol.thrift]
# transport = "framed"            # what the upstream speaks: framed, buffered, header
# encoding = "binary"             # binary, compact, json
# oneway = []                     # methods without a reply that clients mark as calls, as Go's do
# echoes_seqid = true             # false: replies have the seqid 0, as some old servers write it
# max_message = "16MiB""#;

const FRAME: &str = r#"
[upstreams.example.protocol.frame]
# preset = "netty4"               # a layout to start from: swoole, netty4, dubbo, bolt, tars, brpc
# Bytes on the wire = value + adjust. size is 1, 2, 3, 4, 8 or "varint"; a list of tables is summed.
length = { offset = 0, size = 4, endian = "big", adjust = 4 }
# With an id at a fixed place, mode = "multiplex" is possible:
# id = { offset = 4, size = 4, endian = "big", avoid = [0] }
# Requests without a reply; all must match: byte & mask = equals.
# oneway = [{ offset = 8, mask = 0x80, equals = 0x80 }]
# Messages answered in place: hex digits, and {id} where the id goes.
# heartbeat = { match = [{ offset = 8, equals = 0x01 }], reply = "00 00 00 05 {id} 02" }
# The sender is about to close:
# closing = [{ offset = 8, equals = 0x03 }]
# What every other request has; anything else is then refused:
# message = [{ offset = 8, mask = 0x70, equals = 0x00 }]
# What a client is told when there is no reply; without it, a close:
# error = "00 00 00 05 {id} 04"
# What a request calls, for `retry.idempotent` and `warmline explain`:
# method = { offset = 9, size = 8 }
# Any key above, where replies differ:
# reply = { length = { offset = 0, size = 4, adjust = 4 } }
# max_message = "16MiB""#;

pub(super) fn run(args: &Args) -> Exit {
    print(&configuration(args.protocol))
}

/// The sample with `protocol` in it.
fn configuration(protocol: Protocol) -> String {
    let mut text = String::new();
    for line in SAMPLE.lines() {
        if ADMIN.iter().any(|start| line.starts_with(start)) {
            text.push_str("# ");
        }
        text.push_str(if line.starts_with(PROTOCOL) { protocol.lines() } else { line });
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;
    use crate::config::{Plan, Source};

    fn plan(text: &str) -> Plan {
        Plan::new(&Source::new("init", text.to_owned())).unwrap_or_else(|errors| panic!("{}", errors[0]))
    }

    /// Keys whose commented value is an example rather than the default, or goes with another.
    const WITHOUT: [&str; 5] = ["[upstreams.example.access]", "mode = \"0660\"", "uids", "source", "key = "];

    /// The text with every key and table that is commented out in place. What follows a key stays a
    /// comment; prose does not begin with a key.
    fn uncommented(text: &str, without: &[&str]) -> String {
        let is_key =
            |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains([' ', ':', ',']));
        let bare = |line: &&str| {
            let rest = line.strip_prefix("# ").unwrap_or(line);
            let wanted =
                (is_key(rest) || rest.starts_with('[')) && !without.iter().any(|it| rest.starts_with(it));
            if wanted { rest.to_owned() } else { (*line).to_owned() }
        };
        text.lines().map(|line| bare(&line) + "\n").collect()
    }

    #[test]
    fn every_protocol_can_be_checked() {
        for protocol in Protocol::value_variants() {
            let text = configuration(*protocol);
            assert_eq!(plan(&text).admin, None);
            let sample = SAMPLE.replace(ADMIN[0], &format!("# {}", ADMIN[0]));
            let same = text == sample.replace(ADMIN[1], &format!("# {}", ADMIN[1]));
            assert_eq!(same, *protocol == Protocol::Netty4, "{protocol:?}");
            let all = uncommented(&text, &WITHOUT);
            plan(&text);
            plan(&all);
        }
    }

    #[test]
    fn what_is_commented_out_is_the_default() {
        let text = configuration(Protocol::Swoole);
        let all = uncommented(&text, &[&WITHOUT[..], &ADMIN[..]].concat());
        assert!(all.lines().filter(|line| line.contains(" = ")).count() > 35, "{all}");
        let (mut given, absent) = (plan(&all), plan(&text));
        assert!(given.limits.max_clients_is_explicit);
        given.limits.max_clients_is_explicit = false;
        assert_eq!(format!("{given:?}"), format!("{absent:?}"));
    }
}
