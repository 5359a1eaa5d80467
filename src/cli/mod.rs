//! The command line: what may be typed, and how the process ends.
//!
//! Invariant: every end has an [`Exit`]; what a person reads on failure goes to stderr, results to stdout.
//! Called by `main`; each command is one file here.

mod check;
mod demo;
mod explain;
mod healthcheck;
mod init;
mod run;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::Error;

/// Carries masses of short client connections over a few warm upstream ones.
#[derive(Debug, Parser)]
#[command(name = "warmline", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The daemon, in the foreground.
    Run(run::Args),
    /// Shows what it is good for, with nothing to prepare.
    Demo(demo::Args),
    /// Says what a configuration means, or what is wrong with it.
    Check(check::Args),
    /// Prints a commented configuration to start from.
    Init(init::Args),
    /// Shows how captured bytes would be cut into messages.
    Explain(explain::Args),
    /// Asks a running daemon whether it is well: for probes.
    Healthcheck(healthcheck::Args),
}

/// How the process ends; the numbers are those of `sysexits.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything was done.
    Done = 0,
    /// It failed at run time.
    Failed = 1,
    /// The command line is wrong.
    Usage = 64,
    /// An address could not be bound.
    Unavailable = 69,
    /// The drain deadline or a second signal cut requests.
    Cut = 75,
    /// Something is not permitted.
    Permission = 77,
    /// The configuration is wrong.
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Does what the command line says.
pub fn main() -> Exit {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // It goes to a terminal or nowhere; a closed one changes nothing.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Init(args) => init::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Healthcheck(args) => healthcheck::run(&args),
    }
}

/// Writes a result.
fn print(text: &str) -> Exit {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Exit::Done,
        Err(error) => fail(Exit::Failed, format_args!("cannot write: {error}")),
    }
}

/// Says why it ends, and how.
fn fail(exit: Exit, reason: impl Display) -> Exit {
    // Without stderr the exit code has to say it alone.
    let _ = writeln!(io::stderr(), "warmline: {reason}");
    exit
}

/// Shows what is wrong with a configuration.
fn show(errors: &[Error]) {
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty());
    for error in errors {
        let _ = writeln!(io::stderr(), "{}", error.render(colours));
    }
}
