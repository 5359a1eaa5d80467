//! What only the records of the domain name system tell: how long a name holds, and where a service is.
//!
//! The system's configuration is read at each look-up, and nothing is remembered from one to the next: how often to ask is
//! for the caller to say.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use hickory_resolver::net::NetError;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use super::resolve::not_found;
use super::{Answer, Found};

/// The longest wait for how long a name holds, which can be done without.
const PATIENCE: Duration = Duration::from_millis(500);
/// Records of a service that are looked at.
const MAX_SERVICES: usize = 256;

/// How long the addresses of a host hold, if its records tell.
pub(super) async fn ttl(host: &str) -> Option<Duration> {
    let look = async {
        let found = resolver().await.ok()?.lookup_ip(host).await.ok()?;
        shortest(found.as_lookup().answers())
    };
    timeout(PATIENCE, look).await.ok().flatten()
}

/// Where a service is (RFC 2782): the targets of the lowest priority, and the others as backups. Targets that have no
/// address are left out.
pub(super) async fn services(name: &str) -> io::Result<Answer> {
    let resolver = resolver().await?;
    let records = resolver.lookup(name, RecordType::SRV).await.map_err(|fault| unknown(&fault))?;
    let mut targets = JoinSet::new();
    for service in records.answers().iter().filter_map(service).take(MAX_SERVICES) {
        targets.spawn(target(resolver.clone(), service.clone()));
    }
    let mut ttl = shortest(records.answers());
    let mut found = Vec::new();
    while let Some(target) = targets.join_next().await {
        let (service, answer) = target??;
        ttl = [ttl, answer.ttl].into_iter().flatten().min();
        found.extend(answer.found.into_iter().map(|found| (service.priority, found)));
    }
    let first = found.iter().map(|(priority, _)| *priority).min();
    let ranked = |(priority, found)| Found { backup: Some(priority) != first, ..found };
    Ok(Answer { found: found.into_iter().map(ranked).collect(), ttl })
}

/// The addresses of both families where a service is, or none; an error if that is not known.
async fn target(resolver: TokioResolver, service: SRV) -> io::Result<(SRV, Answer)> {
    let mut answer = Answer::default();
    for family in [RecordType::A, RecordType::AAAA] {
        let records = match resolver.lookup(service.target.clone(), family).await {
            Ok(records) => records,
            Err(fault) if fault.is_no_records_found() => continue,
            Err(fault) => return Err(unknown(&fault)),
        };
        let ips = records.answers().iter().filter_map(|record| record.data.ip_addr());
        let found = |ip| Found {
            weight: u32::from(service.weight).max(1),
            ..Found::from(SocketAddr::new(ip, service.port))
        };
        answer.found.extend(ips.map(found));
        answer.ttl = [answer.ttl, shortest(records.answers())].into_iter().flatten().min();
    }
    Ok((service, answer))
}

fn service(record: &Record) -> Option<&SRV> {
    match &record.data {
        RData::SRV(service) => Some(service),
        _ => None,
    }
}

fn shortest(records: &[Record]) -> Option<Duration> {
    records.iter().map(|record| Duration::from_secs(record.ttl.into())).min()
}

async fn resolver() -> io::Result<TokioResolver> {
    let built = spawn_blocking(|| {
        let mut builder = TokioResolver::builder_tokio()?;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.build()
    });
    built.await?.map_err(|fault| unknown(&fault))
}

fn unknown(fault: &NetError) -> io::Error {
    if fault.is_no_records_found() {
        return not_found("there is no such record");
    }
    not_found(fault.to_string())
}
