//! The exposition, read by a strict reader, and its invariants under hostile names and odd counts.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::*;
use crate::admin::{Connections, Endpoint};
use crate::events::{ClientTimeout, CloseReason, ConnectResult, Outcome, ProbeResult, Reason, Rung, Times};

fn snapshot(events: events::Upstream) -> Snapshot {
    let upstream = Upstream {
        events: Arc::new(events),
        waiting: 3,
        oldest_wait: Duration::from_millis(1500),
        connections: Connections { connecting: 1, idle: 2, busy: 5, retiring: 0, dedicated: 3 },
        endpoints: vec![
            Endpoint {
                address: "10.0.0.1:90".into(),
                up: true,
                idle_limit: Some(Duration::from_millis(2500)),
            },
            Endpoint { address: "unix:/run/b".into(), up: false, idle_limit: None },
        ],
    };
    Snapshot {
        memory_budget: 1 << 28,
        memory_used: 8192,
        open_fds: 12,
        max_fds: 524_288,
        reloads: Arc::default(),
        upstreams: vec![upstream],
    }
}

fn busy(name: &str) -> events::Upstream {
    let events = events::Upstream::new(name);
    let times = |total, waited, upstream| Times {
        total: Duration::from_micros(total),
        waited: Some(Duration::from_micros(waited)),
        upstream: Some(Duration::from_micros(upstream)),
    };
    for _ in 0..4 {
        events.accepted();
    }
    events.ended(Outcome::Ok, times(900, 40, 700));
    events.ended(Outcome::Ok, times(400_000_000, 60, 399_999_000));
    events.ended(Outcome::ClientGone, times(100, 10, 50));
    events.refused(Reason::Down, &"x");
    events.connected(&"e");
    events.connect_failed(&"e", ConnectResult::Refused, &"x", Duration::ZERO);
    events.resolved(&"n");
    events.connection_closed(&"e", CloseReason::Idle, 1, 0);
    events.connection_closed(&"e", CloseReason::IdleLimit, 1, 0);
    events.retries.of(Rung::Unsent).add_one();
    events.probes.of(ProbeResult::Timeout).add_one();
    events.ejections.add_one();
    events.clients_opened.add(2);
    events.clients_closed.add_one();
    events.client_timed_out(ClientTimeout::Write, &"p");
    events
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: Vec<(String, String)>,
    value: String,
}

impl Sample {
    fn count(&self) -> u64 {
        self.value.parse().unwrap()
    }
}

/// What a strict reader makes of an exposition.
fn parse(text: &str) -> Vec<Sample> {
    let body = text.strip_suffix("# EOF\n").expect("ends with EOF");
    let mut families = BTreeSet::new();
    let (mut family, mut kind) = ("", "");
    let mut samples = Vec::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split_once(' ').expect("a text after the name").0;
            let typed = lines.next().and_then(|l| l.strip_prefix("# TYPE ")).expect("TYPE follows HELP");
            kind = typed.strip_prefix(family).and_then(|t| t.strip_prefix(' ')).expect("of the same name");
            assert!(family.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{family}");
            assert!(family.starts_with("warmline_") && !family.ends_with("_total"), "{family}");
            assert!(families.insert(family), "{family} comes twice");
            continue;
        }
        let name = &line[..line.find(['{', ' ']).expect("a name")];
        let (mut rest, mut labels) = (&line[name.len()..], Vec::new());
        while let Some(start) = rest.strip_prefix(['{', ',']) {
            let (key, quoted) = start.split_once("=\"").expect("a label");
            let (mut value, mut chars) = (String::new(), quoted.char_indices());
            let end = loop {
                match chars.next().expect("a closing quote") {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match chars.next().expect("an escape").1 {
                        'n' => '\n',
                        c => c,
                    }),
                    (_, c) => value.push(c),
                }
            };
            labels.push((key.to_owned(), value));
            rest = &quoted[end + 1..];
        }
        let suffix = name.strip_prefix(family).expect("a sample under its family");
        let fits = match kind {
            "counter" => suffix == "_total",
            "gauge" => suffix.is_empty(),
            "info" => suffix == "_info",
            "histogram" => matches!(suffix, "_sum" | "_count" | "_bucket"),
            _ => false,
        };
        assert!(fits, "{name} as a {kind}");
        let value = rest.strip_prefix(if labels.is_empty() { " " } else { "} " }).expect("a value");
        assert!(value.parse::<f64>().is_ok_and(|v| v >= 0.0), "{line}");
        samples.push(Sample { name: name.into(), labels, value: value.into() });
    }
    let series: BTreeSet<_> = samples.iter().map(|s| (&s.name, &s.labels)).collect();
    assert_eq!(series.len(), samples.len(), "a series comes twice");
    samples
}

#[test]
fn the_exposition_is_as_agreed() {
    let expected = include_str!("../../../tests/fixtures/metrics.txt");
    let expected = expected.replace("VERSION", env!("CARGO_PKG_VERSION"));
    let text = encode(snapshot(busy("users")));
    for (line, wanted) in text.lines().zip(expected.lines()) {
        assert_eq!(line, wanted);
    }
    assert_eq!(text, expected);
    parse(&text);
}

#[test]
fn hostile_names_stay_labels() {
    let name = "a\"} 1\n# EOF\nwarmline_evil{x=\"\\";
    let address = "\\\",upstream=\"u\n\r\u{85}";
    let mut snapshot = snapshot(busy(name));
    snapshot.upstreams[0].endpoints[0].address = address.into();
    let plain = parse(&encode(self::snapshot(busy("users"))));
    let hostile = parse(&encode(snapshot));
    assert_eq!(hostile.len(), plain.len());
    for (hostile, plain) in hostile.iter().zip(&plain) {
        assert_eq!(hostile.name, plain.name);
        let mut labels = hostile.labels.iter();
        assert!(labels.all(|(key, value)| key != "upstream" || value == name), "{hostile:?}");
    }
    let up = hostile.iter().find(|s| s.name == "warmline_endpoint_up").unwrap();
    assert_eq!(up.labels[1], ("endpoint".into(), address.into()));
}

#[test]
fn a_daemon_without_upstreams_is_valid_too() {
    let samples = parse(&encode(Snapshot::default()));
    assert_eq!(samples.len(), 8);
}

#[test]
fn buckets_grow_to_the_count() {
    let samples = parse(&encode(snapshot(busy("users"))));
    let of = |name: String| samples.iter().filter(move |s| s.name == name).map(Sample::count);
    for family in ["request_duration_seconds", "overhead_seconds", "queue_wait_seconds"] {
        let buckets: Vec<_> = of(format!("warmline_{family}_bucket")).collect();
        assert_eq!(buckets.len(), BUCKETS_MICROS.len() + 1);
        assert!(buckets.is_sorted(), "{family}: {buckets:?}");
        assert_eq!(buckets.last(), Some(&3));
        assert_eq!(of(format!("warmline_{family}_count")).next(), Some(3));
    }
}

#[test]
fn nothing_ends_that_did_not_begin() {
    let events = busy("users");
    let times = Times { total: Duration::ZERO, waited: None, upstream: None };
    // Two more ends than beginnings, as another thread's counts may arrive.
    (0..3).for_each(|_| events.ended(Outcome::Lost, times));
    let samples = parse(&encode(snapshot(events)));
    let sum = |name: &str| samples.iter().filter(|s| s.name == name).map(Sample::count).sum::<u64>();
    assert_eq!(sum("warmline_accepted_total"), 6);
    assert_eq!(sum("warmline_requests_total"), 6);
    assert_eq!(sum("warmline_requests_in_flight"), 0);
}
