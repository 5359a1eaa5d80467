//! A running daemon that is given another configuration.

use std::path::PathBuf;

use rustix::process::Signal;

use super::{Daemon, Plan, eventually};

/// What comes of a reload.
pub(crate) const RESULTS: [&str; 3] = ["ok", "invalid", "failed"];

impl Daemon {
    /// Writes another plan over the one it was started with, and waits until it has been read; tells what came of it.
    pub(crate) fn reload(&self, plan: &Plan) -> &'static str {
        self.reload_text(&plan.text(self.folder.path()))
    }

    /// The same with any text.
    pub(crate) fn reload_text(&self, text: &str) -> &'static str {
        std::fs::write(self.config(), text).unwrap();
        self.reload_as_it_is()
    }

    /// Where its configuration stands.
    pub(crate) fn config(&self) -> PathBuf {
        self.folder.path().join("warmline.toml")
    }

    /// The same with whatever stands there.
    pub(crate) fn reload_as_it_is(&self) -> &'static str {
        let counts = || {
            let metrics = self.metrics();
            RESULTS.map(|result| metrics.sum("config_reloads_total", &[("result", result)]))
        };
        let before = counts();
        self.signal(Signal::HUP);
        eventually("a reload", || {
            let now = counts();
            RESULTS.into_iter().zip(before).zip(now).find(|((_, before), now)| now > before)
        })
        .0
        .0
    }

    /// How many reloads came to each of [`RESULTS`].
    pub(crate) fn reloads(&self) -> [u64; 3] {
        RESULTS.map(|result| self.metric("config_reloads_total", &[("result", result)]))
    }
}
