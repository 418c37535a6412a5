//! A rule is judged for each IP version by itself, with the CIDRs of that version only. Where that empties a list that
//! was not empty, or leaves nothing outside of its `notNets`, the rule does not exist for that version.

use crate::cidr::Cidr;
use crate::policy::{IpVersion, PeerMatch, Rule};

/// The rule, for the one IP version it exists for or for both; `None` if it exists for neither.
pub(super) fn for_its_families(mut rule: Rule) -> Option<Rule> {
    let exists = |version: IpVersion| {
        rule.ip_version.is_none_or(|only| only == version)
            && side_exists(&rule.source, version)
            && side_exists(&rule.destination, version)
    };
    let only = match (exists(IpVersion::V4), exists(IpVersion::V6)) {
        (false, false) => return None,
        (true, true) => return Some(rule),
        (true, false) => IpVersion::V4,
        (false, true) => IpVersion::V6,
    };
    rule.ip_version = Some(only);
    for side in [&mut rule.source, &mut rule.destination] {
        side.nets.retain(|net| is_of(net, only));
        side.not_nets.retain(|net| is_of(net, only));
    }
    Some(rule)
}

fn side_exists(side: &PeerMatch, version: IpVersion) -> bool {
    let has_some = |nets: &[Cidr]| nets.is_empty() || nets.iter().any(|net| is_of(net, version));
    let everything = |net: &Cidr| is_of(net, version) && net.length() == 0;
    has_some(&side.nets) && has_some(&side.not_nets) && !side.not_nets.iter().any(everything)
}

fn is_of(net: &Cidr, version: IpVersion) -> bool {
    net.is_ipv4() == (version == IpVersion::V4)
}
