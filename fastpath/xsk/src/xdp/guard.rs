//! The guard on the host's end of a pod's veth whose port is a packet socket; see bpf/guard.c.
//!
//! ```text
//!   pod sends ─► veth ─┬─ pod program attached: redirected to an AF_XDP socket, or dropped; nothing else sees it
//!                      └─ none: a copy to the packet socket, if there is one ─► guard: dropped
//! ```
//!
//! Its link is pinned beside the pod program's pins, as `<bpf-dir>/<veth>/guard`. Whoever takes the pod program off a veth sees first that
//! the guard is on it ([`super::pod::set_aside`]); once made it stays as long as the veth, also under the pod program, where it sees nothing.

use super::pod::{directory, open_pin};
use super::{XdpError, os_error, read_object, whole_story};
use aya::programs::links::FdLink;
use aya::programs::tc::TcAttachOptions;
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use std::io;
use std::path::Path;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/guard.o"));

/// Puts the guard on a veth of the calling thread's network namespace and pins it; fine if it is there. The directory of the veth's pins exists.
pub fn ensure(bpf_dir: &Path, veth: &str, ifindex: u32) -> Result<(), XdpError> {
    if holds(bpf_dir, veth)? == Some(ifindex) {
        return Ok(());
    }
    let directory = directory(bpf_dir, veth)?;
    if !directory.is_dir() {
        return Err(XdpError::NotPinned { path: directory });
    }
    let path = directory.join("guard");
    super::pod::unless_not_found(std::fs::remove_file(&path)).map_err(XdpError::file("remove", &path))?;
    let mut ebpf = read_object("guard", OBJECT)?;
    let failed = |error: &(dyn std::error::Error + 'static)| match os_error(error) {
        Some(libc::ENODEV) => XdpError::NoDevice { ifindex },
        Some(libc::EPERM) => {
            XdpError::NotPermitted { doing: format!("attach the guard to device {ifindex}") }
        }
        Some(libc::EINVAL) => XdpError::Attach {
            ifindex,
            reason: "the kernel has no links for tcx (Linux 6.6), which guard a packet socket".into(),
        },
        _ => XdpError::Attach { ifindex, reason: whole_story(error) },
    };
    let program: &mut SchedClassifier =
        ebpf.program_mut("guard").and_then(|program| program.try_into().ok()).ok_or_else(|| {
            XdpError::Load { doing: "find the guard program".into(), reason: "not in its object".into() }
        })?;
    program.load().map_err(|error| XdpError::load("guard", &error))?;
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id =
        program.attach_with_options(veth, TcAttachType::Ingress, options).map_err(|error| failed(&error))?;
    let link = program.take_link(id).map_err(|error| failed(&error))?;
    let link = FdLink::try_from(link).map_err(|error| failed(&error))?;
    link.pin(&path).map_err(|error| XdpError::map(format!("pin {}", path.display()), &error))?;
    Ok(())
}

/// The device that a veth's guard is on; none if there is no guard, or that device is gone.
pub fn holds(bpf_dir: &Path, veth: &str) -> Result<Option<u32>, XdpError> {
    let path = directory(bpf_dir, veth)?.join("guard");
    let link = match open_pin(&path) {
        Ok(link) => link,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(XdpError::file("open", &path)(error)),
    };
    let ifindex = super::pod::link_ifindex(&link).map_err(XdpError::file("ask about", &path))?;
    Ok((ifindex != 0).then_some(ifindex))
}
