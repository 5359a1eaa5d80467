//! Says what `cargo test` alone leaves out. A program, not a test: nothing here can pass or fail.
#![allow(clippy::print_stdout, reason = "it is there to say it")]

fn main() {
    if !cfg!(feature = "peers") {
        println!(
            "\nLEFT OUT (needs more than Rust):\n\
             - tests/peers.rs: PHP and Python peers, network namespaces\n\
             - tests/presets.rs: the presets `dubbo` and `bolt` between libraries of Node.js\n\
             - tests/jsonrpc: JSON-RPC libraries of Go, Node and Python\n\
             - tests/thrift: Thrift libraries of Python, Node, Go, PHP, Ruby and Perl\n\
             - tests/names: endpoints by name, with files and name servers of their own\n\
             - tests/outages.rs: endpoints whose packets vanish\n\
             - tests/readme.rs: the recipes, run as they stand there\n\
             - tests/packaging.rs: the hardening of the systemd unit\n\
             - tests/scaling.rs: the figures of docs/scaling.md\n\
             `tests/run` installs what they need and runs everything.\n"
        );
    }
}
