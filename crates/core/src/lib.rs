//! What decides in tcpunch: the puncher, the broker's rendezvous, the wire and the cryptography, without clock or socket.

pub mod sanitize;
