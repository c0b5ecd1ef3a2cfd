//! Payloads that a NAT rewrites: what an "application layer gateway" does to addresses in clear text.

use super::Rewriting;
use super::mappings::Mapping;
use super::sessions::Session;
use crate::packet::{Packet, Quoted};

/// How the sequence numbers of a session are moved.
#[derive(Debug, Clone, Default)]
pub(super) struct Shifts {}

pub(super) fn outward(rewriting: Rewriting, session: &mut Session, mapping: &Mapping, packet: &mut Packet) {}
pub(super) fn inward(rewriting: Rewriting, session: &mut Session, mapping: &Mapping, packet: &mut Packet) {}
pub(super) fn quote_outward(session: &Session, quoted: &mut Quoted) {}
pub(super) fn quote_inward(session: &Session, quoted: &mut Quoted) {}
