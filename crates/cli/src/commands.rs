//! One file for each command.

pub(crate) mod broker;
pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod connect;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod listen;
pub(crate) mod man;
pub(crate) mod ping;
