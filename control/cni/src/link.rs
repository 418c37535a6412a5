//! A pod's link: the veth pair between a pod and its node, and what each end needs.
//!
//! ```text
//!   pod namespace                                   node namespace
//!   eth0  10.244.1.2/32                             cali0123456789a  ee:ee:ee:ee:ee:ee, no address
//!         169.254.1.1 dev eth0 scope link  ──veth── forwarding off; pinned XDP program: to the fastpath, else drop
//!         default via 169.254.1.1
//! ```
//!
//! The invariant: from the moment the host end is up until it is gone, its XDP program, or the guard that the fastpath has put in its
//! place, is on it and the kernel forwards nothing from it. So a pod whose data plane is dead is cut off, not unfiltered; therefore the order of the steps in [`add`] matters.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use caracal_model::cidr::Cidr;
pub use caracal_xsk::xdp::AttachMode;
use caracal_xsk::xdp::{XdpError, pod};

use crate::{
    netlink::{self, Netlink, NetlinkError, Route, VethEnd},
    netns::{self, NetnsError, set_sysctl},
};

/// The MAC address of every host end, as Calico has it.
pub const HOST_MAC: [u8; 6] = [0xee; 6];
/// The pods' IPv4 gateway. Nobody has it; the fastpath answers ARP for it.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The pods' IPv6 gateway: the link-local address that follows from [`HOST_MAC`].
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// The pod end's name.
pub const POD_INTERFACE: &str = "eth0";

/// A pod's link that is to be made.
#[derive(Debug, Clone)]
pub struct PodLink<'a> {
    /// The node's namespace; `None`: the one this process is in.
    pub node_netns: Option<&'a Path>,
    /// The pod's namespace.
    pub pod_netns: &'a Path,
    /// Name of the host end (`caracal_model::names::veth_name`).
    pub host_name: &'a str,
    /// The pod's addresses.
    pub addresses: &'a [IpAddr],
    /// Largest packet of the pod, in bytes.
    pub mtu: u32,
    /// The pod end's MAC address; `None`: the kernel picks one.
    pub mac: Option<[u8; 6]>,
    /// Where the pod program is pinned: `<bpf_dir>/<host_name>/…`.
    pub bpf_dir: &'a Path,
}

/// What of a pod's link is seldom otherwise than by default.
#[derive(Debug, Clone)]
pub struct Shape<'a> {
    /// The pod end's name.
    pub interface: &'a str,
    /// Whose link it is: the host end's alias. Empty: nobody says.
    pub owner: &'a str,
    /// Whether the pod may forward.
    pub forwards: bool,
    /// Where the pod's routes lead, all by its gateway; `None`: everywhere.
    pub routes: Option<&'a [Cidr]>,
}

impl Default for Shape<'_> {
    fn default() -> Self {
        Self { interface: POD_INTERFACE, owner: "", forwards: false, routes: None }
    }
}

/// Why a pod's link could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A request to the kernel failed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A namespace could not be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A setting was refused.
    #[error("cannot set net.{key} to {value}: {source}")]
    Sysctl {
        /// The setting, with slashes.
        key: String,
        /// What it was to be.
        value: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The program that keeps the pod fail-closed could not be put on its veth, or taken off.
    #[error("the pod program of {interface}: {source}")]
    Program {
        /// The host end.
        interface: String,
        /// Why.
        source: XdpError,
    },
}

/// Makes a pod's link, and tells how its program is attached. When it fails, nothing of it stays.
///
/// # Errors
/// Any [`LinkError`].
pub fn add(link: &PodLink<'_>) -> Result<AttachMode, LinkError> {
    add_shaped(link, &Shape::default())
}

/// The same with another shape.
///
/// # Errors
/// Any [`LinkError`].
pub fn add_shaped(link: &PodLink<'_>, shape: &Shape<'_>) -> Result<AttachMode, LinkError> {
    let pod_netns = netns::open(link.pod_netns)?;
    let host_end = || -> Result<AttachMode, LinkError> {
        let mut netlink = Netlink::open()?;
        netlink.add_veth_of_one_queue(
            &VethEnd { name: link.host_name, netns: None, mac: Some(HOST_MAC) },
            &VethEnd { name: shape.interface, netns: Some(pod_netns.as_fd()), mac: link.mac },
            link.mtu,
        )?;
        let index = netlink::index_of(link.host_name)?;
        if !shape.owner.is_empty() {
            // First of all, so that who finds it half-made knows whose it is.
            netlink.set_alias(index, shape.owner)?;
        }
        // No IPv6 of the host's own on this link: the fastpath is the pod's neighbour, not the kernel.
        sysctl(format!("ipv6/conf/{}/disable_ipv6", link.host_name), "1").or_else(absent)?;
        sysctl(format!("ipv4/conf/{}/forwarding", link.host_name), "0")?;
        let mode = pod::pin(link.bpf_dir, link.host_name, index)
            .map_err(|source| LinkError::Program { interface: link.host_name.into(), source })?;
        netlink.set_up(index)?;
        Ok(mode)
    };
    let made = within(link.node_netns, host_end).and_then(|mode| {
        netns::within(link.pod_netns, || {
            configure(link, shape)?;
            if let AttachMode::Generic(_) = mode {
                // A program in generic mode is given whole super-frames, which no socket takes; native mode switches them off itself.
                let mut netlink = Netlink::open()?;
                let index = netlink.link(shape.interface)?.index;
                netlink.forbid_super_frames(index)?;
            }
            Ok(mode)
        })?
    });
    if made.is_err() {
        // What failed is the error to tell; a remainder that cannot be removed either will be in the next one's way, and be told then.
        let _ = remove(link.node_netns, link.host_name, link.bpf_dir);
    }
    made
}

