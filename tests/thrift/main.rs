//! Thrift with the libraries that exist: servers and clients in their own processes, with the real binary between
//! them. Behind the feature `peers`; `tests/run` installs what these tests need.
//!
//! Each client opens a connection for every request or two, compares every value and every seqid, and says with
//! its exit status whether all was right. The servers count their connections.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

#[path = "../common/mod.rs"]
mod common;
mod peer;
mod retries;
mod trouble;
mod wrong;

use common::{Daemon, Plan};
use peer::{Client, Server};

/// Connections of each client.
const CONNECTIONS: u32 = 500;

fn plan(server: &Server, mode: &str) -> Plan {
    Plan::without_protocol(mode, &format!("127.0.0.1:{}", server.port))
        .level("info")
        .set("pool.max_connections", "4")
        // Node's library takes the reset of a connection that it has ended for an error.
        .set("sockets.client_close", "\"fin\"")
        .set("protocol.thrift.oneway", "[\"note\"]")
        .set("protocol.thrift.transport", &format!("{:?}", server.transport))
        .set("protocol.thrift.encoding", &format!("{:?}", server.encoding))
}

/// All `clients` side by side through warmline to `server`; each is a kind, a transport and an encoding.
fn through_warmline(server: Server, mode: &str, clients: &[[&str; 3]]) -> Daemon {
    let daemon = plan(&server, mode).start_ready();
    through(&daemon, server, clients);
    daemon
}

fn through(daemon: &Daemon, mut server: Server, clients: &[[&str; 3]]) {
    let clients: Vec<Client> =
        clients.iter().map(|client| Client::start(*client, daemon.port(), CONNECTIONS)).collect();
    let count = clients.len() as u64;
    for client in clients {
        client.assert_all_right();
    }
    daemon.assert_conserved();
    // Every fifth connection makes a second call, and every fifth one that has no reply.
    let fifth = u64::from(CONNECTIONS / 5) * count;
    assert_eq!(daemon.outcome("ok"), u64::from(CONNECTIONS) * count + fifth);
    assert_eq!(daemon.outcome("sent"), fifth);
    let (accepted, notes) = server.counts();
    assert!(accepted <= 4, "{accepted} connections");
    assert_eq!(notes, fifth);
}

#[test]
fn python_framed_binary_multiplex() {
    let server = Server::start("threaded", "framed", "binary");
    let clients = [
        ["accelerated", "framed", "binary"],
        ["plain", "buffered", "binary"],
        ["plain", "framed", "old"],
        ["thriftpy2", "framed", "binary"],
        ["accelerated", "header", "binary"],
    ];
    through_warmline(server, "multiplex", &clients);
}

#[test]
fn python_buffered_compact_exclusive() {
    let server = Server::start("threaded", "buffered", "compact");
    let clients = [
        ["accelerated", "buffered", "compact"],
        ["plain", "framed", "compact"],
        ["thriftpy2", "buffered", "compact"],
        ["plain", "header", "compact"],
    ];
    through_warmline(server, "exclusive", &clients);
}

#[test]
fn python_header_pipeline() {
    let server = Server::start("threaded", "header", "compact");
    through_warmline(
        server,
        "pipeline",
        &[["accelerated", "header", "compact"], ["plain", "framed", "compact"]],
    );
}

#[test]
fn python_json_exclusive() {
    let server = Server::start("threaded", "buffered", "json");
    through_warmline(server, "exclusive", &[["plain", "buffered", "json"], ["plain", "framed", "json"]]);
}

#[test]
fn python_nonblocking_exclusive() {
    let server = Server::start("nonblocking", "framed", "binary");
    through_warmline(
        server,
        "exclusive",
        &[["accelerated", "framed", "binary"], ["thriftpy2", "buffered", "binary"]],
    );
}

#[test]
fn python_multiplexed_services() {
    let server = Server::start("multiplexed", "framed", "compact");
    let daemon = plan(&server, "multiplex")
        .set("retry.idempotent", "[\"Echo:echo\"]")
        .set("balance.policy", "\"hash\"")
        .start_ready();
    through(&daemon, server, &[["multiplexed", "framed", "compact"], ["multiplexed", "buffered", "compact"]]);
}

#[test]
fn thriftpy2_server() {
    let server = Server::start("thriftpy2", "framed", "compact");
    through_warmline(
        server,
        "exclusive",
        &[["thriftpy2", "framed", "compact"], ["accelerated", "buffered", "compact"]],
    );
}

#[test]
fn node_out_of_order_multiplex() {
    let server = Server::start("node", "framed", "binary");
    let clients = [
        ["node", "framed", "binary"],
        ["node", "buffered", "binary"],
        ["go", "framed", "binary"],
        ["accelerated", "framed", "binary"],
    ];
    through_warmline(server, "multiplex", &clients);
}

#[test]
fn node_buffered_compact_multiplex() {
    let server = Server::start("node", "buffered", "compact");
    through_warmline(server, "multiplex", &[["node", "buffered", "compact"], ["node", "framed", "compact"]]);
}

#[test]
fn node_json_exclusive() {
    let server = Server::start("node", "buffered", "json");
    through_warmline(server, "exclusive", &[["node", "buffered", "json"], ["node", "framed", "json"]]);
}

#[test]
fn go_framed_compact_multiplex() {
    let server = Server::start("go", "framed", "compact");
    let clients = [
        ["go", "framed", "compact"],
        ["go", "buffered", "compact"],
        ["go", "header", "compact"],
        ["node", "framed", "compact"],
    ];
    through_warmline(server, "multiplex", &clients);
}

#[test]
fn go_header_binary_exclusive() {
    let server = Server::start("go", "header", "binary");
    through_warmline(server, "exclusive", &[["go", "header", "binary"], ["go", "buffered", "binary"]]);
}

#[test]
fn php_multiplex() {
    let server = Server::start("threaded", "framed", "binary");
    let clients = [
        ["php", "framed", "binary"],
        ["php", "buffered", "binary"],
        ["php accelerated", "framed", "binary"],
        ["php accelerated", "buffered", "binary"],
    ];
    through_warmline(server, "multiplex", &clients);
}

#[test]
fn php_compact_pipeline() {
    let server = Server::start("go", "buffered", "compact");
    through_warmline(server, "pipeline", &[["php", "framed", "compact"], ["php", "buffered", "compact"]]);
}

#[test]
fn ruby_multiplex() {
    let server = Server::start("node", "framed", "binary");
    let clients = [
        ["ruby", "framed", "binary"],
        ["ruby accelerated", "framed", "binary"],
        ["ruby", "buffered", "binary"],
    ];
    through_warmline(server, "multiplex", &clients);
}

#[test]
fn ruby_compact_exclusive() {
    let server = Server::start("threaded", "framed", "compact");
    through_warmline(server, "exclusive", &[["ruby", "framed", "compact"], ["ruby", "buffered", "compact"]]);
}

#[test]
fn perl_multiplex() {
    let server = Server::start("go", "framed", "binary");
    through_warmline(server, "multiplex", &[["perl", "framed", "binary"], ["perl", "buffered", "binary"]]);
}
