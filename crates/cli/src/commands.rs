//! One file for each command.

pub(crate) mod broker;
pub(crate) mod chat;
pub(crate) mod connect;
pub(crate) mod demo;
pub(crate) mod listen;
