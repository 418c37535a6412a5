//! The BPF file system, where pinned programs live.
//!
//! It is mounted by whoever needs it first, at /sys/fs/bpf, in the mount namespace of the calling thread. `ip netns exec` makes a mount
//! namespace with a fresh /sys: pins made there are not seen elsewhere, so Caracal's own tools enter network namespaces with `setns` alone.

use super::XdpError;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where the BPF file system is mounted, by custom.
pub const MOUNT_POINT: &str = "/sys/fs/bpf";

const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Makes sure that `directory` exists on a BPF file system, mounting it at [`MOUNT_POINT`] if it is not.
pub fn ensure(directory: &Path) -> Result<(), XdpError> {
    let not_bpffs =
        |reason: &str| XdpError::NotBpffs { path: directory.to_owned(), reason: reason.to_owned() };
    if !directory.is_absolute() || directory.components().any(|part| part.as_os_str() == "..") {
        return Err(not_bpffs("the path must be absolute and without \"..\""));
    }
    if directory.starts_with(MOUNT_POINT) && !is_bpffs(Path::new(MOUNT_POINT)).unwrap_or(false) {
        mount_once()?;
    }
    let existing = directory.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    if !is_bpffs(existing).map_err(XdpError::file("look at", existing))? {
        return Err(not_bpffs(&format!("{} is on another one", existing.display())));
    }
    std::fs::create_dir_all(directory).map_err(XdpError::file("make directory", directory))
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    // SAFETY: plain integers; all-zero is valid.
    let mut info: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a C string and a live statfs to write to.
    crate::sys::check(unsafe { libc::statfs(path.as_ptr(), &mut info) })?;
    #[allow(clippy::unnecessary_cast, reason = "the type of f_type differs between machines")]
    Ok(info.f_type as i64 == BPF_FS_MAGIC)
}

/// A second mount would hide the first one and what is pinned there, so whoever mounts holds a lock on the directory beneath.
fn mount_once() -> Result<(), XdpError> {
    let mount_point = Path::new(MOUNT_POINT);
    let beneath = File::open(mount_point).map_err(XdpError::file("open", mount_point))?;
    beneath.lock().map_err(XdpError::file("lock", mount_point))?;
    if is_bpffs(mount_point).map_err(XdpError::file("look at", mount_point))? { Ok(()) } else { mount() }
}

fn mount() -> Result<(), XdpError> {
    let failed = |error| match error {
        XdpError::File { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => XdpError::NotBpffs {
            path: MOUNT_POINT.into(),
            reason: "this kernel has none; it needs CONFIG_BPF_SYSCALL".into(),
        },
        error => error,
    };
    // SAFETY: C strings; no data.
    let mounted = crate::sys::check(unsafe {
        libc::mount(
            c"bpf".as_ptr(),
            c"/sys/fs/bpf".as_ptr(),
            c"bpf".as_ptr(),
            0,
            c"mode=0700".as_ptr().cast(),
        )
    });
    mounted.map_err(XdpError::file("mount the BPF file system at", Path::new(MOUNT_POINT))).map_err(failed)
}

pub(super) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}
