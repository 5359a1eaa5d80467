//! `warmline explain` through the real binary: captures of all kinds, and whoever writes and reads them.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;

use common::{Folder, PATIENCE};

/// The recipe "Your own header" of the README, and names behind it.
const ORDERS: &str = r#"
[upstreams.orders]
listen = "127.0.0.1:7600"
endpoints = ["127.0.0.1:9090"]
pool.mode = "multiplex"

[upstreams.orders.protocol.frame]
length = { offset = 0, size = 4, adjust = 4 }
id = { offset = 4, size = 4, avoid = [0] }
oneway = [{ offset = 8, mask = 0x80, equals = 0x80 }]
heartbeat = { match = [{ offset = 8, equals = 0x01 }], reply = "00 00 00 04 {id} 02" }
closing = [{ offset = 8, equals = 0x03 }]
error = "00 00 00 04 {id} 04"
method = { offset = 9, size = 4 }

[upstreams.orders.protocol.frame.reply]
length = { offset = 0, size = 4, adjust = 5 }
heartbeat = { match = [{ offset = 8, equals = 0x01 }], reply = "00 00 00 05 {id} 02" }

[upstreams.bills]
listen = "127.0.0.1:7601"
endpoints = ["127.0.0.1:9091"]
protocol.frame = { preset = "netty4", max_message = "64MiB" }
"#;

/// One message of it.
fn order(id: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(5 + body.len()).unwrap();
    [&length.to_be_bytes()[..], &id.to_be_bytes(), &[kind], body].concat()
}

fn netty4(body: &[u8]) -> Vec<u8> {
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
}

/// How `warmline explain` ended and what it said.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    /// The rows below the header, a blank between columns.
    #[track_caller]
    fn rows(&self) -> Vec<String> {
        let mut lines = self.stdout.lines();
        let header = lines.next().unwrap_or_else(|| panic!("no table: {self:?}"));
        assert_eq!(columns(header), "offset length id method kind");
        lines.map(columns).collect()
    }
}

fn columns(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `warmline explain` in a folder with the configuration `orders.toml`.
struct Explain {
    folder: Folder,
    command: Command,
}

impl Explain {
    fn new(args: &str) -> Self {
        let folder = Folder::new();
        std::fs::write(folder.path().join("orders.toml"), ORDERS).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_warmline"));
        command.arg("explain").args(args.split_whitespace()).current_dir(folder.path());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { folder, command }
    }

    /// What it says of a capture that comes in pieces of so many bytes.
    fn pieces(mut self, capture: &[u8], size: usize) -> Said {
        let mut child = self.command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || {
                // It may have seen enough before the end.
                let _ = capture.chunks(size).try_for_each(|piece| stdin.write_all(piece));
            });
            child.wait_with_output().unwrap()
        });
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn all(self, capture: &[u8]) -> Said {
        self.pieces(capture, usize::MAX)
    }
}

/// What it says of `capture`, whole and byte by byte.
#[track_caller]
fn explain(args: &str, capture: &[u8]) -> Said {
    let whole = Explain::new(args).all(capture);
    assert_eq!(Explain::new(args).pieces(capture, 1), whole);
    whole
}

#[test]
fn a_preset() {
    let said = explain("--protocol netty4", &[netty4(b"hello"), netty4(b""), netty4(&[0; 300])].concat());
    assert_eq!(
        said.stdout,
        "    offset     length  id  method            kind
         0          9   -  -                 request
         9          4   -  -                 request
        13        304   -  -                 request\n"
    );
    assert_eq!(said.stderr, "3 messages, 317 bytes\n");
    assert_eq!(said.code, Some(0));
}

