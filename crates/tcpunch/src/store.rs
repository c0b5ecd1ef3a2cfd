//! What is kept between runs: the identity key, a broker's own key, the keys of known brokers, and what was learnt of
//! networks.
//!
//! This is the only file that touches the state directory. Files are readable by their owner alone, appear whole or not
//! at all, and outlast a power cut once a call has returned. Several processes may use one directory at once: writers
//! take turns under a lock, readers need none.
//!
//! Each file is text: a header with a version, then one entry a line, keys as lowercase hex. Lines whose first word is
//! not known are kept as they are. A file that is damaged is an error and is never replaced: whoever has lost an
//! identity or a pinned key should learn it. Only the memory of networks is started anew: it is learnt again in seconds.
//!
//! All calls block for as long as the disk takes, at most [`LOCK_PATIENCE`] of it waiting for other processes.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

mod networks;

pub use networks::NetworkMemory;

/// How long a call waits for other processes that write to the same directory, before [`StoreError::Busy`]. A writer
/// needs milliseconds, so this is only reached when one was stopped half-way.
pub const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The longest file that is read, in bytes: room for ten thousand brokers.
const MAX_FILE: u64 = 1 << 20;
/// The longest `host:port` that is kept, in bytes: a DNS name has at most 253, an IPv6 address with a zone fewer.
const MAX_BROKER_NAME: usize = 300;

const IDENTITY: FileKind = FileKind { name: "identity.key", header: "tcpunch-identity 1" };
const BROKER_KEY: FileKind = FileKind { name: "broker.key", header: "tcpunch-broker-key 1" };
const KNOWN_BROKERS: FileKind = FileKind { name: "known_brokers", header: "tcpunch-known-brokers 1" };
const NETWORKS: FileKind = FileKind { name: "networks", header: "tcpunch-networks 1" };
const LOCK: &str = "lock";

/// One kind of file in the directory: its name, and its first line.
#[derive(Clone, Copy)]
struct FileKind {
    name: &'static str,
    header: &'static str,
}

/// A secret that is kept: 32 bytes, wiped from memory when dropped and not shown by `Debug`.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct IdentitySecret([u8; 32]);

impl IdentitySecret {
    /// The 32 bytes of the X25519 secret. Copies made of them are the caller's to wipe.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for IdentitySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdentitySecret(..)")
    }
}

/// What [`Store::remember_broker`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remembered {
    /// The broker was not known; now it is.
    New,
    /// The broker is known by this key.
    Same,
    /// The broker is known by another key, which stays: it is another broker, or one that lost its key.
    Changed {
        /// The key that is kept.
        known: [u8; 32],
    },
}

/// Why the state directory could not serve. Every message names the path and what would help.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Neither `XDG_STATE_HOME` nor a home directory is known.
    #[error("no place to keep state: set HOME or XDG_STATE_HOME, or name a directory")]
    NoHome,
    /// The system refused to read or write.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source.kind()))]
    Io {
        /// What was tried, such as `write`.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file holds something else than it should. It is left as it is.
    #[error(
        "{} is damaged: {problem}; restore it from a backup, or move it away to start anew",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with the line where there is one. Never holds a secret.
        problem: String,
    },
    /// A secret file belongs to another user, and others can read it.
    #[error(
        "{} belongs to another user and can be read by others: make a copy of your own with mode 0600",
        path.display()
    )]
    Exposed {
        /// The file.
        path: PathBuf,
    },
    /// Another process holds the directory's lock for longer than [`LOCK_PATIENCE`].
    #[error("{} is held by another process: end the one that hangs", path.display())]
    Busy {
        /// The lock file.
        path: PathBuf,
    },
    /// A broker's name that cannot be kept: it must be 1 to 300 printable ASCII characters without spaces.
    #[error("{name:?} is no broker's host:port")]
    BadBrokerName {
        /// The name as it was given.
        name: String,
    },
}

/// What helps against a system's refusal, as the end of a sentence.
fn hint(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::PermissionDenied => "; make it yours, or name another directory",
        ErrorKind::ReadOnlyFilesystem => "; name a directory that can be written",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "; free some space",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => "; move the file in its way",
        ErrorKind::Unsupported => "; name a directory on a file system with locks",
        _ => "",
    }
}

/// The state of one user, on disk or in memory.
#[derive(Debug)]
pub struct Store {
    place: Place,
    /// What the user should hear of.
    notes: Mutex<Vec<String>>,
}

enum Place {
    Disk(PathBuf),
    /// The texts of the files by name, as they would be on disk.
    Memory(Mutex<BTreeMap<&'static str, Zeroizing<String>>>),
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Disk(directory) => f.debug_tuple("Disk").field(directory).finish(),
            Place::Memory(_) => f.write_str("Memory(..)"),
        }
    }
}

impl Store {
    /// The store in `dir`, or else in `$XDG_STATE_HOME/tcpunch`, or else in `~/.local/state/tcpunch`. The directory is
    /// made, for its owner alone, where it is missing. One that holds all that is asked for may be read-only.
    ///
    /// # Errors
    /// [`StoreError::NoHome`], or [`StoreError::Io`] when the directory is neither there nor can be made.
    pub fn open(dir: Option<PathBuf>) -> Result<Store, StoreError> {
        let dir = match dir {
            Some(dir) => dir,
            None => default_directory(std::env::var_os("XDG_STATE_HOME"), std::env::home_dir())?,
        };
        make_directory(&dir).map_err(failed("make the directory", &dir))?;
        Ok(Store { place: Place::Disk(dir), notes: Mutex::default() })
    }

