//! Network namespaces: made, entered, given commands, and taken down with whatever runs in them.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::process::{self, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, PoisonError};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use nix::unistd::Pid;

use crate::Error;

/// Where `ip netns` keeps the names.
const DIRECTORY: &str = "/run/netns";
/// Every namespace of every lab is named `natlab-PID-LAB-NODE`.
const PREFIX: &str = "natlab-";

/// A request to `nfnetlink`: length 20, IPCTNL_MSG_CT_DELETE of ctnetlink without anything that would narrow it,
/// NLM_F_REQUEST and NLM_F_ACK; then the family, any.
#[cfg(target_endian = "little")]
const FORGET: [u8; 20] = [20, 0, 0, 0, 2, 1, 5, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
#[cfg(target_endian = "big")]
const FORGET: [u8; 20] = [0, 0, 0, 20, 1, 2, 0, 5, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The number of the next lab of this process, for names.
pub(crate) fn next_lab() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The name of a node's namespace.
pub(crate) fn full_name(lab: &str, node: &str) -> String {
    format!("{PREFIX}{}-{lab}-{node}", process::id())
}

/// The names of the namespaces that exist now and belong to labs of this process.
///
/// Empty once every [kernel lab](crate::kernel::Lab) or [lab of TUN devices](crate::netns) of the process is dropped.
pub fn leftovers() -> Vec<String> {
    let own = format!("{PREFIX}{}-", process::id());
    let mut names: Vec<String> = named().into_iter().filter(|name| name.starts_with(&own)).collect();
    names.sort();
    names
}

fn named() -> Vec<String> {
    let Ok(entries) = fs::read_dir(DIRECTORY) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX))
        .collect()
}

/// A namespace is known to the kernel by the device and inode of its file.
type Identity = (u64, u64);

fn identity(path: impl AsRef<Path>) -> Option<Identity> {
    let meta = fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino()))
}

/// Removes what labs of dead processes left behind, once per process and before its first namespace.
///
/// A name with our own pid can then only be that of a dead process which had the same number.
fn sweep() {
    static SWEPT: Once = Once::new();
    SWEPT.call_once(|| {
        let stale: Vec<String> = named()
            .into_iter()
            .filter(|name| {
                let pid = name
                    .strip_prefix(PREFIX)
                    .and_then(|rest| rest.split('-').next())
                    .and_then(|pid| pid.parse::<u32>().ok());
                pid.is_some_and(|pid| pid == process::id() || !Path::new(&format!("/proc/{pid}")).exists())
            })
            .collect();
        let inside: HashSet<Identity> =
            stale.iter().filter_map(|name| identity(Path::new(DIRECTORY).join(name))).collect();
        kill_inside(&inside);
        for name in stale {
            unname(&Path::new(DIRECTORY).join(name));
        }
    });
}

