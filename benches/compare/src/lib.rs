//! What the tools of the comparison share: addresses and closing, polling, messages, latencies. Each tool is one
//! thread and one epoll, and ends by itself when its standard input does.

pub mod address;
pub mod control;
pub mod histogram;
pub mod message;
pub mod poll;
