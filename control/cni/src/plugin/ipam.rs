//! What `caracal-ipam` does, and what `caracal-cni` does in its place where `ipam.type` names it: giving pods addresses of Calico's pools.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use caracal_datastore::{Datastore, ipam_now};
use caracal_ipam::release::{Release, ReleaseError};
use caracal_ipam::{
    AssignError, Attributes, AutoAssign, Nanoseconds, Owner, Store, StoreError, Use, World, assign_address,
    auto_assign_near, release_addresses, release_by_handle,
};
use caracal_model::cidr::Cidr;
use k8s_openapi::jiff::Timestamp;
use nix::fcntl::{Flock, FlockArg};
use tracing::{debug, warn};

use super::error::PluginError;
use super::session;

/// How long another plugin may hold the lock before this one goes on without it: what is written is compared and swapped anyway.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// As much of the lock's file is read: a block of each family, many times over.
const REMEMBERED_MAX: usize = 512;

/// The addresses that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// By what they are released.
    pub handle: String,
    /// The node that the container is on.
    pub node: String,
    /// The pod: its namespace and name.
    pub pod: Option<(String, String)>,
    /// Whether it is to have an IPv4 address.
    pub ipv4: bool,
    /// Whether it is to have an IPv6 address.
    pub ipv6: bool,
    /// Exactly these pools, by name or CIDR.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
    /// Exactly these addresses, and no others.
    pub exactly: Vec<IpAddr>,
}

/// Gives the addresses; all that are wanted, or none. The file of the lock, if it is held, tells the next plugin where there was
/// room.
///
/// # Errors
/// There are none to be had, or the API server could not be asked.
pub async fn assign(
    datastore: &Datastore,
    world: &World,
    wanted: &Wanted,
    lock: Option<&File>,
) -> Result<Vec<IpAddr>, PluginError> {
    let given = give(datastore, world, wanted, lock).await;
    if given.is_err()
        && let Err(error) = release(datastore, world, &wanted.handle).await
    {
        warn!("addresses of {} remain until DEL: {error}", wanted.handle);
    }
    given
}

async fn give(
    datastore: &Datastore,
    world: &World,
    wanted: &Wanted,
    lock: Option<&File>,
) -> Result<Vec<IpAddr>, PluginError> {
    let now = ipam_now();
    let attributes = Attributes {
        handle: Some(wanted.handle.clone()),
        owner: owner(wanted, now),
        ..Attributes::default()
    };
    let host = Owner::Host(wanted.node.clone());
    let failed = |error: AssignError| PluginError::Ipam(format!("cannot give an address: {error}"));
    let store = datastore.ipam();
    if !wanted.exactly.is_empty() {
        for &address in &wanted.exactly {
            assign_address(&store, world, address, &attributes, &host, Some(Use::Workload), now)
                .await
                .map_err(failed)?;
        }
        return Ok(wanted.exactly.clone());
    }
    let mut pools = resolve(world, &wanted.ipv4_pools, true)?;
    pools.extend(resolve(world, &wanted.ipv6_pools, false)?);
    let request = AutoAssign {
        v4: wanted.ipv4.into(),
        v6: wanted.ipv6.into(),
        attributes,
        owner: host,
        pools,
        usage: Use::Workload,
        max_blocks: 0,
    };
    let near = lock.map(remembered).unwrap_or_default();
    let (v4, v6) = auto_assign_near(&store, world, &request, &near, now).await.map_err(failed)?;
    let short = v4.short.into_iter().chain(v6.short).next();
    if let Some(short) = short {
        return Err(PluginError::Ipam(format!("cannot give an address: {short}")));
    }
    let given: Vec<(IpAddr, u8)> = v4.addresses.into_iter().chain(v6.addresses).collect();
    let blocks: Vec<Cidr> =
        given.iter().filter_map(|(address, length)| Cidr::new(*address, *length).ok()).collect();
    if let Some(file) = lock.filter(|_| blocks != near) {
        remember(file, &blocks);
    }
    Ok(given.into_iter().map(|(address, _)| address).collect())
}

