//! What follows from what an interface can do. Pure: an [`Interface`] and the flags in, choices with their reasons out.

use caracal_wire::ethernet;
use caracal_xsk::xdp::AttachMode;

use super::place::Cpus;
use super::{Interface, Tried};
use crate::controller::ports::FrameShares;

/// The flags that matter, as the fastpath would have them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `--workers`, or as many as `--cpus`.
    pub workers: usize,
    /// `--chunks`.
    pub chunks: u32,
    /// `--chunk-size`.
    pub chunk_size: u16,
    /// `--uplink-ring`.
    pub uplink_ring: u32,
}

/// One choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// What is chosen.
    pub what: &'static str,
    /// What it is.
    pub choice: String,
    /// Why.
    pub why: String,
    /// Something that costs, or that the operator had better change.
    pub warns: bool,
}

fn choice(what: &'static str, choice: impl Into<String>, why: impl Into<String>) -> Choice {
    Choice { what, choice: choice.into(), why: why.into(), warns: false }
}

fn warning(what: &'static str, chosen: impl Into<String>, why: impl Into<String>) -> Choice {
    Choice { warns: true, ..choice(what, chosen, why) }
}

/// Bytes that the kernel keeps before a received packet, in each frame.
const KERNEL_HEADROOM: u32 = caracal_xsk::KERNEL_HEADROOM as u32;

/// What the fastpath would do with an interface as an uplink, and why.
#[must_use]
pub fn advise(interface: &Interface, tried: Option<&Tried>, settings: Settings, cpus: &Cpus) -> Vec<Choice> {
    if !interface.ethernet {
        return vec![warning("uplink", "no", "its packets have no Ethernet header")];
    }
    let chunk_size = settings.chunk_size;
    let mut advice = vec![program(interface, tried), socket(interface, tried, chunk_size)];
    advice.extend([
        tx_checksum(interface, tried, chunk_size),
        rx_vlan(interface),
        choice(
            "RX hash",
            "not used",
            "flows have their own hash, over other fields and the same in both directions; a device's would save nothing",
        ),
        frames(interface, settings),
        queues(interface, settings),
        rings(interface, settings),
        placement(interface, settings, cpus),
    ]);
    advice
}

fn program(interface: &Interface, tried: Option<&Tried>) -> Choice {
    const WHAT: &str = "XDP program";
    match (tried.map(|tried| &tried.program), &interface.xdp) {
        (Some(Ok(AttachMode::Native)), _) => choice(WHAT, "native", "it was tried"),
        (Some(Ok(AttachMode::Generic(reason))), _) => {
            warning(WHAT, "generic, which costs the host throughput", format!("native was tried: {reason}"))
        }
        (Some(Err(problem)), _) => warning(WHAT, "none", problem.clone()),
        (None, Ok(xdp)) if xdp.native() => {
            choice(WHAT, "native", "the driver runs programs, and redirects to sockets")
        }
        (None, Ok(_)) => warning(
            WHAT,
            "generic, which costs the host throughput",
            "the driver does not run programs, or cannot redirect",
        ),
        (None, Err(silence)) => choice(WHAT, "native if it can, else generic", silence.clone()),
    }
}

/// Why a socket on it could not be in zero-copy mode, with frames of that size; `None`: it could.
#[must_use]
pub fn no_zero_copy(interface: &Interface, chunk_size: u16) -> Option<String> {
    match &interface.xdp {
        Ok(xdp)
            if xdp.zero_copy() && !xdp.zero_copy_multi_buffer() && interface.mtu > carried(chunk_size) =>
        {
            Some(format!(
                "the MTU is {}, and its zero-copy carries no packets of several frames",
                interface.mtu
            ))
        }
        Ok(xdp) if xdp.zero_copy() => None,
        Ok(_) => Some(format!("driver {} has no zero-copy", interface.driver().unwrap_or("unknown"))),
        // Nobody knows: to try is the only way.
        Err(_) => None,
    }
}

/// The largest IP packet that one frame holds.
fn carried(chunk_size: u16) -> u32 {
    u32::from(chunk_size).saturating_sub(KERNEL_HEADROOM + ethernet::HEADER_LEN as u32)
}

fn is_zero_copy(interface: &Interface, tried: Option<&Tried>, chunk_size: u16) -> bool {
    let may_be = no_zero_copy(interface, chunk_size).is_none();
    match tried {
        Some(tried) => may_be && tried.zero_copy.is_ok(),
        None => may_be && interface.xdp.is_ok(),
    }
}

fn socket(interface: &Interface, tried: Option<&Tried>, chunk_size: u16) -> Choice {
    const WHAT: &str = "socket";
    if let (Some(tried), None) = (tried, no_zero_copy(interface, chunk_size)) {
        return match (&tried.zero_copy, &tried.copy) {
            (Ok(()), _) => choice(WHAT, "zero-copy", "it was tried"),
            (Err(reason), Ok(())) => choice(WHAT, "copy", reason.clone()),
            (Err(_), Err(reason)) => warning(WHAT, "none", reason.clone()),
        };
    }
    match (no_zero_copy(interface, chunk_size), &interface.xdp) {
        (Some(reason), _) => choice(WHAT, "copy", reason),
        (None, Ok(_)) => choice(WHAT, "zero-copy, or copy if binding fails", "the driver says that it can"),
        (None, Err(silence)) => choice(WHAT, "zero-copy if it can, else copy", silence.clone()),
    }
}

