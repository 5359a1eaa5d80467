//! Whether an exchange may be tried again: never more often than `attempts`, and all of them together only a share
//! of what is asked for.

/// How often requests are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Of one request, the first included; at least 1.
    pub attempts: u32,
    /// Retries for each 1000 requests; 10 a second are always allowed.
    pub per_thousand: u32,
}
