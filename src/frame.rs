//! Scanning helpers shared by protocols.
