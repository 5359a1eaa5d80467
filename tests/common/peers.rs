//! The rig's processes: the server that upstreams are made of, and the load.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use clap::ValueEnum as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, Wire, becomes, eventually};

/// A process that answers in lines of JSON.
#[derive(Debug)]
struct Rig {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Rig {
    fn start(args: &[&str]) -> Self {
        let mut child = Command::new(binary())
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example `rig` is built by `cargo test`");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)).ok();
        });
        Self { child, stdin, lines }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn hear(&mut self, patience: u32) -> Value {
        let line = self.lines.recv_timeout(PATIENCE * patience).expect("a line from the rig");
        serde_json::from_str(&line).unwrap()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Beside the folder of the test's own binary.
fn binary() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().unwrap().parent().unwrap().join("examples").join("rig")
}

fn word(wire: Wire) -> String {
    wire.to_possible_value().unwrap().get_name().to_owned()
}

/// The rig's echo server.
#[derive(Debug)]
pub(crate) struct Server {
    rig: Rig,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(wire: Wire, args: &[&str]) -> Self {
        Self::start_at("127.0.0.1:0", wire, args)
    }

    /// The server that fits a mode: it counts as a violation what the mode must never do.
    pub(crate) fn for_mode(wire: Wire, mode: &str) -> Self {
        Self::for_mode_at("127.0.0.1:0", wire, mode)
    }

    pub(crate) fn for_mode_at(address: &str, wire: Wire, mode: &str) -> Self {
        Self::for_mode_with(address, wire, mode, &[])
    }

    pub(crate) fn for_mode_with(address: &str, wire: Wire, mode: &str, also: &[&str]) -> Self {
        let args: &[&str] = match mode {
            "exclusive" => &["--exclusive"],
            "multiplex" => &["--out-of-order"],
            _ => &[],
        };
        Self::start_at(address, wire, &[args, also].concat())
    }

    pub(crate) fn start_at(address: &str, wire: Wire, args: &[&str]) -> Self {
        let mut rig = Rig::start(&[&["server", "--wire", &word(wire), "--listen", address], args].concat());
        let address = rig.hear(1)["address"].as_str().unwrap().to_owned();
        Self { rig, address }
    }

    /// Gives a command and returns its answer.
    pub(crate) fn ask(&mut self, command: &str) -> Value {
        self.rig.tell(command);
        let answer = self.rig.hear(1);
        assert_eq!(answer["error"], Value::Null, "{command}");
        answer
    }

    /// A number of the ledger.
    pub(crate) fn count(&mut self, name: &str) -> u64 {
        self.ask("ledger")[name].as_u64().unwrap()
    }

    /// Waits until a number of the ledger is `count`.
    #[track_caller]
    pub(crate) fn reaches(&mut self, name: &str, count: u64) {
        becomes(name, count, || self.count(name));
    }

    /// Nothing reached the server twice, and nothing that no client of its protocol may send.
    #[track_caller]
    pub(crate) fn assert_no_violation(&mut self) {
        let ledger = self.ask("ledger");
        assert_eq!((&ledger["violations"], &ledger["seen_twice"]), (&0.into(), &0.into()), "{ledger}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.rig.child), signal).unwrap();
        if signal == Signal::STOP {
            // The signal is sent, but a thread on another processor may still be answering.
            eventually("a server that stands still", || self.stands_still().then_some(()));
        }
    }

    fn stands_still(&self) -> bool {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.rig.child.id())).unwrap();
        let state = |thread: &Path| {
            let stat = std::fs::read_to_string(thread.join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        threads.flatten().all(|thread| state(&thread.path()))
    }
}

/// The rig's load.
#[derive(Debug)]
pub(crate) struct Load(Rig);

impl Load {
    pub(crate) fn start(target: &str, wire: Wire, args: &str) -> Self {
        let args = args.split_whitespace().collect::<Vec<_>>();
        Self(Rig::start(&[&["load", "--target", target, "--wire", &word(wire)], &args[..]].concat()))
    }

    /// Waits until all connections of a `--hold` load are open.
    pub(crate) fn wait_open(&mut self) {
        self.0.hear(2);
    }

    /// Lets a `--hold` load ask.
    pub(crate) fn go(&mut self) {
        self.0.tell("go");
    }

    /// Waits for the totals. No reply may be wrong.
    pub(crate) fn finish(mut self) -> Totals {
        let totals = Totals(self.0.hear(4));
        assert_eq!(totals.count("wrong"), 0, "{totals:?}");
        totals
    }
}

/// What a load has counted.
#[derive(Debug)]
pub(crate) struct Totals(Value);

impl Totals {
    pub(crate) fn count(&self, name: &str) -> u64 {
        self.0[name].as_u64().unwrap()
    }

    /// Every one of `requests` has its right reply.
    #[track_caller]
    pub(crate) fn assert_all_ok(&self, requests: u64) {
        let trouble = ["refused", "closed", "wrong"].map(|name| self.count(name));
        assert_eq!((self.count("ok") + self.count("oneway"), trouble), (requests, [0; 3]), "{self:?}");
    }
}
