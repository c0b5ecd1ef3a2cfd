//! Whether a lab can run here, found out by trying, and the reason if not.

use std::sync::OnceLock;

use crate::Error;
use crate::device::{self, Kind};
use crate::kernel::nft;
use crate::namespace::{Namespace, full_name, next_lab};

/// Why no lab can run here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unavailable {
    reason: String,
}

impl Unavailable {
    /// The reason in words, for the report of a test that did not run.
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

/// Whether a lab can run here: root, `ip`, `nft`, the kernel's NAT and TAP devices.
///
/// Each is tried for real in a namespace that is removed again. The first call of a process takes some tens of
/// milliseconds, later ones nothing.
///
/// # Errors
/// The first thing that is missing.
pub fn availability() -> Result<(), Unavailable> {
    static ANSWER: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

fn probe() -> Result<(), Unavailable> {
    let missing = |what: &str, error: &Error| Unavailable { reason: format!("{what} ({error})") };
    if !nix::unistd::geteuid().is_root() {
        return Err(Unavailable { reason: "it needs root, to make network namespaces".into() });
    }
    let name = full_name(&next_lab().to_string(), "probe");
    let namespace = Namespace::create(name, true)
        .map_err(|error| missing("no network namespaces with `ip` of iproute2", &error))?;
    namespace
        .ip("link add veth0 type veth peer name veth1\nlink add lan type bridge\n")
        .map_err(|error| missing("no veth or bridge devices", &error))?;
    namespace.nft(&nft::everything()).map_err(|error| missing("no NAT with `nft` of nftables", &error))?;
    namespace
        .run(|| device::open("probe", Kind::Tap))
        .and_then(|tap| tap)
        .map_err(|error| missing("no TAP devices from /dev/net/tun", &error))?;
    let status = namespace
        .command("true")
        .status()
        .map_err(|error| missing("no `ip netns exec`", &Error::io("run it", error)))?;
    if !status.success() {
        return Err(Unavailable {
            reason: "`ip netns exec` fails, perhaps for want of the right to mount /sys".into(),
        });
    }
    Ok(())
}
