//! The program on the host's end of a pod's veth; see bpf/pod.c.
//!
//! It is pinned in three files, so that it outlives whoever attached it, and so that whoever comes can put a socket into it:
//!
//! ```text
//!   <bpf-dir>/<veth>/prog    the program
//!   <bpf-dir>/<veth>/link    its attachment to the device; gone when the device is
//!   <bpf-dir>/<veth>/xsks    the map from receive queue to socket
//!   <bpf-dir>/<veth>/guard   the attachment of the guard, if the pod has or had a port that needs one: see [`super::guard`]
//!   <bpf-dir>/<veth>/generic an empty directory: the device could not do native mode
//! ```
//!
//! [`pin`] is idempotent, and never leaves a window: an attachment that still holds the device is kept, one of a device that is gone is
//! replaced. A pod whose port is a packet socket has the guard in the program's place: [`set_aside`] and [`put_back`] change one for the other.

use super::bpffs::{self, c_path};
use super::quick::{self, Quick};
use super::{AttachMode, XdpError, guard};
use crate::socket::Socket;
use crate::sys;
use aya::maps::{Map, MapData, XskMap};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/pod.o"));

/// Attaches the program to a veth of the calling thread's network namespace and pins it. From now on, what the pod sends is dropped unless a
/// socket reads it. Returns how it is attached; [`AttachMode::Generic`] asks for TSO and GSO off in the pod.
pub fn pin(bpf_dir: &Path, veth: &str, ifindex: u32) -> Result<AttachMode, XdpError> {
    let directory = directory(bpf_dir, veth)?;
    bpffs::ensure(bpf_dir)?;
    if directory.exists() {
        match attachment(bpf_dir, veth) {
            Ok(Some((held, mode))) if held == ifindex => return Ok(mode),
            _ => unpin(bpf_dir, veth)?,
        }
    }
    std::fs::create_dir(&directory).map_err(XdpError::file("make directory", &directory))?;
    let pinned = attach_and_pin(&directory, ifindex, |_| Ok(()));
    if pinned.is_err() {
        // The error that matters is the first one.
        let _ = unpin(bpf_dir, veth);
    }
    pinned
}

fn attach_and_pin(
    directory: &Path,
    ifindex: u32,
    fill: impl FnOnce(&mut PodMap) -> Result<(), XdpError>,
) -> Result<AttachMode, XdpError> {
    let object = Quick::read("pod", OBJECT)?;
    let map = object.map("xsks")?;
    quick::pin(&map, &directory.join("xsks"))?;
    fill(&mut open_in(directory)?)?;
    let program = object.program("xsks", map.as_fd())?;
    quick::pin(&program, &directory.join("prog"))?;
    let (link, mode) = quick::attach(&program, ifindex)?;
    if let AttachMode::Generic(_) = mode {
        let marker = directory.join("generic");
        std::fs::create_dir(&marker).map_err(XdpError::file("make directory", &marker))?;
    }
    quick::pin(&link, &directory.join("link"))?;
    Ok(mode)
}

/// Removes the pins of a veth and with them the program; fine if there are none.
pub fn unpin(bpf_dir: &Path, veth: &str) -> Result<(), XdpError> {
    let directory = directory(bpf_dir, veth)?;
    for file in ["link", "guard", "prog", "xsks"] {
        let path = directory.join(file);
        unless_not_found(std::fs::remove_file(&path)).map_err(XdpError::file("remove", &path))?;
    }
    for path in [directory.join("generic"), directory] {
        unless_not_found(std::fs::remove_dir(&path)).map_err(XdpError::file("remove directory", &path))?;
    }
    Ok(())
}

