//! warmline carries masses of short client connections over a few warm upstream ones.
pub mod admin;
pub mod cli;
pub mod config;
pub mod connection;
pub mod daemon;
pub mod events;
pub mod exchange;
pub mod frame;
pub mod lifecycle;
pub mod listener;
pub mod net;
pub mod pool;
pub mod protocol;
pub mod queue;
pub mod session;
pub mod systemd;
pub mod wire;
