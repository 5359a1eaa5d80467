//! The configuration file. Placeholder of the contract.
//!
//! `file` = what may be written, `plan` = what it means, `units` = durations and sizes.

pub mod plan;
