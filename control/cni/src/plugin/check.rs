//! CHECK: everything is as ADD left it.

use std::net::IpAddr;
use std::path::Path;

use caracal_model::names::veth_name;
use caracal_xsk::xdp::pod as program;

use super::add::mac_text;
use super::config::Config;
use super::env::{Attachment, EnvError, Variables};
use super::error::PluginError;
use super::{delegate, ipam, pod, session};
use crate::link::{self, HOST_MAC, Shape};
use crate::netlink::{IpVersion, Netlink, NetlinkError};
use crate::netns;

/// Looks at everything that ADD makes.
///
/// # Errors
/// Something is not as it was, or could not be looked at.
pub async fn run(config: &Config, attachment: &Attachment, variables: &Variables) -> Result<(), PluginError> {
    let (namespace, name) =
        attachment.pod().ok_or(EnvError::Missing("K8S_POD_NAMESPACE and K8S_POD_NAME in CNI_ARGS"))?;
    let pod_netns = attachment.netns.as_deref().ok_or(EnvError::Missing("CNI_NETNS"))?;
    let host_name = veth_name(namespace, name);
    let handle = config.handle(&attachment.container);
    let way = session::Way::new(config, None);
    let datastore = way.datastore().await?;
    let Some(pod) = pod::read(datastore, namespace, name).await? else {
        return Err(PluginError::NotAsMade(format!("there is no pod {namespace}/{name} any more")));
    };
    let container = pod::container(&pod);
    if container != attachment.container {
        return Err(PluginError::NotAsMade(format!(
            "pod {namespace}/{name} is of container {container:?} now, not of {}",
            attachment.container
        )));
    }
    let addresses = pod::addresses(&pod);
    let before = config.prev_result.as_ref();
    if let Some(before) = before {
        let missing = before.addresses().into_iter().find(|address| !addresses.contains(address));
        if let Some(address) = missing {
            return Err(PluginError::NotAsMade(format!(
                "prevResult has {address}, which pod {namespace}/{name} does not have"
            )));
        }
    }
    host_end(config, &host_name, &handle)?;
    let mac =
        before.and_then(|before| before.interfaces.iter().find(|interface| !interface.sandbox.is_empty()));
    let mac = mac.map(|interface| interface.mac.to_lowercase()).filter(|mac| !mac.is_empty());
    pod_end(pod_netns, &attachment.interface, &addresses, mac.as_deref())?;
    if config.ipam.is_own() {
        let given = ipam::given(datastore, &handle).await?;
        let without = pod::Wishes::read(&pod, None, config).is_ok_and(|wishes| wishes.without_ipam);
        if let Some(address) = addresses.iter().find(|address| !without && !given.contains(address)) {
            return Err(PluginError::NotAsMade(format!(
                "{address} is not given to {handle} in the pools' blocks"
            )));
        }
        return Ok(());
    }
    let node = session::node_name(config)?;
    let whole = delegate::configuration(config, &way, &node).await?;
    delegate::execute(config, &whole, variables).map(drop)
}

fn host_end(config: &Config, name: &str, handle: &str) -> Result<(), PluginError> {
    let not = |what: String| Err(PluginError::NotAsMade(what));
    let link = match Netlink::open()?.link(name) {
        Ok(link) => link,
        Err(error) if error.is_not_found() => return not(format!("the link {name} is gone")),
        Err(error) => return Err(error.into()),
    };
    if link.alias != handle {
        return not(format!("the link {name} is {:?}'s, not {handle:?}'s", link.alias));
    }
    if link.mac != HOST_MAC {
        return not(format!(
            "the link {name} has the MAC address {}, not {}",
            mac_text(&link.mac),
            mac_text(&HOST_MAC)
        ));
    }
    match program::attachment(&config.bpf_dir, name) {
        Ok(Some((index, _))) if index == link.index => Ok(()),
        Ok(_) => not(format!(
            "the program pinned for {name} is not on that link: the pod is not held to its policy"
        )),
        Err(error) => not(format!("no program is pinned for {name}: {error}")),
    }
}

fn pod_end(
    pod_netns: &Path,
    interface: &str,
    addresses: &[IpAddr],
    mac: Option<&str>,
) -> Result<(), PluginError> {
    let not = |what: String| Err(PluginError::NotAsMade(format!("{what} in {}", pod_netns.display())));
    let look = || -> Result<_, NetlinkError> {
        let mut netlink = Netlink::open()?;
        let link = netlink.link(interface)?;
        let found = netlink.addresses(link.index)?;
        let mut routes = netlink.routes(IpVersion::V4)?;
        if addresses.iter().any(IpAddr::is_ipv6) {
            routes.extend(netlink.routes(IpVersion::V6)?);
        }
        Ok((link, found, routes))
    };
    let (link, found, routes) = match netns::within(pod_netns, look)? {
        Ok(found) => found,
        Err(error) if error.is_not_found() => return not(format!("there is no interface {interface}")),
        Err(error) => return Err(error.into()),
    };
    if let Some(mac) = mac.filter(|mac| *mac != mac_text(&link.mac)) {
        return not(format!("{interface} has the MAC address {}, not {mac}", mac_text(&link.mac)));
    }
    for &address in addresses {
        let length = if address.is_ipv4() { 32 } else { 128 };
        if !found.contains(&(address, length)) {
            return not(format!("{interface} does not have the address {}", pod::with_length(address)));
        }
    }
    let has = |ipv4: bool| addresses.iter().any(|address| address.is_ipv4() == ipv4);
    // Routes of another IPAM plugin's are its own to know; ours are by these gateways.
    for (ipv4, gateway) in [(true, IpAddr::from(link::GATEWAY)), (false, IpAddr::from(link::GATEWAY6))] {
        let leads = routes.iter().any(|(_, _, via)| *via == Some(gateway));
        if has(ipv4) && !link::routes(&Shape::default(), ipv4, !ipv4).is_empty() && !leads {
            return not(format!("no route leads by {gateway}"));
        }
    }
    Ok(())
}
