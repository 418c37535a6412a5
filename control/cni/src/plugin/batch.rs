//! Giving addresses to a node's pods on behalf of its plugins: what a node's agent does when they ask it, for all that ask at once.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_datastore::{Datastore, ipam_now};
use caracal_ipam::{Attributes, AutoAssign, Owner, Use, World, assign_many};
use caracal_model::cidr::Cidr;

use super::error::PluginError;
use super::ipam::{Wanted, owner, resolve};
use crate::node_socket::Assign;

/// The blocks, by whether they are of IPv4, that the last address came from: there may be room.
pub type Near = BTreeMap<bool, Cidr>;

/// Gives each of many its addresses. Who is answered with an error may have some all the same, until its handle is released.
/// `world` is as the node sees it; the namespaces' labels come with those who ask.
pub async fn assign(
    datastore: &Datastore,
    world: &World,
    node: &str,
    asked: &[Assign],
    near: &mut Near,
) -> Vec<Result<Vec<IpAddr>, PluginError>> {
    let mut answers: Vec<Result<Vec<IpAddr>, PluginError>> = asked.iter().map(|_| Ok(Vec::new())).collect();
    for ipv4 in [true, false] {
        // Those for whom the same pools qualify.
        let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, assign) in asked.iter().enumerate() {
            let (is_asked, pools) = match ipv4 {
                true => (assign.ipv4, &assign.ipv4_pools),
                false => (assign.ipv6, &assign.ipv6_pools),
            };
            if is_asked && answers.get(number).is_some_and(Result::is_ok) {
                groups.entry((pools.as_slice(), &assign.namespace_labels)).or_default().push(number);
            }
        }
        for ((pools, labels), numbers) in groups {
            let given = of_group(datastore, world, node, (ipv4, pools, labels), asked, &numbers, near).await;
            for (number, given) in numbers.into_iter().zip(given) {
                if let Some(answer) = answers.get_mut(number) {
                    match (answer, given) {
                        (Ok(addresses), Ok(address)) => addresses.push(address),
                        (answer, Err(error)) => *answer = Err(error),
                        (Err(_), Ok(_)) => {}
                    }
                }
            }
        }
    }
    answers
}

async fn of_group(
    datastore: &Datastore,
    world: &World,
    node: &str,
    (ipv4, pools, labels): (bool, &[String], &BTreeMap<String, String>),
    asked: &[Assign],
    numbers: &[usize],
    near: &mut Near,
) -> Vec<Result<IpAddr, PluginError>> {
    let mut world = world.clone();
    world.namespace_labels = labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let pools = match resolve(&world, pools, ipv4) {
        Ok(pools) => pools,
        Err(error) => {
            let why = error.to_string();
            return numbers.iter().map(|_| Err(PluginError::Ipam(why.clone()))).collect();
        }
    };
    let wanted = AutoAssign {
        v4: ipv4.into(),
        v6: (!ipv4).into(),
        attributes: Attributes::default(),
        owner: Owner::Host(node.to_owned()),
        pools,
        usage: Use::Workload,
        max_blocks: 0,
    };
    let now = ipam_now();
    let attributes = |assign: &Assign| {
        let of = Wanted {
            node: node.to_owned(),
            pod: Some((assign.namespace.clone(), assign.pod.clone())),
            ..Wanted::default()
        };
        Attributes { handle: Some(assign.handle.clone()), owner: owner(&of, now), ..Attributes::default() }
    };
    let each: Vec<Attributes> =
        numbers.iter().filter_map(|number| asked.get(*number)).map(attributes).collect();
    let given = assign_many(&datastore.ipam(), &world, &wanted, &each, near.remove(&ipv4), now).await;
    let failed = |why: String| PluginError::Ipam(format!("cannot give an address: {why}"));
    let given = given.into_iter().map(|given| match given {
        Ok(given) => match (given.addresses.first(), given.short) {
            (Some((address, length)), _) => {
                near.extend(Cidr::new(*address, *length).ok().map(|block| (ipv4, block)));
                Ok(*address)
            }
            (None, Some(short)) => Err(failed(short.to_string())),
            (None, None) => Err(failed("there is none".to_owned())),
        },
        Err(error) => Err(failed(error.to_string())),
    });
    given.collect()
}
