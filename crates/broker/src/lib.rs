//! The broker: it introduces peers and never carries their data.
//!
//! What it decides is [`tcpunch_core::rendezvous`]; here are its sockets, its links and its clock.
//!
//! ```no_run
//! # async fn example(key: tcpunch_core::identity::SecretKey) -> Result<(), tcpunch_broker::ServerError> {
//! use tcpunch_broker::{Server, ServerConfig};
//!
//! let server = Server::bind(ServerConfig::new(key)).await?;
//! let stop = std::future::pending();
//! server.run(|event| drop(event), stop).await
//! # }
//! ```

mod advertise;
mod gate;
mod knock;
mod link;
mod listen;
mod server;
mod traffic;

pub use server::{Note, Server, ServerConfig, ServerError};
pub use traffic::Traffic;
