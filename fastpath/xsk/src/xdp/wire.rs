//! The pod program (bpf/pod.c) on a device that this process owns for a while: all that the device receives goes to
//! this process, and nothing is pinned, so the device is the kernel's again when the process ends.

use super::pod::OBJECT;
use super::{AttachMode, Preference, XdpError, attach, load_object, program};
use crate::socket::Socket;
use aya::maps::{MapData, XskMap};
use aya::programs::links::FdLink;

/// One end of a wire. Dropping it detaches.
pub struct WireEnd {
    _link: FdLink,
    mode: AttachMode,
    sockets: XskMap<MapData>,
}

impl WireEnd {
    /// Attaches the program to a device of the calling thread's network namespace. What comes before there is a socket
    /// is dropped.
    pub fn attach(ifindex: u32, preference: Preference) -> Result<Self, XdpError> {
        let mut ebpf = load_object("pod", OBJECT)?;
        let doing = || "find map xsks".to_owned();
        let missing = || XdpError::Load { doing: doing(), reason: "not in its object".into() };
        let map = ebpf.take_map("xsks").ok_or_else(missing)?;
        let sockets = XskMap::try_from(map).map_err(|error| XdpError::load("pod", &error))?;
        let (link, mode) = attach(program(&mut ebpf, "pod")?, ifindex, preference)?;
        Ok(Self { _link: link, mode, sockets })
    }

    /// How it is attached.
    pub fn mode(&self) -> &AttachMode {
        &self.mode
    }

    /// What comes by a receive queue goes to this socket, which is bound to that queue.
    pub fn set_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), XdpError> {
        let doing = || format!("direct queue {queue} of the device to its socket");
        self.sockets.set(queue, socket.fd(), 0).map_err(|error| XdpError::map(doing(), &error))
    }
}
