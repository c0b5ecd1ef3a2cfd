//! An internet whose NATs are the kernel's own (nftables): the second opinion.
//!
//! A [`Lab`] is an internet of network namespaces: every host has a TCP stack of its own, the kernel's; NATs and
//! firewalls are the kernel's too (nftables, [`KernelNat`]); delays and losses are made here. It needs Linux, root,
//! `ip` (iproute2) and `nft` (nftables); [`availability`](crate::availability()) says whether it can run, and what is missing.
//!
//! ```no_run
//! use std::time::Duration;
//! use natlab::kernel::{KernelNat, Lab, Refusal};
//!
//! # fn main() -> Result<(), natlab::Error> {
//! let lab = Lab::new()?;
//! let broker = lab.public_host("broker").delay(Duration::from_millis(10)).start()?;
//! let second_address = broker.add_ipv4()?;
//!
//! let home_a = lab.gateway("home-a", KernelNat::openwrt()).delay(Duration::from_millis(25)).start()?;
//! let alice = home_a.host("alice")?;
//!
//! let carrier = lab.gateway("carrier", KernelNat::remapping()).lan([100, 64, 0, 0].into(), 16).start()?;
//! let home_b = carrier.gateway("home-b", KernelNat::masquerade()).start()?;
//! let bob = home_b.host("bob")?;
//!
//! let mut server = broker.command("my-broker").arg("--verbose").spawn().expect("my-broker starts");
//! let status = alice.command("my-peer").arg(broker.ipv4().to_string()).status().expect("my-peer starts");
//! let listener = bob.run(|| std::net::TcpListener::bind("0.0.0.0:7000"))?;
//!
//! let syns = alice.syns_sent(|to| to.ip() != broker.ipv4())?;
//! println!("{} SYNs, {} with retransmissions", syns.first, syns.total);
//! println!("{} bytes left the house", home_a.traffic()?.bytes_out);
//! # server.kill().ok();
//! # Ok(())
//! # }
//! ```

pub(crate) mod address;
pub(crate) mod cable;
mod gateway;
mod lab;
pub(crate) mod nft;
mod node;
pub(crate) mod wire;

pub use gateway::{Gateway, GatewayBuilder};
pub use lab::Lab;
pub use nft::{KernelNat, Refusal, Translation};
pub use node::{Host, HostBuilder, Node, SentSyn, SynCount, Traffic};
