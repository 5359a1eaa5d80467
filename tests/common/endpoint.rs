//! A server that comes and goes at one address. What it was given outlives it.

use std::collections::HashMap;
use std::path::PathBuf;

use super::{Folder, Protocol, Server};

#[derive(Debug)]
pub(crate) struct Endpoint {
    protocol: Protocol,
    pub(crate) address: String,
    options: &'static [&'static str],
    folder: Folder,
    server: Option<Server>,
}

impl Endpoint {
    /// One that serves.
    pub(crate) fn new(protocol: Protocol) -> Self {
        Self::with(protocol, &[])
    }

    /// One that obeys nobody: every request gets its reply.
    pub(crate) fn sound(protocol: Protocol) -> Self {
        Self::with(protocol, &["--sound"])
    }

    fn with(protocol: Protocol, options: &'static [&'static str]) -> Self {
        // A host of its own: nobody else takes the port while nobody listens.
        let [a, b, c] = [(); 3].map(|()| fastrand::u8(1..=254));
        let address = format!("127.{a}.{b}.{c}:0");
        let mut this = Self { protocol, address, options, folder: Folder::new(), server: None };
        this.serve();
        this
    }

    /// Starts the server; it listens from now on.
    pub(crate) fn serve(&mut self) {
        let journal = self.journal_path();
        let more = [&["--journal", journal.to_str().unwrap()], self.options].concat();
        let server = Server::for_mode_with(&self.address, self.protocol.wire, self.protocol.mode, &more);
        self.address.clone_from(&server.address);
        self.server = Some(server);
    }

    pub(crate) fn server(&mut self) -> &mut Server {
        self.server.as_mut().expect("a server outside of faults")
    }

    /// SIGKILL; nobody listens from now on.
    pub(crate) fn kill(&mut self) {
        assert_eq!(self.server().count("violations"), 0);
        self.server = None;
    }

    /// Requests that it has seen in all its lives.
    pub(crate) fn given(&self) -> u64 {
        let line = 33;
        std::fs::metadata(self.journal_path()).map_or(0, |file| file.len() / line)
    }

    fn journal_path(&self) -> PathBuf {
        self.folder.path().join("journal")
    }

    /// How often each nonce came, over all its lives.
    pub(crate) fn journal(&self) -> HashMap<u128, u32> {
        let text = std::fs::read_to_string(self.journal_path()).unwrap_or_default();
        let mut seen = HashMap::new();
        // A line that is being written is not there yet.
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            *seen.entry(u128::from_str_radix(line, 16).unwrap()).or_default() += 1;
        }
        seen
    }
}
