//! A server that ends the connection when it has read a request: what is listed by service and method runs again, what
//! is not is refused, and each ran as often as it may.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::common::{Plan, UPSTREAM};
use super::trouble::{framed, told};

/// How often each method ran.
type Runs = Arc<Mutex<HashMap<String, u32>>>;

/// A server that closes in answer to the first call of each method, and replies to those that follow.
fn serve() -> (u16, Runs) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (port, runs) = (listener.local_addr().unwrap().port(), Runs::default());
    let counted = runs.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, runs) = (stream.unwrap(), counted.clone());
            // It ends with the connection, by whichever side.
            std::thread::spawn(move || answer(stream, &runs).ok());
        }
    });
    (port, runs)
}

fn answer(mut stream: TcpStream, runs: &Runs) -> io::Result<()> {
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut call = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut call)?;
        let (name, seqid) = call[8..call.len() - 1].split_at(call.len() - 13);
        let run = {
            let mut runs = runs.lock().unwrap();
            let run = runs.entry(String::from_utf8_lossy(name).into()).or_default();
            *run += 1;
            *run
        };
        if run == 1 {
            return Ok(());
        }
        stream.write_all(&framed(&message(2, std::str::from_utf8(name).unwrap(), seqid, &[0])))?;
    }
}

/// A strict binary message.
fn message(kind: u8, name: &str, seqid: &[u8], fields: &[u8]) -> Vec<u8> {
    let length = u32::try_from(name.len()).unwrap().to_be_bytes();
    [&[0x80, 1, 0, kind][..], &length, name.as_bytes(), seqid, fields].concat()
}

#[test]
fn only_what_is_listed_by_service_and_method_runs_again() {
    for mode in ["exclusive", "pipeline", "multiplex"] {
        let (port, runs) = serve();
        let daemon = Plan::without_protocol(mode, &format!("127.0.0.1:{port}"))
            .set("protocol", "\"thrift\"")
            .set("retry.attempts", "3")
            .set("retry.budget", "1")
            .set("retry.idempotent", "[\"Store:get\"]")
            .start_ready();
        let seqid = [0, 0, 0, 7];
        let call = |name: &str| told(daemon.port(), &framed(&message(1, name, &seqid, &[0])));
        assert_eq!(call("Store:get"), framed(&message(2, "Store:get", &seqid, &[0])), "{mode}");
        // The same method of another service, and another method of this one.
        for name in ["Other:get", "Store:put", "get"] {
            let said = call(name);
            let exception = message(3, name, &seqid, &[11, 0, 1]);
            assert!(said[4..].starts_with(&exception), "{mode}: {name}: {}", said.escape_ascii());
            assert!(String::from_utf8_lossy(&said).contains("upstream connection was lost"), "{mode}");
        }
        let expected = [("Store:get", 2), ("Other:get", 1), ("Store:put", 1), ("get", 1)];
        let expected: HashMap<_, _> = expected.map(|(name, run)| (name.to_owned(), run)).into();
        assert_eq!(*runs.lock().unwrap(), expected, "{mode}");
        assert_eq!(daemon.metric("retries_total", &[("upstream", UPSTREAM)]), 1, "{mode}");
        daemon.assert_conserved();
    }
}
