//! How events look to people and programs.

pub(crate) mod broker;
pub(crate) mod chat;
pub(crate) mod doctor;
pub(crate) mod obstacle;
pub(crate) mod ping;
