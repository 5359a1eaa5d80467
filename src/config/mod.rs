//! The configuration: what may be written (`file`), what it means (`plan`), and what is wrong with it.
//!
//! Invariant: a plan that comes out of here can be run; whatever cannot is an [`Error`] with its place.
//! Called by `cli`; `daemon` gets the plan and knows of no file.

mod addresses;
mod balance;
mod check;
mod error;
pub mod file;
pub mod forms;
mod health;
mod locate;
pub mod plan;
mod protocol;
mod report;
mod request;
mod retry;
pub mod units;
mod upstream;
mod words;

pub use error::{Error, Source};
pub use plan::Plan;
pub use protocol::{named as protocol_named, names as protocol_names};

impl Plan {
    /// What `source` means.
    ///
    /// # Errors
    /// At least one: everything that was found to be wrong, in the order of the file.
    pub fn new(source: &Source) -> Result<Self, Vec<Error>> {
        let file = toml::from_str(source.text()).map_err(|error| vec![source.toml_error(&error)])?;
        check::plan(file, source)
    }
}
