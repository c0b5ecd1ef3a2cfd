//! A direct, end-to-end encrypted TCP connection between two computers behind NATs.

pub mod store;