#[test]
fn a_header_of_ones_own() {
    let capture = [
        order(7, 0x00, b"get a"),
        order(u32::MAX, 0x80, b"put\0b"),
        order(8, 0x01, b""),
        order(9, 0x00, b"ab"),
        order(10, 0x00, &[0, 0, 0, 7]),
        order(11, 0x03, b""),
    ];
    let said = explain("--config orders.toml --upstream orders", &capture.concat());
    assert_eq!(
        said.rows(),
        [
            "0 14 7 get\\u{20} request",
            "14 14 4294967295 put\\0 oneway",
            "28 9 - - heartbeat",
            "37 11 9 - request",
            "48 13 10 hex:00000007 request",
            "61 9 - - closing",
        ]
    );
    assert_eq!(said.stderr, "6 messages, 70 bytes\n");
    assert_eq!(said.code, Some(0));
}

#[test]
fn lines() {
    let said = explain("--protocol line", b"get key\n\n  put\tx\r\n\x1b[2J boo\n");
    assert_eq!(
        said.rows(),
        ["0 8 - get request", "8 1 - - request", "9 9 - put request", "18 9 - hex:1b5b324a request"]
    );
    assert!(!said.stdout.contains('\x1b'));
    assert_eq!(said.code, Some(0));
}

#[test]
fn json_rpc() {
    let call = r#"{"jsonrpc":"2.0","method":"b","id":"x"}"#;
    let first = r#"{"method":"b","params":[],"id":2}"#;
    let cancel = r#"{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":2}}"#;
    let said = explain("--protocol jsonrpc", format!("{call}{first}[{call}]{{}}{cancel}").as_bytes());
    let rows = [
        "0 39 \"x\" b request",
        "39 33 2 b request",
        "72 41 - - request",
        "113 2 - - invalid",
        "115 62 - - dropped",
    ];
    assert_eq!(said.rows(), rows);
    let server = r#"{"id":1,"result":1}{"id":null,"error":{}}{"method":"n"}"#;
    let rows = ["0 19 1 - reply", "19 22 - - unclaimed", "41 14 - - unasked"];
    assert_eq!(explain("--protocol jsonrpc --replies", server.as_bytes()).rows(), rows);
}

#[test]
fn replies() {
    // Their length counts otherwise, and no method is looked for.
    let reply = |id, kind, body: &[u8]| {
        let mut reply = order(id, kind, body);
        reply[3] -= 1;
        reply
    };
    let capture = [reply(7, 0x00, b"GET A"), reply(8, 0x01, b""), reply(9, 0x04, b""), reply(0, 0x03, b"")];
    let said = explain("--config orders.toml --upstream orders --replies", &capture.concat());
    assert_eq!(said.rows(), ["0 14 7 - reply", "14 9 - - heartbeat", "23 9 9 - reply", "32 9 - - closing"]);
    assert_eq!(said.stderr, "4 messages, 41 bytes\n");
    assert_eq!(said.code, Some(0));
    assert_eq!(explain("--protocol line --replies", b"OK get\n").rows(), ["0 7 - - reply"]);
}

#[test]
fn an_empty_capture() {
    let said = explain("--protocol line", b"");
    assert_eq!(said.stdout, "");
    assert_eq!(said.stderr, "standard input is empty: there is nothing to explain\n");
    assert_eq!(said.code, Some(0));
}

#[test]
fn a_capture_that_was_cut_off() {
    let said = explain("--protocol netty4", &[netty4(b"hello"), netty4(b"hello")].concat()[..15]);
    assert_eq!(said.rows(), ["0 9 - - request", "9 6 - - incomplete"]);
    assert_eq!(
        said.stderr,
        "1 message, 9 bytes; then 6 bytes of a message of 9 bytes: it was cut off, or its length is wrong\n"
    );
    assert_eq!(said.code, Some(0));
    let said = explain("--protocol netty4", &[0, 0]);
    assert_eq!(said.rows(), ["0 2 - - incomplete"]);
    assert_eq!(said.stderr, "0 messages, 0 bytes; then 2 bytes of a message whose end is not known yet\n");
    assert_eq!(said.code, Some(0));
}

