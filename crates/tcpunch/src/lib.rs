//! A direct, end-to-end encrypted TCP connection between two computers behind NATs.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = tcpunch::Endpoint::builder().broker("broker.example".parse()?).bind().await?;
//! let mut invite = endpoint.invite().await?;
//! println!("tell the other side: {}", invite.code());
//! let connection = invite.accept().await?;
//! # Ok(()) }
//! ```
//!
//! The other side:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let endpoint = tcpunch::Endpoint::builder().broker("broker.example".parse()?).bind().await?;
//! let connection = endpoint.connect("412-cobalt-hero@broker.example".parse()?).await?;
//! # Ok(()) }
//! ```

mod alarm;
mod attempt;
mod connection;
mod diagnose;
mod door;
mod endpoint;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod gather;
mod hub;
mod listener;
mod memory;
mod network;
mod port;
mod portmap;
mod registration;
mod report;
pub mod store;
pub mod stun;

pub use connection::{Connection, ConnectionHandle, Lost, PathInfo, Unencrypted};
pub use endpoint::{Builder, Endpoint, Invite, InviteNews, Lobby, LobbyNews};
pub use error::{BindError, BrokerError, ConnectError, Event, KnownFrom};
pub use port::{Families, PortError};
pub use portmap::{NoMapping, PortMapping, Portmap, Protocol};
pub use registration::{BadBroker, BrokerAddress};
pub use report::{Interface, Origin, Registered, Report};
pub use tcpunch_core::code::{Code, Verb};
pub use tcpunch_core::identity::PublicKey;
pub use tcpunch_core::plan::{Obstacle, Path};
