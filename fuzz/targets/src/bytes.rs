//! Reads an input from its front, so that a longer one goes on where a shorter one ended.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As many bytes as there are, up to `most`.
    pub(crate) fn take(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Zeros stand for what is not there.
    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.array())
    }

    pub(crate) fn yes(&mut self) -> bool {
        self.u8().is_multiple_of(2)
    }

    pub(crate) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.u8()) % choices.len()].clone()
    }

    /// A piece with its length before it.
    pub(crate) fn piece(&mut self) -> &'a [u8] {
        let length = usize::from(self.u16());
        self.take(length)
    }

    /// Any address; those that decide something are more frequent than chance would have them.
    pub(crate) fn address(&mut self) -> SocketAddr {
        let kind = self.u8();
        let ip = match kind % 8 {
            0 => Ipv6Addr::from(self.array()).into(),
            1 => Ipv4Addr::from(self.array()).to_ipv6_mapped().into(),
            2 => Ipv4Addr::new(127, 0, 0, self.u8()).into(),
            3 => Ipv4Addr::new(192, 168, 1, self.u8()).into(),
            4 => Ipv4Addr::new(198, 51, 100, self.u8()).into(),
            5 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.u8().into()).into(),
            6 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.u8().into()).into(),
            _ => Ipv4Addr::from(self.array()).into(),
        };
        SocketAddr::new(ip, self.u16())
    }
}
