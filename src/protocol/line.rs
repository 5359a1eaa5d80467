//! Delimiter-terminated messages. Placeholder.
