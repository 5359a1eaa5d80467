//! Why a client gets no reply: the one list of reasons, for metrics, logs and the words of every protocol.

/// Why a client gets no reply. [`Refusal::as_str`] is the metric label and the log field, `Display`
/// the text a client reads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// `max_waiting` exchanges wait already.
    #[error("too many requests waiting")]
    QueueFull,
    /// No connection had room within `acquire_timeout`.
    #[error("no upstream connection became free in time")]
    AcquireTimeout,
    /// No reply within the `request` timeout.
    #[error("upstream did not reply in time")]
    Timeout,
    /// No connection is open, and the last attempt to open one failed like this.
    #[error("upstream is down: {0}")]
    Down(String),
    /// The client does not take its replies, and others wait behind them.
    #[error("client does not take its replies")]
    NotTaken,
    /// The connection went away after the request was given to it.
    #[error("upstream connection was lost")]
    Lost,
    /// The server broke the protocol on the connection the request was on.
    #[error("upstream broke the protocol")]
    Desync,
    /// The request is over `max_message`.
    #[error("request is too large")]
    TooLarge,
    /// The request is not one.
    #[error("request is malformed")]
    Malformed,
    /// warmline is going down.
    #[error("shutting down")]
    Draining,
    /// It needs a connection of its own, and `max_dedicated` is reached.
    #[error("too many clients with a connection of their own")]
    DedicatedFull,
}

impl Refusal {
    /// The word used in logs and metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::AcquireTimeout => "acquire_timeout",
            Self::Timeout => "timeout",
            Self::Down(_) => "down",
            Self::NotTaken => "not_taken",
            Self::Lost => "lost",
            Self::Desync => "desync",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::Draining => "draining",
            Self::DedicatedFull => "dedicated_full",
        }
    }
}
