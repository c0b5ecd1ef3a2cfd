#![allow(clippy::indexing_slicing)]

mod allocation;
mod harness;
mod kernel_facts;
mod knobs;
mod properties;
mod rfc4787;
mod rfc5382;
mod rfc7857;
