//! Network namespaces as files, the way `ip netns` keeps them, so that `ip netns exec` finds them.
//!
//! A namespace belongs to threads, not to processes. Hence the one rule here: a thread that enters another namespace does nothing else
//! afterwards and ends; it never goes back to serve others.

use std::{
    fs, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    path::{Path, PathBuf},
    thread,
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Where `ip netns` keeps namespaces.
pub const DIRECTORY: &str = "/var/run/netns";

/// What could not be done with a namespace, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} the network namespace {}: {source}", .path.display())]
pub struct NetnsError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl NetnsError {
    fn new(doing: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self { doing, path: path.to_owned(), source: source.into() }
    }
}

/// The file of the namespace of that name.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes a namespace and the file that keeps it.
///
/// # Errors
/// The name is taken, or this is not root.
pub fn create(path: &Path) -> Result<(), NetnsError> {
    let fail = |source: io::Error| NetnsError::new("make", path, source);
    share_directory(path.parent().unwrap_or(Path::new(DIRECTORY))).map_err(fail)?;
    fs::File::create_new(path).map_err(fail)?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        mount(Some("/proc/thread-self/ns/net"), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)
    });
    made.map_err(|errno| {
        // The file is ours and empty; when it stays, removing the namespace by name takes it away.
        let _ = fs::remove_file(path);
        fail(errno.into())
    })
}

/// Removes a namespace's file. The namespace and its links go when nothing uses it any more. No such file: nothing to do.
///
/// # Errors
/// The kernel refuses.
pub fn remove(path: &Path) -> Result<(), NetnsError> {
    // EINVAL: the file is there, but nothing is mounted on it (its maker was killed half-way).
    match umount2(path, MntFlags::MNT_DETACH) {
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(errno) => return Err(NetnsError::new("unmount", path, errno)),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NetnsError::new("remove", path, error)),
        _ => Ok(()),
    }
}

/// Opens a namespace, to name it to the kernel or to [`enter`] it.
///
/// # Errors
/// There is none.
pub fn open(path: &Path) -> Result<fs::File, NetnsError> {
    fs::File::open(path).map_err(|error| NetnsError::new("open", path, error))
}

/// Moves the calling thread into a namespace, for the rest of its life.
///
/// # Errors
/// `netns` is none, or this is not root.
pub fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    Ok(setns(netns, CloneFlags::CLONE_NEWNET)?)
}

/// Runs `work` inside a namespace, on a thread of its own, and waits for it.
///
/// # Errors
/// The namespace cannot be entered.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let netns = open(path)?;
    on_own_thread(|| enter(netns.as_fd()).map(|()| work()))
        .map_err(|error| NetnsError::new("enter", path, error))
}

/// Gives the calling thread a mount namespace of its own, in which `/sys` shows the devices of the thread's network namespace, as
/// `ip netns exec` does. Of what is mounted below the machine's `/sys`, BPF file systems and control groups stay where they are. The thread
/// never goes back, so call it [`within`] a namespace, for what the thread starts.
///
/// # Errors
/// The kernel refuses; then the thread may already be in a mount namespace of its own.
pub fn own_sysfs() -> io::Result<()> {
    const SYS: &str = "/sys";
    const KEPT: [&str; 2] = ["/sys/fs/bpf", "/sys/fs/cgroup"];
    unshare(CloneFlags::CLONE_NEWNS)?;
    // What is mounted here stays here; what the machine mounts still arrives.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_SLAVE | MsFlags::MS_REC, None::<&str>)?;
    let kept: Vec<(&str, fs::File)> =
        KEPT.into_iter().filter_map(|path| Some((path, fs::File::open(path).ok()?))).collect();
    mount(Some("sysfs"), SYS, Some("sysfs"), MsFlags::empty(), None::<&str>)?;
    for (path, directory) in kept {
        let source = format!("/proc/self/fd/{}", directory.as_raw_fd());
        mount(Some(&*source), path, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    }
    Ok(())
}

/// Sets `net.<key>` (with slashes) of the calling thread's namespace.
///
/// # Errors
/// There is no such setting, or the kernel does not take the value.
pub fn set_sysctl(key: &str, value: &str) -> io::Result<()> {
    fs::write(Path::new("/proc/sys/net").join(key), value)
}

fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| match scope.spawn(work).join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Makes `directory` a mount point that is shared with other mount namespaces, as `ip netns` does before it adds its first namespace. If
/// it did so after us, it would cover our mounts with copies of theirs, and removing one would leave the other.
fn share_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let share =
        || mount(None::<&str>, directory, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>);
    match share() {
        // Not a mount point yet.
        Err(nix::Error::EINVAL) => {
            mount(
                Some(directory),
                directory,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )?;
            Ok(share()?)
        }
        result => Ok(result?),
    }
}
