//! `warmline healthcheck`: asks the admin endpoint of a running daemon, for the probes of Docker and
//! Kubernetes.
//!
//! Invariant: it ends within [`PATIENCE`], whatever is at the other end. Called by `cli`.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::{Exit, fail};
use crate::net::Address;

/// Longest time for everything.
const PATIENCE: Duration = Duration::from_secs(3);
/// The longest status line, in bytes.
const MAX_STATUS: u64 = 256;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Asks whether it takes requests, and not only whether it is alive.
    #[arg(long)]
    ready: bool,
    /// The admin endpoint, as in unix:PATH or 127.0.0.1:9901.
    #[arg(long, value_name = "ADDRESS", default_value = "unix:/run/warmline/admin.sock")]
    admin: Address,
}

pub(super) fn run(args: &Args) -> Exit {
    let path = if args.ready { "/readyz" } else { "/healthz" };
    let (sender, receiver) = mpsc::sync_channel(1);
    let address = args.admin.clone();
    // Looking a name up and connecting cannot be given a time; a thread that may be left behind can.
    let asked = thread::Builder::new().spawn(move || {
        // Nobody waits any more: the process is about to end.
        let _ = sender.send(ask(&address, path));
    });
    if let Err(error) = asked {
        return fail(Exit::Failed, error);
    }
    let failed = |why: &dyn std::fmt::Display| fail(Exit::Failed, format_args!("{}: {why}", args.admin));
    match receiver.recv_timeout(PATIENCE) {
        Ok(Ok(200)) => Exit::Done,
        Ok(Ok(status)) if args.ready => failed(&format_args!("not ready (status {status})")),
        Ok(Ok(status)) => failed(&format_args!("not well (status {status})")),
        Ok(Err(error)) => failed(&error),
        Err(_) => failed(&"no answer in time"),
    }
}

/// The status of a GET of `path`.
fn ask(address: &Address, path: &str) -> io::Result<u16> {
    match address {
        Address::Tcp { host, port } => status(TcpStream::connect((host.as_str(), *port))?, path),
        Address::Unix(socket) => status(UnixStream::connect(socket)?, path),
        Address::Srv(_) => Err(io::Error::new(io::ErrorKind::Unsupported, "it is no address")),
    }
}

fn status(mut stream: impl Read + Write, path: &str) -> io::Result<u16> {
    // HTTP/1.0: the answer ends with the connection.
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_STATUS)).read_until(b'\n', &mut line)?;
    parse(&line).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))
}

/// The number in `HTTP/1.x NNN ...`.
fn parse(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let (digits, after) = rest.split_at_checked(3)?;
    let ends = matches!(after.first(), Some(b' ' | b'\r'));
    let number = digits.iter().all(u8::is_ascii_digit).then(|| std::str::from_utf8(digits).ok())?;
    number?.parse().ok().filter(|_| ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines() {
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(parse(b"HTTP/1.0 503\r\n"), Some(503));
        let no: [&[u8]; 8] = [
            b"",
            b"HTTP/1.",
            b"HTTP/1.1 20",
            b"HTTP/1.1 2000 OK\r\n",
            b"HTTP/1.1 +20 OK\r\n",
            b"HTTP/2 200\r\n",
            b"220 ready\n",
            b"HTTP/1.1 200",
        ];
        for line in no {
            assert_eq!(parse(line), None, "{line:?}");
        }
    }

    /// What a healthcheck makes of a server that answers so.
    fn checked(answer: &'static [u8]) -> Exit {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let admin = listener.local_addr().unwrap().to_string().parse().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let size = stream.read(&mut request).unwrap();
            assert!(request[..size].starts_with(b"GET /readyz HTTP/1.0\r\n"));
            stream.write_all(answer).unwrap();
        });
        let exit = run(&Args { ready: true, admin });
        server.join().unwrap();
        exit
    }

    #[test]
    fn only_200_is_well() {
        assert_eq!(checked(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Exit::Done);
        assert_eq!(checked(b"HTTP/1.0 503 Service Unavailable\r\n\r\n"), Exit::Failed);
        assert_eq!(checked(b"SSH-2.0\r\n"), Exit::Failed);
        assert_eq!(checked(b""), Exit::Failed);
        assert_eq!(checked(&[b'x'; 10_000]), Exit::Failed);
    }

    #[test]
    fn nobody_there_is_not_well() {
        let admin = Address::Unix("/nonexistent/admin.sock".into());
        assert_eq!(run(&Args { ready: false, admin }), Exit::Failed);
    }
}