/// Gives both ends of a pod's link another MTU.
///
/// # Errors
/// Any [`LinkError`].
pub fn set_mtu(link: &PodLink<'_>) -> Result<(), LinkError> {
    let set = |name: &str| -> Result<(), LinkError> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link(name)?.index;
        Ok(netlink.set_mtu(index, link.mtu)?)
    };
    within(link.node_netns, || set(link.host_name))?;
    netns::within(link.pod_netns, || set(POD_INTERFACE))?
}

/// Removes a pod's link and what is pinned for it. What is not there need not be removed.
///
/// # Errors
/// Any [`LinkError`].
pub fn remove(node_netns: Option<&Path>, host_name: &str, bpf_dir: &Path) -> Result<(), LinkError> {
    // The link first: a veth without its program must not be there for a moment.
    within(node_netns, || Ok(Netlink::open()?.delete_link(host_name)?))?;
    pod::unpin(bpf_dir, host_name)
        .map_err(|source| LinkError::Program { interface: host_name.into(), source })
}

/// Gives the pod's end its addresses and routes and sets it up. The calling thread is in the pod's namespace.
///
/// # Errors
/// Any [`LinkError`].
pub fn configure_pod_end(link: &PodLink<'_>) -> Result<(), LinkError> {
    configure(link, &Shape::default())
}

fn configure(link: &PodLink<'_>, shape: &Shape<'_>) -> Result<(), LinkError> {
    let (interface, forwards) = (shape.interface, if shape.forwards { "1" } else { "0" });
    let has_ipv6 = link.addresses.iter().any(IpAddr::is_ipv6);
    // A pod without an IPv6 address is quiet: no router solicitations, no multicast reports.
    sysctl("ipv6/conf/all/disable_ipv6".into(), if has_ipv6 { "0" } else { "1" }).or_else(absent)?;
    if has_ipv6 {
        for (key, value) in [("accept_dad", "0"), ("accept_ra", "0"), ("disable_ipv6", "0")] {
            sysctl(format!("ipv6/conf/{interface}/{key}"), value)?;
        }
        sysctl("ipv6/conf/all/forwarding".into(), forwards)?;
    }
    sysctl("ipv4/ip_forward".into(), forwards)?;

    let mut netlink = Netlink::open()?;
    netlink.set_up(netlink::index_of("lo")?)?;
    let index = netlink::index_of(interface)?;
    netlink.set_up(index)?;
    for &address in link.addresses {
        netlink.add_address(index, address, if address.is_ipv4() { 32 } else { 128 })?;
    }
    let has_ipv4 = link.addresses.iter().any(IpAddr::is_ipv4);
    if has_ipv4 {
        netlink.add_route(&Route::on(GATEWAY.into(), 32, index))?;
    }
    for (destination, length) in routes(shape, has_ipv4, has_ipv6) {
        let gateway = if destination.is_ipv4() { GATEWAY.into() } else { GATEWAY6.into() };
        netlink.add_route(&Route { device: Some(index), ..Route::via(destination, length, gateway) })?;
    }
    Ok(())
}

/// Where a pod's routes by its gateways lead, of the families that it has.
#[must_use]
pub fn routes(shape: &Shape<'_>, has_ipv4: bool, has_ipv6: bool) -> Vec<(IpAddr, u8)> {
    let everywhere = [(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0)];
    let routes: Vec<_> = match shape.routes {
        None => everywhere.into(),
        Some(cidrs) => cidrs.iter().map(|cidr| (cidr.address(), cidr.length())).collect(),
    };
    let has = |address: IpAddr| if address.is_ipv4() { has_ipv4 } else { has_ipv6 };
    routes.into_iter().filter(|(destination, _)| has(*destination)).collect()
}

fn within<T: Send>(
    netns: Option<&Path>,
    work: impl FnOnce() -> Result<T, LinkError> + Send,
) -> Result<T, LinkError> {
    match netns {
        Some(path) => netns::within(path, work)?,
        None => work(),
    }
}

fn sysctl(key: String, value: &'static str) -> Result<(), LinkError> {
    set_sysctl(&key, value).map_err(|source| LinkError::Sysctl { key, value, source })
}

/// A kernel without IPv6 has no settings for it.
fn absent(error: LinkError) -> Result<(), LinkError> {
    match error {
        LinkError::Sysctl { source, .. } if source.kind() == io::ErrorKind::NotFound => Ok(()),
        error => Err(error),
    }
}
