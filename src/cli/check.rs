//! `warmline check`: what a configuration means, or what is wrong with it.
//!
//! Called by `cli`.

use std::fmt::{self, Display};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde_json::json;

use super::{Exit, print, show};
use crate::config::{Error, Plan, Source, plan};
use crate::net;
use crate::pool::balance;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file.
    file: PathBuf,
    /// How to write the result.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people; what is wrong goes to stderr.
    Text,
    /// For machines; everything goes to stdout.
    Json,
}

pub(super) fn run(args: &Args) -> Exit {
    match (Source::read(&args.file).and_then(|source| Plan::new(&source)), args.format) {
        (Ok(plan), Format::Text) => print(&format!("{}: ok\n{}", args.file.display(), Summary(&plan))),
        (Ok(plan), Format::Json) => print(&format!("{}\n", as_json(&plan))),
        (Err(errors), Format::Text) => {
            show(&errors);
            Exit::Config
        }
        (Err(errors), Format::Json) => match print(&format!("{}\n", wrong_as_json(&errors))) {
            Exit::Done => Exit::Config,
            failed => failed,
        },
    }
}

fn wrong_as_json(errors: &[Error]) -> serde_json::Value {
    json!({ "ok": false, "errors": errors })
}

fn as_json(plan: &Plan) -> serde_json::Value {
    let upstream = |it: &plan::Upstream| {
        json!({
            "name": it.name,
            "protocol": it.protocol.name(),
            "mode": it.pool.mode.as_str(),
            "listen": texts(&it.listener.addresses),
            "endpoints": texts(&it.pool.endpoints),
            "balance": it.pool.balance.policy.to_string(),
            "subset": it.pool.balance.subset,
            "max_clients": it.listener.max_clients,
            "min_connections": it.pool.min_connections,
            "max_connections": it.pool.max_connections,
            "max_in_flight": it.pool.max_in_flight,
            "max_waiting": it.pool.max_waiting,
            "max_message": it.protocol.max_message(),
        })
    };
    json!({
        "ok": true,
        "upstreams": plan.upstreams.iter().map(upstream).collect::<Vec<_>>(),
        "admin": plan.admin.iter().flat_map(|it| texts(&it.addresses)).collect::<Vec<_>>(),
        "max_clients": plan.limits.max_clients,
        "max_connections": plan.max_connections(),
        "workers": plan.limits.workers,
        "file_descriptors": plan.fd_budget(),
        "memory_buffers_bytes": plan.limits.memory,
        "memory_bound_bytes": plan.memory_bound(),
    })
}

fn texts(all: &[impl Display]) -> Vec<String> {
    all.iter().map(ToString::to_string).collect()
}

/// A plan for people.
struct Summary<'a>(&'a Plan);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = self.0;
        for it in &plan.upstreams {
            upstream(f, it)?;
        }
        let admin = plan.admin.as_ref().map_or("off".to_owned(), |it| texts(&it.addresses).join(", "));
        let show = |bytes| ByteSize(bytes).display().iec().to_string();
        writeln!(f, "admin             {admin}")?;
        writeln!(
            f,
            "in all            {} clients, {} upstream connections, {}",
            plan.limits.max_clients,
            plan.max_connections(),
            match plan.limits.workers {
                1 => "1 thread".to_owned(),
                workers => format!("{workers} threads"),
            }
        )?;
        writeln!(f, "file descriptors  at most {}{}", plan.fd_budget(), too_few_fds(plan))?;
        writeln!(
            f,
            "memory            {} of buffers, at most {} in all",
            show(plan.limits.memory),
            show(plan.memory_bound())
        )
    }
}

/// What to add where `run` would not start here: it lowers `max_clients` only where the file leaves it out.
fn too_few_fds(plan: &Plan) -> String {
    let allowed = net::max_fds();
    let least =
        plan.fd_budget() - if plan.limits.max_clients_is_explicit { 0 } else { plan.limits.max_clients - 1 };
    if least as u64 <= allowed { String::new() } else { format!(" (this shell allows {allowed})") }
}

fn upstream(f: &mut fmt::Formatter<'_>, it: &plan::Upstream) -> fmt::Result {
    let pool = &it.pool;
    let of_each = match pool.max_in_flight {
        1 => "one request at a time on each".to_owned(),
        room => format!("up to {room} requests in flight on each"),
    };
    writeln!(f, "upstream {}", it.name)?;
    writeln!(f, "  listen          {}", texts(&it.listener.addresses).join(", "))?;
    writeln!(f, "  endpoints       {}", texts(&pool.endpoints).join(", "))?;
    if pool.balance != balance::Settings::default() {
        writeln!(f, "  balance         {}", shares(&pool.balance))?;
    }
    writeln!(
        f,
        "  protocol        {}, {}, messages up to {}",
        it.protocol.name(),
        pool.mode.as_str(),
        ByteSize(it.protocol.max_message() as u64).display().iec()
    )?;
    writeln!(f, "  connections     {} to {}, {of_each}", pool.min_connections, pool.max_connections)?;
    writeln!(
        f,
        "  requests        up to {} waiting for {}, answered within {}",
        pool.max_waiting,
        humantime::format_duration(pool.acquire_timeout),
        humantime::format_duration(pool.request_timeout)
    )?;
    writeln!(f, "  clients         up to {}", it.listener.max_clients)
}

fn shares(it: &balance::Settings) -> String {
    let show = humantime::format_duration;
    let among = match it.subset {
        0 => "all endpoints".to_owned(),
        1 => "1 endpoint".to_owned(),
        subset => format!("{subset} endpoints"),
    };
    let slow_start = match it.slow_start {
        Duration::ZERO => "no slow start".to_owned(),
        time => format!("slow start of {}", show(time)),
    };
    format!("{} among {among}, {slow_start}, names looked up every {}", it.policy, show(it.resolve))
}
