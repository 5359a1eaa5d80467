//! `warmline run`: the daemon, from a file or from flags alone.
//!
//! Flags are turned into the file they stand for, so there is one way from text to plan and one kind of
//! error. Called by `cli`.

use std::fmt::Write;
use std::path::PathBuf;

use super::{Exit, fail, show};
use crate::config::{Plan, Source};
use crate::daemon::{self, Ended, Reloader};
use crate::events::log;

#[derive(Debug, clap::Args)]
#[command(override_usage = "warmline run --config FILE
       warmline run --listen ADDRESS --endpoint ADDRESS --protocol PROTOCOL")]
pub(super) struct Args {
    /// The configuration file.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["listen", "endpoint", "protocol"])]
    #[arg(required_unless_present_any = ["listen", "endpoint", "protocol"])]
    config: Option<PathBuf>,
    /// Where to listen, as in 127.0.0.1:7600 or unix:PATH; may be repeated.
    #[arg(long, value_name = "ADDRESS", requires_all = ["endpoint", "protocol"])]
    listen: Vec<String>,
    /// Where to connect, as in host:port or unix:PATH; may be repeated.
    #[arg(long, value_name = "ADDRESS", requires_all = ["listen", "protocol"])]
    endpoint: Vec<String>,
    /// What both sides speak: line, jsonrpc, thrift, or a preset of frame as in netty4.
    #[arg(long, value_name = "PROTOCOL", requires_all = ["listen", "endpoint"])]
    protocol: Option<String>,
}

pub(super) fn run(args: &Args) -> Exit {
    let (source, wrong) = match &args.config {
        Some(path) => (Source::read(path), Exit::Config),
        None => (Ok(args.as_file()), Exit::Usage),
    };
    let plan = match source.and_then(|source| Plan::new(&source)) {
        Ok(plan) => plan,
        Err(errors) => {
            show(&errors);
            return wrong;
        }
    };
    let level = match log::init(&plan.log.level, plan.log.format) {
        Ok(level) => level,
        Err(error) => return fail(Exit::Failed, error),
    };
    let reloader = args.config.clone().map(|path| {
        let load = Box::new(move || Plan::new(&Source::reread(&path)?));
        Reloader { load, level }
    });
    match daemon::run(plan, reloader) {
        Ok(Ended::Drained) => Exit::Done,
        Ok(Ended::Cut) => {
            fail(Exit::Cut, "requests were cut: the drain deadline passed, or a second signal came")
        }
        Err(error) => fail(code(&error), &error),
    }
}

fn code(error: &daemon::Error) -> Exit {
    match error {
        daemon::Error::Bind { .. } => Exit::Unavailable,
        daemon::Error::Permission { .. } => Exit::Permission,
        daemon::Error::Limits(_) => Exit::Config,
        daemon::Error::Runtime(_) => Exit::Failed,
    }
}

impl Args {
    /// The file that the flags stand for.
    fn as_file(&self) -> Source {
        let list = |of: &[String]| toml::Value::from(of.to_vec()).to_string();
        let mut text = String::from("[upstreams.main]\n");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "listen = {}", list(&self.listen));
        let _ = writeln!(text, "endpoints = {}", list(&self.endpoint));
        let _ = writeln!(text, "protocol = {}", toml::Value::from(self.protocol.clone().unwrap_or_default()));
        Source::new("command line", text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_a_file() {
        let args = Args {
            config: None,
            listen: vec!["127.0.0.1:7600".into(), "unix:/tmp/\"a\"\\\n".into()],
            endpoint: vec!["localhost:9090".into()],
            protocol: Some("line".into()),
        };
        let plan = Plan::new(&args.as_file()).unwrap();
        assert_eq!(plan.upstreams.len(), 1);
        assert_eq!(plan.upstreams[0].listener.addresses[1].to_string(), "unix:/tmp/\"a\"\\\n");
    }
}
