//! What the steps of the data path cost by themselves, in time and allocations. See benches/README.md.

mod codec;
mod exchange;
mod output;
mod queue;

use divan::AllocProfiler;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}
