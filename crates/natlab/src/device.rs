//! TAP and TUN devices, and being on time for them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;

use nix::libc;

use crate::Error;

/// What a device carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

/// A device of the calling thread's network namespace; it exists as long as the file. Reading does not wait.
pub(crate) fn open(name: &str, kind: Kind) -> Result<File, Error> {
    let failed = |source: io::Error| Error::io(format!("make the device {name}"), source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")
        .map_err(failed)?;
    let flag = match kind {
        Kind::Tap => libc::IFF_TAP,
        Kind::Tun => libc::IFF_TUN,
    };
    system::attach(&file, name, flag | libc::IFF_NO_PI).map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

/// Makes the calling thread one that is woken when it asked for it.
///
/// Without this the kernel lets a sleep end 50 µs late, and when all CPUs are busy what comes would wait for one, some
/// milliseconds. Where it may not, it is served as others are.
pub(crate) fn be_on_time() {
    let _ = nix::sys::prctl::set_timerslack(1);
    system::be_first();
}

mod system {
    // Neither call has a safe wrapper in nix.
    #![allow(unsafe_code)]

    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    use nix::errno::Errno;
    use nix::libc;

    nix::ioctl_write_ptr_bad!(
        /// The request number says `int`, the kernel reads an `ifreq`.
        tun_set_iff,
        nix::request_code_write!(b'T', 202, size_of::<libc::c_int>()),
        libc::ifreq
    );

    pub(super) fn attach(file: &File, name: &str, flags: libc::c_int) -> Result<(), Errno> {
        let mut ifr_name = [0; libc::IFNAMSIZ];
        if name.len() >= ifr_name.len() {
            return Err(Errno::ENAMETOOLONG);
        }
        for (to, from) in ifr_name.iter_mut().zip(name.bytes()) {
            *to = libc::c_char::from_ne_bytes([from]);
        }
        let request = libc::ifreq {
            ifr_name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_flags: libc::c_short::try_from(flags).map_err(|_| Errno::EINVAL)?,
            },
        };
        // SAFETY: the descriptor is open for the whole call, and the kernel only reads and writes the `ifreq`, which
        // outlives the call.
        unsafe { tun_set_iff(file.as_raw_fd(), &request) }.map(drop)
    }

    /// Gives the calling thread the lowest of the real-time priorities.
    pub(super) fn be_first() {
        // SAFETY: all zeros is a value of this plain structure, and the call reads it and keeps nothing.
        unsafe {
            let mut parameters: libc::sched_param = std::mem::zeroed();
            parameters.sched_priority = 1;
            libc::pthread_setschedparam(libc::pthread_self(), libc::SCHED_FIFO, &raw const parameters);
        }
    }
}
