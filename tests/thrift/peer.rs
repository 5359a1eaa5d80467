//! Servers and clients of `echo.thrift` as processes, and the code that the compiler makes for them.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::LazyLock;

const INSTALLED: &str = "what it needs is installed by `tests/run`";

/// Where `tests/run` puts the libraries.
static LIBRARIES: LazyLock<PathBuf> = LazyLock::new(|| root().join("target/thrift"));

/// What the compiler makes of `echo.thrift`, a folder for each language, and the Go program.
static CODE: LazyLock<PathBuf> = LazyLock::new(|| {
    let code = LIBRARIES.join("code");
    for (language, folder) in
        [("py", "py"), ("js:node", "js"), ("go", "go/src"), ("php", "php"), ("rb", "rb"), ("perl", "perl")]
    {
        let folder = code.join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let mut compiler = Command::new("thrift");
        compiler.args(["--gen", language, "--out"]).args([&folder, &script("echo.thrift")]);
        assert!(compiler.status().expect(INSTALLED).success(), "{language}");
    }
    // A program with a name of its own beside what is to be imported.
    std::fs::remove_dir_all(code.join("go/src/echo/echo-remote")).unwrap();
    let mut go = Command::new("go");
    go.args(["build", "-o"]).args([&code.join("peer"), &script("peer.go")]);
    go.env("GO111MODULE", "off");
    go.env("GOPATH", format!("{}:/usr/share/gocode", code.join("go").display()));
    assert!(go.status().expect(INSTALLED).success());
    code
});

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str) -> PathBuf {
    root().join("tests/thrift").join(name)
}

/// A program of one of the languages.
fn program(words: &[&str]) -> Command {
    let (interpreter, name) = (words[0], words[1]);
    let code = &*CODE;
    let mut command = match interpreter {
        "python" => Command::new(LIBRARIES.join("venv/bin/python")),
        "go" => Command::new(code.join("peer")),
        _ => Command::new(interpreter),
    };
    match interpreter {
        "go" => command.arg(name),
        "ruby" | "perl" => {
            let include = code.join(if interpreter == "ruby" { "rb" } else { "perl" });
            command.arg("-I").arg(include).arg(script(name))
        }
        "php" if words[2] == "accelerated" => {
            command.args(["-d", "extension=thrift_protocol"]).arg(script(name))
        }
        _ => command.arg(script(name)),
    };
    let modules = [LIBRARIES.join("node/node_modules"), code.join("js")];
    command
        .args(&words[2..])
        .env("PYTHONPATH", code.join("py"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("NODE_PATH", std::env::join_paths(modules).unwrap())
        .env("CODE", code.join("php"));
    command
}

/// A server that says its port, and its counts when asked.
pub(crate) struct Server {
    child: Child,
    lines: BufReader<ChildStdout>,
    pub(crate) port: String,
    pub(crate) transport: &'static str,
    pub(crate) encoding: &'static str,
}

impl Server {
    /// A server of one of these kinds.
    pub(crate) fn start(kind: &str, transport: &'static str, encoding: &'static str) -> Self {
        let words = match kind {
            "node" => vec!["node", "server.js"],
            "go" => vec!["go", "server"],
            python => vec!["python", "server.py", python],
        };
        let mut command = program(&[&words[..], &[transport, encoding]].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect(INSTALLED);
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut server = Self { child, lines, port: String::new(), transport, encoding };
        server.port = server.line();
        server
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// Connections accepted, and notes taken.
    pub(crate) fn counts(&mut self) -> (u64, u64) {
        writeln!(self.child.stdin.as_mut().unwrap()).unwrap();
        // Node's library has its say there as well.
        let line = std::iter::repeat_with(|| self.line()).find(|line| !line.starts_with("thrift: ")).unwrap();
        let (accepted, notes) = line.split_once(' ').unwrap();
        (accepted.parse().unwrap(), notes.parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client that says with its exit status whether all was right.
pub(crate) struct Client {
    child: Child,
    what: String,
}

impl Client {
    /// A client of some kind, transport and encoding.
    pub(crate) fn start([kind, transport, encoding]: [&str; 3], port: u16, connections: u32) -> Self {
        let (port, connections) = (port.to_string(), connections.to_string());
        let numbers = [&port[..], &connections];
        let words = match kind {
            "node" => [&["node", "client.js"], &numbers[..]].concat(),
            "go" => [&["go", "client"], &numbers[..]].concat(),
            "perl" => [&["perl", "client.pl"], &numbers[..]].concat(),
            "php" => [&["php", "client.php", "plain"], &numbers[..]].concat(),
            "php accelerated" => [&["php", "client.php", "accelerated"], &numbers[..]].concat(),
            "ruby" => [&["ruby", "client.rb", "plain"], &numbers[..]].concat(),
            "ruby accelerated" => [&["ruby", "client.rb", "accelerated"], &numbers[..]].concat(),
            python => [&["python", "client.py", python], &numbers[..]].concat(),
        };
        let words = [&words[..], &[transport, encoding]].concat();
        let child = program(&words).stdout(Stdio::null()).spawn().expect(INSTALLED);
        Self { child, what: words.join(" ") }
    }

    /// Waits for its end, which is a good one if all was right.
    pub(crate) fn ends_well(mut self) -> bool {
        self.child.wait().unwrap().success()
    }

    pub(crate) fn assert_all_right(self) {
        let what = self.what.clone();
        assert!(self.ends_well(), "{what}");
    }
}
