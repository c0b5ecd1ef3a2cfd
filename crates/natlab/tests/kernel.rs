//! The lab is true.

fn main() {}
