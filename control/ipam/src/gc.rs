//! Finding what the dead have left behind. Pure: looks at what there is, remembers since when something looks wrong, and says
//! what is to be done about it.
//!
//! ```text
//!   an address    whose pod is gone, or has others          given back      after the grace period; its node gone: soon
//!   a tunnel's    of a node that is gone, and its last      given back      soon
//!   a handle      that counts other than blocks give        counted anew    after the grace period
//!   an affinity   half claimed, or half given up            brought to its end          〃
//!   a block       with an owner, and without an affinity    claimed, or given up        〃
//!   a block       empty, of a node that has others          given up                    〃
//!   a block       empty, of nobody                          removed                     〃
//!   all blocks    of a node that is gone with all its pods  given up        soon
//! ```
//!
//! Whoever works on addresses is given the grace period to end what it has begun: only what stays the same for so long is
//! touched, and each action is void when it finds something else than was seen. *Soon* is at the next look, a few seconds
//! later, and never at the first, so that one list of nodes that came too early does no harm.
//!
//! Addresses that say no pod (services' have none, and people's) are somebody else's business.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use caracal_model::cidr::Cidr;

use crate::Nanoseconds;
use crate::affinity::{self, Affinity, AffinityError, AffinityState};
use crate::block::{Attributes, Block, Owner};
use crate::handle::Handle;
use crate::pool::World;
use crate::release::{Release, ReleaseError, release_addresses};
use crate::store::{Key, Record, Store, StoreError, WriteError, block, handle};
use crate::tunnel::Tunnel;

/// For how long something must look wrong where no grace period is set: then only what no pod has to do with is mended.
const REPAIR_AFTER: Duration = Duration::from_secs(15 * 60);
/// At least so long after a virtual machine's pod has gone: another takes its address over.
const VIRTUAL_MACHINE_GRACE: Duration = Duration::from_secs(5 * 60);
/// What a node that is gone has left is looked at again after so long.
const SOON: Duration = Duration::from_secs(5);
/// The longest time between two looks.
const LOOK_AT_LEAST: Duration = Duration::from_secs(5 * 60);
/// The handle under which Calico for Windows keeps addresses of each block to itself.
const WINDOWS_RESERVED: &str = "windows-reserved-ipam-handle";

/// All that is looked at. `records` must have been read **before** pods and nodes: what has an address then has its pod and
/// node in lists that are younger.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// [`Store::everything`].
    pub records: Vec<Record>,
    /// Pods by namespace and name.
    pub pods: BTreeMap<(String, String), Pod>,
    /// The names of all nodes.
    pub nodes: BTreeSet<String>,
}

/// A pod, as far as its addresses go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pod {
    /// Where it runs; empty while that is not decided.
    pub node: String,
    /// The addresses that it has, none once it has ended.
    pub addresses: Vec<IpAddr>,
    /// It may have addresses that nobody has said yet: it is on its node, has not ended, and says none.
    pub awaits: bool,
}

impl Pod {
    /// Whether it has, or may have, an address that was given to it on a node.
    #[must_use]
    pub fn may_have(&self, address: IpAddr, node: Option<&str>) -> bool {
        let is_elsewhere = node.is_some_and(|node| !self.node.is_empty() && self.node != node);
        !is_elsewhere && (self.awaits || self.addresses.contains(&address))
    }
}

/// Something to be done, with what was seen: if it is otherwise by then, nothing is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// Give an address back that nobody has any more.
    ReleaseAddress {
        /// The address.
        address: IpAddr,
        /// The handle that it was given under.
        handle: Option<String>,
        /// The sequence number that it was given at.
        sequence: Option<u64>,
        /// The node that it was given on.
        node: Option<String>,
    },
    /// Have a handle count what blocks give: nothing removes it.
    CountAnew {
        /// Its ID.
        handle: String,
        /// What it counted; `None`: there was none.
        was: Option<BTreeMap<Cidr, u64>>,
        /// What it is to count.
        blocks: BTreeMap<Cidr, u64>,
    },
    /// Bring a claim to its end.
    Claim {
        /// Whose.
        owner: Owner,
        /// To which block.
        cidr: Cidr,
    },
    /// Give a claim up.
    GiveUp {
        /// Whose.
        owner: Owner,
        /// To which block.
        cidr: Cidr,
        /// Whether the owner is gone. Then a block that others have addresses of loses its owner; else it stays what it is.
        is_gone: bool,
    },
    /// Remove an empty block that nobody owns.
    RemoveBlock {
        /// The block.
        cidr: Cidr,
    },
}

