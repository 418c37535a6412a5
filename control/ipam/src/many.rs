//! Giving an address to each of many at once, as when a node's pods come in a crowd.
//!
//! ```text
//!   the first: as anybody ─► its block ─► handles of as many as it has room for, side by side ─► one write of the block
//!       ▲                                                                                            │ some without?
//!       └────────────────────────────────────────────────────────────────────────────────────────────┘
//! ```

use std::net::IpAddr;

use caracal_model::cidr::Cidr;
use futures::future::join_all;

use crate::assign::{AssignError, Assigned, AutoAssign, auto_assign, is_alone};
use crate::block::Attributes;
use crate::handle::{decrement, increment};
use crate::pool::World;
use crate::store::{Key, Record, Store, StoreError, WriteError, block};
use crate::{Nanoseconds, RETRIES};

/// So many handles are written side by side: a connection for each.
const AT_ONCE: usize = 16;

/// Gives each of many one address of one family, as if each had asked for itself. `wanted` says of which family and how; whose they are
/// is in `each`, every one with a handle of its own. `near`: a block that the owner is thought to have.
///
/// The answers are in the order of `each`. Who is answered with an error may have an address all the same, and gives it back by its
/// handle.
pub async fn assign_many<S: Store>(
    store: &S,
    world: &World,
    wanted: &AutoAssign,
    each: &[Attributes],
    near: Option<Cidr>,
    now: Nanoseconds,
) -> Vec<Result<Assigned, AssignError>> {
    let ipv4 = wanted.v4 > 0;
    let wanted = AutoAssign { v4: ipv4.into(), v6: (!ipv4).into(), ..wanted.clone() };
    let requested: Vec<Cidr> = wanted.pools.iter().copied().filter(|pool| pool.is_ipv4() == ipv4).collect();
    let pools = match world.candidates(ipv4, &requested, wanted.usage, wanted.owner.name()) {
        Ok(pools) => pools,
        Err(error) => return each.iter().map(|_| Err(error.clone())).collect(),
    };
    let mut near = near.filter(|cidr| pools.iter().any(|pool| pool.cidr.covers(cidr)));
    let mut answers = Vec::with_capacity(each.len());
    while let Some((first, rest)) = each.get(answers.len()..).and_then(<[Attributes]>::split_first) {
        if let Some(cidr) = near.take() {
            let waiting = each.get(answers.len()..).unwrap_or_default();
            match of_block(store, world, &wanted, cidr, waiting, now).await {
                Ok(given) => {
                    answers.extend(given.into_iter().map(|address| {
                        Ok(Assigned { addresses: vec![(address, cidr.length())], short: None })
                    }))
                }
                // Others may have room.
                Err(AssignError::Store(StoreError::Nonsense(_)) | AssignError::Overlap { .. }) => {}
                Err(error) => answers.extend(waiting.iter().map(|_| Err(error.clone()))),
            }
            continue;
        }
        let one = AutoAssign { attributes: first.clone(), ..wanted.clone() };
        let given = auto_assign(store, world, &one, now).await.map(|(v4, v6)| if ipv4 { v4 } else { v6 });
        let of_first = given.as_ref().ok().and_then(|given| given.addresses.first().copied());
        near = of_first.and_then(|(address, length)| Cidr::new(address, length).ok());
        if near.is_none() {
            // What the first has not found, nobody after it finds.
            answers.extend(rest.iter().map(|_| given.clone()));
        }
        answers.push(given);
    }
    answers
}

/// Has a block of the owner's give an address to each of as many as it has room for, after their handles have counted them: to the first of
/// `each`, in their order.
async fn of_block<S: Store>(
    store: &S,
    world: &World,
    wanted: &AutoAssign,
    cidr: Cidr,
    each: &[Attributes],
    now: Nanoseconds,
) -> Result<Vec<IpAddr>, AssignError> {
    let mut counted = 0;
    let mut outcome = Err(AssignError::Contended(cidr));
    for _ in 0..RETRIES {
        let Some((mut block, revision)) =
            block(store, cidr).await?.filter(|(block, _)| block.owner.as_ref() == Some(&wanted.owner))
        else {
            outcome = Ok(Vec::new());
            break;
        };
        block.end_cooldowns(world.settings.cooldown_s, now);
        let was_empty = block.is_empty();
        let take = |attributes| block.take(1, attributes, |address| world.is_reserved(address)).pop();
        let taken: Vec<IpAddr> = each.iter().map_while(take).collect();
        if taken.is_empty() {
            outcome = Ok(taken);
            break;
        }
        if was_empty && let Err(overlaps) = is_alone(store, &block).await {
            outcome = Err(overlaps);
            break;
        }
        for some in each.get(counted..taken.len()).unwrap_or_default().chunks(AT_ONCE) {
            let handles = some.iter().filter_map(|attributes| attributes.handle.as_deref());
            for written in join_all(handles.map(|id| increment(store, id, cidr, 1, true))).await {
                written?;
            }
        }
        counted = counted.max(taken.len());
        block.count_write();
        match store.swap(&Key::Block(cidr), Some(revision), Some(Record::Block(block))).await {
            Ok(()) => {
                outcome = Ok(taken);
                break;
            }
            Err(WriteError::Conflict) => {}
            // It may have been written: the handles go on counting it.
            Err(WriteError::Store(error)) => return Err(error.into()),
        }
    }
    let given = outcome.as_ref().map_or(0, Vec::len);
    for attributes in each.get(given..counted).unwrap_or_default() {
        if let Some(id) = attributes.handle.as_deref() {
            decrement(store, id, cidr, 1).await?;
        }
    }
    outcome
}
