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

/// Whether any lab can run here: what [`netns::availability`](crate::netns::availability) asks for, `nft`, the kernel's NAT,
/// veth, bridge and TAP devices.
///
/// Each is tried for real in a namespace that is removed again. The first call of a process takes some tens of
/// milliseconds, later ones nothing.
///
/// # Errors
/// The first thing that is missing.
pub fn availability() -> Result<(), Unavailable> {
    static ANSWER: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    ANSWER.get_or_init(|| without_nat().and_then(|()| probe_nat())).clone()
}

/// Whether a lab can run here that leaves NATs to this process: root, `ip` and TUN devices.
///
/// Each is tried for real, once in a process.
///
/// # Errors
/// The first thing that is missing.
pub fn without_nat() -> Result<(), Unavailable> {
    static ANSWER: OnceLock<Result<(), Unavailable>> = OnceLock::new();
    ANSWER.get_or_init(probe).clone()
}

fn missing(what: &str, error: &Error) -> Unavailable {
    Unavailable { reason: format!("{what} ({error})") }
}

fn probe() -> Result<(), Unavailable> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Unavailable { reason: "it needs root, to make network namespaces".into() });
    }
    let namespace = Namespace::create(full_name(&next_lab().to_string(), "probe"), false)
        .map_err(|error| missing("no network namespaces with `ip` of iproute2", &error))?;
    namespace
        .run(|| device::open("probe", Kind::Tun))
        .and_then(|tun| tun)
        .map_err(|error| missing("no TUN devices from /dev/net/tun", &error))?;
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

fn probe_nat() -> Result<(), Unavailable> {
    let namespace = Namespace::create(full_name(&next_lab().to_string(), "probe"), true)
        .map_err(|error| missing("no network namespaces that forward", &error))?;
    namespace
        .ip("link add veth0 type veth peer name veth1\nlink add lan type bridge\n")
        .map_err(|error| missing("no veth or bridge devices", &error))?;
    namespace.nft(&nft::everything()).map_err(|error| missing("no NAT with `nft` of nftables", &error))?;
    namespace
        .run(|| device::open("probe", Kind::Tap))
        .and_then(|tap| tap)
        .map_err(|error| missing("no TAP devices from /dev/net/tun", &error))?;
    Ok(())
}