/// Kills, by pid, every process whose network is one of these, and waits until they have left it.
fn kill_inside(namespaces: &HashSet<Identity>) {
    // A program can fork between the look and the kill; a handful of rounds outruns any that does not mean to survive.
    for _ in 0..200 {
        let mut alive = false;
        for pid in processes_in(namespaces) {
            alive = true;
            // It may have ended by itself meanwhile.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if !alive {
            return;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn processes_in(namespaces: &HashSet<Identity>) -> Vec<i32> {
    if namespaces.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| u32::try_from(*pid) != Ok(process::id()))
        .filter(|pid| identity(format!("/proc/{pid}/ns/net")).is_some_and(|it| namespaces.contains(&it)))
        .collect()
}

fn unname(path: &Path) {
    // Both fail only if another process swept the same name first.
    let _ = umount2(path, MntFlags::MNT_DETACH);
    let _ = fs::remove_file(path);
}

/// Makes the directory of names as `ip netns` does: what is mounted in it is seen in every copy of the mount tree, such
/// as those of programs that run inside a namespace, and so can be unmounted everywhere.
fn make_directory() -> io::Result<()> {
    static MADE: Mutex<bool> = Mutex::new(false);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    if *made {
        return Ok(());
    }
    fs::create_dir_all(DIRECTORY)?;
    // Other processes do the same.
    let _lock = Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive).map_err(|(_, errno)| errno)?;
    let nothing = None::<&str>;
    let share = || mount(nothing, DIRECTORY, nothing, MsFlags::MS_SHARED | MsFlags::MS_REC, nothing);
    match share() {
        // It is no mount of its own yet.
        Err(Errno::EINVAL) => {
            mount(Some(DIRECTORY), DIRECTORY, nothing, MsFlags::MS_BIND | MsFlags::MS_REC, nothing)?;
            share()?;
        }
        shared => shared?,
    }
    *made = true;
    Ok(())
}

/// Makes a network namespace that lives as long as it has this name.
fn named_namespace(path: &Path) -> io::Result<(File, Identity)> {
    make_directory()?;
    File::create_new(path)?;
    let make = || -> io::Result<(File, Identity)> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let nothing = None::<&str>;
        mount(Some("/proc/thread-self/ns/net"), path, nothing, MsFlags::MS_BIND, nothing)?;
        let file = File::open(path)?;
        let meta = file.metadata()?;
        Ok((file, (meta.dev(), meta.ino())))
    };
    let made = thread::scope(|scope| {
        let inside = thread::Builder::new().name("natlab-namespace".into()).spawn_scoped(scope, make)?;
        inside.join().unwrap_or_else(|panic| resume_unwind(panic))
    });
    made.inspect_err(|_| unname(path))
}

/// A named network namespace.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    path: PathBuf,
    file: File,
    identity: Identity,
    removed: AtomicBool,
}

