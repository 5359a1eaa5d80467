//! The peers of the process tests.
fn main() {}
