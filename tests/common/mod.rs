//! What the process tests share: the daemon, its peers, and the kernel's view of both.
//!
//! Every test has its own ports, folder and processes; all of them are gone when their values are dropped.
//! Tests wait for a state with [`eventually`], never for a time.
#![allow(dead_code, unused_imports, unused_macros, reason = "each test uses a part")]
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "plain threads, no runtime")]
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test says what went wrong by failing")]
#![allow(clippy::needless_pass_by_value, reason = "reads better at the call")]

mod client;
mod crowd;
mod daemon;
mod endpoint;
pub(crate) mod kernel;
mod peers;
mod protocols;
mod reload;
pub(crate) mod stream;

#[path = "../rig/message.rs"]
pub(crate) mod message;
#[path = "../rig/socket.rs"]
pub(crate) mod socket;
#[path = "../rig/wire/mod.rs"]
pub(crate) mod wire;

use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

pub(crate) use client::{Answer, Asked, Client, call, call_until_served, is_refused};
pub(crate) use crowd::{Call, Crowd, End};
pub(crate) use daemon::{Daemon, Plan, UPSTREAM};
pub(crate) use endpoint::Endpoint;
pub(crate) use message::{Message, Request, flags};
pub(crate) use peers::{Load, Server, Totals};
pub(crate) use protocols::{PROTOCOLS, Protocol, in_each_protocol, in_protocol};
pub(crate) use wire::Wire;

/// When waiting is given up: a bound for broken code, far above what working code takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `look` finds something.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `look` gives `expected`; tells what it gave last if it never does.
#[track_caller]
pub(crate) fn becomes<T: PartialEq + std::fmt::Debug>(what: &str, expected: T, mut look: impl FnMut() -> T) {
    let start = Instant::now();
    loop {
        let found = look();
        if found == expected {
            return;
        }
        assert!(start.elapsed() < PATIENCE, "{what} is {found:?} and never became {expected:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Does something, and takes samples meanwhile.
pub(crate) fn sampling<T>(sample: impl Fn() + Send, work: impl FnOnce() -> T) -> T {
    let (done, ended) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            while ended.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                sample();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

/// A folder of its own, removed on drop.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        let path = std::env::temp_dir().join(format!("warmline-{:016x}", fastrand::u64(..)));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whether this process is in a network of its own, where what it mounts is seen by nobody else. If not, runs the test
/// called `name` again in one, with `somaxconn` at 16384, and requires that it passes there.
pub(crate) fn in_own_network(name: &str) -> bool {
    const INSIDE: &str = "WARMLINE_TEST_OWN_NETWORK";
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let script = "ip link set lo up && echo 16384 > /proc/sys/net/core/somaxconn && exec \"$0\" \"$@\"";
    let root = rustix::process::geteuid().is_root();
    let words = if root { vec!["unshare"] } else { vec!["sudo", "-n", "--preserve-env", "unshare"] };
    let output = std::process::Command::new(words[0])
        .args(&words[1..])
        .args(["-n", "-m", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let passed = output.status.success() && String::from_utf8_lossy(&said).contains(" 1 passed");
    assert!(passed, "{name} in its own network:\n{}", String::from_utf8_lossy(&said));
    false
}
