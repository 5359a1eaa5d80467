//! The metrics of a [`Snapshot`] as OpenMetrics text.
//!
//! Invariant: in every scrape `accepted_total` = the sum of `requests_total` + `requests_in_flight`, and
//! a histogram's count is its last bucket. Names and labels are a contract with dashboards.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::snapshot::{Endpoint, Snapshot, Upstream};
use crate::events;
use crate::events::meter::{BUCKETS_MICROS, Counter, Family, Histogram, Label};

/// The media type of [`encode`]'s text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole exposition.
pub(super) fn encode(snapshot: Snapshot) -> String {
    let mut registry = Registry::with_prefix("warmline");
    registry.register_collector(Box::new(Page::new(snapshot)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

/// A snapshot with the counters that must agree with each other read already.
#[derive(Debug)]
struct Page {
    snapshot: Snapshot,
    /// Of each upstream, in the same order.
    requests: Vec<Requests>,
}

#[derive(Debug)]
struct Requests {
    ended: Vec<(&'static str, u64)>,
    accepted: u64,
    in_flight: u64,
    clients: u64,
}

impl Requests {
    /// Ends are read before beginnings, so that none is seen to end that has not begun; where another
    /// thread's counts arrive out of order, the beginning is inferred from the end.
    fn read(events: &events::Upstream) -> Self {
        let ended: Vec<_> = events.outcomes.iter().map(|(outcome, n)| (outcome.as_str(), n)).collect();
        let sum = ended.iter().map(|(_, n)| n).sum();
        let accepted = events.accepted.get().max(sum);
        let closed = events.clients_closed.get();
        let clients = events.clients_opened.get().saturating_sub(closed);
        Self { ended, accepted, in_flight: accepted - sum, clients }
    }
}

impl Page {
    fn new(snapshot: Snapshot) -> Self {
        let requests = snapshot.upstreams.iter().map(|upstream| Requests::read(&upstream.events)).collect();
        Self { snapshot, requests }
    }

    fn upstreams(&self) -> impl Iterator<Item = (&Upstream, &Requests)> {
        self.snapshot.upstreams.iter().zip(&self.requests)
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> fmt::Result {
        let mut out = Out { encoder, page: self };
        out.process()?;
        out.requests()?;
        out.queue()?;
        out.connections()?;
        out.endpoints()?;
        out.clients()
    }
}

struct Out<'e, 'p> {
    encoder: DescriptorEncoder<'e>,
    page: &'p Page,
}

impl Out<'_, '_> {
    fn process(&mut self) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut build = self.encoder.encode_descriptor("build", "What runs here", None, MetricType::Info)?;
        build.encode_info(&version)?;

        let page = self.page;
        let snapshot = &page.snapshot;
        self.total("memory_budget_bytes", "Byte budget of all buffers", snapshot.memory_budget)?;
        self.total("memory_used_bytes", "Bytes taken from the budget", snapshot.memory_used)?;
        self.total("open_fds", "File descriptors open", snapshot.open_fds)?;
        self.total("max_fds", "File descriptors allowed", snapshot.max_fds)?;
        let mut reloads =
            self.family("config_reloads", "Reloads of the configuration, by result", MetricType::Counter)?;
        for (result, count) in page.snapshot.reloads.results.iter() {
            count_into(&mut reloads, &[("result", result.as_str())], count)?;
        }
        Ok(())
    }

    fn requests(&mut self) -> fmt::Result {
        let page = self.page;
        let mut requests = self.family("requests", "Requests ended, by outcome", MetricType::Counter)?;
        for (upstream, read) in page.upstreams() {
            for (outcome, count) in &read.ended {
                count_into(
                    &mut requests,
                    &[("upstream", upstream.events.name()), ("outcome", outcome)],
                    *count,
                )?;
            }
        }
        let mut accepted = self.family(
            "accepted",
            "Requests read whole, or refused while they were read",
            MetricType::Counter,
        )?;
        for (upstream, read) in page.upstreams() {
            count_into(&mut accepted, &[("upstream", upstream.events.name())], read.accepted)?;
        }
        self.gauge("requests_in_flight", "Requests accepted and not ended", |_, read| read.in_flight)?;
        self.histogram("request_duration_seconds", "From admission to the end of a request", |e| {
            &e.request_duration
        })?;
        self.histogram("overhead_seconds", "Request time that the upstream did not take", |e| &e.overhead)?;
        self.counters("refused", "Requests refused before an upstream connection", "reason", |e| &e.refused)?;
        self.counters("retries", "Requests tried again, by what allowed it", "rung", |e| &e.retries)?;
        self.counter("abandoned", "Requests whose client left before the reply", |e| &e.abandoned)?;
        self.counter("late_replies", "Replies after the end of their request, swallowed", |e| {
            &e.late_replies
        })?;
        self.counter("requests_truncated", "Clients that left in the middle of a request", |e| {
            &e.requests_truncated
        })?;
        self.counter("memory_waits", "Sessions that waited for memory", |e| &e.memory_waits)
    }

    fn queue(&mut self) -> fmt::Result {
        self.gauge("queue_waiting", "Requests waiting for a connection", |u, _| u.waiting)?;
        self.gauge("queue_oldest_wait_seconds", "Wait of the oldest waiting request", |u, _| {
            u.oldest_wait.as_secs_f64()
        })?;
        self.histogram("queue_wait_seconds", "From admission of a request to a connection", |e| &e.queue_wait)
    }

    fn connections(&mut self) -> fmt::Result {
        let page = self.page;
        let mut states =
            self.family("upstream_connections", "Upstream connections, by state", MetricType::Gauge)?;
        for (upstream, _) in page.upstreams() {
            for (state, count) in upstream.connections.by_state() {
                let labels = [("upstream", upstream.events.name()), ("state", state)];
                states.encode_family(&labels)?.encode_gauge(&count)?;
            }
        }
        self.counters("upstream_connects", "Attempts to connect, by result", "result", |e| &e.connects)?;
        self.counters("upstream_messages", "Messages of servers of their own accord", "action", |e| {
            &e.unasked
        })?;
        self.counters("dedicated", "Clients given a connection of their own, by reason", "reason", |e| {
            &e.handed_over
        })?;
        self.counters("resolves", "Look-ups of names, by result", "result", |e| &e.resolves)?;
        self.counters("upstream_closed", "Upstream connections closed, by reason", "reason", |e| &e.closed)?;
        self.counter(
            "handshakes_saved",
            "Clients served by a connection that others had used before",
            |e| &e.handshakes_saved,
        )?;
        self.counter("desync", "Upstream connections closed for breaking the protocol", |e| &e.desyncs)?;
        Ok(())
    }

    fn endpoints(&mut self) -> fmt::Result {
        self.each_endpoint(
            "endpoint_up",
            "Whether the endpoint is reachable, healthy and not ejected",
            |e| Some(u32::from(e.up)),
        )?;
        self.each_endpoint("endpoint_idle_limit_seconds", "Idle age at which the endpoint closes", |e| {
            e.idle_limit.map(|limit| limit.as_secs_f64())
        })?;
        self.counters("probes", "Probes of endpoints, by result", "result", |e| &e.probes)?;
        self.counter("ejections", "Endpoints left alone for failing in traffic", |e| &e.ejections)
    }

    fn clients(&mut self) -> fmt::Result {
        self.gauge("client_connections", "Client connections open", |_, read| read.clients)?;
        self.counter("clients_opened", "Client connections accepted", |e| &e.clients_opened)?;
        self.counter("clients_evicted", "Idle clients closed to make room", |e| &e.clients_evicted)?;
        self.counters("client_timeouts", "Clients closed for slowness, by reason", "reason", |e| {
            &e.clients_timed_out
        })?;
        self.counter("clients_forbidden", "Clients whose user is not allowed", |e| &e.clients_forbidden)?;
        self.counter("accept_errors", "Failed accepts", |e| &e.accept_errors)
    }

    fn family(
        &mut self,
        name: &'static str,
        help: &str,
        kind: MetricType,
    ) -> Result<MetricEncoder<'_>, fmt::Error> {
        self.encoder.encode_descriptor(name, help, None, kind)
    }

    fn total(&mut self, name: &'static str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, MetricType::Gauge)?.encode_gauge(&value)
    }

    fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        help: &str,
        value: impl Fn(&Upstream, &Requests) -> V,
    ) -> fmt::Result {
        let page = self.page;
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (upstream, read) in page.upstreams() {
            let labels = [("upstream", upstream.events.name())];
            family.encode_family(&labels)?.encode_gauge(&value(upstream, read))?;
        }
        Ok(())
    }

    /// One sample for each endpoint that has a `value`.
    fn each_endpoint<V: EncodeGaugeValue>(
        &mut self,
        name: &'static str,
        help: &str,
        value: impl Fn(&Endpoint) -> Option<V>,
    ) -> fmt::Result {
        let page = self.page;
        let mut family = self.family(name, help, MetricType::Gauge)?;
        for (upstream, _) in page.upstreams() {
            for endpoint in &upstream.endpoints {
                if let Some(value) = value(endpoint) {
                    let labels = [("upstream", upstream.events.name()), ("endpoint", &endpoint.address)];
                    family.encode_family(&labels)?.encode_gauge(&value)?;
                }
            }
        }
        Ok(())
    }

    fn counter(
        &mut self,
        name: &'static str,
        help: &str,
        counter: impl Fn(&events::Upstream) -> &Counter,
    ) -> fmt::Result {
        let page = self.page;
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (upstream, _) in page.upstreams() {
            let labels = [("upstream", upstream.events.name())];
            count_into(&mut family, &labels, counter(&upstream.events).get())?;
        }
        Ok(())
    }

    fn counters<L: Label>(
        &mut self,
        name: &'static str,
        help: &str,
        label: &str,
        counters: impl Fn(&events::Upstream) -> &Family<L>,
    ) -> fmt::Result {
        let page = self.page;
        let mut family = self.family(name, help, MetricType::Counter)?;
        for (upstream, _) in page.upstreams() {
            for (value, count) in counters(&upstream.events).iter() {
                let labels = [("upstream", upstream.events.name()), (label, value.as_str())];
                count_into(&mut family, &labels, count)?;
            }
        }
        Ok(())
    }

    fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        histogram: impl Fn(&events::Upstream) -> &Histogram,
    ) -> fmt::Result {
        let page = self.page;
        let mut family = self.family(name, help, MetricType::Histogram)?;
        for (upstream, _) in page.upstreams() {
            let histogram = histogram(&upstream.events);
            let bounds = BUCKETS_MICROS.iter().map(|micros| Duration::from_micros(*micros).as_secs_f64());
            let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(histogram.buckets()).collect();
            let count = buckets.iter().map(|(_, n)| n).sum();
            let labels = [("upstream", upstream.events.name())];
            let mut samples = family.encode_family(&labels)?;
            samples.encode_histogram::<NoLabelSet>(histogram.sum_seconds(), count, &buckets, None)?;
        }
        Ok(())
    }
}

fn count_into(family: &mut MetricEncoder, labels: &[(&str, &str)], count: u64) -> fmt::Result {
    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, f64>(&count, None)
}

#[cfg(test)]
mod tests;
