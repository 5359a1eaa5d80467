//! What the demo found, as a table to read and as reasons to fail.
//!
//! Invariant: there is no reason to fail exactly if every reply through warmline was right and it kept to
//! its cap. Made by the demo itself.

use std::fmt::{self, Display};
use std::time::Duration;

use super::clients::Tally;
use super::echo::Echo;
use crate::daemon::Ended;

/// Everything that was found.
#[derive(Debug)]
pub(super) struct Report {
    /// Asked for, each way.
    pub(super) requests: u64,
    /// At a time.
    pub(super) clients: usize,
    /// That warmline might open.
    pub(super) max_connections: usize,
    /// When clients stopped, done or not.
    pub(super) patience: Duration,
    /// Straight to the server.
    pub(super) direct: Side,
    /// The same through warmline.
    pub(super) through: Side,
    /// Sockets in TIME_WAIT between clients and warmline; `None` where the kernel does not say.
    pub(super) left_at_proxy: Option<u64>,
    /// How warmline ended.
    pub(super) ended: Ended,
}

/// One way, as its clients and its server saw it.
#[derive(Debug)]
pub(super) struct Side {
    /// What its clients counted. The times are in order.
    pub(super) tally: Tally,
    /// Connections that its server accepted.
    pub(super) opened: u64,
    /// Requests that its server read.
    pub(super) served: u64,
    /// Sockets in TIME_WAIT at its server's port; `None` where the kernel does not say.
    pub(super) left: Option<u64>,
}

impl Side {
    /// The counts of the clients, those of their `server`, and what is `left` of its sockets.
    pub(super) fn new(mut tally: Tally, server: &Echo, left: Option<u64>) -> Self {
        tally.times.sort_unstable();
        Self { tally, opened: server.accepted(), served: server.served(), left }
    }

    fn percentile(&self, percent: usize) -> Option<Duration> {
        let times = &self.tally.times;
        times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied()
    }

    /// What is wrong with the replies.
    fn reasons(&self, requests: u64, patience: Duration) -> Vec<String> {
        let Tally { wrong, failed, fault, .. } = &self.tally;
        let mut reasons = Vec::new();
        let of = |count: u64| format!("{} of {}", grouped(count), grouped(requests));
        if *wrong > 0 {
            let were = if *wrong == 1 { "was" } else { "were" };
            reasons.push(format!("{} replies {were} wrong", of(*wrong)));
        }
        if *failed > 0 {
            let fault = fault.as_ref().map_or_else(String::new, |fault| format!(": {fault}"));
            reasons.push(format!("{} requests failed{fault}", of(*failed)));
        }
        let missing = requests.saturating_sub(self.tally.asked());
        if missing > 0 {
            reasons.push(format!("given up after {patience:?}, {} requests were not made", of(missing)));
        }
        reasons
    }
}

impl Report {
    /// Why the demo failed; empty if it did not. A host that runs out of ports without warmline is what
    /// warmline is for, and no failure.
    pub(super) fn reasons(&self) -> Vec<String> {
        let Self { direct, through, .. } = self;
        let of = |way: &str, side: &Side| -> Vec<String> {
            let reasons = side.reasons(self.requests, self.patience);
            reasons.into_iter().map(|reason| format!("{way}: {reason}")).collect()
        };
        let mut reasons = [of("direct", direct), of("through warmline", through)].concat();
        if through.tally.out_of_ports > 0 {
            let clients = counted(through.tally.out_of_ports, "client");
            reasons.push(format!("through warmline: {clients} found no free port"));
        }
        let answered = through.tally.right() + through.tally.wrong;
        if through.tally.failed == 0 && through.served != answered {
            let (served, answered) = (grouped(through.served), grouped(answered));
            reasons.push(format!("the server read {served} requests, and clients got {answered} replies"));
        }
        if through.opened > self.max_connections as u64 {
            let (opened, most) = (grouped(through.opened), self.max_connections);
            reasons.push(format!("warmline opened {opened} connections to the server and may open {most}"));
        }
        if self.ended == Ended::Cut {
            reasons.push("warmline cut requests when it was stopped".into());
        }
        reasons
    }

    fn handshakes_saved(&self) -> u64 {
        self.through.tally.right().saturating_sub(self.through.opened)
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { direct, through, .. } = self;
        let both = |figure: &dyn Fn(&Side) -> String| [figure(direct), figure(through)];
        let tally = |figure: fn(&Tally) -> u64| both(&|side| grouped(figure(&side.tally)));
        let clients = counted(self.clients as u64, "client");
        writeln!(f, "{clients} at a time on this host, one request on each connection.\n")?;
        row(f, "", ["direct".into(), "through warmline".into()])?;
        row(f, "requests", tally(Tally::asked))?;
        row(f, "wrong replies", tally(|it| it.wrong))?;
        row(f, "failed", tally(|it| it.failed + it.out_of_ports))?;
        row(f, "connections opened at the server", both(&|side| grouped(side.opened)))?;
        row(f, "handshakes saved", ["-".into(), grouped(self.handshakes_saved())])?;
        row(f, "latency p50, connect included", both(&|side| milliseconds(side.percentile(50))))?;
        row(f, "latency p99, connect included", both(&|side| milliseconds(side.percentile(99))))?;
        row(f, "TIME_WAIT left at the server's port", both(&|side| known(side.left)))?;
        row(f, "TIME_WAIT left at warmline's port", ["-".into(), known(self.left_at_proxy)])?;
        writeln!(f)?;
        if direct.tally.out_of_ports > 0 {
            let clients = counted(direct.tally.out_of_ports, "client");
            writeln!(f, "Without warmline {clients} found no free port: TIME_WAIT held them all.")?;
        }
        if !self.reasons().is_empty() {
            return writeln!(f, "Something went wrong.");
        }
        writeln!(
            f,
            "{} reached the server over {}, and every reply was right.\n\n\
             Next, with your own server:\n  \
             warmline init > warmline.toml               # then edit listen, endpoints and protocol\n  \
             warmline run --config warmline.toml",
            counted(through.tally.right(), "client connection"),
            counted(through.opened, "connection"),
        )
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, [direct, through]: [String; 2]) -> fmt::Result {
    writeln!(f, "{name:<36}{direct:>12}{through:>18}")
}

fn known(count: Option<u64>) -> String {
    count.map_or_else(|| "unknown".into(), grouped)
}

fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".into(), |time| format!("{:.2} ms", time.as_secs_f64() * 1000.0))
}

