//! The server of a block, in health and in its fault. Its journal outlives it.
//!
//! Used by `block`.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{Daemon, Folder, Protocol, Server, becomes};
use crate::fault::Event;

#[derive(Debug)]
pub(crate) struct Upstream {
    protocol: Protocol,
    pub(crate) address: String,
    folder: Folder,
    server: Option<Server>,
    /// Stands in for the server, its accept queue full.
    hole: Option<(Socket, Vec<TcpStream>)>,
    /// Connections that were broken while idle.
    pub(crate) strays: u64,
}

impl Upstream {
    pub(crate) fn new(protocol: Protocol) -> Self {
        // An address of its own: no client's port can take its place while nobody listens.
        let address = "127.0.0.2:0".to_owned();
        let mut this = Self { protocol, address, folder: Folder::new(), server: None, hole: None, strays: 0 };
        this.serve();
        this
    }

    fn serve(&mut self) {
        let journal = self.folder.path().join("journal");
        let more = ["--journal", journal.to_str().unwrap()];
        let server = Server::for_mode_with(&self.address, self.protocol.wire, self.protocol.mode, &more);
        self.address.clone_from(&server.address);
        self.server = Some(server);
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server outside of faults")
    }

    fn end(&mut self) {
        self.server().assert_no_violation();
        self.server = None;
    }

    fn dig_hole(&mut self) {
        let address = self.address.parse::<SocketAddr>().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(0).unwrap();
        // With its queue full, the kernel ignores who else knocks.
        let wait = Duration::from_millis(100);
        let full = std::iter::from_fn(|| TcpStream::connect_timeout(&address, wait).ok()).collect();
        self.hole = Some((socket, full));
    }

    /// The fault begins, if it is there before the requests.
    pub(crate) fn arm(&mut self, event: Event) {
        match event {
            Event::Refuse => self.end(),
            Event::HangOnConnect => {
                self.end();
                self.dig_hole();
            }
            Event::OnConnect(how) => {
                self.server().ask(&format!("on-connect {how}"));
                self.server().ask("end rst");
            }
            Event::Stop => self.server().signal(Signal::STOP),
            Event::Asked | Event::Kill | Event::Restart | Event::Idle(_) => {}
        }
    }

    /// The fault happens in the middle of the requests.
    pub(crate) fn strike(&mut self, event: Event) {
        if matches!(event, Event::Kill | Event::Restart) {
            self.end();
        }
        if event == Event::Restart {
            self.serve();
        }
    }

    /// The fault ends; one of an idle connection comes now.
    pub(crate) fn relent(&mut self, event: Event, daemon: &Daemon) {
        match event {
            Event::Refuse | Event::HangOnConnect | Event::Kill => {
                if let Some((socket, _)) = self.hole.take() {
                    // A process that another thread starts right now may hold a copy of the socket.
                    socket.shutdown(Shutdown::Both).unwrap();
                }
                self.serve();
            }
            Event::OnConnect(_) => {
                self.server().ask("on-connect serve");
            }
            Event::Stop => self.server().signal(Signal::CONT),
            Event::Idle(command) => {
                becomes("requests in flight", 0, || daemon.metric("requests_in_flight", &[]));
                // Not a wait for something: this is how late it comes.
                std::thread::sleep(Duration::from_secs(1));
                self.strays += self.server().ask(command)["done"].as_u64().unwrap();
                becomes("desync_total", self.strays, || daemon.metric("desync_total", &[]));
            }
            Event::Asked | Event::Restart => {}
        }
    }

    /// How often each nonce came, over all its lives.
    pub(crate) fn journal(&self) -> HashMap<u128, u32> {
        let text = std::fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        let mut seen = HashMap::new();
        for line in text.lines() {
            *seen.entry(u128::from_str_radix(line, 16).unwrap()).or_default() += 1;
        }
        seen
    }
}
