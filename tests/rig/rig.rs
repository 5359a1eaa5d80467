//! The peers of the process tests: `rig server` echoes and keeps a ledger, `rig load` asks and compares.
//!
//! Shares no code with warmline, so it can be its judge. Started by the tests in `tests/`, built by
//! `cargo test` as an example.
#![allow(clippy::disallowed_types, clippy::disallowed_methods, reason = "plain threads, no runtime")]

mod conversation;
mod ledger;
mod load;
mod message;
mod server;
mod socket;
mod verb;
#[expect(dead_code, reason = "the tests use the rest")]
mod wire;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[derive(Debug, Parser)]
enum Command {
    /// Echo requests, obey the verbs in them, keep a ledger. Commands come on standard input.
    Server(server::Options),
    /// Send requests, compare every byte of the replies, print the totals.
    Load(load::Options),
}

fn main() -> ExitCode {
    raise_fd_limit();
    let result = match Command::parse() {
        Command::Server(options) => server::run(options),
        Command::Load(options) => {
            load::run(&options);
            Ok(())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// As many sockets as the system allows.
fn raise_fd_limit() {
    let limit = getrlimit(Resource::Nofile);
    // What is missing then shows in the totals.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// Prints one line of JSON, at once.
fn say(value: &serde_json::Value) {
    let mut out = std::io::stdout().lock();
    // The reader may be gone; then nobody is left to tell.
    let _ = writeln!(out, "{value}").and_then(|()| out.flush());
}

fn say_error(error: &std::io::Error) {
    let _ = writeln!(std::io::stderr().lock(), "rig: {error}");
}
