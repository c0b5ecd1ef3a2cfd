//! Behaviours named after what was observed, with the source.
