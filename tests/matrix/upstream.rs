//! The server of a block, in health and in its fault. Its journal outlives it.
//!
//! Used by `block`.

use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::common::{Daemon, Endpoint, Protocol, Server, becomes};
use crate::fault::Event;

#[derive(Debug)]
pub(crate) struct Upstream {
    faulty: Endpoint,
    /// Where there are two, the one without faults.
    pub(crate) good: Option<Endpoint>,
    /// Stands in for the server, its accept queue full.
    hole: Option<(Socket, Vec<TcpStream>)>,
    /// Connections that were broken while idle.
    pub(crate) strays: u64,
}

impl Upstream {
    pub(crate) fn new(protocol: Protocol, with_good: bool) -> Self {
        let good = with_good.then(|| Endpoint::sound(protocol));
        Self { faulty: Endpoint::new(protocol), good, hole: None, strays: 0 }
    }

    fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        [&self.faulty].into_iter().chain(&self.good)
    }

    pub(crate) fn addresses(&self) -> Vec<&str> {
        self.endpoints().map(|endpoint| &*endpoint.address).collect()
    }

    fn server(&mut self) -> &mut Server {
        self.faulty.server()
    }

    /// A number of the ledgers.
    pub(crate) fn count(&mut self, name: &str) -> u64 {
        let good = self.good.as_mut().map_or(0, |good| good.server().count(name));
        self.server().count(name) + good
    }

    /// The sockets of a daemon towards it.
    pub(crate) fn sockets_of(&self, daemon: &Daemon) -> usize {
        daemon.sockets_towards(&self.addresses())
    }

    fn dig_hole(&mut self) {
        let address = self.faulty.address.parse::<SocketAddr>().unwrap();
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
            Event::Refuse => self.faulty.kill(),
            Event::HangOnConnect => {
                self.faulty.kill();
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
            self.faulty.kill();
        }
        if event == Event::Restart {
            self.faulty.serve();
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
                self.faulty.serve();
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

    /// How often each nonce came, over all lives.
    pub(crate) fn journal(&self) -> HashMap<u128, u32> {
        let mut seen = HashMap::new();
        for (nonce, count) in self.endpoints().flat_map(Endpoint::journal) {
            *seen.entry(nonce).or_default() += count;
        }
        seen
    }
}
