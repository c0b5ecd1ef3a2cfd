//! What is remembered of networks: the entries of the file `networks`, oldest first.
//!
//! A network is named by a hash under a key that never leaves the identity file, so that the file alone does not tell
//! where its owner was.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tcpunch_core::limits::{NETWORK_REMEMBERED, NETWORKS_REMEMBERED};
use tcpunch_core::plan::Path;
use tcpunch_core::profile::NatProfile;
use tcpunch_core::wire::{decode, encode};

use super::{hex, unhex};

/// Names a network: the keyed hash of what can be told of it from inside.
pub(crate) type NetworkName = [u8; 32];

/// What is remembered of one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkMemory {
    /// What was last measured.
    pub profile: NatProfile,
    /// When that was.
    pub learnt: SystemTime,
    /// How the last connection through it ran.
    pub worked: Option<Path>,
    /// Connections that stood.
    pub connected: u32,
    /// Attempts that found no path.
    pub failed: u32,
}

/// The hash of `network` under the secret of an identity.
pub(super) fn name(identity: &[u8; 32], network: &[u8]) -> NetworkName {
    let key = blake3::derive_key("tcpunch 2026 memory of networks", identity);
    *blake3::keyed_hash(&key, network).as_bytes()
}

/// All entries of a file's lines; `Err` with the line that is none.
pub(super) fn parse<'t>(
    lines: impl Iterator<Item = (usize, &'t str)>,
) -> Result<Vec<(NetworkName, NetworkMemory)>, usize> {
    let mut entries = Vec::new();
    for (line, entry) in lines {
        let Some(fields) = entry.strip_prefix("network ") else { continue };
        entries.push(parse_entry(fields).ok_or(line)?);
    }
    Ok(entries)
}

fn parse_entry(fields: &str) -> Option<(NetworkName, NetworkMemory)> {
    let mut fields = fields.split(' ');
    let name = unhex(fields.next()?)?;
    let learnt: u64 = fields.next()?.parse().ok()?;
    let learnt = UNIX_EPOCH.checked_add(Duration::from_secs(learnt))?;
    let profile = decode(&bytes(fields.next()?)?).ok()?;
    let worked = match fields.next()? {
        "-" => None,
        word => Some(path(word)?),
    };
    let connected = fields.next()?.parse().ok()?;
    let failed = fields.next()?.parse().ok()?;
    fields.next().is_none().then_some((name, NetworkMemory { profile, learnt, worked, connected, failed }))
}

fn path(word: &str) -> Option<Path> {
    [Path::Lan, Path::Direct, Path::Mapped, Path::Punched, Path::Birthday]
        .into_iter()
        .find(|path| path.word() == word)
}

/// The bytes that pairs of hexadecimal digits mean; a profile has at most a dozen.
fn bytes(text: &str) -> Option<Vec<u8>> {
    if text.len() > 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// The line of an entry.
pub(super) fn line((name, memory): &(NetworkName, NetworkMemory)) -> String {
    let learnt = memory.learnt.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    // A profile is a few bytes, far from the bound of a message.
    let profile: String =
        encode(&memory.profile).unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
    let worked = memory.worked.map_or("-", Path::word);
    format!("network {} {learnt} {profile} {worked} {} {}\n", *hex(name), memory.connected, memory.failed)
}

/// Whether what was learnt then still counts. A clock that was set back makes no memory of the future.
pub(super) fn counts(memory: &NetworkMemory, now: SystemTime) -> bool {
    now.duration_since(memory.learnt).is_ok_and(|age| age < NETWORK_REMEMBERED)
}

/// The entries with one of them changed, and as the latest; those that are too old, or too many, are left out.
pub(super) fn changed(
    mut entries: Vec<(NetworkName, NetworkMemory)>,
    name: NetworkName,
    now: SystemTime,
    change: impl FnOnce(Option<NetworkMemory>) -> Option<NetworkMemory>,
) -> Vec<(NetworkName, NetworkMemory)> {
    entries.retain(|(_, memory)| counts(memory, now));
    let known = entries.iter().find(|(known, _)| *known == name).map(|(_, memory)| *memory);
    entries.retain(|(known, _)| *known != name);
    entries.extend(change(known).map(|memory| (name, memory)));
    let surplus = entries.len().saturating_sub(NETWORKS_REMEMBERED);
    entries.drain(..surplus);
    entries
}
