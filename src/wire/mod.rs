//! Both directions of a socket, and the buffers beside it.

pub mod budget;
mod output;

pub use budget::{Budget, Charge, Purpose};
pub use output::Output;
