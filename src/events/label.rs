//! The closed sets of words that metrics are labelled with and logs use.

use super::meter::Label;

/// Defines a closed set of label values.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl Label for $name {
            const ALL: &'static [Self] = &[$(Self::$variant),*];

            fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }
        }
    };
}

label! {
    /// How an exchange ended. Every accepted request gets exactly one.
    Outcome {
        /// Its reply reached the session.
        Ok = "ok",
        /// One-way: its last byte is in the kernel.
        Sent = "sent",
        /// No reply before the deadline.
        Timeout = "timeout",
        /// Its connection went away.
        Lost = "lost",
        /// Never given to a connection.
        Refused = "refused",
        /// The client went away first.
        ClientGone = "client_gone",
        /// Over `max_message`.
        TooLarge = "too_large",
        /// The server broke the protocol.
        Desync = "desync",
    }
}

label! {
    /// Why a request was refused without reaching an upstream connection.
    Reason {
        /// `max_waiting` reached.
        QueueFull = "queue_full",
        /// `acquire_timeout` passed.
        AcquireTimeout = "acquire_timeout",
        /// The upstream is down.
        Down = "down",
        /// Not a message of the protocol.
        Malformed = "malformed",
        /// Over `max_message`.
        TooLarge = "too_large",
        /// Shutting down.
        Draining = "draining",
        /// It needs a connection of its own, and `max_dedicated` is reached.
        DedicatedFull = "dedicated_full",
    }
}

label! {
    /// Why a client has an upstream connection of its own.
    HandOver {
        /// What the server sends of its own accord is for it.
        ServerMessages = "server_messages",
    }
}

label! {
    /// What became of a message that a server sent of its own accord.
    Unasked {
        /// Nothing.
        Dropped = "dropped",
        /// It was a reply without an id, and was dropped.
        Unclaimed = "unclaimed",
        /// It was a request: it was told that there is no such method.
        Answered = "answered",
    }
}

label! {
    /// Why an upstream connection closed.
    CloseReason {
        /// `idle_timeout`.
        Idle = "idle",
        /// The server would soon close it for its idleness.
        IdleLimit = "idle_limit",
        /// Its endpoint was ejected.
        Ejected = "ejected",
        /// It made room for one to another endpoint, or of a pool that took over.
        Balance = "balance",
        /// The configuration has no room for it any more, or another pool has taken over.
        Retuned = "retuned",
        /// Its endpoint is one no longer.
        Removed = "removed",
        /// `max_lifetime`.
        Lifetime = "lifetime",
        /// `max_requests`, or the tags are used up.
        Requests = "requests",
        /// The server closed it, nothing was owed.
        Peer = "peer",
        /// The server closed it, or the socket failed, while it owed something.
        Lost = "lost",
        /// The server said that it will close.
        Closing = "closing",
        /// The server replied before it had the whole request.
        Early = "early",
        /// The server broke the protocol.
        Desync = "desync",
        /// It had one client, which is done.
        Client = "client",
        /// A client left in the middle of a request that was sent in parts.
        Cut = "cut",
        /// It owed a reply for too long.
        Stalled = "stalled",
        /// Drain or stop.
        Shutdown = "shutdown",
        /// A bug in warmline.
        Panic = "panic",
    }
}

label! {
    /// Why a request could be tried again.
    Rung {
        /// There was no connection yet.
        Connect = "connect",
        /// The kernel had taken no byte of it.
        Unsent = "unsent",
        /// It may be run twice, and no byte of its reply was seen.
        Idempotent = "idempotent",
    }
}

label! {
    /// How a probe ended.
    ProbeResult {
        /// As expected.
        Ok = "ok",
        /// Otherwise.
        Failed = "failed",
        /// Not in time.
        Timeout = "timeout",
    }
}

label! {
    /// How an attempt to connect ended.
    ConnectResult {
        /// Connected, preamble done.
        Ok = "ok",
        /// Refused by the peer.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
        /// The name has no address.
        Resolve = "resolve",
        /// The server's first bytes were not the expected ones.
        Preamble = "preamble",
        /// Anything else.
        Error = "error",
    }
}

label! {
    /// How a look-up of a name ended.
    ResolveResult {
        /// It has addresses.
        Ok = "ok",
        /// It has none, or nobody knows.
        Failed = "failed",
    }
}

label! {
    /// Why warmline closed a client connection that did nothing wrong.
    ClientTimeout {
        /// No whole request, or `max_buffered` bytes of it, in `client_read`.
        Read = "read",
        /// Nothing for `client_idle` between requests.
        Idle = "idle",
        /// It did not go on with a large request for `client_progress`.
        Progress = "progress",
        /// It did not take its reply in `client_write`.
        Write = "write",
        /// More than its share of memory waited for it, and it took nothing.
        NotTaken = "not_taken",
    }
}

label! {
    /// What came of a reload.
    ReloadResult {
        /// What the file says runs.
        Ok = "ok",
        /// The file is wrong; what ran goes on.
        Invalid = "invalid",
        /// The host does not allow what the file says; what ran goes on.
        Failed = "failed",
    }
}
