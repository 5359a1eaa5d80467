//! Clients that do nothing: opens them all, reports, and at each line on standard input lets every one of them make
//! one request and reports again.

use std::io;
use std::os::fd::OwnedFd;

use clap::Parser;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use serde_json::json;
use warmline_compare::address::Address;
use warmline_compare::control::{self, Order};
use warmline_compare::message::Protocol;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    to: Address,
    #[arg(long)]
    protocol: Protocol,
    #[arg(long, default_value_t = 64)]
    size: usize,
    #[arg(long)]
    clients: usize,
}

fn main() -> io::Result<()> {
    let options = Options::parse();
    let clients = (0..options.clients).map(|_| options.to.connect()).collect::<io::Result<Vec<_>>>()?;
    control::report(&json!({ "open": clients.len() }));
    while let Order::Report = control::order() {
        let mut right = 0;
        for (nonce, client) in (0..).zip(&clients) {
            right += usize::from(ask(client, nonce, &options)?);
        }
        control::report(&json!({ "open": clients.len(), "right": right }));
    }
    Ok(())
}

/// Whether the reply was right.
fn ask(client: &OwnedFd, nonce: u64, options: &Options) -> io::Result<bool> {
    let mut request = Vec::new();
    options.protocol.write(nonce, options.size, &mut request);
    send(client, &request, SendFlags::NOSIGNAL)?;
    let mut reply = vec![0; request.len()];
    let (read, _) = recv(client, &mut *reply, RecvFlags::WAITALL)?;
    Ok(options.protocol.answers(&request, &reply[..read]))
}
