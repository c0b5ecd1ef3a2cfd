//! Packets in a file, as tcpdump and Wireshark read them (draft-ietf-opsawg-pcap).

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use crate::Time;

/// The file counts nanoseconds, in the byte order of this number.
const MAGIC: u32 = 0xa1b2_3c4d;
/// The packets begin with an IPv4 or IPv6 header.
const LINKTYPE_RAW: u32 = 101;
/// No packet is longer.
const SNAPSHOT_LENGTH: u32 = 65_535;

/// A file of packets.
#[derive(Debug)]
pub(crate) struct Pcap {
    file: BufWriter<File>,
}

impl Pcap {
    /// Makes the file, or empties it.
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(&MAGIC.to_le_bytes())?;
        for version in [2u16, 4] {
            file.write_all(&version.to_le_bytes())?;
        }
        for word in [0, 0, SNAPSHOT_LENGTH, LINKTYPE_RAW] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.flush()?;
        Ok(Self { file })
    }

    /// Adds a packet. It may stay in memory until [`flush`](Self::flush).
    pub(crate) fn packet(&mut self, time: Time, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        // The format has no more bits: 136 years.
        for word in [time.as_secs() as u32, time.subsec_nanos(), length, length] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(bytes)
    }

    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
