//! An internet in real time: each host a network namespace with the kernel's TCP stack, wire and NATs ours.