#[test]
fn what_is_no_message() {
    let said =
        explain("--protocol netty4", &[&netty4(b"hello")[..], b"POST / HTTP/1.1\r\nHost: x\r\n"].concat());
    assert_eq!(said.rows(), ["0 9 - - request", "9 - - - malformed"]);
    assert_eq!(
        said.stderr,
        "1 message, 9 bytes
warmline: no message at offset 9: message of 1347375960 bytes or more is over max_message
  50 4f 53 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d  POST / HTTP/1.1.
  look at `length`: offset, size, endian, adjust; if they are right, raise `max_message`; or the message \
         before it ends elsewhere\n"
    );
    assert_eq!(said.code, Some(1));

    let said = explain("--config orders.toml --upstream orders", b"\0\0\0\0\x1b[2J");
    assert_eq!(said.rows(), ["0 - - - malformed"]);
    assert_eq!(
        said.stderr,
        "0 messages, 0 bytes
warmline: no message at offset 0: request is too short to hold its id
  00 00 00 00 1b 5b 32 4a  .....[2J
  look at `length`: bytes on the wire = value + adjust; if that is right, at `id`\n"
    );
    assert_eq!(said.code, Some(1));
}

#[test]
fn a_length_that_nothing_holds() {
    let said = explain("--protocol tars", &[0xff; 20]);
    assert_eq!(said.rows(), ["0 - - - malformed"]);
    assert!(said.stderr.contains("message of 4294967295 bytes or more is over max_message"), "{said:?}");
    assert_eq!(said.code, Some(1));
}

/// A capture is not held in memory, and a length that is allowed takes none before its bytes come.
#[test]
fn a_capture_larger_than_memory() {
    let mut explain = Explain::new("");
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("ulimit -v 65536 && exec \"$0\" explain --config orders.toml --upstream bills");
    shell.arg(env!("CARGO_BIN_EXE_warmline")).current_dir(explain.folder.path());
    shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    explain.command = shell;
    let mut capture = netty4(&vec![7; 60_000]).repeat(2000);
    capture.extend([0x03, 0xff, 0xff, 0xf0, 1]);
    let said = explain.all(&capture);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert_eq!(
        said.stderr,
        "2000 messages, 120008000 bytes; then 5 bytes of a message of 67108852 bytes: it was cut off, or its \
         length is wrong\n"
    );
}

/// A process that is gone with its value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn rows_are_there_before_the_end() {
    let mut explain = Explain::new("--protocol line");
    let mut child = Running(explain.command.spawn().unwrap());
    let mut stdin: ChildStdin = child.0.stdin.take().unwrap();
    let lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (sender, rows) = mpsc::channel();
    std::thread::spawn(move || lines.for_each(|line| drop(sender.send(columns(&line.unwrap())))));
    let next = || rows.recv_timeout(PATIENCE).unwrap();
    stdin.write_all(b"one\ntw").unwrap();
    assert_eq!(next(), "offset length id method kind");
    assert_eq!(next(), "0 4 - one request");
    stdin.write_all(b"o\n").unwrap();
    assert_eq!(next(), "4 4 - two request");
}

/// The capture has no end; the process does.
#[test]
fn a_reader_that_has_seen_enough() {
    let script = "yes more | { \"$0\" explain --protocol line; echo \"exit $?\" >&2; } | head -n 2";
    let output = Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_warmline")]).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said = Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) };
    assert_eq!(said.rows(), ["0 5 - more request"]);
    assert_eq!(said.stderr, "exit 0\n");
}

#[test]
fn wrong_usage() {
    let wrong = [
        "",
        "--replies",
        "--config orders.toml",
        "--upstream orders",
        "--protocol line --config orders.toml --upstream orders",
        "--protocol line --upstream orders",
        "--protocol line capture",
        "--protocol",
    ];
    for args in wrong {
        let said = Explain::new(args).all(b"");
        assert_eq!(said.code, Some(64), "{args}");
        assert_eq!(said.stdout, "", "{args}");
        assert!(said.stderr.ends_with("For more information, try '--help'.\n"), "{args}: {}", said.stderr);
    }
}