/// What a look has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// To be done, in this order.
    pub actions: Vec<Action>,
    /// When to look again at the latest.
    pub again_in: Duration,
}

/// Something that looks wrong, in all that matters of it: when any of it changes, it is another thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Suspect {
    action: Action,
    /// Of the block that it is about.
    sequence: u64,
}

/// Who looks. It is to live as long as its process; a new one starts all periods over.
#[derive(Debug, Default)]
pub struct Collector {
    /// Since when.
    suspects: BTreeMap<Suspect, Instant>,
}

impl Collector {
    /// One that has not looked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks, and says what is to be done. `grace`: how long what may still be wanted is left alone (`leakGracePeriod`);
    /// `None` leaves addresses of nodes that are there alone for ever.
    pub fn look(&mut self, now: Instant, grace: Option<Duration>, snapshot: &Snapshot) -> Look {
        let found = Finder::new(snapshot, grace).find();
        let mut again_in = grace.map_or(LOOK_AT_LEAST, |grace| (grace / 2).min(LOOK_AT_LEAST)).max(SOON);
        let mut actions = Vec::new();
        let mut suspects = BTreeMap::new();
        for (suspect, patience) in found {
            let since = self.suspects.get(&suspect).copied().unwrap_or(now);
            let waited = now.saturating_duration_since(since);
            match patience.map(|patience| patience.saturating_sub(waited)) {
                Some(Duration::ZERO) => actions.push(suspect.action.clone()),
                Some(left) => again_in = again_in.min(left),
                None => {}
            }
            suspects.insert(suspect, since);
        }
        self.suspects = suspects;
        // In the order of the kinds: addresses come back before their blocks are given up.
        actions.sort();
        Look { actions, again_in }
    }

    /// Addresses that the last look suspects to be nobody's, with the nodes that they were given on.
    pub fn leaks(&self) -> impl Iterator<Item = (IpAddr, Option<&str>)> {
        self.suspects.keys().filter_map(|suspect| match &suspect.action {
            Action::ReleaseAddress { address, node, .. } => Some((*address, node.as_deref())),
            _ => None,
        })
    }
}

/// One look.
struct Finder<'a> {
    snapshot: &'a Snapshot,
    grace: Option<Duration>,
    blocks: BTreeMap<Cidr, &'a Block>,
    affinities: Vec<&'a Affinity>,
    handles: BTreeMap<&'a str, &'a Handle>,
    /// Nodes that somebody has a valid address on.
    alive: BTreeSet<&'a str>,
}

impl<'a> Finder<'a> {
    fn new(snapshot: &'a Snapshot, grace: Option<Duration>) -> Self {
        let mut finder = Self {
            snapshot,
            grace,
            blocks: BTreeMap::new(),
            affinities: Vec::new(),
            handles: BTreeMap::new(),
            alive: BTreeSet::new(),
        };
        for record in &snapshot.records {
            match record {
                Record::Block(block) => drop(finder.blocks.insert(block.cidr(), block)),
                Record::Affinity(affinity) => finder.affinities.push(affinity),
                Record::Handle(handle) => drop(finder.handles.insert(&handle.id, handle)),
            }
        }
        for (address, attributes) in finder.blocks.values().flat_map(|block| block.given()) {
            let node = node_of(attributes);
            if is_a_pods(attributes) && finder.has(attributes, address) {
                finder.alive.extend(node);
            }
        }
        finder
    }

    /// All suspects, and how long each is left alone; `None`: for ever.
    fn find(&self) -> Vec<(Suspect, Option<Duration>)> {
        let mut found = Vec::new();
        self.addresses(&mut found);
        self.handles(&mut found);
        self.claims(&mut found);
        self.empty_blocks(&mut found);
        found
    }

    fn is_gone(&self, node: &str) -> bool {
        // A cluster without any node is a list that went wrong.
        !self.snapshot.nodes.is_empty() && !self.snapshot.nodes.contains(node)
    }

    /// How long what no pod has to do with is left alone.
    fn patience(&self) -> Option<Duration> {
        Some(self.grace.unwrap_or(REPAIR_AFTER))
    }

    /// Whether the pod that an address was given to has it, or may have it.
    fn has(&self, attributes: &Attributes, address: IpAddr) -> bool {
        let owner = |key: &str| attributes.owner.get(key).cloned().unwrap_or_default();
        let pod = self.snapshot.pods.get(&(owner("namespace"), owner("pod")));
        pod.is_some_and(|pod| pod.may_have(address, node_of(attributes)))
    }

