//! That the tests beside can fail: a proxy that changes the seqids of replies, and what the clients say to it.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use super::{Client, Server};

/// Passes framed binary messages on, and replies under a seqid that is `more` than theirs.
fn proxy(server: &str, more: u8) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = format!("127.0.0.1:{server}");
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut upstream) = (client.unwrap(), TcpStream::connect(&server).unwrap());
            // Who does not find the call of a reply waits for it until the connection ends.
            client.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            while let Some(request) = frame(&mut client) {
                upstream.write_all(&request).unwrap();
                let Some(mut reply) = frame(&mut upstream) else { break };
                // The length of the name is behind that of the frame, the version and the kind.
                let last = 4 + 4 + 4 + usize::from(reply[11]) + 3;
                reply[last] = reply[last].wrapping_add(more);
                client.write_all(&reply).unwrap();
            }
        }
    });
    port
}

fn frame(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).ok()?;
    let mut frame = length.to_vec();
    frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
    stream.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

#[test]
fn clients_notice_a_wrong_seqid() {
    for kind in ["accelerated", "plain", "thriftpy2", "node", "go", "php", "ruby", "perl"] {
        let server = Server::start("threaded", "framed", "binary");
        let is_right =
            |more| Client::start([kind, "framed", "binary"], proxy(&server.port, more), 1).ends_well();
        assert!(is_right(0), "{kind}");
        assert!(!is_right(1), "{kind}");
    }
}
