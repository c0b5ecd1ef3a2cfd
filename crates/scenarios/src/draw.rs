//! Scenarios drawn by seed.
