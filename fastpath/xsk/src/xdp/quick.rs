//! The pod program, loaded and attached without aya.
//!
//! aya reads all of the kernel's type information (tens of megabytes in memory, over ten milliseconds), and tries what the kernel can, by a
//! dozen programs and maps, before it loads or attaches anything. A process that lives long does not notice; a CNI plugin is a process for each
//! pod, many of them start at once, and the kernel loads one program at a time.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya_obj::Object;

use super::bpffs::c_path;
use super::device_bound::{self, DRIVER_MODE, GENERIC_MODE, HAS_FRAGS, Load};
use super::{AttachMode, XdpError, attach_failed};
use crate::sys;

/// An object that has been read: one map, one program.
pub(super) struct Quick {
    object: Object,
    name: &'static str,
}

/// `union bpf_attr`, as BPF_MAP_CREATE has it.
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

/// As BPF_OBJ_PIN has it.
#[repr(C)]
struct ObjPin {
    path: u64,
    fd: u32,
    flags: u32,
}

impl Quick {
    /// Reads an object.
    pub(super) fn read(name: &'static str, bytes: &[u8]) -> Result<Self, XdpError> {
        let object = Object::parse(bytes).map_err(|error| failed("read", name, error.to_string()))?;
        Ok(Self { object, name })
    }

    /// Makes the map.
    pub(super) fn map(&self, map: &str) -> Result<OwnedFd, XdpError> {
        let absent = || failed("find the map of", self.name, format!("no map {map}"));
        let definition = self.object.maps.get(map).ok_or_else(absent)?;
        let mut request = MapCreate {
            kind: definition.map_type(),
            key_size: definition.key_size(),
            value_size: definition.value_size(),
            max_entries: definition.max_entries(),
            flags: definition.map_flags(),
        };
        let made = sys::bpf(sys::BPF_MAP_CREATE, &mut request).and_then(sys::owned);
        made.map_err(|error| failed("make the map of", self.name, error.to_string()))
    }

    /// Loads the program with that map.
    pub(super) fn program(mut self, map: &str, fd: BorrowedFd<'_>) -> Result<OwnedFd, XdpError> {
        let failed = |reason: String| failed("load", self.name, reason);
        let definition = self.object.maps.get(map).cloned().ok_or_else(|| failed(format!("no map {map}")))?;
        let text: HashSet<usize> = self.object.functions.keys().map(|(section, _)| *section).collect();
        let maps = [(map, fd.as_raw_fd(), &definition)];
        self.object.relocate_maps(maps.into_iter(), &text).map_err(|error| failed(error.to_string()))?;
        let program = self.object.programs.get(self.name).ok_or_else(|| failed("no such program".into()))?;
        let code = self.object.functions.get(&program.function_key());
        let code = code.ok_or_else(|| failed("a program without code".into()))?;
        let load = Load { name: self.name, flags: HAS_FRAGS, ifindex: 0 };
        load.run(&code.instructions, &program.license).map_err(failed)
    }
}

fn failed(doing: &str, name: &str, reason: String) -> XdpError {
    XdpError::Load { doing: format!("{doing} the {name} XDP program"), reason }
}

/// Attaches a program to a device of the calling thread's network namespace: in native mode, or in generic if the device cannot.
pub(super) fn attach(program: &OwnedFd, ifindex: u32) -> Result<(OwnedFd, AttachMode), XdpError> {
    let attach = |mode| {
        let link = device_bound::attach(program, ifindex, mode);
        link.map_err(|error| match error.raw_os_error() {
            // Of a device that is not there the kernel says the same as of a program that it does not like.
            Some(libc::EINVAL) if !sys::is_device(ifindex) => XdpError::NoDevice { ifindex },
            _ => attach_failed(ifindex, &error),
        })
    };
    match attach(DRIVER_MODE) {
        Ok(link) => Ok((link, AttachMode::Native)),
        Err(XdpError::Attach { reason, .. }) => {
            attach(GENERIC_MODE).map(|link| (link, AttachMode::Generic(reason)))
        }
        Err(error) => Err(error),
    }
}

/// Keeps a map, a program or a link in the BPF file system.
pub(super) fn pin(fd: &OwnedFd, path: &Path) -> Result<(), XdpError> {
    let pinned = || -> io::Result<()> {
        let path = c_path(path)?;
        let mut request = ObjPin { path: path.as_ptr() as u64, fd: fd.as_fd().as_raw_fd() as u32, flags: 0 };
        sys::bpf(sys::BPF_OBJ_PIN, &mut request).map(drop)
    };
    pinned().map_err(XdpError::file("pin", path))
}
