//! Protocols on top of a tcpunch connection: chat and pipe.
