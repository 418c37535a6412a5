//! DEL: nothing of a container stays. What is not there need not be removed, so it may be repeated, and goes on where one before was killed.
//!
//! ```text
//!   link (whose alias says that it is this container's) ─► annotations (that name this container) ─► addresses (of its handle)
//!   nothing leaves or reaches the pod                       its policy goes, everywhere               somebody else may have them
//! ```
//!
//! A DEL of an earlier container of a pod, after the ADD of its next one, finds a link and annotations that are not its own, and leaves
//! them. It works while the agent is dead.

use caracal_model::names::veth_name;
use tracing::info;

use super::config::Config;
use super::env::{Attachment, Variables};
use super::error::PluginError;
use super::{delegate, ipam, pod, session};
use crate::link;
use crate::netlink::Netlink;

/// Detaches a container.
///
/// # Errors
/// Something could not be removed; to be repeated.
pub async fn run(config: &Config, attachment: &Attachment, variables: &Variables) -> Result<(), PluginError> {
    let handle = config.handle(&attachment.container);
    let host_name = attachment.pod().map(|(namespace, name)| veth_name(namespace, name));
    let _turn = host_name.as_deref().map(|name| session::Turn::take(config, name)).transpose()?;
    let alias = match &host_name {
        Some(name) => alias(name)?,
        None => None,
    };
    if let (Some(name), Some(alias)) = (&host_name, &alias)
        && *alias == handle
    {
        link::remove(None, name, &config.bpf_dir)?;
    }

    let datastore = session::datastore(config).await?;
    let pod = match attachment.pod() {
        Some((namespace, name)) => pod::read(&datastore, namespace, name).await?,
        None => None,
    };
    // Whose addresses were taken out of its annotations has been detached, though its name stays there.
    let attached = pod.as_ref().filter(|pod| !pod::addresses(pod).is_empty());
    let of_pod = attached.map_or("", pod::container);
    let is_ours = of_pod == attachment.container;
    if let Some(name) = &host_name {
        match alias.as_deref() {
            // Somebody's who does not say: its maker died at once, or was another program.
            Some("") if is_ours || of_pod.is_empty() => link::remove(None, name, &config.bpf_dir)?,
            // Its pins, or half of them: the link went with the pod's namespace.
            None => link::remove(None, name, &config.bpf_dir)?,
            Some(alias) if alias != handle => {
                info!(interface = name, owner = alias, "the link is another container's: left")
            }
            Some(_) => {}
        }
    }
    if let Some(pod) = attached.filter(|_| is_ours) {
        pod::clear(&datastore, pod).await?;
    }

    if config.ipam.is_own() {
        // Of all that is read for address management, releasing needs what pools and settings say.
        let world = session::world(&datastore, None, None).await?;
        let _lock = ipam::lock(&config.ipam_lock);
        ipam::release(&datastore, &world, &handle).await
    } else if config.ipam.kind.is_empty() {
        Ok(())
    } else {
        delegate::execute(config, &delegate::configuration_for_del(config), variables).map(drop)
    }
}

/// The alias of a link; `None`: there is no such link.
fn alias(name: &str) -> Result<Option<String>, PluginError> {
    match Netlink::open()?.link(name) {
        Ok(link) => Ok(Some(link.alias)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}
