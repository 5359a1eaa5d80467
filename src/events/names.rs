//! What is worth knowing of the names among an upstream's endpoints.

use std::fmt;
use std::time::Duration;

use tracing::{debug, info, warn};

use super::{ResolveResult, Upstream};

impl Upstream {
    /// A name was looked up.
    pub fn resolved(&self, name: &dyn fmt::Display) {
        self.resolves.of(ResolveResult::Ok).add_one();
        debug!(upstream = &*self.name, %name, "name looked up");
    }

    /// A name stands for other addresses than before.
    pub fn addresses_changed(&self, name: &dyn fmt::Display, addresses: &dyn fmt::Display) {
        if let Some(suppressed) = self.limit.addresses.pass() {
            info!(upstream = &*self.name, %name, %addresses, suppressed, "addresses of a name");
        }
    }

    /// Names stand for more endpoints than are used.
    pub fn too_many_addresses(&self, found: usize, used: usize) {
        if let Some(suppressed) = self.limit.addresses.pass() {
            warn!(
                upstream = &*self.name,
                found, used, suppressed, "too many addresses: the last ones are not used"
            );
        }
    }

    /// A look-up of a name failed; the next one is `retry_in` away.
    pub fn resolve_failed(&self, name: &dyn fmt::Display, fault: &dyn fmt::Display, retry_in: Duration) {
        self.resolves.of(ResolveResult::Failed).add_one();
        if let Some(suppressed) = self.limit.resolve.pass() {
            warn!(upstream = &*self.name, %name, ?retry_in, suppressed, "look-up failed: {fault}");
        }
    }
}
