//! How `run` steers a tool: each line on its standard input asks for a report, its end ends the tool.

use std::io::{self, Read, Write};

/// What has come.
pub enum Order {
    Report,
    End,
}

/// Reads one order; blocks until there is one.
pub fn order() -> Order {
    let mut byte = [0];
    match io::stdin().lock().read(&mut byte) {
        Ok(1) => Order::Report,
        _ => Order::End,
    }
}

/// Answers it.
pub fn report(value: &serde_json::Value) {
    let mut out = io::stdout().lock();
    // Whoever asked may be gone.
    let _ = writeln!(out, "{value}");
    let _ = out.flush();
}