fn tx_checksum(interface: &Interface, tried: Option<&Tried>, chunk_size: u16) -> Choice {
    const WHAT: &str = "TX checksum";
    if !is_zero_copy(interface, tried, chunk_size) {
        let why = "in copy mode the kernel takes half-made checksums (Linux 6.11), and completes what the device cannot";
        return choice(WHAT, "left to the kernel, by metadata", why);
    }
    match &interface.xdp {
        Ok(xdp) if xdp.tx_checksum() => {
            choice(WHAT, "left to the device, by metadata", "the driver says that it can in zero-copy mode")
        }
        Ok(_) => choice(WHAT, "completed in software", "the driver does not, in zero-copy mode"),
        Err(silence) => choice(WHAT, "completed in software", silence.clone()),
    }
}

fn rx_vlan(interface: &Interface) -> Choice {
    const WHAT: &str = "VLAN tags";
    if !interface.strips_vlan_tags() && interface.kind.as_deref() != Some("veth") {
        return choice(
            WHAT,
            "seen in the frame",
            "the device leaves them there: tagged frames pass to the host",
        );
    }
    match &interface.xdp {
        Ok(xdp) if xdp.native() && xdp.rx_vlan_tag() => choice(
            WHAT,
            "asked of the device for each frame",
            "it takes tags off, and says so to programs: tagged frames pass to the host",
        ),
        _ => warning(
            WHAT,
            "not seen: a tagged frame looks like an untagged one",
            format!(
                "the device takes tags off, and does not say so to programs; if tagged frames come here: ethtool -K {} rxvlan off",
                interface.name
            ),
        ),
    }
}

fn frames(interface: &Interface, settings: Settings) -> Choice {
    const WHAT: &str = "frames";
    let size = u32::from(settings.chunk_size);
    let carried = carried(settings.chunk_size);
    let mtu = interface.mtu;
    let chosen = format!("{} of {size} bytes a worker", settings.chunks);
    if mtu <= carried {
        return choice(WHAT, chosen, format!("a packet of the MTU, {mtu}, fits into one (up to {carried})"));
    }
    match &interface.xdp {
        Ok(xdp) if xdp.multi_buffer() => {
            let frames = (mtu + ethernet::HEADER_LEN as u32).div_ceil(size - KERNEL_HEADROOM);
            choice(
                WHAT,
                chosen,
                format!("a packet of the MTU, {mtu}, takes {frames}; the driver receives several buffers"),
            )
        }
        _ => warning(
            WHAT,
            chosen,
            format!(
                "the MTU is {mtu}, and the driver does not say that it receives several buffers: lower it to {carried}, or --chunk-size 4096"
            ),
        ),
    }
}

fn queues(interface: &Interface, settings: Settings) -> Choice {
    const WHAT: &str = "queues";
    let queues = interface.receiving_queues() as usize;
    let most =
        interface.channels.as_ref().map_or(interface.rx_queues, |channels| channels.receiving_max().max(1));
    let workers = settings.workers;
    let chosen = format!("all {queues}, queue q by worker q mod {workers}");
    let spread = interface.rss.as_ref().ok().map(|rss| rss.table.len()).filter(|used| *used > 0);
    if let Some(used) = spread
        && used < queues
    {
        let why = format!("RSS leads to {used} of them only: ethtool -X {} equal {queues}", interface.name);
        return warning(WHAT, chosen, why);
    }
    if queues < workers && most as usize > queues {
        let wanted = workers.min(most as usize);
        let why =
            format!("{workers} workers could share the load: --uplink-queues {wanted} (it has up to {most})");
        return warning(WHAT, chosen, why);
    }
    if queues < workers {
        return choice(WHAT, chosen, "the other workers get what is theirs from worker 0, by a copy each");
    }
    choice(WHAT, chosen, if workers == 1 { "there is one worker" } else { "each worker has its own" })
}

fn rings(interface: &Interface, settings: Settings) -> Choice {
    const WHAT: &str = "rings";
    let queues = (interface.receiving_queues() as usize).div_ceil(settings.workers).max(1);
    let fill = (FrameShares::of(settings.chunks as usize, settings.workers).uplink / queues)
        .min(settings.uplink_ring as usize);
    let ours = format!("{} entries a socket, {fill} frames to receive into", settings.uplink_ring);
    match &interface.rings {
        Ok(rings) if rings.rx < rings.rx_max && rings.rx < 1024 => warning(
            WHAT,
            ours,
            format!(
                "the device's own hold {} of up to {}: bursts are lost there; --uplink-rings {}",
                rings.rx,
                rings.rx_max,
                rings.rx_max.min(4096)
            ),
        ),
        Ok(rings) => {
            choice(WHAT, ours, format!("the device's own hold {} (up to {})", rings.rx, rings.rx_max))
        }
        Err(silence) => choice(WHAT, ours, format!("of the device's own {silence}")),
    }
}

fn placement(interface: &Interface, settings: Settings, cpus: &Cpus) -> Choice {
    let node = interface.place.numa_node;
    let chosen: Vec<String> = cpus.choose(settings.workers, &[node]).iter().map(usize::to_string).collect();
    let why = match node {
        Some(node) => format!(
            "near NUMA node {node}, where the device is; one a core; CPU 0 is left to the host while there are others"
        ),
        None => {
            "nothing says where the device is; one a core; CPU 0 is left to the host while there are others"
                .into()
        }
    };
    choice("CPUs", format!("--cpus {}", chosen.join(",")), why)
}

#[cfg(test)]
mod tests;