    fn addresses(&self, found: &mut Vec<(Suspect, Option<Duration>)>) {
        for block in self.blocks.values() {
            for (address, attributes) in block.given() {
                let is_node_gone = node_of(attributes).is_some_and(|node| self.is_gone(node));
                let patience = if is_a_pods(attributes) {
                    if self.has(attributes, address) {
                        continue;
                    }
                    let patience = if is_node_gone { Some(SOON) } else { self.grace };
                    let is_a_machines = attributes.owner.contains_key("vmi-name");
                    patience.map(
                        |patience| if is_a_machines { patience.max(VIRTUAL_MACHINE_GRACE) } else { patience },
                    )
                } else {
                    let node = match &block.owner {
                        // They are the block's, whoever it is.
                        Some(Owner::Host(node)) if attributes.handle.as_deref() == Some(WINDOWS_RESERVED) => {
                            Some(node.as_str())
                        }
                        _ => Tunnel::of(attributes).and_then(|_| node_of(attributes)),
                    };
                    match node {
                        Some(node) if self.is_gone(node) && !self.alive.contains(node) => Some(SOON),
                        _ => continue,
                    }
                };
                let action = Action::ReleaseAddress {
                    address,
                    handle: attributes.handle.clone(),
                    sequence: block.sequence_of(address),
                    node: node_of(attributes).map(str::to_owned),
                };
                found.push((Suspect { action, sequence: 0 }, patience));
            }
        }
    }

    fn handles(&self, found: &mut Vec<(Suspect, Option<Duration>)>) {
        let mut given: BTreeMap<&str, BTreeMap<Cidr, u64>> = BTreeMap::new();
        for block in self.blocks.values() {
            for handle in block.given().filter_map(|(_, attributes)| attributes.handle.as_deref()) {
                *given.entry(handle).or_default().entry(block.cidr()).or_default() += 1;
            }
        }
        let ids: BTreeSet<&str> = given.keys().chain(self.handles.keys()).copied().collect();
        for id in ids {
            let was = self.handles.get(id).map(|handle| handle.blocks.clone());
            let blocks = given.remove(id).unwrap_or_default();
            if was.as_ref() != Some(&blocks) || blocks.is_empty() {
                let action = Action::CountAnew { handle: id.to_owned(), was, blocks };
                found.push((Suspect { action, sequence: 0 }, self.patience()));
            }
        }
    }

    fn claims(&self, found: &mut Vec<(Suspect, Option<Duration>)>) {
        for affinity in &self.affinities {
            let Affinity { owner, cidr, state } = (*affinity).clone();
            let is_gone = matches!(&owner, Owner::Host(node) if self.is_gone(node));
            let block = self.blocks.get(&cidr).filter(|block| block.owner.as_ref() == Some(&owner));
            let sequence = block.map_or(0, |block| block.sequence());
            let (action, patience) = if is_gone {
                if self.alive.contains(owner.name()) {
                    continue;
                }
                (Action::GiveUp { owner, cidr, is_gone }, Some(SOON))
            } else {
                match (state, block) {
                    (AffinityState::Confirmed, Some(_)) => continue,
                    (AffinityState::Pending, Some(_)) => (Action::Claim { owner, cidr }, self.patience()),
                    _ => (Action::GiveUp { owner, cidr, is_gone }, self.patience()),
                }
            };
            found.push((Suspect { action, sequence }, patience));
        }
        let claimed: BTreeSet<(&Owner, Cidr)> =
            self.affinities.iter().map(|affinity| (&affinity.owner, affinity.cidr)).collect();
        for block in self.blocks.values() {
            let (cidr, sequence) = (block.cidr(), block.sequence());
            let Some(owner) = &block.owner else {
                if block.is_empty() {
                    found.push((Suspect { action: Action::RemoveBlock { cidr }, sequence }, self.patience()));
                }
                continue;
            };
            if claimed.contains(&(owner, cidr)) {
                continue;
            }
            let owner = owner.clone();
            let is_gone = matches!(&owner, Owner::Host(node) if self.is_gone(node));
            if is_gone && self.alive.contains(owner.name()) {
                continue;
            }
            let patience = if is_gone { Some(SOON) } else { self.patience() };
            let action = if is_gone || block.is_empty() {
                Action::GiveUp { owner, cidr, is_gone }
            } else {
                Action::Claim { owner, cidr }
            };
            found.push((Suspect { action, sequence }, patience));
        }
    }

