//! Who connects with whom: scenarios, run in simulation and on real kernels.
//!
//! A [`Scenario`] is two peers in two networks and a broker. The same scenario runs in virtual time, with the puncher, the
//! plan and the rendezvous of `tcpunch-core` on simulated hosts; on real kernels through user-space NATs; and through the
//! kernel's own NATs, where these have the knobs.

pub mod chance;
pub mod conformance;
pub mod draw;
mod least;
pub mod nftables;
mod pool;
pub mod population;
mod real;
pub mod report;
pub mod rows;
mod scenario;
pub mod sim;
pub mod table;
pub mod userspace;

pub use least::least_time;
pub use pool::each;
pub use scenario::{Arrangement, Network, Outcome, Report, Scenario, Side, Verdict};
