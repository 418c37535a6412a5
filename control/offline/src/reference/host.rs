//! Host endpoints: the hooks that a packet meets, in their order.
//!
//! ```text
//!   to the host      untracked ─► before DNAT ─► normal, profiles        a failsafe port passes each of them
//!   from the host    untracked ─► normal, profiles                       a failsafe port passes each of them
//!   forwarded, in    untracked ─► before DNAT ─► forward
//!   forwarded, out   forward
//! ```

use std::net::IpAddr;

use caracal_model::case::HostPath;

use super::cluster::{Cluster, Party};
use super::felix::Felix;
use super::rule::{Packet, Question};
use super::walk::{Class, Decision, Direction, Verdict, walk};

/// What becomes of a packet at a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostVerdict {
    Allow,
    AllowUntracked,
    Deny,
}

/// A packet at a host endpoint.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostPacket {
    pub(crate) path: HostPath,
    /// After destinations were translated.
    pub(crate) packet: Packet,
    /// The destination before that, where it was another.
    pub(crate) original: Option<(IpAddr, Option<u16>)>,
}

pub(super) fn judge(
    cluster: &Cluster<'_>,
    felix: &Felix<'_>,
    party: &Party,
    asked: &HostPacket,
) -> (HostVerdict, String) {
    let direction = match asked.path {
        HostPath::ToHost | HostPath::ForwardIn => Direction::Ingress,
        HostPath::FromHost | HostPath::ForwardOut => Direction::Egress,
    };
    let mut first = asked.packet;
    if let Some((address, port)) = asked.original {
        (first.destination, first.destination_port) = (address, port);
    }
    let is_forwarded = matches!(asked.path, HostPath::ForwardIn | HostPath::ForwardOut);
    let ask = |class, packet| {
        walk(cluster, &cluster.policies, party, direction, class, &Question::new(cluster, packet))
    };
    let ends = |decision: &Decision, allow| match decision.verdict {
        Verdict::Allow => Some((allow, decision.why.clone())),
        Verdict::Deny => Some((HostVerdict::Deny, decision.why.clone())),
        Verdict::GoOn => None,
    };

    // What leaves the host by forwarding has met these where it came in.
    let meets_untracked = asked.path != HostPath::ForwardOut;
    let passes = !is_forwarded
        && (is_failsafe(felix, direction, &first) || answers_failsafe(felix, direction, &first));
    if meets_untracked
        && !passes
        && let Some(end) = ends(&ask(Class::Untracked, first), HostVerdict::AllowUntracked)
    {
        return end;
    }
    let passes = !is_forwarded && is_failsafe(felix, direction, &first);
    if direction == Direction::Ingress
        && !passes
        && let Some(end) = ends(&ask(Class::PreDnat, first), HostVerdict::Allow)
    {
        return end;
    }
    if !is_forwarded && is_failsafe(felix, direction, &asked.packet) {
        return (HostVerdict::Allow, "failsafe port".to_owned());
    }
    let class = if is_forwarded { Class::Forward } else { Class::Normal };
    let last = ask(class, asked.packet);
    ends(&last, HostVerdict::Allow).unwrap_or((HostVerdict::Deny, last.why))
}

/// The remote side is the sender of what comes in, the receiver of what goes out.
fn is_failsafe(felix: &Felix<'_>, direction: Direction, packet: &Packet) -> bool {
    match direction {
        Direction::Ingress => {
            felix.is_failsafe(true, packet.protocol, packet.destination_port, packet.source)
        }
        Direction::Egress => {
            felix.is_failsafe(false, packet.protocol, packet.destination_port, packet.destination)
        }
    }
}

/// Whether it could be the answer to what a failsafe port of the other direction lets through.
fn answers_failsafe(felix: &Felix<'_>, direction: Direction, packet: &Packet) -> bool {
    match direction {
        Direction::Ingress => felix.is_failsafe(false, packet.protocol, packet.source_port, packet.source),
        Direction::Egress => felix.is_failsafe(true, packet.protocol, packet.source_port, packet.destination),
    }
}
