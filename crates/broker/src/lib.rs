//! The broker: it introduces peers and never carries their data.