/// The names of all veths with pins, in order; none if the directory does not exist.
pub fn pinned(bpf_dir: &Path) -> Result<Vec<String>, XdpError> {
    let entries = match std::fs::read_dir(bpf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(XdpError::file("read directory", bpf_dir)(error)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(XdpError::file("read directory", bpf_dir))?;
        if entry.path().is_dir() {
            names.extend(entry.file_name().into_string().ok());
        }
    }
    names.sort();
    Ok(names)
}

/// Takes the program off a veth of the calling thread's network namespace, so that the pod has super-frames again, and leaves the guard
/// there in its place; fine if that has been done. Nothing of the pod's reaches the kernel meanwhile.
pub fn set_aside(bpf_dir: &Path, veth: &str, ifindex: u32) -> Result<(), XdpError> {
    guard::ensure(bpf_dir, veth, ifindex)?;
    let path = directory(bpf_dir, veth)?.join("link");
    unless_not_found(std::fs::remove_file(&path)).map_err(XdpError::file("remove", &path))
}

/// Puts the program back on a veth of the calling thread's network namespace, with a new map that `fill` puts sockets into before packets come;
/// where the program is, `fill` gets the map that it has. The guard stays.
pub fn put_back(
    bpf_dir: &Path,
    veth: &str,
    ifindex: u32,
    fill: impl FnOnce(&mut PodMap) -> Result<(), XdpError>,
) -> Result<(), XdpError> {
    let directory = directory(bpf_dir, veth)?;
    if directory.join("link").exists() {
        return fill(&mut open(bpf_dir, veth)?);
    }
    if !directory.is_dir() {
        return Err(XdpError::NotPinned { path: directory });
    }
    for file in ["prog", "xsks"] {
        let path = directory.join(file);
        unless_not_found(std::fs::remove_file(&path)).map_err(XdpError::file("remove", &path))?;
    }
    let marker = directory.join("generic");
    unless_not_found(std::fs::remove_dir(&marker)).map_err(XdpError::file("remove directory", &marker))?;
    attach_and_pin(&directory, ifindex, fill).map(drop)
}

/// The device that the pinned program of a veth, or the guard in its place, is attached to, and how; None if that device is gone.
pub fn attachment(bpf_dir: &Path, veth: &str) -> Result<Option<(u32, AttachMode)>, XdpError> {
    let directory = directory(bpf_dir, veth)?;
    if !directory.join("link").exists()
        && let Some(held) = guard::holds(bpf_dir, veth)?
    {
        return Ok(Some((held, AttachMode::Native)));
    }
    let path = directory.join("link");
    let not_pinned = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => XdpError::NotPinned { path: directory.clone() },
        _ => XdpError::file("open", &path)(error),
    };
    let link = open_pin(&path).map_err(not_pinned)?;
    let ifindex = link_ifindex(&link).map_err(XdpError::file("ask about", &path))?;
    let mode = if directory.join("generic").is_dir() {
        AttachMode::Generic("as it was when it was pinned".into())
    } else {
        AttachMode::Native
    };
    Ok((ifindex != 0).then_some((ifindex, mode)))
}

/// The map of a pod's veth.
pub struct PodMap(XskMap<MapData>);

/// Opens the pinned map of a veth.
pub fn open(bpf_dir: &Path, veth: &str) -> Result<PodMap, XdpError> {
    open_in(&directory(bpf_dir, veth)?)
}

fn open_in(directory: &Path) -> Result<PodMap, XdpError> {
    let path = directory.join("xsks");
    if !path.exists() {
        return Err(XdpError::NotPinned { path: directory.to_owned() });
    }
    let failed = |error: aya::maps::MapError| XdpError::map(format!("open {}", path.display()), &error);
    let data = MapData::from_pin(&path).map_err(failed)?;
    Ok(PodMap(XskMap::try_from(Map::XskMap(data)).map_err(failed)?))
}

impl PodMap {
    /// What the pod sends on a queue goes to this socket, which is bound to that queue. It leaves the map when it is closed.
    pub fn set_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), XdpError> {
        let doing = || format!("direct queue {queue} of a pod's veth to its socket");
        self.0.set(queue, socket.fd(), 0).map_err(|error| XdpError::map(doing(), &error))
    }
}

/// The directory of a veth's pins. The name comes from outside, so it must not lead anywhere else.
pub(super) fn directory(bpf_dir: &Path, veth: &str) -> Result<PathBuf, XdpError> {
    // IFNAMSIZ is 16 with the final zero; the BPF file system refuses names with dots.
    let legal = (1..=15).contains(&veth.len())
        && veth.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'.' | b':'));
    if legal { Ok(bpf_dir.join(veth)) } else { Err(XdpError::Name { name: veth.to_owned() }) }
}

pub(super) fn unless_not_found(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Opens a pinned object.
pub(super) fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct ObjGet {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let path = c_path(path)?;
    sys::owned(sys::bpf(sys::BPF_OBJ_GET, &mut ObjGet { path: path.as_ptr() as u64, fd: 0, flags: 0 })?)
}

/// The device of an XDP or tcx link; 0 when it is gone.
pub(super) fn link_ifindex(link: &OwnedFd) -> io::Result<u32> {
    /// `struct bpf_link_info`, as far as such a link fills it.
    #[repr(C)]
    #[derive(Default)]
    struct LinkInfo {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        ifindex: u32,
        rest: [u32; 11],
    }
    #[repr(C)]
    struct InfoByFd {
        fd: u32,
        len: u32,
        info: u64,
    }
    let mut info = LinkInfo::default();
    let mut request = InfoByFd {
        fd: link.as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    sys::bpf(sys::BPF_OBJ_GET_INFO_BY_FD, &mut request)?;
    Ok(info.ifindex)
}
