//! Length-prefixed messages, from configuration alone. Placeholder.