/// So many of `what`.
fn counted(number: u64, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {what}{plural}", grouped(number))
}

/// With a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn side(right: u64, opened: u64) -> Side {
        let times = (1..=right).map(Duration::from_micros).collect();
        Side { tally: Tally { times, ..Tally::default() }, opened, served: right, left: Some(1234) }
    }

    fn good() -> Report {
        Report {
            requests: 1000,
            clients: 8,
            max_connections: 4,
            patience: Duration::from_secs(60),
            direct: side(1000, 1000),
            through: side(1000, 2),
            left_at_proxy: None,
            ended: Ended::Drained,
        }
    }

    /// The reasons after `change`.
    fn after(change: fn(&mut Report)) -> Vec<String> {
        let mut report = good();
        change(&mut report);
        report.reasons()
    }

    #[test]
    fn the_table_reads_well() {
        let expected = "\
8 clients at a time on this host, one request on each connection.

                                          direct  through warmline
requests                                   1,000             1,000
wrong replies                                  0                 0
failed                                         0                 0
connections opened at the server           1,000                 2
handshakes saved                               -               998
latency p50, connect included            0.50 ms           0.50 ms
latency p99, connect included            0.99 ms           0.99 ms
TIME_WAIT left at the server's port        1,234             1,234
TIME_WAIT left at warmline's port              -           unknown

1,000 client connections reached the server over 2 connections, and every reply was right.

Next, with your own server:
  warmline init > warmline.toml               # then edit listen, endpoints and protocol
  warmline run --config warmline.toml
";
        assert_eq!(good().to_string(), expected);
    }

    #[test]
    fn every_fault_through_warmline_is_a_reason() {
        assert_eq!(after(|_| {}), Vec::<String>::new());
        let wrong = |it: &mut Report| {
            it.through.tally.times.truncate(998);
            it.through.tally.wrong = 2;
        };
        assert_eq!(after(wrong), ["through warmline: 2 of 1,000 replies were wrong"]);
        let failed = |it: &mut Report| {
            it.through.tally.times.truncate(999);
            it.through.tally.failed = 1;
            it.through.tally.fault = Some(io::Error::other("no luck"));
        };
        assert_eq!(after(failed), ["through warmline: 1 of 1,000 requests failed: no luck"]);
        let out_of_ports = |it: &mut Report| {
            it.through.tally.times.truncate(999);
            it.through.served = 999;
            it.through.tally.out_of_ports = 1;
        };
        assert_eq!(after(out_of_ports), ["through warmline: 1 client found no free port"]);
        let given_up = |it: &mut Report| {
            it.through.tally.times.truncate(600);
            it.through.served = 600;
        };
        assert_eq!(
            after(given_up),
            ["through warmline: given up after 60s, 400 of 1,000 requests were not made"]
        );
        assert_eq!(
            after(|it| it.through.opened = 5),
            ["warmline opened 5 connections to the server and may open 4"]
        );
        assert_eq!(
            after(|it| it.through.served = 1001),
            ["the server read 1,001 requests, and clients got 1,000 replies"]
        );
        assert_eq!(after(|it| it.ended = Ended::Cut), ["warmline cut requests when it was stopped"]);
    }

    #[test]
    fn a_host_without_ports_fails_only_the_direct_way() {
        let mut report = good();
        report.direct.tally.times.truncate(900);
        report.direct.tally.out_of_ports = 100;
        assert_eq!(report.reasons(), Vec::<String>::new());
        let text = report.to_string();
        assert!(text.contains("Without warmline 100 clients found no free port"), "{text}");
        assert!(
            text.contains("failed                                       100                 0\n"),
            "{text}"
        );
    }

    #[test]
    fn a_failed_demo_does_not_praise_itself() {
        let mut report = good();
        report.direct.tally.wrong = 1;
        let text = report.to_string();
        assert!(text.ends_with("\n\nSomething went wrong.\n"), "{text}");
    }

    #[test]
    fn nothing_measured_is_shown_as_such() {
        assert_eq!(
            (side(0, 0).percentile(99), side(1, 0).percentile(1)),
            (None, Some(Duration::from_micros(1)))
        );
        assert_eq!(milliseconds(None), "-");
    }

    #[test]
    fn thousands_are_grouped() {
        let texts = [0, 12, 999, 1000, 99_999, 1_000_000].map(grouped);
        assert_eq!(texts, ["0", "12", "999", "1,000", "99,999", "1,000,000"]);
    }
}
