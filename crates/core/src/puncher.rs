//! puncher
