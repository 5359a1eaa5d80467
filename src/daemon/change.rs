//! What becomes of an upstream when the configuration does.

use crate::config::plan::Upstream;
use crate::pool;

/// How much of an upstream's plan has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    Same,
    /// What its connections can live with.
    Retune,
    /// What a connection has from its first byte on: there are others for whoever comes from now on.
    Replace,
}

impl Change {
    /// From `old` to `new`.
    pub(super) fn between(old: &Upstream, new: &Upstream) -> Self {
        // A protocol shows its options.
        let same_protocol = format!("{:?}", old.protocol) == format!("{:?}", new.protocol);
        let same_settings = (old.required, &old.listener, &old.session, &old.pool)
            == (new.required, &new.listener, &new.session, &new.pool);
        if !same_protocol || connected_differently(&old.pool, &new.pool) {
            Self::Replace
        } else if same_settings {
            Self::Same
        } else {
            Self::Retune
        }
    }
}

fn connected_differently(old: &pool::Settings, new: &pool::Settings) -> bool {
    (old.mode, old.max_in_flight) != (new.mode, new.max_in_flight)
        || old.connection.tuning != new.connection.tuning
        || old.connection.preamble != new.connection.preamble
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Plan, Source};

    const PLAN: &str = r#"
        [upstreams.x]
        listen = "127.0.0.1:7600"
        endpoints = ["127.0.0.1:9090"]
        protocol.frame.length = { offset = 0, size = 4, endian = "big", adjust = 12 }
        protocol.frame.id = { offset = 4, size = 8, endian = "big" }
        protocol.frame.error = "00 00 00 00 {id}"
    "#;

    /// What an upstream becomes by another line.
    fn change(from: &str, to: &str) -> Change {
        let plan = |line: &str| {
            let source = Source::new("test", format!("{PLAN}{line}\n"));
            Plan::new(&source).unwrap().upstreams.remove(0)
        };
        Change::between(&plan(from), &plan(to))
    }

    #[test]
    fn the_same_text_is_the_same_upstream() {
        for line in
            ["", "pool.mode = \"multiplex\"", "preamble.expect = \"hello\"", "retry.idempotent = [\"*\"]"]
        {
            assert_eq!(change(line, line), Change::Same, "{line}");
        }
        assert_eq!(change("", "pool.max_connections = 32"), Change::Same, "a default written out");
        let line = Plan::new(&Source::new("test", line_plan())).unwrap().upstreams.remove(0);
        let again = Plan::new(&Source::new("test", line_plan())).unwrap().upstreams.remove(0);
        assert_eq!(Change::between(&line, &again), Change::Same);
    }

    fn line_plan() -> String {
        "[upstreams.x]\nlisten = \"127.0.0.1:7600\"\nendpoints = [\"127.0.0.1:9090\"]\nprotocol = \"line\"\n"
            .into()
    }

    #[test]
    fn what_connections_can_live_with_is_retuned() {
        for line in [
            "required = false",
            "max_clients = 7",
            "pool.max_connections = 8",
            "pool.min_connections = 3",
            "pool.max_waiting = 7",
            "timeouts.connect = \"2s\"",
            "timeouts.request = \"2s\"",
            "timeouts.client_idle = \"2s\"",
            "health.interval = \"2s\"",
            "retry.attempts = 5",
            "sockets.one_shot = true",
        ] {
            assert_eq!(change("", line), Change::Retune, "{line}");
        }
        let endpoints = |list: &str| {
            let text = PLAN.replace("[\"127.0.0.1:9090\"]", list);
            Plan::new(&Source::new("test", text)).unwrap().upstreams.remove(0)
        };
        let two = endpoints("[\"127.0.0.1:9090\", \"127.0.0.1:9091\"]");
        assert_eq!(Change::between(&endpoints("[\"127.0.0.1:9090\"]"), &two), Change::Retune);
    }

    #[test]
    fn what_a_connection_is_born_with_is_replaced() {
        for line in [
            "pool.mode = \"multiplex\"",
            "preamble.expect = \"hello\"",
            "sockets.nodelay = false",
            "sockets.source = \"127.0.0.1\"",
            "protocol.frame.max_message = \"1MiB\"",
            "protocol.frame.closing = [{ offset = 4, mask = 1, equals = 1 }]",
        ] {
            assert_eq!(change("", line), Change::Replace, "{line}");
        }
        let both = "pool.mode = \"multiplex\"\npool.max_in_flight = ";
        assert_eq!(change(&format!("{both}8"), &format!("{both}9")), Change::Replace);
    }
}
