//! The process's file descriptors.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit of open files as far as it goes, and returns the one that holds then.
pub fn raise_fd_limit() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // A sandbox may forbid it: then what there is must do.
    let raised =
        current == maximum || setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
    if raised { maximum } else { current }.unwrap_or(u64::MAX)
}

/// The hard limit of open files: the highest that [`raise_fd_limit`] can reach.
pub fn max_fds() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// Descriptors open now.
pub fn open_fds() -> u64 {
    // The directory being read is one of them.
    fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count().saturating_sub(1) as u64)
}