    /// A store in memory: it touches no disk and is forgotten when dropped.
    #[must_use]
    pub fn ephemeral() -> Store {
        Store { place: Place::Memory(Mutex::default()), notes: Mutex::default() }
    }

    /// A store in memory that holds these files already.
    #[cfg(feature = "fuzz")]
    #[doc(hidden)]
    pub fn with_files(files: impl IntoIterator<Item = (&'static str, String)>) -> Store {
        let files = files.into_iter().map(|(name, text)| (name, Zeroizing::new(text))).collect();
        Store { place: Place::Memory(Mutex::new(files)), notes: Mutex::default() }
    }

    /// The text of a file of a store in memory.
    #[cfg(feature = "fuzz")]
    #[doc(hidden)]
    pub fn file(&self, name: &str) -> Option<String> {
        match &self.place {
            Place::Disk(_) => None,
            Place::Memory(files) => {
                files.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(|text| text.to_string())
            }
        }
    }

    /// The identity key. Made from `fresh` on first use; of several processes that do so at once, all get the same.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the file is there but holds no key: it is never replaced. [`StoreError::Exposed`],
    /// [`StoreError::Busy`], or [`StoreError::Io`] when it cannot be read or made.
    pub fn identity(&self, fresh: &mut impl FnMut() -> [u8; 32]) -> Result<IdentitySecret, StoreError> {
        self.secret(IDENTITY, fresh)
    }

    /// A broker's own key, made and kept like [`Store::identity`], in another file.
    ///
    /// # Errors
    /// As for [`Store::identity`].
    pub fn broker_key(&self, fresh: &mut impl FnMut() -> [u8; 32]) -> Result<IdentitySecret, StoreError> {
        self.secret(BROKER_KEY, fresh)
    }

    /// The key by which the broker at `host_port` is known. Letter case does not matter.
    ///
    /// # Errors
    /// [`StoreError::BadBrokerName`], or as for [`Store::identity`].
    pub fn known_broker(&self, host_port: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let name = broker_name(host_port)?;
        let Some(text) = self.read(KNOWN_BROKERS)? else {
            return Ok(None);
        };
        self.find_broker(&text, &name)
    }

    /// Keeps `key` for the broker at `host_port` if it is not known yet. A known key is never overwritten: whoever wants
    /// the new one takes the line out of the file at [`Store::known_brokers_path`]. Whether a broker's key is worth
    /// keeping (one on a loopback address is not) is the caller's to judge.
    ///
    /// # Errors
    /// [`StoreError::BadBrokerName`], or as for [`Store::identity`].
    pub fn remember_broker(&self, host_port: &str, key: [u8; 32]) -> Result<Remembered, StoreError> {
        let name = broker_name(host_port)?;
        let compare = |known: [u8; 32]| {
            if known == key { Remembered::Same } else { Remembered::Changed { known } }
        };
        // Without the lock first: what is known is so in a read-only directory as well.
        if let Some(known) = self.known_broker(&name)? {
            return Ok(compare(known));
        }
        self.update(KNOWN_BROKERS, |old| {
            let mut text = match old {
                Some(text) => Zeroizing::new(text.to_owned()),
                None => Zeroizing::new(format!("{}\n", KNOWN_BROKERS.header)),
            };
            if let Some(known) = self.find_broker(&text, &name)? {
                return Ok((None, compare(known)));
            }
            text.push_str(&format!("broker {name} {}\n", *hex(&key)));
            Ok((Some(text), Remembered::New))
        })
    }

    /// Whether the list of known brokers can be read. Without it every broker would be as good as the one that was known:
    /// no reason to go on in silence.
    ///
    /// # Errors
    /// As for [`Store::known_broker`].
    pub fn check_known_brokers(&self) -> Result<(), StoreError> {
        match self.read(KNOWN_BROKERS)? {
            Some(text) => {
                self.find_broker(&text, "")?;
                for (_, entry) in self.entries(KNOWN_BROKERS, &text)? {
                    if let Some((name, _)) =
                        entry.strip_prefix("broker ").and_then(|entry| entry.split_once(' '))
                    {
                        // Says which line repeats it.
                        self.find_broker(&text, name)?;
                    }
                }
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// What is remembered of the network that these bytes tell apart from others, unless that is too long ago
    /// ([`tcpunch_core::limits::NETWORK_REMEMBERED`]). A file that is damaged is told of and holds nothing.
    ///
    /// # Errors
    /// The identity, which keys the names of networks, can't be had; or [`StoreError::Io`].
    pub fn recall_network(
        &self,
        network: &[u8],
        now: SystemTime,
        fresh: &mut impl FnMut() -> [u8; 32],
    ) -> Result<Option<NetworkMemory>, StoreError> {
        // Nothing is made for the sake of looking.
        let text = match self.read(NETWORKS) {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(None),
            Err(StoreError::Damaged { problem, .. }) => {
                self.forgotten(&problem);
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let name = networks::name(self.identity(fresh)?.expose(), network);
        let known = self.networks(Some(&text)).into_iter().find(|(known, _)| *known == name);
        Ok(known.map(|(_, memory)| memory).filter(|memory| networks::counts(memory, now)))
    }

    /// Changes what is remembered of a network; `change` gets what is known of it. At most
    /// [`tcpunch_core::limits::NETWORKS_REMEMBERED`] are kept: the one that was not met for longest goes.
    ///
    /// # Errors
    /// As for [`Store::recall_network`], and [`StoreError::Busy`].
    pub fn remember_network(
        &self,
        network: &[u8],
        now: SystemTime,
        fresh: &mut impl FnMut() -> [u8; 32],
        change: impl FnOnce(Option<NetworkMemory>) -> Option<NetworkMemory>,
    ) -> Result<(), StoreError> {
        let name = networks::name(self.identity(fresh)?.expose(), network);
        self.update(NETWORKS, |old| {
            let entries = networks::changed(self.networks(old), name, now, change);
            let mut text = format!("{}\n", NETWORKS.header);
            text.extend(entries.iter().map(networks::line));
            // An unchanged file is not written again.
            Ok(((old != Some(text.as_str())).then_some(Zeroizing::new(text)), ()))
        })
    }

    /// The entries of the file with this text; none, with a word about it, where it is damaged.
    fn networks(&self, text: Option<&str>) -> Vec<(networks::NetworkName, NetworkMemory)> {
        let Some(text) = text else { return Vec::new() };
        let problem = match self.entries(NETWORKS, text).map(networks::parse) {
            Ok(Ok(entries)) => return entries,
            Ok(Err(line)) => format!("line {line} is no network"),
            Err(StoreError::Damaged { problem, .. }) => problem,
            Err(other) => other.to_string(),
        };
        self.forgotten(&problem);
        Vec::new()
    }

    fn forgotten(&self, problem: &str) {
        let path = self.path(NETWORKS.name);
        let note =
            format!("{} is damaged ({problem}): what was learnt of networks is forgotten", path.display());
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        if !notes.contains(&note) {
            notes.push(note);
        }
    }

    /// What was found on the way and put right, in words; each is told once.
    pub fn take_notes(&self) -> Vec<String> {
        std::mem::take(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The file that lists the known brokers; none in a store in memory.
    #[must_use]
    pub fn known_brokers_path(&self) -> Option<PathBuf> {
        match &self.place {
            Place::Disk(_) => Some(self.path(KNOWN_BROKERS.name)),
            Place::Memory(_) => None,
        }
    }

    fn secret(
        &self,
        kind: FileKind,
        fresh: &mut impl FnMut() -> [u8; 32],
    ) -> Result<IdentitySecret, StoreError> {
        if let Some(text) = self.read(kind)? {
            return self.parse_secret(kind, &text);
        }
        self.update(kind, |old| {
            if let Some(text) = old {
                return Ok((None, self.parse_secret(kind, text)?));
            }
            let secret = IdentitySecret(fresh());
            // A string that grows leaves unwiped copies behind.
            let mut text = Zeroizing::new(String::with_capacity(256));
            for part in [kind.header, "\nsecret ", &hex(&secret.0), "\n"] {
                text.push_str(part);
            }
            Ok((Some(text), secret))
        })
    }

    fn parse_secret(&self, kind: FileKind, text: &str) -> Result<IdentitySecret, StoreError> {
        let mut secret = None;
        for (line, entry) in self.entries(kind, text)? {
            let Some(value) = entry.strip_prefix("secret ") else {
                continue;
            };
            let key = unhex(value).ok_or_else(|| self.damaged(kind, format!("line {line} holds no key")))?;
            if secret.replace(IdentitySecret(key)).is_some() {
                return Err(self.damaged(kind, format!("line {line} is a second key")));
            }
        }
        secret.ok_or_else(|| self.damaged(kind, "it holds no key".into()))
    }

    fn find_broker(&self, text: &str, name: &str) -> Result<Option<[u8; 32]>, StoreError> {
        let mut found = None;
        for (line, entry) in self.entries(KNOWN_BROKERS, text)? {
            let Some(entry) = entry.strip_prefix("broker ") else {
                continue;
            };
            let (broker, key) =
                entry.split_once(' ').and_then(|(broker, key)| Some((broker, unhex(key)?))).ok_or_else(
                    || self.damaged(KNOWN_BROKERS, format!("line {line} is no `broker HOST:PORT KEY`")),
                )?;
            if broker.eq_ignore_ascii_case(name) && found.replace(key).is_some() {
                return Err(self.damaged(KNOWN_BROKERS, format!("line {line} repeats a broker")));
            }
        }
        Ok(found)
    }

    /// The numbered lines after the header of a file that is whole.
    fn entries<'t>(
        &self,
        kind: FileKind,
        text: &'t str,
    ) -> Result<impl Iterator<Item = (usize, &'t str)>, StoreError> {
        let body = text
            .strip_prefix(kind.header)
            .and_then(|body| body.strip_prefix('\n'))
            .ok_or_else(|| self.damaged(kind, format!("it does not begin with `{}`", kind.header)))?;
        if !body.is_empty() && !body.ends_with('\n') {
            return Err(self.damaged(kind, "its last line is cut off".into()));
        }
        if body.contains('\0') {
            return Err(self.damaged(kind, "it holds zero bytes".into()));
        }
        Ok(body.lines().enumerate().map(|(index, line)| (index + 2, line)))
    }

    fn damaged(&self, kind: FileKind, problem: String) -> StoreError {
        StoreError::Damaged { path: self.path(kind.name), problem }
    }

    /// Where the file of this name is; in memory only its name.
    fn path(&self, name: &str) -> PathBuf {
        match &self.place {
            Place::Disk(directory) => directory.join(name),
            Place::Memory(_) => PathBuf::from(name),
        }
    }

    fn read(&self, kind: FileKind) -> Result<Option<Zeroizing<String>>, StoreError> {
        match &self.place {
            Place::Disk(_) => self.read_file(kind),
            Place::Memory(files) => {
                Ok(files.lock().unwrap_or_else(PoisonError::into_inner).get(kind.name).cloned())
            }
        }
    }

    /// Gives the file's text to `edit`, alone among all processes, and replaces it by what `edit` returns, if anything.
    fn update<R>(
        &self,
        kind: FileKind,
        edit: impl FnOnce(Option<&str>) -> Result<(Option<Zeroizing<String>>, R), StoreError>,
    ) -> Result<R, StoreError> {
        match &self.place {
            Place::Disk(directory) => {
                let _lock = self.lock()?;
                let old = match self.read_file(kind) {
                    Err(StoreError::Damaged { problem, .. }) if kind.name == NETWORKS.name => {
                        self.forgotten(&problem);
                        None
                    }
                    read => read?,
                };
                let (new, result) = edit(old.as_ref().map(|text| text.as_str()))?;
                if let Some(text) = new {
                    let path = directory.join(kind.name);
                    replace(directory, &path, text.as_bytes()).map_err(failed("write", &path))?;
                }
                Ok(result)
            }
            Place::Memory(files) => {
                let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
                let (new, result) = edit(files.get(kind.name).map(|text| text.as_str()))?;
                if let Some(text) = new {
                    files.insert(kind.name, text);
                }
                Ok(result)
            }
        }
    }

    fn read_file(&self, kind: FileKind) -> Result<Option<Zeroizing<String>>, StoreError> {
        let path = self.path(kind.name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if keep_to_owner(&file, &path)? {
            let note = format!("{}: others could read this file; now only you can", path.display());
            self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(note);
        }
        // Room for a secret file at once, so that the buffer does not grow either.
        let mut bytes = Zeroizing::new(Vec::with_capacity(4096));
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(failed("read", &path))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.damaged(kind, format!("it is longer than {MAX_FILE} bytes")));
        }
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(Zeroizing::new(text.to_owned()))),
            Err(_) => Err(self.damaged(kind, "it is not text".into())),
        }
    }

    /// The directory's lock, held until the file is dropped.
    fn lock(&self) -> Result<File, StoreError> {
        let path = self.path(LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        let file = for_owner_only(&mut options).open(&path).map_err(failed("make", &path))?;
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(TryLockError::WouldBlock) => return Err(StoreError::Busy { path }),
                Err(TryLockError::Error(error)) => return Err(failed("lock", &path)(error)),
            }
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { action, path, source }
}

fn default_directory(xdg: Option<OsString>, home: Option<PathBuf>) -> Result<PathBuf, StoreError> {
    // The XDG specification has relative paths ignored.
    xdg.map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(home.filter(|path| path.is_absolute())?.join(".local/state")))
        .map(|state| state.join("tcpunch"))
        .ok_or(StoreError::NoHome)
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Puts `bytes` at `path`, whole or not at all; durable on return. The caller holds the directory's lock, so one name
/// for the new file is enough, and what a crash left there is nobody's.
fn replace(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&new, bytes).and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        // Half a secret is of no use to anyone; that it cannot be removed changes nothing about the error.
        let _ = fs::remove_file(&new);
    }
    written?;
    sync_directory(directory)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = for_owner_only(options.write(true).create_new(true)).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(unix)]
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn for_owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600)
}

#[cfg(not(unix))]
fn for_owner_only(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Takes a file away from group and others if it is ours to change; whether that was necessary.
#[cfg(unix)]
fn keep_to_owner(file: &File, path: &Path) -> Result<bool, StoreError> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let metadata = file.metadata().map_err(failed("read", path))?;
    if metadata.mode() & 0o077 == 0 {
        return Ok(false);
    }
    if metadata.uid() != nix::unistd::geteuid().as_raw() {
        return Err(StoreError::Exposed { path: path.to_owned() });
    }
    let ours = fs::Permissions::from_mode(0o600);
    file.set_permissions(ours).map_err(failed("take away from others", path))?;
    Ok(true)
}

#[cfg(not(unix))]
fn keep_to_owner(_: &File, _: &Path) -> Result<bool, StoreError> {
    Ok(false)
}

/// A broker's name as it is kept. Nothing that could end a word or a line gets into the file.
fn broker_name(host_port: &str) -> Result<String, StoreError> {
    let printable = host_port.bytes().all(|byte| byte.is_ascii_graphic());
    if host_port.is_empty() || host_port.len() > MAX_BROKER_NAME || !printable {
        return Err(StoreError::BadBrokerName { name: host_port.to_owned() });
    }
    Ok(host_port.to_ascii_lowercase())
}

fn hex(key: &[u8; 32]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(64));
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(nibble.into(), 16));
        }
    }
    text
}

