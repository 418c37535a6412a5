//! How a pod's packets get to the fastpath and back: what an annotation, a case and the command line say.

use std::fmt;
use std::str::FromStr;

/// A kind of port of a pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PodPort {
    /// As the fastpath is configured, or as the pod's traffic asks for.
    #[default]
    Auto,
    /// AF_XDP: best for small packets.
    AfXdp,
    /// A packet socket, which carries super-frames: best for bulk TCP.
    Packet,
}

impl PodPort {
    const NAMES: [(PodPort, &str); 3] =
        [(PodPort::Auto, "auto"), (PodPort::AfXdp, "af_xdp"), (PodPort::Packet, "packet")];
}

impl fmt::Display for PodPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(port, _)| port == self).map_or("auto", |(_, name)| name);
        f.write_str(name)
    }
}

/// A text that is no kind of port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is none of auto, af_xdp and packet")]
pub struct UnknownPodPort(String);

impl FromStr for PodPort {
    type Err = UnknownPodPort;

    fn from_str(text: &str) -> Result<Self, UnknownPodPort> {
        let known = Self::NAMES.iter().find(|(_, name)| *name == text);
        known.map(|(port, _)| *port).ok_or_else(|| UnknownPodPort(text.into()))
    }
}