#[test]
fn an_unknown_protocol() {
    let said = Explain::new("--protocol nety4").all(b"");
    assert_eq!(
        said.stderr,
        "command line:1:12: unknown protocol `nety4`, did you mean `netty4`?
  |
1 | protocol = \"nety4\"
  |            ^^^^^^^
"
    );
    assert_eq!(said.code, Some(64));
    for (name, expected) in [
        ("tcp", "there is no raw TCP"),
        ("frame", "`frame` needs to know where the length of a message stands"),
        ("netrpc", "`netrpc` is not supported by this version yet"),
        ("\"\u{1b}", "unknown protocol"),
    ] {
        let said = Explain::new(&format!("--protocol {name}")).all(b"");
        assert!(said.stderr.contains(expected) && !said.stderr.contains('\u{1b}'), "{said:?}");
        assert_eq!(said.code, Some(64), "{name}");
    }
}

#[test]
fn an_unknown_upstream() {
    let said = |name| Explain::new(&format!("--config orders.toml --upstream {name}")).all(b"");
    let near = said("oders");
    assert_eq!(
        near.stderr,
        "warmline: orders.toml: there is no upstream \"oders\", did you mean \"orders\"?\n"
    );
    assert_eq!(near.code, Some(64));
    let far = said("\u{1b}[2J");
    assert_eq!(
        far.stderr,
        "warmline: orders.toml: there is no upstream \"\\u{1b}[2J\"; known here: bills, orders\n"
    );
    assert_eq!(far.code, Some(64));
}

#[test]
fn a_wrong_configuration() {
    let explain = Explain::new("--config orders.toml --upstream orders");
    let text = ORDERS.replace("method = { offset = 9", "method = { offset = 7");
    std::fs::write(explain.folder.path().join("orders.toml"), text).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_warmline"));
    let checked = check.args(["check", "orders.toml"]).current_dir(explain.folder.path()).output().unwrap();
    let said = explain.all(b"");
    assert!(said.stderr.contains("bytes 7 to 10 overlap the id"), "{said:?}");
    assert_eq!(said.stderr.as_bytes(), checked.stderr);
    assert_eq!(said.code, Some(78));
    let said = Explain::new("--config absent.toml --upstream orders").all(b"");
    assert!(said.stderr.starts_with("absent.toml: cannot be read"), "{said:?}");
    assert_eq!(said.code, Some(78));
}

#[test]
fn standard_input_that_cannot_be_read() {
    let mut explain = Explain::new("--protocol line");
    let folder = std::fs::File::open(explain.folder.path()).unwrap();
    let output = explain.command.stdin(folder).output().unwrap();
    assert!(output.stderr.starts_with(b"warmline: cannot read standard input: "), "{output:?}");
    assert_eq!(output.status.code(), Some(1));
}

/// What one side of a fixture says, as bytes.
fn captured(fixture: &str, side: &str) -> Vec<u8> {
    let lines = fixture.lines().filter(|line| line.starts_with(side));
    let hex =
        lines.map(|line| line.split_once(" : ").unwrap().1.split(" -> ").next().unwrap().replace(' ', ""));
    let byte = |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
    hex.flat_map(|hex| hex.as_bytes().chunks(2).map(byte).collect::<Vec<_>>()).collect()
}

#[test]
fn what_the_libraries_of_dubbo_and_bolt_say() {
    let dubbo = include_str!("fixtures/dubbo.txt");
    let bolt = include_str!("fixtures/bolt.txt");
    let said = |args: &str, bytes: &[u8]| explain(&format!("--protocol {args}"), bytes).rows();
    assert_eq!(
        said("dubbo", &captured(dubbo, "client")),
        ["0 111 1 - request", "111 91 4 - oneway", "202 17 - - heartbeat", "219 18 - - closing"]
    );
    assert_eq!(
        said("dubbo --replies", &captured(dubbo, "server")),
        ["0 20 1 - reply", "20 17 - - heartbeat", "37 47 1 - reply", "84 18 - - closing"]
    );
    assert_eq!(
        said("bolt", &captured(bolt, "client")),
        ["0 284 1 - request", "284 284 2 - oneway", "568 22 - - heartbeat"]
    );
    assert_eq!(
        said("bolt --replies", &captured(bolt, "server")),
        ["0 166 1 - reply", "166 22 - - heartbeat"]
    );
}
