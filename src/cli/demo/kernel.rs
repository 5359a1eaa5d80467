//! What the kernel says about sockets that nobody holds any more. Asked by the demo itself.

use std::fs;

/// Connections of this network, by IPv4 and by IPv6. The second is missing where IPv6 is.
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];
/// `TCP_TIME_WAIT`, as the tables write it.
const TIME_WAIT: &str = "06";

/// Sockets in TIME_WAIT with `port` on either side; `None` where the kernel does not say.
pub(super) fn time_wait(port: u16) -> Option<u64> {
    let tables: Vec<String> = TABLES.iter().filter_map(|path| fs::read_to_string(path).ok()).collect();
    (!tables.is_empty()).then(|| tables.iter().map(|table| count(table, port)).sum())
}

fn count(table: &str, port: u16) -> u64 {
    let port = format!("{port:04X}");
    let is_left = |line: &&str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let ends = [words.next(), words.next()].map(|end| end.and_then(|it| it.rsplit(':').next()));
        words.next() == Some(TIME_WAIT) && ends.contains(&Some(&port))
    };
    table.lines().skip(1).filter(is_left).count() as u64
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    const TCP: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1DB0 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 18206 1 00
   1: 0100007F:1DB0 0100007F:D2A6 01 00000000:00000000 00:00000000 00000000  1000        0 18207 1 00
   2: 0100007F:1DB0 0100007F:D2A8 06 00000000:00000000 03:000012C3 00000000     0        0 0 3 00
   3: 0100007F:D2AA 0100007F:1DB0 06 00000000:00000000 03:000012C3 00000000     0        0 0 3 00
   4: 0100007F:D2AC 0100007F:0050 06 00000000:00000000 03:000012C3 00000000     0        0 0 3 00
";
    const TCP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000001000000:1DB0 00000000000000000000000001000000:D2AE 06 00000000:00000000
   1: 0000000000000000000000001DB00000:0016 00000000000000000000000001000000:D2B0 06 00000000:00000000
";

    #[test]
    fn both_sides_are_counted_and_other_states_are_not() {
        assert_eq!(count(TCP, 7600), 2);
        assert_eq!(count(TCP, 80), 1);
        assert_eq!(count(TCP, 0), 0);
        assert_eq!(count(TCP6, 7600), 1);
        assert_eq!(count("", 7600), 0);
        assert_eq!(count("heading\n\n  0:\n  1: no colon 06\n", 7600), 0);
    }

    #[test]
    fn the_kernel_tells_what_a_plain_close_leaves() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        // Clients of other tests may have had this very port a moment ago.
        let before = time_wait(address.port()).unwrap();
        let client = TcpStream::connect(address).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        drop(client);
        assert_eq!(server.read(&mut [0]).unwrap(), 0);
        // Its FIN is acknowledged before the close returns: on this host that takes no time.
        drop(server);
        assert!(time_wait(address.port()).unwrap() > before);
    }
}