/// The blocks that the last plugin had its addresses from. What cannot be read is none: they spare requests, no more.
fn remembered(file: &File) -> Vec<Cidr> {
    let mut text = [0; REMEMBERED_MAX];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let text = String::from_utf8_lossy(text.get(..length).unwrap_or_default()).into_owned();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn remember(file: &File, blocks: &[Cidr]) {
    let text: String = blocks.iter().map(|block| format!("{block}\n")).collect();
    let written = file.set_len(0).and_then(|()| file.write_all_at(text.as_bytes(), 0));
    if let Err(error) = written {
        debug!("the next plugin is not told where there is room: {error}");
    }
}

/// Takes the addresses of a handle back; fine if there are none.
///
/// # Errors
/// The API server could not be asked.
pub async fn release(datastore: &Datastore, world: &World, handle: &str) -> Result<(), PluginError> {
    match release_by_handle(&datastore.ipam(), world, handle, ipam_now()).await {
        Ok(released) => {
            debug!(handle, ?released, "released");
            Ok(())
        }
        Err(error) => Err(PluginError::Ipam(format!("cannot take back the addresses of {handle}: {error}"))),
    }
}

/// Takes back addresses that were given to somebody who did not hear of it, and whatever else their handle has. They are asked for by name:
/// a DEL of the same container may have removed the handle while they were given.
///
/// # Errors
/// The API server could not be asked.
pub async fn take_back(
    datastore: &Datastore,
    world: &World,
    handle: &str,
    given: &[IpAddr],
) -> Result<(), PluginError> {
    let wanted: Vec<Release> = given
        .iter()
        .map(|address| Release { address: *address, handle: Some(handle.to_owned()), sequence: None })
        .collect();
    match release_addresses(&datastore.ipam(), world, &wanted, ipam_now()).await {
        // Somebody else's by now: they had come back already.
        Ok(_) | Err(ReleaseError::NotYours { .. }) => release(datastore, world, handle).await,
        Err(error) => Err(PluginError::Ipam(format!("cannot take back the addresses of {handle}: {error}"))),
    }
}

/// The addresses that a handle has.
///
/// # Errors
/// The API server could not be asked.
pub async fn given(datastore: &Datastore, handle: &str) -> Result<Vec<IpAddr>, PluginError> {
    use caracal_ipam::{Key, Record};
    let failed =
        |error: StoreError| PluginError::Ipam(format!("cannot look for the addresses of {handle}: {error}"));
    let store = datastore.ipam();
    let Some((Record::Handle(known), _)) =
        store.get(&Key::Handle(handle.to_owned())).await.map_err(failed)?
    else {
        return Ok(Vec::new());
    };
    let mut addresses = Vec::new();
    for cidr in known.blocks.into_keys() {
        if let Some((Record::Block(block), _)) = store.get(&Key::Block(cidr)).await.map_err(failed)? {
            let of_handle =
                block.given().filter(|(_, attributes)| attributes.handle.as_deref() == Some(handle));
            addresses.extend(of_handle.map(|(address, _)| address));
        }
    }
    Ok(addresses)
}

/// The handles of a network under which addresses are given to containers of a node.
///
/// # Errors
/// The API server could not be asked.
pub async fn handles_of(
    datastore: &Datastore,
    network: &str,
    node: &str,
) -> Result<Vec<String>, PluginError> {
    let failed = |error: StoreError| PluginError::Ipam(format!("cannot list the addresses given: {error}"));
    let mut handles: Vec<String> = Vec::new();
    for (block, _) in datastore.ipam().blocks().await.map_err(failed)? {
        for (_, attributes) in block.given() {
            let is_here = attributes.owner.get("node").is_some_and(|name| name == node);
            let handle = attributes.handle.as_deref().unwrap_or_default();
            if is_here && container_of(network, handle).is_some() {
                handles.push(handle.to_owned());
            }
        }
    }
    handles.sort();
    handles.dedup();
    Ok(handles)
}

/// The container that a handle of this network is for. Of networks `a` and `a.b` either might have made `a.b.c`: it is taken for nobody's.
#[must_use]
pub fn container_of<'a>(network: &str, handle: &'a str) -> Option<&'a str> {
    let container = handle.strip_prefix(network)?.strip_prefix('.')?;
    (!container.is_empty() && !container.contains('.')).then_some(container)
}

