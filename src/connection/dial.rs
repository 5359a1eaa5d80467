//! Opens a connection: the socket, and what the server says before it listens.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Preamble, Settings};
use crate::events::ConnectResult;
use crate::net::{Address, Dialler};
use crate::wire::Wire;

/// A connection in the making.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Wire>> + Send>>;

/// Where connections come from: the network, or a script in tests.
pub trait Connector: fmt::Debug + Send + Sync {
    /// Connects to the endpoint of that index, which is at `address` and may take so long.
    fn connect(&self, endpoint: usize, address: &Address, patience: Duration) -> Connecting;
}

/// Connections of the network.
#[derive(Debug)]
pub struct Network {
    dialler: Dialler,
}

impl Network {
    /// Connections as `settings` say.
    pub fn new(settings: &Settings) -> Self {
        Self { dialler: Dialler::new(settings.tuning.clone()) }
    }
}

impl Connector for Network {
    fn connect(&self, _: usize, address: &Address, patience: Duration) -> Connecting {
        let (dialler, address) = (self.dialler.clone(), address.clone());
        Box::pin(async move { Ok(dialler.connect(&address, patience).await?.into()) })
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub struct DialError {
    /// For metrics.
    pub result: ConnectResult,
    /// For people.
    pub text: String,
}

/// Opens a connection to the endpoint at `address` within the connect timeout, preamble included.
pub(crate) async fn dial(
    connector: &dyn Connector,
    (endpoint, address): (usize, &Address),
    settings: &Settings,
) -> Result<Wire, DialError> {
    let attempt = async {
        let mut wire =
            connector.connect(endpoint, address, settings.connect_timeout).await.map_err(|e| refused(&e))?;
        if let Some(preamble) = &settings.preamble {
            greet(&mut wire, preamble).await?;
        }
        Ok(wire)
    };
    timeout(settings.connect_timeout, attempt).await.unwrap_or_else(|_| {
        let text = format!("no connection within {:?}", settings.connect_timeout);
        Err(DialError { result: ConnectResult::Timeout, text })
    })
}

async fn greet(wire: &mut Wire, preamble: &Preamble) -> Result<(), DialError> {
    let failed = |text: String| DialError { result: ConnectResult::Preamble, text };
    let mut said = vec![0; preamble.expect.len()];
    wire.read_exact(&mut said).await.map_err(|e| failed(format!("preamble not received: {e}")))?;
    if said != preamble.expect {
        let shown = said[..said.len().min(32)].escape_ascii();
        return Err(failed(format!("preamble begins \"{shown}\", which is not the expected one")));
    }
    wire.write_all(&preamble.send).await.map_err(|e| failed(format!("preamble not sent: {e}")))
}

fn refused(error: &io::Error) -> DialError {
    let result = match error.kind() {
        io::ErrorKind::ConnectionRefused => ConnectResult::Refused,
        io::ErrorKind::TimedOut => ConnectResult::Timeout,
        io::ErrorKind::NotFound => ConnectResult::Resolve,
        _ => ConnectResult::Error,
    };
    DialError { result, text: error.to_string() }
}
