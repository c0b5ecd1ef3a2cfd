//! A name for the broker that means something to one thread alone.

use std::fmt::Write as _;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// The broker's name.
pub(crate) const BROKER: &str = "broker.example";
const HOSTS: &str = "/etc/hosts";

/// Lets [`BROKER`] mean these addresses in this thread, and in those that it starts from now on.
///
/// It gets a view of its own of the file system, in which another file stands in the place of the table of hosts.
pub(crate) fn mean(addresses: &[IpAddr]) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let own = Own(std::env::temp_dir().join(format!("tcpunch-hosts-{}-{number}", std::process::id())));
    let mut table = String::from("127.0.0.1 localhost\n");
    for address in addresses {
        // Writing to a String can't fail.
        let _ = writeln!(table, "{address} {BROKER}");
    }
    std::fs::write(&own.0, table)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What others unmount is to be gone here too, and nothing of this is to be seen by them.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    mount(Some(&own.0), HOSTS, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// A file that is gone when this is: the mount keeps its contents.
struct Own(PathBuf);

impl Drop for Own {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