pub(super) fn owner(wanted: &Wanted, now: Nanoseconds) -> BTreeMap<String, String> {
    let mut owner =
        BTreeMap::from([("node".to_owned(), wanted.node.clone()), ("timestamp".to_owned(), timestamp(now))]);
    if let Some((namespace, pod)) = &wanted.pod {
        owner.insert("namespace".to_owned(), namespace.clone());
        owner.insert("pod".to_owned(), pod.clone());
    }
    owner
}

/// As Calico writes it: `2026-01-01 00:00:05 +0000 UTC`.
fn timestamp(now: Nanoseconds) -> String {
    let time = Timestamp::from_nanosecond(now.0.into()).unwrap_or(Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

/// The pools of these names or CIDRs.
pub(super) fn resolve(world: &World, names: &[String], ipv4: bool) -> Result<Vec<Cidr>, PluginError> {
    let find = |name: &String| {
        let cidr: Option<Cidr> = name.parse().ok();
        let found = world.pools.iter().find(|pool| pool.name == *name || Some(pool.cidr) == cidr);
        let family = if ipv4 { "IPv4" } else { "IPv6" };
        match found {
            Some(pool) if pool.cidr.is_ipv4() == ipv4 => Ok(pool.cidr),
            Some(_) => Err(PluginError::Ipam(format!("pool {name} is not of {family}"))),
            None => Err(PluginError::Ipam(format!("there is no {family} pool {name}"))),
        }
    };
    names.iter().map(find).collect()
}

/// Keeps plugins of this host from changing the same block at once, each but one in vain. `None`: it cannot be had, which does no harm.
#[must_use]
pub fn lock(path: &Path) -> Option<Flock<File>> {
    let file = session::lock_file(path).ok()?;
    let (send, receive) = mpsc::channel();
    // Hundreds may wait: none of them is to look again and again. One that waits in vain ends with the process.
    thread::spawn(move || {
        if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusive) {
            let _ = send.send(lock);
        }
    });
    receive.recv_timeout(LOCK_PATIENCE).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_tells_the_container_unless_it_might_be_another_networks() {
        assert_eq!(container_of("net", "net.0f3c"), Some("0f3c"));
        for handle in ["net", "net.", "other.0f3c", "net.b.0f3c", "network.0f3c"] {
            assert_eq!(container_of("net", handle), None, "{handle}");
        }
    }

    #[test]
    fn times_are_written_as_calico_does() {
        assert_eq!(timestamp(Nanoseconds(1_767_225_605_000_000_007)), "2026-01-01 00:00:05 +0000 UTC");
    }

    #[test]
    fn the_next_plugin_is_told_where_there_was_room() {
        let path = std::env::temp_dir().join(format!("crt{}-ipam-near", std::process::id()));
        let first = lock(&path).unwrap();
        assert_eq!(remembered(&first), []);
        let blocks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Cidr>>();
        for texts in [&["10.244.1.0/26", "fd00::/122"][..], &["10.244.2.0/26"]] {
            remember(&first, &blocks(texts));
            assert_eq!(remembered(&first), blocks(texts));
        }
        first.write_all_at(b"nonsense\n10.2", 0).unwrap();
        assert_eq!(remembered(&first), []);
        drop(first);
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn of_two_that_want_the_lock_the_second_waits() {
        let path = std::env::temp_dir().join(format!("crt{}-ipam-lock", std::process::id()));
        let first = lock(&path).unwrap();
        let second = thread::spawn({
            let path = path.clone();
            move || lock(&path).is_some()
        });
        drop(first);
        assert!(second.join().unwrap());
        std::fs::remove_file(path).unwrap();
        assert!(lock(Path::new("/proc/nowhere/lock")).is_none());
    }
}