/// The key that exactly 64 lowercase hex digits mean.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != 32 || !rest.is_empty() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, [high, low]) in key.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::Barrier;

    const CHILD_DIRECTORY: &str = "TCPUNCH_STORE_TEST_DIRECTORY";

    fn disk() -> (tempfile::TempDir, Store) {
        let outer = tempfile::tempdir().unwrap();
        let store = Store::open(Some(outer.path().join("a/b"))).unwrap();
        (outer, store)
    }

    fn file(store: &Store, kind: FileKind) -> String {
        fs::read_to_string(store.path(kind.name)).unwrap()
    }

    fn put(store: &Store, kind: FileKind, text: impl AsRef<[u8]>) {
        fs::write(store.path(kind.name), text).unwrap();
    }

    fn never() -> [u8; 32] {
        panic!("a key was made where one is kept")
    }

    #[test]
    fn a_key_is_made_once_and_read_ever_after() {
        let (_outer, store) = disk();
        let made = store.identity(&mut || [7; 32]).unwrap();
        assert_eq!(made.expose(), &[7; 32]);
        assert_eq!(store.identity(&mut never).unwrap(), made);
        let Place::Disk(directory) = &store.place else { panic!() };
        let again = Store::open(Some(directory.clone())).unwrap();
        assert_eq!(again.identity(&mut never).unwrap(), made);
        assert_eq!(file(&store, IDENTITY), format!("tcpunch-identity 1\nsecret {}\n", "07".repeat(32)));
        assert_eq!(store.broker_key(&mut || [8; 32]).unwrap().expose(), &[8; 32]);
        assert_eq!(store.identity(&mut never).unwrap(), made);
    }

    #[test]
    fn a_store_in_memory_remembers_until_dropped_and_shows_no_path() {
        let store = Store::ephemeral();
        assert_eq!(store.identity(&mut || [1; 32]).unwrap().expose(), &[1; 32]);
        assert_eq!(store.identity(&mut never).unwrap().expose(), &[1; 32]);
        assert_eq!(store.remember_broker("a:1", [2; 32]).unwrap(), Remembered::New);
        assert_eq!(store.remember_broker("a:1", [2; 32]).unwrap(), Remembered::Same);
        assert_eq!(store.known_broker("a:1").unwrap(), Some([2; 32]));
        assert_eq!(store.known_brokers_path(), None);
        assert_eq!(Store::ephemeral().identity(&mut || [3; 32]).unwrap().expose(), &[3; 32]);
    }

    #[test]
    fn threads_that_start_at_once_agree() {
        let outer = tempfile::tempdir().unwrap();
        let barrier = Barrier::new(16);
        let secrets: Vec<IdentitySecret> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16)
                .map(|number| {
                    let (outer, barrier) = (outer.path(), &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let store = Store::open(Some(outer.join("state"))).unwrap();
                        store.remember_broker(&format!("host{number}:1"), [number; 32]).unwrap();
                        store.identity(&mut || [number; 32]).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(secrets.windows(2).all(|pair| pair[0] == pair[1]));
        let store = Store::open(Some(outer.path().join("state"))).unwrap();
        assert_eq!(store.identity(&mut never).unwrap(), secrets[0]);
        for number in 0..16 {
            let known = store.known_broker(&format!("host{number}:1")).unwrap();
            assert_eq!(known, Some([number; 32]), "an update was lost");
        }
    }

    #[test]
    fn processes_that_start_at_once_agree() {
        let outer = tempfile::tempdir().unwrap();
        let children: Vec<_> = (0..8)
            .map(|_| {
                Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "store::tests::child", "--ignored", "--nocapture"])
                    .env(CHILD_DIRECTORY, outer.path())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let ready = |outer: &Path| {
            fs::read_dir(outer)
                .unwrap()
                .filter(|entry| entry.as_ref().unwrap().path().extension().is_some())
                .count()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while ready(outer.path()) < 8 {
            assert!(Instant::now() < deadline, "the children do not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        fs::write(outer.path().join("go"), "").unwrap();
        let answers: Vec<String> = children
            .into_iter()
            .map(|child| {
                let output = child.wait_with_output().unwrap();
                assert!(output.status.success());
                let text = String::from_utf8(output.stdout).unwrap();
                text.split_once("made=").unwrap().1.split_whitespace().next().unwrap().to_owned()
            })
            .collect();
        let store = Store::open(Some(outer.path().join("state"))).unwrap();
        let kept = hex(store.identity(&mut never).unwrap().expose());
        for answer in answers {
            assert_eq!(answer, *kept);
        }
    }

    #[test]
    #[ignore = "one of the processes of processes_that_start_at_once_agree"]
    fn child() {
        let outer = PathBuf::from(std::env::var_os(CHILD_DIRECTORY).unwrap());
        let id = std::process::id();
        fs::write(outer.join(format!("{id}.ready")), "").unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !outer.join("go").exists() {
            assert!(Instant::now() < deadline, "no word from the parent");
            std::hint::spin_loop();
        }
        let mut own = [0; 32];
        own[..4].copy_from_slice(&id.to_le_bytes());
        let store = Store::open(Some(outer.join("state"))).unwrap();
        println!("made={} ", *hex(store.identity(&mut || own).unwrap().expose()));
    }

    #[test]
    #[cfg(unix)]
    fn only_the_owner_can_read() {
        use std::os::unix::fs::PermissionsExt;
        let (_outer, store) = disk();
        store.identity(&mut || [1; 32]).unwrap();
        store.remember_broker("a:1", [1; 32]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        for name in [IDENTITY.name, KNOWN_BROKERS.name, LOCK] {
            assert_eq!(mode(&store.path(name)), 0o600, "{name}");
        }
        assert_eq!(mode(&store.path(".")), 0o700);
        let identity = store.path(IDENTITY.name);
        fs::set_permissions(&identity, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(store.take_notes().is_empty());
        store.identity(&mut never).unwrap();
        assert_eq!(mode(&identity), 0o600);
        assert!(store.take_notes()[0].contains(identity.to_str().unwrap()));
        assert!(store.take_notes().is_empty(), "told once");
    }

    /// Runs `work` without root's power over permissions: in a thread of its own, since that is a thread's property.
    #[cfg(target_os = "linux")]
    fn without_privilege<R: Send>(work: impl FnOnce() -> R + Send) -> R {
        use nix::unistd::{Uid, geteuid, setfsuid};
        let thread = move || {
            if geteuid().is_root() {
                setfsuid(Uid::from_raw(65_534));
            }
            work()
        };
        std::thread::scope(|scope| scope.spawn(thread).join().unwrap())
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_directory_that_cannot_be_written_is_an_error_that_says_so() {
        use std::os::unix::fs::PermissionsExt;
        let outer = tempfile::tempdir().unwrap();
        fs::set_permissions(outer.path(), fs::Permissions::from_mode(0o555)).unwrap();
        let store = Store::open(Some(outer.path().to_owned())).unwrap();
        let errors = without_privilege(|| {
            [
                store.identity(&mut || [1; 32]).unwrap_err(),
                store.remember_broker("a:1", [1; 32]).unwrap_err(),
                Store::open(Some(outer.path().join("deeper"))).unwrap_err(),
            ]
        });
        for error in errors {
            let text = error.to_string();
            assert!(text.contains(outer.path().to_str().unwrap()), "{text}");
            assert!(text.ends_with("make it yours, or name another directory"), "{text}");
        }
        let left = fs::read_dir(outer.path()).unwrap().count();
        assert_eq!(left, 0, "something was left behind");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_is_known_is_read_from_a_directory_that_cannot_be_written() {
        use std::os::unix::fs::PermissionsExt;
        let (_outer, store) = disk();
        store.remember_broker("a:1", [1; 32]).unwrap();
        store.identity(&mut || [2; 32]).unwrap();
        fs::remove_file(store.path(LOCK)).unwrap();
        fs::set_permissions(store.path("."), fs::Permissions::from_mode(0o500)).unwrap();
        // The owner of a directory without write permission; root would not be held by it, hence no lock file either.
        assert_eq!(store.remember_broker("a:1", [1; 32]).unwrap(), Remembered::Same);
        assert_eq!(store.identity(&mut never).unwrap().expose(), &[2; 32]);
        assert!(!store.path(LOCK).exists());
        fs::set_permissions(store.path("."), fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn a_file_where_the_directory_should_be_is_an_error_that_names_it() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("state");
        fs::write(&path, "").unwrap();
        let text = Store::open(Some(path.clone())).unwrap_err().to_string();
        assert!(text.contains(path.to_str().unwrap()) && text.contains("move the file"), "{text}");
    }

    #[test]
    fn a_damaged_key_file_is_an_error_and_stays() {
        let whole = format!("tcpunch-identity 1\nsecret {}\n", "07".repeat(32));
        let mut damaged: Vec<Vec<u8>> =
            (0..whole.len()).map(|end| whole.as_bytes()[..end].to_vec()).collect();
        damaged.push(vec![0; whole.len()]);
        damaged.push(vec![0xff; 9]);
        damaged.push(whole.replace(" 1\n", " 2\n").into_bytes());
        damaged.push(whole.replace("07", "0G").into_bytes());
        damaged.push(whole.replace("secret", "secre").into_bytes());
        damaged.push(format!("{whole}secret {}\n", "08".repeat(32)).into_bytes());
        damaged.push(format!("{whole}\0\0\n").into_bytes());
        damaged.push(format!("{whole}{}\n", "x".repeat(2 << 20)).into_bytes());
        let (_outer, store) = disk();
        for bytes in damaged {
            put(&store, IDENTITY, &bytes);
            let error = store.identity(&mut never).unwrap_err();
            assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
            let text = error.to_string();
            assert!(text.contains(store.path(IDENTITY.name).to_str().unwrap()), "{text}");
            assert!(!text.contains("0707"), "a secret in a message: {text}");
            assert_eq!(fs::read(store.path(IDENTITY.name)).unwrap(), bytes);
        }
        put(&store, IDENTITY, format!("{whole}note from a later version\n"));
        assert_eq!(store.identity(&mut never).unwrap().expose(), &[7; 32]);
    }

    #[test]
    fn a_new_file_that_a_crash_left_is_no_hindrance() {
        let (_outer, store) = disk();
        fs::write(store.path("identity.new"), "tcpunch-iden").unwrap();
        store.identity(&mut || [1; 32]).unwrap();
        assert!(!store.path("identity.new").exists());
    }

    #[test]
    fn a_lock_that_is_never_released_is_an_error_that_names_it() {
        let (_outer, store) = disk();
        let held = store.lock().unwrap();
        let error = store.identity(&mut || [1; 32]).unwrap_err();
        assert!(matches!(&error, StoreError::Busy { path } if *path == store.path(LOCK)), "{error}");
        drop(held);
        store.identity(&mut || [1; 32]).unwrap();
    }

    #[test]
    fn a_changed_key_never_overwrites() {
        let (_outer, store) = disk();
        assert_eq!(store.known_broker("Host:7766").unwrap(), None);
        assert_eq!(store.remember_broker("Host:7766", [1; 32]).unwrap(), Remembered::New);
        assert_eq!(store.remember_broker("host:7767", [3; 32]).unwrap(), Remembered::New);
        let before = file(&store, KNOWN_BROKERS);
        let changed = Remembered::Changed { known: [1; 32] };
        assert_eq!(store.remember_broker("hOST:7766", [2; 32]).unwrap(), changed);
        assert_eq!(store.known_broker("host:7766").unwrap(), Some([1; 32]));
        assert_eq!(file(&store, KNOWN_BROKERS), before);
        assert_eq!(store.known_brokers_path(), Some(store.path(KNOWN_BROKERS.name)));
    }

    #[test]
    fn a_damaged_list_of_brokers_is_an_error_and_stays() {
        let (_outer, store) = disk();
        let header = KNOWN_BROKERS.header;
        let key = "07".repeat(32);
        for text in [
            String::new(),
            format!("{header}\nbroker a:1 {key}"),
            format!("{header}\nbroker a:1 {}\n", &key[1..]),
            format!("{header}\nbroker {key}\n"),
            format!("{header}\nbroker a:1 {key} more\n"),
            format!("{header}\nbroker a:1 {key}\nbroker A:1 {}\n", "08".repeat(32)),
        ] {
            put(&store, KNOWN_BROKERS, &text);
            for error in [
                store.known_broker("a:1").unwrap_err(),
                store.remember_broker("a:1", [7; 32]).unwrap_err(),
                store.check_known_brokers().unwrap_err(),
            ] {
                assert!(matches!(error, StoreError::Damaged { .. }), "{text:?}: {error:?}");
            }
            assert_eq!(file(&store, KNOWN_BROKERS), text);
        }
    }

    const HOME: &[u8] = b"gateway 192.168.1.1";

    fn day(number: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + number * 86_400)
    }

    fn at_home(learnt: SystemTime) -> NetworkMemory {
        let profile = tcpunch_core::profile::NatProfile { translated: Some(true), ..Default::default() };
        let worked = Some(tcpunch_core::plan::Path::Punched);
        NetworkMemory { profile, learnt, worked, connected: 3, failed: 1 }
    }

    fn recalled(store: &Store, network: &[u8], now: SystemTime) -> Option<NetworkMemory> {
        store.recall_network(network, now, &mut || [7; 32]).unwrap()
    }

    fn remember(store: &Store, network: &[u8], memory: NetworkMemory) {
        store.remember_network(network, memory.learnt, &mut || [7; 32], |_| Some(memory)).unwrap();
    }

    #[test]
    fn a_network_is_remembered_for_thirty_days_and_its_file_does_not_name_it() {
        let (_outer, store) = disk();
        assert_eq!(recalled(&store, HOME, day(0)), None);
        assert!(!store.path(IDENTITY.name).exists(), "looking makes nothing");
        remember(&store, HOME, at_home(day(0)));
        assert_eq!(recalled(&store, HOME, day(29)), Some(at_home(day(0))));
        assert_eq!(recalled(&store, b"gateway 10.0.0.1", day(0)), None);
        assert_eq!(recalled(&store, HOME, day(30)), None, "too long ago");
        assert_eq!(recalled(&store, HOME, SystemTime::UNIX_EPOCH), None, "learnt in the future");
        let text = file(&store, NETWORKS);
        assert!(text.starts_with("tcpunch-networks 1\nnetwork ") && !text.contains("192.168"), "{text}");
        // Another user's hash of the same network is another one.
        let (_outer, other) = disk();
        other.remember_network(HOME, day(0), &mut || [8; 32], |_| Some(at_home(day(0)))).unwrap();
        assert_ne!(file(&other, NETWORKS), text);
    }

    #[test]
    fn of_many_networks_the_one_not_met_for_longest_goes() {
        let (_outer, store) = disk();
        let network = |number: usize| format!("gateway {number}").into_bytes();
        for number in 0..64 {
            remember(&store, &network(number), at_home(day(0)));
        }
        // Met once more.
        remember(&store, &network(0), at_home(day(1)));
        remember(&store, &network(64), at_home(day(1)));
        assert_eq!(recalled(&store, &network(1), day(1)), None);
        assert!(recalled(&store, &network(0), day(1)).is_some());
        assert_eq!(file(&store, NETWORKS).lines().count(), 65);
        // Those that are too old go with the next change.
        remember(&store, HOME, at_home(day(30)));
        assert_eq!(file(&store, NETWORKS).lines().count(), 4);
    }

    #[test]
    fn a_damaged_memory_of_networks_is_told_and_started_anew() {
        let (_outer, store) = disk();
        remember(&store, HOME, at_home(day(0)));
        let whole = file(&store, NETWORKS);
        let mut damaged: Vec<Vec<u8>> = vec![vec![0xff; 9], vec![0; 90], whole.repeat(20_000).into_bytes()];
        damaged.push(whole.replace(" 1\n", " 2\n").into_bytes());
        damaged.push(whole.replace("punched", "teleported").into_bytes());
        damaged.push(whole.trim_end().as_bytes().to_vec());
        damaged.push(whole.replace("punched 3 1", "punched 3").into_bytes());
        for bytes in damaged {
            put(&store, NETWORKS, &bytes);
            assert_eq!(recalled(&store, HOME, day(0)), None);
            let notes = store.take_notes();
            assert!(notes.len() == 1 && notes[0].contains("networks is damaged"), "{notes:?}");
            assert_eq!(fs::read(store.path(NETWORKS.name)).unwrap(), bytes, "looking changes nothing");
            remember(&store, HOME, at_home(day(0)));
            assert_eq!(file(&store, NETWORKS), whole);
            store.take_notes();
        }
    }

    #[test]
    fn a_store_in_memory_remembers_networks_until_dropped() {
        let store = Store::ephemeral();
        remember(&store, HOME, at_home(day(0)));
        assert_eq!(recalled(&store, HOME, day(1)), Some(at_home(day(0))));
        assert_eq!(recalled(&Store::ephemeral(), HOME, day(1)), None);
    }

    #[test]
    fn lines_of_later_versions_are_kept() {
        let (_outer, store) = disk();
        let old = format!("{}\n# mine\nseen a:1 2031\n\n", KNOWN_BROKERS.header);
        put(&store, KNOWN_BROKERS, &old);
        store.remember_broker("a:1", [7; 32]).unwrap();
        let expected = format!("{old}broker a:1 {}\n", "07".repeat(32));
        assert_eq!(file(&store, KNOWN_BROKERS), expected);
    }

    #[test]
    fn no_name_brings_in_a_line_or_a_word() {
        let (_outer, store) = disk();
        let long = "x".repeat(MAX_BROKER_NAME + 1);
        let injected = format!("a:1 {}\nbroker b:1", "07".repeat(32));
        for name in [
            "",
            "a b:1",
            "a\n:1",
            "a\r:1",
            "a\t:1",
            "a\0:1",
            "\u{a0}:1",
            "\u{2028}:1",
            "é:1",
            &long,
            &injected,
        ] {
            let bad = |error| assert!(matches!(error, StoreError::BadBrokerName { .. }), "{error:?}");
            bad(store.remember_broker(name, [1; 32]).unwrap_err());
            bad(store.known_broker(name).unwrap_err());
        }
        assert!(!store.path(KNOWN_BROKERS.name).exists());
        let shown = store.known_broker("a\u{1b}[2J:1").unwrap_err().to_string();
        assert!(!shown.contains('\u{1b}'), "{shown}");
        for name in ["[fe80::1%eth0]:7766", "192.0.2.1:1", "#a:1", "broker:1"] {
            assert_eq!(store.remember_broker(name, [1; 32]).unwrap(), Remembered::New);
            assert_eq!(store.known_broker(name).unwrap(), Some([1; 32]), "{name}");
        }
    }

    #[test]
    fn the_default_directory_follows_the_xdg_specification() {
        let with = |xdg: Option<&str>, home: Option<&str>| {
            default_directory(xdg.map(OsString::from), home.map(PathBuf::from)).ok()
        };
        assert_eq!(with(Some("/x"), Some("/h")), Some("/x/tcpunch".into()));
        assert_eq!(with(Some("x"), Some("/h")), Some("/h/.local/state/tcpunch".into()));
        assert_eq!(with(Some(""), Some("/h")), Some("/h/.local/state/tcpunch".into()));
        assert_eq!(with(None, Some("")), None);
        assert_eq!(with(None, None), None);
    }

    #[test]
    fn debug_shows_no_secret() {
        let store = Store::ephemeral();
        let secret = store.identity(&mut || [0xab; 32]).unwrap();
        let shown = format!("{store:?} {secret:?}");
        assert_eq!(
            shown,
            "Store { place: Memory(..), notes: Mutex { data: [], poisoned: false, .. } } IdentitySecret(..)"
        );
    }

    #[test]
    fn a_full_disk_says_what_helps() {
        let error = failed("write", Path::new("/s/identity.key"))(ErrorKind::StorageFull.into());
        assert_eq!(error.to_string(), "cannot write /s/identity.key: no storage space; free some space");
    }
}
