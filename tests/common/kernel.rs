//! What the kernel says about sockets and processes.

use std::collections::HashSet;
use std::fs;

/// One line of `/proc/net/tcp`.
#[derive(Debug)]
pub(crate) struct Tcp {
    pub(crate) local: u16,
    pub(crate) remote: u16,
    pub(crate) state: u8,
    pub(crate) inode: u64,
}

pub(crate) const TIME_WAIT: u8 = 6;

/// The port of `HOST:PORT`.
pub(crate) fn port(address: &str) -> u16 {
    address.rsplit(':').next().unwrap().parse().unwrap()
}

/// Every IPv4 TCP socket of this network.
pub(crate) fn tcp() -> Vec<Tcp> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let parse = |line: &str| {
        let words = line.split_whitespace().collect::<Vec<_>>();
        let port = |word: &str| u16::from_str_radix(word.rsplit(':').next()?, 16).ok();
        Some(Tcp {
            local: port(words.get(1)?)?,
            remote: port(words.get(2)?)?,
            state: u8::from_str_radix(words.get(3)?, 16).ok()?,
            inode: words.get(9)?.parse().ok()?,
        })
    };
    table.lines().skip(1).filter_map(parse).collect()
}

/// Sockets in TIME_WAIT with this port on either side.
pub(crate) fn time_wait(port: u16) -> usize {
    tcp().iter().filter(|s| s.state == TIME_WAIT && (s.local == port || s.remote == port)).count()
}

/// Sockets that a process holds towards any of these ports.
pub(crate) fn sockets_of(pid: u32, ports: &[u16]) -> usize {
    let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fd")) else { return 0 };
    let inodes = folder
        .filter_map(|entry| {
            let link = fs::read_link(entry.ok()?.path()).ok()?;
            link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse::<u64>().ok()
        })
        .collect::<HashSet<_>>();
    // A table that changes while it is read may list a socket twice.
    let held = tcp().into_iter().filter(|socket| ports.contains(&socket.remote)).map(|socket| socket.inode);
    held.filter(|inode| inodes.contains(inode)).collect::<HashSet<_>>().len()
}

/// A counter of `TcpExt`.
pub(crate) fn tcp_ext(name: &str) -> u64 {
    let table = fs::read_to_string("/proc/net/netstat").unwrap();
    let mut lines = table.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
    let names = lines.next().unwrap().split_whitespace();
    let values = lines.next().unwrap().split_whitespace();
    names.zip(values).find(|(n, _)| *n == name).unwrap().1.parse().unwrap()
}