impl Namespace {
    /// Makes a namespace with its loopback up, in which IPv6 addresses are usable at once.
    ///
    /// Only routers forward.
    pub(crate) fn create(name: String, router: bool) -> Result<Self, Error> {
        let namespace = Self::make(name, router)?;
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// Like [`create`](Self::create), with its loopback down.
    pub(crate) fn make(name: String, router: bool) -> Result<Self, Error> {
        sweep();
        let path = Path::new(DIRECTORY).join(&name);
        let (file, identity) = named_namespace(&path)
            .map_err(|source| Error::io(format!("make the namespace {name}"), source))?;
        let namespace = Self { name, path, file, identity, removed: AtomicBool::new(false) };
        namespace.prepare(router)?;
        Ok(namespace)
    }

    fn prepare(&self, router: bool) -> Result<(), Error> {
        let mut settings = Vec::new();
        for which in ["all", "default"] {
            settings.push((format!("ipv4/conf/{which}/rp_filter"), "0"));
            settings.push((format!("ipv4/conf/{which}/send_redirects"), "0"));
            settings.push((format!("ipv4/conf/{which}/accept_redirects"), "0"));
            // Duplicate address detection would keep every new address unusable for a second.
            settings.push((format!("ipv6/conf/{which}/accept_dad"), "0"));
            settings.push((format!("ipv6/conf/{which}/dad_transmits"), "0"));
            settings.push((format!("ipv6/conf/{which}/accept_ra"), "0"));
            settings.push((format!("ipv6/conf/{which}/router_solicitations"), "0"));
        }
        if router {
            settings.push(("ipv4/ip_forward".into(), "1"));
            settings.push(("ipv6/conf/all/forwarding".into(), "1"));
        }
        self.run(move || {
            for (key, value) in settings {
                let path = format!("/proc/sys/net/{key}");
                if let Err(source) = fs::write(&path, value) {
                    return Err(Error::io(format!("set {path}"), source));
                }
            }
            Ok(())
        })?
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread of its own inside the namespace. A panic inside goes on in the caller.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        let file = &self.file;
        thread::scope(|scope| {
            let inside = thread::Builder::new()
                .name(self.name.clone())
                .spawn_scoped(scope, move || setns(file, CloneFlags::CLONE_NEWNET).map(|()| work()))
                .map_err(|source| Error::io("start a thread", source))?;
            match inside.join() {
                Ok(result) => result.map_err(|errno| Error::io(format!("enter {}", self.name), errno)),
                Err(panic) => resume_unwind(panic),
            }
        })
    }

    /// Starts a thread inside the namespace. It is inside before this returns.
    pub(crate) fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<T>, Error> {
        // A thread inherits the network of the thread that starts it.
        let name = self.name.clone();
        self.run(move || thread::Builder::new().name(name).spawn(work))?
            .map_err(|source| Error::io("start a thread", source))
    }

    /// A command that will run inside the namespace.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a batch of `ip` commands, one a line.
    pub(crate) fn ip(&self, batch: &str) -> Result<(), Error> {
        self.run(|| tool("ip", &["-batch", "-"], batch))??;
        Ok(())
    }

    /// Loads nftables commands.
    pub(crate) fn nft(&self, commands: &str) -> Result<(), Error> {
        self.run(|| tool("nft", &["-f", "-"], commands))??;
        Ok(())
    }

    /// Asks nftables something, answered in JSON.
    pub(crate) fn nft_json(&self, arguments: &[&str]) -> Result<serde_json::Value, Error> {
        let arguments: Vec<&str> = ["-j"].iter().chain(arguments).copied().collect();
        let answer = self.run(|| tool("nft", &arguments, ""))??;
        serde_json::from_str(&answer)
            .map_err(|error| Error::Answer { program: "nft", message: error.to_string() })
    }

    /// Makes the kernel forget every connection that it tracks here, and with it every mapping of a NAT.
    pub(crate) fn forget_connections(&self) -> Result<(), Error> {
        let forget = || -> Result<i32, Errno> {
            let kernel = socket(
                AddressFamily::Netlink,
                SockType::Raw,
                SockFlag::empty(),
                SockProtocol::NetlinkNetFilter,
            )?;
            sendto(kernel.as_raw_fd(), &FORGET, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
            let mut answer = [0; 64];
            let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::empty())?;
            // An acknowledgement: after its header of 16 bytes the negated error number, 0 for none.
            let error = answer.get(16..20).filter(|_| length >= 20).and_then(|error| error.try_into().ok());
            Ok(error.map_or(-1, i32::from_ne_bytes))
        };
        let failed = |source: io::Error| Error::io("forget tracked connections", source);
        match self.run(forget)?.map_err(|errno| failed(errno.into()))? {
            0 => Ok(()),
            negated => Err(failed(io::Error::from_raw_os_error(-negated))),
        }
    }

    /// Takes the name away and kills what runs inside. The kernel frees the namespace when its last socket closes.
    pub(crate) fn remove(&self) {
        Self::remove_all([self]);
    }

    /// Like [`remove`](Self::remove), for many with one look at the process table.
    pub(crate) fn remove_all<'a>(namespaces: impl IntoIterator<Item = &'a Self>) {
        let doomed: Vec<&Self> = namespaces
            .into_iter()
            .filter(|namespace| !namespace.removed.swap(true, Ordering::AcqRel))
            .collect();
        kill_inside(&doomed.iter().map(|namespace| namespace.identity).collect());
        for namespace in doomed {
            unname(&namespace.path);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Runs a tool to its end in the caller's namespace, and gives what it wrote.
pub(crate) fn tool(program: &'static str, arguments: &[&str], input: &str) -> Result<String, Error> {
    let failed = |source: io::Error| Error::Spawn { program, source };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that stops reading says why on its standard error.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(Error::Tool {
            program,
            // What follows are excerpts and errors that follow from the first.
            message: String::from_utf8_lossy(&output.stderr)
                .lines()
                .next()
                .unwrap_or("no reason given")
                .to_owned(),
        })
    }
}
