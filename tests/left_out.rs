//! Says what `cargo test` alone leaves out. A program, not a test: nothing here can pass or fail.
#![allow(clippy::print_stdout, reason = "it is there to say it")]

fn main() {
    if !cfg!(feature = "peers") {
        println!(
            "\nLEFT OUT (needs more than Rust): tests/peers.rs - PHP and Python peers, network namespaces.\n\
             `tests/run` installs what they need and runs everything.\n"
        );
    }
}