    /// Of blocks that are confirmed and empty: all but the last that their node has of a family.
    fn empty_blocks(&self, found: &mut Vec<(Suspect, Option<Duration>)>) {
        let mut of_node: BTreeMap<(&str, bool), Vec<&Block>> = BTreeMap::new();
        for affinity in self.affinities.iter().filter(|affinity| affinity.state == AffinityState::Confirmed) {
            let Owner::Host(node) = &affinity.owner else { continue };
            let block =
                self.blocks.get(&affinity.cidr).filter(|block| block.owner.as_ref() == Some(&affinity.owner));
            if let Some(block) = block.filter(|_| !self.is_gone(node)) {
                of_node.entry((node, affinity.cidr.is_ipv4())).or_default().push(block);
            }
        }
        for ((node, _), blocks) in of_node {
            let empty = blocks.iter().filter(|block| block.is_empty());
            for block in empty.take(blocks.len() - 1) {
                let (owner, cidr) = (Owner::Host(node.to_owned()), block.cidr());
                let action = Action::GiveUp { owner, cidr, is_gone: false };
                found.push((Suspect { action, sequence: block.sequence() }, self.grace));
            }
        }
    }
}

/// The node that an address was given on.
fn node_of(attributes: &Attributes) -> Option<&str> {
    attributes.owner.get("node").map(String::as_str).filter(|node| !node.is_empty())
}

/// Whether an address was given to a pod.
fn is_a_pods(attributes: &Attributes) -> bool {
    let says = |key: &str| attributes.owner.get(key).is_some_and(|text| !text.is_empty());
    says("pod") && says("namespace")
}

/// Why an action was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GcError {
    /// An address could not be given back.
    #[error(transparent)]
    Release(#[from] ReleaseError),
    /// A claim could not be brought to its end.
    #[error(transparent)]
    Affinity(#[from] AffinityError),
    /// The store could not be asked.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Does what a look has found. False: by now it is otherwise than was seen, and nothing was done.
///
/// # Errors
/// The store could not be asked, or others changed the same things again and again; the next look finds it again.
pub async fn perform<S: Store>(
    store: &S,
    world: &World,
    action: &Action,
    now: Nanoseconds,
) -> Result<bool, GcError> {
    match action {
        Action::ReleaseAddress { address, handle, sequence, .. } => {
            let wanted = Release { address: *address, handle: handle.clone(), sequence: *sequence };
            match release_addresses(store, world, &[wanted], now).await {
                Ok(released) => Ok(!released.addresses.is_empty()),
                Err(ReleaseError::NotYours { .. }) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
        Action::CountAnew { handle: id, was, blocks } => {
            let found = handle(store, id).await?;
            if found.as_ref().map(|(handle, _)| &handle.blocks) != was.as_ref() {
                return Ok(false);
            }
            // A block that cannot be read was not in the list; what it gives is not known.
            for cidr in was.iter().flat_map(BTreeMap::keys).filter(|cidr| !blocks.contains_key(cidr)) {
                let has = |block: &Block| block.given().any(|(_, of)| of.handle.as_ref() == Some(id));
                if block(store, *cidr).await?.is_some_and(|(block, _)| has(&block)) {
                    return Ok(false);
                }
            }
            let new = (!blocks.is_empty())
                .then(|| Record::Handle(Handle { id: id.clone(), blocks: blocks.clone() }));
            let revision = found.map(|(_, revision)| revision);
            if revision.is_none() && new.is_none() {
                return Ok(false);
            }
            written(store.swap(&Key::Handle(id.clone()), revision, new).await)
        }
        Action::Claim { owner, cidr } => {
            let strict = world.settings.strict_affinity;
            Ok(affinity::claim(store, owner, *cidr, strict, now).await? == affinity::Claim::Ours)
        }
        Action::GiveUp { owner, cidr, is_gone } => {
            let found = block(store, *cidr).await?;
            if !is_gone && found.is_some_and(|(block, _)| block.is_cooling(world.settings.cooldown_s, now)) {
                return Ok(false);
            }
            match affinity::release(store, owner, *cidr, !is_gone).await {
                Ok(()) => Ok(true),
                Err(AffinityError::NotEmpty(_)) => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
        Action::RemoveBlock { cidr } => match block(store, *cidr).await? {
            Some((block, revision))
                if block.owner.is_none()
                    && block.is_empty()
                    && !block.is_cooling(world.settings.cooldown_s, now) =>
            {
                written(store.swap(&Key::Block(*cidr), Some(revision), None).await)
            }
            _ => Ok(false),
        },
    }
}

/// Whether it was written; false: somebody else was quicker.
fn written(result: Result<(), WriteError>) -> Result<bool, GcError> {
    match result {
        Ok(()) => Ok(true),
        Err(WriteError::Conflict) => Ok(false),
        Err(WriteError::Store(error)) => Err(error.into()),
    }
}
