//! The file of a unix listener: made complete under a name beside its own and only then put in its place, never over
//! something that is not a dead socket, and removed in the end if it is still ours.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::event::Timespec;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::thread::nanosleep;
use socket2::{Domain, SockAddr, Socket, Type};

/// The longest name, in bytes, that a unix socket has until it is in its place.
pub const TEMPORARY_NAME: usize = ".ffffffff-ffff".len();

/// How often, and how far apart, the lock of a folder is tried: for a second, at start-up.
const LOCK_TRIES: usize = 1000;
const LOCK_PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

/// A socket file of ours: removed in the end, if it is still the one we made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Binds `socket` to `path`, has it listen, and only then puts its file there, with `mode`.
    pub(super) fn place(socket: &Socket, path: &Path, mode: u32, backlog: i32) -> io::Result<Self> {
        // Two daemons that find the same dead socket must not both replace it.
        let _placing = lock_folder(path)?;
        refuse_unless_free(path)?;
        let temporary = temporary_name(path)?;
        socket.bind(&SockAddr::unix(&temporary)?)?;
        let placed = fs::set_permissions(&temporary, fs::Permissions::from_mode(mode))
            .and_then(|()| socket.listen(backlog))
            .and_then(|()| fs::rename(&temporary, path))
            .and_then(|()| Self::of(path));
        if placed.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        placed
    }

    fn of(path: &Path) -> io::Result<Self> {
        let meta = fs::symlink_metadata(path)?;
        Ok(Self { path: path.into(), device: meta.dev(), inode: meta.ino() })
    }

    /// Changes who may connect. A file that is no longer ours is left alone.
    pub(super) fn set_mode(&self, mode: u32) -> io::Result<()> {
        if self.is_ours() {
            fs::set_permissions(&self.path, fs::Permissions::from_mode(mode))
        } else {
            Ok(())
        }
    }

    fn is_ours(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (self.device, self.inode))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks the folder of `path` as long as the result lives. A folder that cannot be opened or locked is used
/// without; whoever may not write there fails at the bind.
fn lock_folder(path: &Path) -> io::Result<Option<OwnedFd>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let Ok(folder) = fs::File::open(folder) else { return Ok(None) };
    for _ in 0..LOCK_TRIES {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(folder.into())),
            Err(Errno::WOULDBLOCK) => drop(nanosleep(&LOCK_PAUSE)),
            Err(_) => return Ok(None),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody else keeps the folder of this socket locked"))
}

/// A path is free if there is nothing, or a socket that nobody listens on any more.
fn refuse_unless_free(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    if !meta.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "exists and is not a socket"));
    }
    let probe = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Err(e),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody listens on this socket already")),
    }
}

/// A short name beside `path`.
fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let without =
        || io::Error::new(io::ErrorKind::InvalidInput, "the path of a unix socket needs a file name");
    path.file_name().ok_or_else(without)?;
    Ok(path.with_file_name(format!(".{:x}-{:x}", std::process::id(), fastrand::u16(..))))
}
