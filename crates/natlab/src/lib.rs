//! An internet in one process: hosts, NATs and links for tests, on real kernels.
