//! The commands of `caracal-ipam`, for whichever plugin makes the links: addresses, and nothing else.

use super::config::Config;
use super::env::Attachment;
use super::error::PluginError;
use super::result::{CniResult, Ip, Route};
use super::{ipam, pod, session};

/// Gives a container its addresses.
///
/// # Errors
/// There are none to be had.
pub async fn add(config: &Config, attachment: &Attachment) -> Result<CniResult, PluginError> {
    let node = session::node_name(config)?;
    let datastore = session::datastore(config).await?;
    let namespace = attachment.arguments.namespace.as_deref();
    let ((), world) = tokio::try_join!(
        session::check_ready(&datastore),
        session::world(&datastore, Some(&node), namespace)
    )?;
    let wanted = ipam::Wanted {
        handle: config.handle(&attachment.container),
        node,
        pod: attachment.pod().map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
        ipv4: config.ipam.assign_ipv4,
        ipv6: config.ipam.assign_ipv6,
        ipv4_pools: config.ipam.ipv4_pools.clone(),
        ipv6_pools: config.ipam.ipv6_pools.clone(),
        exactly: attachment.arguments.address.into_iter().collect(),
    };
    let lock = ipam::lock(&config.ipam_lock);
    // One that repeats gets what it has.
    let mut addresses = ipam::given(&datastore, &wanted.handle).await?;
    if addresses.is_empty() {
        addresses = ipam::assign(&datastore, &world, &wanted, lock.as_deref()).await?;
    }
    let texts = || addresses.iter().map(|address| pod::with_length(*address));
    Ok(CniResult {
        ips: texts().map(|address| Ip { address, ..Ip::default() }).collect(),
        routes: texts().map(|dst| Route { dst, ..Route::default() }).collect(),
        ..CniResult::default()
    })
}

/// Takes a container's addresses back.
///
/// # Errors
/// The API server could not be asked.
pub async fn del(config: &Config, attachment: &Attachment) -> Result<(), PluginError> {
    let datastore = session::datastore(config).await?;
    let world = session::world(&datastore, None, None).await?;
    let _lock = ipam::lock(&config.ipam_lock);
    ipam::release(&datastore, &world, &config.handle(&attachment.container)).await
}

/// Looks whether a container has the addresses that it was given.
///
/// # Errors
/// It has not.
pub async fn check(config: &Config, attachment: &Attachment) -> Result<(), PluginError> {
    let datastore = session::datastore(config).await?;
    let handle = config.handle(&attachment.container);
    let given = ipam::given(&datastore, &handle).await?;
    let before = config.prev_result.as_ref().map(CniResult::addresses).unwrap_or_default();
    match before.iter().find(|address| !given.contains(address)) {
        None if !given.is_empty() => Ok(()),
        None => Err(PluginError::NotAsMade(format!("no address is given to {handle}"))),
        Some(address) => Err(PluginError::NotAsMade(format!("{address} is not given to {handle}"))),
    }
}
