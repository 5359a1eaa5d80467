//! JSON-RPC with real libraries: their servers and clients in processes of their own, and clients that speak for
//! themselves beside them. Behind the feature `peers`; `tests/run` installs what these tests need.
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by failing")]

mod bad_input;
#[path = "../common/mod.rs"]
mod common;
mod library;
mod meddler;

use common::Plan;
use library::{AIORPCX, GO, JAYSON, Library, PYLSP, Peer, VSCODE};
use meddler::{Lie, Meddler};

/// Connections of each client process; two of them run side by side.
const CONNECTIONS: u32 = 300;
/// How long a client waits for an answer, in seconds.
const PATIENT: u32 = 30;

fn plan(library: &Library, mode: &str, port: u16) -> Plan {
    Plan::without_protocol(mode, &format!("127.0.0.1:{port}"))
        .set("protocol.jsonrpc.framing", &format!("{:?}", library.framing))
        .set("pool.max_connections", "2")
}

/// Two clients side by side, over at most two connections to a server; every value is right.
fn through_warmline(library: &Library, mode: &str, connections: u32) {
    through(Peer::serve(library), library, mode, connections);
}

fn through(mut server: Peer, library: &Library, mode: &str, connections: u32) {
    let daemon = plan(library, mode, server.port).start_ready();
    let clients = [(); 2].map(|()| library.client(daemon.port(), connections, PATIENT).spawn().unwrap());
    for mut client in clients {
        assert!(client.wait().unwrap().success());
    }
    daemon.assert_conserved();
    assert_eq!(daemon.outcome("ok"), u64::from(2 * connections * library.calls));
    assert_eq!(daemon.outcome("sent"), u64::from(2 * connections * library.notifications));
    assert!(server.accepted() <= 2);
}

/// What the tests above find right is what they look at: with a reply changed on its way they fail.
fn notices_lies(library: &Library) {
    for (lie, patience, right) in
        [(Lie::None, PATIENT, true), (Lie::Id, 2, false), (Lie::Value, PATIENT, false)]
    {
        let server = Peer::serve(library);
        let meddler = Meddler::start(server.port, lie);
        let client = library.client(meddler.port, 1, patience).output().unwrap();
        assert_eq!(client.status.success(), right, "{lie:?}: {}", String::from_utf8_lossy(&client.stderr));
    }
}

macro_rules! libraries {
    ($($module:ident: $library:ident;)*) => { $(
        mod $module {
            use super::*;

            #[test]
            fn multiplex() {
                through_warmline(&$library, "multiplex", CONNECTIONS);
            }

            #[test]
            fn exclusive() {
                through_warmline(&$library, "exclusive", 30);
            }

            #[test]
            fn notices() {
                notices_lies(&$library);
            }
        }
    )* };
}

libraries! {
    go: GO;
    jayson: JAYSON;
    aiorpcx: AIORPCX;
    vscode: VSCODE;
    pylsp: PYLSP;
}

/// For a server that takes one request after the other.
#[test]
fn pipeline() {
    through(Peer::serve_in_order(&PYLSP), &PYLSP, "pipeline", CONNECTIONS);
}

/// Notifications and requests of the server stay between it and warmline.
#[test]
fn what_a_server_says_of_its_own_accord_reaches_nobody() {
    let server = Peer::serve(&VSCODE);
    let daemon = plan(&VSCODE, "multiplex", server.port).start_ready();
    assert!(VSCODE.client(daemon.port(), 10, PATIENT).status().unwrap().success());
    for action in ["dropped", "answered"] {
        assert_eq!(daemon.metric("upstream_messages_total", &[("action", action)]), 20, "{action}");
    }
    assert_eq!(daemon.metric("desync_total", &[]), 0);
}

/// Each client has a connection of its own, over which the server asks and tells it; there are so many, and they are
/// closed with their clients.
#[test]
fn with_pass_a_server_reaches_its_client() {
    let mut server = Peer::serve(&VSCODE);
    let daemon = Plan::without_protocol("exclusive", &format!("127.0.0.1:{}", server.port))
        .set("protocol.jsonrpc.framing", "\"content-length\"")
        .set("protocol.jsonrpc.server_messages", "\"pass\"")
        .set("pool.max_connections", "9")
        .set("pool.max_dedicated", "8")
        .set("health.probe", "\"ping\"")
        .set("health.interval", "\"100ms\"")
        .start_ready();
    assert!(VSCODE.client_as("owner", daemon.port(), CONNECTIONS, PATIENT).status().unwrap().success());
    let handed = daemon.metric("dedicated_total", &[("reason", "server_messages")]);
    assert_eq!(handed, u64::from(CONNECTIONS));
    assert!(server.accepted() > CONNECTIONS, "and one that is kept warm");
    common::becomes("connections of clients' own", 0, || {
        daemon.metric("upstream_connections", &[("state", "dedicated")])
    });
    common::eventually("probes that ask", || {
        (daemon.metric("probes_total", &[("result", "ok")]) > 2).then_some(())
    });
    assert_eq!(daemon.metric("probes_total", &[("result", "failed")]), 0);
    // A client of the shared kind finds nothing amiss.
    assert!(VSCODE.client(daemon.port(), 30, PATIENT).status().unwrap().success());
    daemon.assert_conserved();
}
