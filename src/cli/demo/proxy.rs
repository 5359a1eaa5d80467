//! The warmline of the demo: the daemon as `run` has it, in a thread of its own. Started by the demo itself.

use std::fmt::Display;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::{Plan, Source};
use crate::daemon::{self, Daemon, Ended};

/// Longest time for the first connection to the server.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no warmline to measure.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// A flaw of the demo.
    #[error("its configuration is wrong: {0}")]
    Config(String),
    /// The daemon says why.
    #[error(transparent)]
    Daemon(#[from] daemon::Error),
    /// No thread, or no runtime.
    #[error("cannot start: {0}")]
    Start(#[from] io::Error),
    /// The server cannot be reached.
    #[error("no connection to the server within {PATIENCE:?}")]
    Cold,
    /// It ended by itself.
    #[error("warmline ended unexpectedly")]
    Gone,
}

/// The daemon at work.
#[derive(Debug)]
pub(super) struct Proxy {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<Result<Ended, Error>>,
}

impl Proxy {
    /// Starts it in front of `server`, and waits until it is warm.
    ///
    /// # Errors
    /// [`Error`].
    pub(super) fn start(server: SocketAddr, clients: usize, max_connections: usize) -> Result<Self, Error> {
        let source = Source::new("demo", configuration(&server, clients, max_connections));
        let wrong = |errors: Vec<_>| Error::Config(errors.iter().map(ToString::to_string).collect());
        let plan = Plan::new(&source).map_err(wrong)?;
        let (stop, stopped) = oneshot::channel();
        let (sender, receiver) = mpsc::sync_channel(1);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let run = move || runtime.block_on(serve(plan, &sender, stopped));
        let thread = thread::Builder::new().name("warmline".into()).spawn(run)?;
        match receiver.recv() {
            Ok(address) => Ok(Self { address, stop, thread }),
            Err(_) => Err(thread.join().map_or(Error::Gone, |ended| ended.err().unwrap_or(Error::Gone))),
        }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has it answer what it took in, and end.
    ///
    /// # Errors
    /// [`Error::Gone`].
    pub(super) fn stop(self) -> Result<Ended, Error> {
        // If nobody hears it, the thread says why.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or(Err(Error::Gone))
    }
}

async fn serve(
    plan: Plan,
    started: &mpsc::SyncSender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) -> Result<Ended, Error> {
    let mut daemon = Daemon::start(plan)?;
    timeout(PATIENCE, daemon.stood()).await.map_err(|_| Error::Cold)?;
    let address = daemon.addresses().first().and_then(|(_, address)| address.to_string().parse().ok());
    started.send(address.ok_or(Error::Gone)?).map_err(|_| Error::Gone)?;
    // An error means that the demo is over early, and so is this.
    let _ = stopped.await;
    Ok(daemon.drain(pending()).await)
}

/// Messages as the server has them, on a few connections that everybody shares.
fn configuration(server: &dyn Display, clients: usize, max_connections: usize) -> String {
    // A client may be back before its last session has ended.
    let max_clients = clients * 2;
    format!(
        r#"
[shutdown]
drain_timeout = "5s"

[limits]
max_clients = {max_clients}

[upstreams.demo]
listen = "127.0.0.1:0"
endpoints = ["{server}"]

[upstreams.demo.protocol.frame]
length = {{ offset = 0, size = 4, endian = "big", adjust = 12 }}
id = {{ offset = 4, size = 8, endian = "big" }}

[upstreams.demo.pool]
mode = "multiplex"
max_connections = {max_connections}

[upstreams.demo.sockets]
one_shot = true
"#
    )
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    #[test]
    fn it_becomes_warm_and_drains() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let proxy = Proxy::start(server.local_addr().unwrap(), 1, 1).unwrap();
        assert!(proxy.address().ip().is_loopback());
        assert_eq!(proxy.stop().unwrap(), Ended::Drained);
    }

    #[test]
    fn the_configuration_holds_at_every_size() {
        for clients in [1, 256] {
            let text = configuration(&"127.0.0.1:1", clients, 4);
            let plan = Plan::new(&Source::new("demo", text)).unwrap();
            assert!(plan.limits.max_clients_is_explicit);
            assert_eq!(plan.max_connections(), 4);
            assert!(plan.fd_budget() < 1024, "fits the usual limit of descriptors");
            assert!(plan.upstreams[0].pool.max_in_flight * 4 >= clients, "nobody is made to wait");
        }
    }
}
