//! GC: of this network and on this node, only what is attached stays.

use std::collections::BTreeSet;

use caracal_xsk::xdp::pod as program;
use tracing::info;

use super::config::{Config, ConfigError};
use super::env::Variables;
use super::error::PluginError;
use super::{delegate, ipam, session};
use crate::link;
use crate::netlink::Netlink;

/// Removes links and addresses of containers that are not attached any more.
///
/// # Errors
/// The runtime does not say what is attached; or something could not be removed, and the rest has been.
pub async fn run(config: &Config, variables: &Variables) -> Result<(), PluginError> {
    let left = Left::of(config)?;
    let mut failed = None;

    let links = Netlink::open()?.links()?;
    for link in links.iter().filter(|link| left.has(&link.alias)) {
        info!(
            interface = link.name,
            owner = link.alias,
            "removing the link of a container that is not attached"
        );
        let _turn = session::Turn::take(config, &link.name)?;
        if let Err(error) = link::remove(None, &link.name, &config.bpf_dir) {
            failed = Some(error.into());
        }
    }
    // Pins whose link went with its namespace; what is being made just now has a link.
    for name in program::pinned(&config.bpf_dir).unwrap_or_default() {
        let _turn = session::Turn::take(config, &name)?;
        if let Ok(None) = program::attachment(&config.bpf_dir, &name) {
            let _ = program::unpin(&config.bpf_dir, &name);
        }
    }

    let released = match config.ipam.kind.as_str() {
        "" => Ok(()),
        _ if config.ipam.is_own() => addresses(config).await,
        _ => delegate::execute(config, &delegate::configuration_for_del(config), variables).map(drop),
    };
    released.and(failed.map_or(Ok(()), Err))
}

/// Takes back the addresses of containers that are not attached any more.
///
/// # Errors
/// As [`run`].
pub async fn addresses(config: &Config) -> Result<(), PluginError> {
    let left = Left::of(config)?;
    let node = session::node_name(config)?;
    let datastore = session::datastore(config).await?;
    let world = session::world(&datastore, None, None).await?;
    let mut failed = Ok(());
    for handle in ipam::handles_of(&datastore, &config.name, &node).await? {
        if left.has(&handle) {
            info!(handle, "taking back the addresses of a container that is not attached");
            failed = ipam::release(&datastore, &world, &handle).await.and(failed);
        }
    }
    failed
}

/// What is not attached any more.
struct Left<'a> {
    network: &'a str,
    attached: BTreeSet<&'a str>,
}

impl<'a> Left<'a> {
    fn of(config: &'a Config) -> Result<Self, ConfigError> {
        // Without the list nothing would be attached, and all would go.
        let valid = config.valid.as_ref().ok_or_else(|| {
            ConfigError::field("cni.dev/valid-attachments", "must be the list of what is attached")
        })?;
        let attached = valid.iter().map(|attachment| attachment.container.as_str()).collect();
        Ok(Self { network: &config.name, attached })
    }

    fn has(&self, handle: &str) -> bool {
        ipam::container_of(self.network, handle).is_some_and(|container| !self.attached.contains(container))
    }
}
