//! The libraries, and how their servers and clients are started.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

/// A library that speaks JSON-RPC.
#[derive(Debug)]
pub(crate) struct Library {
    /// What runs it: a path below the folder of this project, or a command.
    words: &'static [&'static str],
    pub(crate) framing: &'static str,
    /// Requests of one connection of its client that are answered.
    pub(crate) calls: u32,
    /// Requests that are not.
    pub(crate) notifications: u32,
}

const NEEDED: &str = "is installed by `tests/run`";
const PYTHON: &str = "target/jsonrpc/venv/bin/python";

pub(crate) const GO: Library =
    Library { words: &["target/jsonrpc/go"], framing: "line", calls: 3, notifications: 0 };
pub(crate) const JAYSON: Library = Library {
    words: &["node", "tests/jsonrpc/peers/jayson.js"],
    framing: "line",
    calls: 3,
    notifications: 0,
};
pub(crate) const AIORPCX: Library =
    Library { words: &[PYTHON, "tests/jsonrpc/peers/aio.py"], framing: "line", calls: 4, notifications: 1 };
pub(crate) const VSCODE: Library = Library {
    words: &["node", "tests/jsonrpc/peers/vscode.js"],
    framing: "content-length",
    calls: 3,
    notifications: 1,
};
pub(crate) const PYLSP: Library = Library {
    words: &[PYTHON, "tests/jsonrpc/peers/lsp.py"],
    framing: "content-length",
    calls: 3,
    notifications: 1,
};

impl Library {
    fn command(&self, role: &str) -> Command {
        let mut command = Command::new(self.words[0]);
        command
            .args(&self.words[1..])
            .arg(role)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("NODE_PATH", concat!(env!("CARGO_MANIFEST_DIR"), "/target/jsonrpc/node_modules"));
        command
    }

    /// Its client: it makes so many connections, and waits for each answer so many seconds.
    pub(crate) fn client(&self, port: u16, connections: u32, patience: u32) -> Command {
        self.client_as("client", port, connections, patience)
    }

    /// The same in another role of its script.
    pub(crate) fn client_as(&self, role: &str, port: u16, connections: u32, patience: u32) -> Command {
        let mut command = self.command(role);
        command.args([port.to_string(), connections.to_string(), patience.to_string()]);
        command
    }
}

/// A running server of a library.
#[derive(Debug)]
pub(crate) struct Peer {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) port: u16,
}

impl Peer {
    pub(crate) fn serve(library: &Library) -> Self {
        Self::start(library, "server")
    }

    /// A server that replies in the order of its requests; of pylsp alone.
    pub(crate) fn serve_in_order(library: &Library) -> Self {
        Self::start(library, "ordered")
    }

    fn start(library: &Library, role: &str) -> Self {
        let mut command = library.command(role);
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.unwrap_or_else(|error| panic!("{} {NEEDED}: {error}", library.words[0]));
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, lines, port: 0 };
        server.port = server.line().parse().unwrap_or_else(|_| panic!("{library:?} {NEEDED}"));
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Connections it has accepted.
    pub(crate) fn accepted(&mut self) -> u32 {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        self.line().parse().unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
