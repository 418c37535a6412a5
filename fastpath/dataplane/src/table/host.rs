//! Host endpoints: interfaces of this host that policy applies to, and what it says of packets to, from and through them.
//!
//! ```text
//!   to host:      untracked in ──► pre-DNAT in ──► normal in   ── profiles ─► deny
//!   forwarded in: untracked in ──► pre-DNAT in ──► forward in  ─► allow
//!   from host:    untracked out ─────────────────► normal out  ── profiles ─► deny
//!   forwarded out:                                 forward out ─► allow
//! ```
//!
//! A hook that does not decide hands on along the arrow. Allow by an untracked hook ends everything, and the packet is
//! not tracked; Allow by the pre-DNAT hook skips the last one. Untracked and pre-DNAT hooks see the destination before
//! it is translated, and their tiers do not deny by default.
//!
//! Failsafes are for what ends or starts on the host. They take it past the untracked and pre-DNAT hooks — past the
//! untracked one also what answers, since half of a connection must not be left untracked — and the normal hook lets it
//! through.
//!
//! Rules are asked one after another here: local addresses may be any, so there is nothing to compile for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::node::{Failsafe, NodeConfig};
use super::policy::{Explanation, FlowDirection, FlowTuple, Judgement, PolicyList, RuleId, RuleName, Walked};
use super::{Generation, Tables};

/// A place where a host endpoint's policy judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Each packet, before it is tracked.
    Untracked,
    /// Before destinations are translated.
    PreDnat,
    /// What ends or starts on the host.
    Normal,
    /// What the host forwards.
    Forward,
}

impl Hook {
    /// How many there are.
    pub const COUNT: usize = 4;

    /// Whether a tier in which nothing matches may deny, as its default says.
    pub(super) fn has_tier_defaults(self) -> bool {
        matches!(self, Hook::Normal | Hook::Forward)
    }
}

/// How a packet meets a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPath {
    /// It came in by the interface, and is for this host.
    ToHost,
    /// This host sends it out by the interface.
    FromHost,
    /// It came in by the interface, and is forwarded.
    ForwardIn,
    /// It is forwarded, and goes out by the interface.
    ForwardOut,
}

impl HostPath {
    /// The hooks that judge, in order.
    pub fn hooks(self) -> &'static [Hook] {
        match self {
            HostPath::ToHost => &[Hook::Untracked, Hook::PreDnat, Hook::Normal],
            HostPath::FromHost => &[Hook::Untracked, Hook::Normal],
            HostPath::ForwardIn => &[Hook::Untracked, Hook::PreDnat, Hook::Forward],
            HostPath::ForwardOut => &[Hook::Forward],
        }
    }

    /// Which rules judge.
    pub fn direction(self) -> FlowDirection {
        match self {
            HostPath::ToHost | HostPath::ForwardIn => FlowDirection::Ingress,
            HostPath::FromHost | HostPath::ForwardOut => FlowDirection::Egress,
        }
    }
}

/// The first packet of a flow at a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPacket {
    /// How it meets the endpoint.
    pub path: HostPath,
    /// What it is, once its destination is translated. The local side is this one: the destination of what comes in, the
    /// source of what goes out. The direction is taken from the path.
    pub flow: FlowTuple,
    /// Its destination before that, if it was another.
    pub original: Option<(IpAddr, u16)>,
}

impl HostPacket {
    /// What a hook sees.
    pub(super) fn seen_by(&self, hook: Hook) -> FlowTuple {
        let mut flow = FlowTuple { direction: self.path.direction(), ..self.flow };
        if let (Some(original), Hook::Untracked | Hook::PreDnat) = (self.original, hook) {
            match flow.direction {
                FlowDirection::Ingress => (flow.local_address, flow.local_port) = original,
                FlowDirection::Egress => (flow.peer_address, flow.peer_port) = original,
            }
        }
        flow
    }
}

/// What becomes of a packet at a host endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HostVerdict {
    /// It passes.
    Allow,
    /// It passes, and no connection is tracked for it.
    AllowUntracked,
    /// It does not pass.
    Deny,
}

/// A verdict, and what it is by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostJudgement {
    /// What becomes of the packet.
    pub verdict: HostVerdict,
    /// What decided.
    pub rule: RuleId,
    /// The Log rules that the packet has passed.
    pub logs: Vec<RuleId>,
}

/// How a packet fares at a host endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostExplanation {
    /// The hooks that it meets, in order; None: a failsafe takes it past, or lets it through.
    pub hooks: Vec<(Hook, Option<Explanation>)>,
    /// What becomes of it.
    pub verdict: HostVerdict,
    /// What decided.
    pub decided: RuleName,
}

/// An interface of this host that policy applies to.
#[derive(Debug)]
pub struct HostEndpoint {
    /// Its name.
    pub id: Arc<str>,
    /// "*": every interface that no other is about; empty: none.
    pub interface: Arc<str>,
    /// Its expected addresses.
    pub addresses: Box<[IpAddr]>,
    pub(super) hooks: [HookLists; Hook::COUNT],
    /// What of it is about forwarded packets.
    pub(super) forwards: Forwards,
}

/// What a host endpoint has to say of forwarded packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Forwards {
    /// Of each that comes in, before it is tracked.
    pub untracked: bool,
    /// Of those that come in.
    pub into: bool,
    /// Of those that go out.
    pub out: bool,
}

#[derive(Debug)]
pub(super) struct HookLists {
    pub ingress: Arc<PolicyList>,
    pub egress: Arc<PolicyList>,
}

/// Asks the list of a hook; None: a failsafe takes the packet past it, or lets it through.
pub(super) type Ask<'a> = dyn FnMut(Hook, &FlowTuple, Option<&Arc<PolicyList>>) -> Walked + 'a;

impl HostEndpoint {
    /// Whether it has anything to say of packets that are forwarded this way.
    #[inline]
    pub fn judges(&self, path: HostPath) -> bool {
        match path {
            HostPath::ForwardIn => self.forwards.into,
            HostPath::ForwardOut => self.forwards.out,
            HostPath::ToHost | HostPath::FromHost => true,
        }
    }

    pub(super) fn list(&self, hook: Hook, direction: FlowDirection) -> &Arc<PolicyList> {
        let lists = &self.hooks[hook as usize];
        match direction {
            FlowDirection::Ingress => &lists.ingress,
            FlowDirection::Egress => &lists.egress,
        }
    }

    /// Sends a packet through the hooks. `judge` asks a hook's list; it is also told of hooks that a failsafe skips or
    /// decides, with no list.
    pub(super) fn send(
        &self,
        packet: &HostPacket,
        node: Option<&NodeConfig>,
        judge: &mut Ask<'_>,
    ) -> HostJudgement {
        let mut logs = Vec::new();
        let decided = |verdict, rule, logs| HostJudgement { verdict, rule, logs };
        let mut skip_last = None;
        for hook in packet.path.hooks() {
            let flow = packet.seen_by(*hook);
            if let (Hook::Normal | Hook::Forward, Some(rule)) = (hook, skip_last) {
                return decided(HostVerdict::Allow, rule, logs);
            }
            if is_failsafe(*hook, packet.path, &flow, node) {
                judge(*hook, &flow, None);
                match hook {
                    Hook::Normal => return decided(HostVerdict::Allow, RuleId::FAILSAFE, logs),
                    _ => continue,
                }
            }
            let walked = judge(*hook, &flow, Some(self.list(*hook, flow.direction)));
            logs.extend(walked.logs);
            let Some(judgement) = walked.decided.map(|packed| packed.unpack()) else { continue };
            match (judgement.allow, hook) {
                (false, _) => return decided(HostVerdict::Deny, judgement.rule, logs),
                (true, Hook::Untracked) => return decided(HostVerdict::AllowUntracked, judgement.rule, logs),
                (true, Hook::PreDnat) => skip_last = Some(judgement.rule),
                (true, Hook::Normal | Hook::Forward) => {
                    return decided(HostVerdict::Allow, judgement.rule, logs);
                }
            }
        }
        // Only the forward hook, which comes last, leaves a packet undecided.
        decided(HostVerdict::Allow, RuleId::NO_FORWARD_POLICY, logs)
    }
}

/// Whether a failsafe takes a packet past `hook`.
fn is_failsafe(hook: Hook, path: HostPath, flow: &FlowTuple, node: Option<&NodeConfig>) -> bool {
    let Some(node) = node else { return false };
    let held = |failsafes: &[Failsafe], port: u16| {
        failsafes.iter().any(|failsafe| failsafe.holds(flow.protocol, port, flow.peer_address))
    };
    let is_untracked = hook == Hook::Untracked;
    match path {
        HostPath::ToHost => {
            held(&node.failsafe_inbound, flow.local_port)
                || is_untracked && held(&node.failsafe_outbound, flow.peer_port)
        }
        HostPath::FromHost => {
            held(&node.failsafe_outbound, flow.peer_port)
                || is_untracked && held(&node.failsafe_inbound, flow.local_port)
        }
        HostPath::ForwardIn | HostPath::ForwardOut => false,
    }
}

/// An interface of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostInterface {
    /// The kernel's number of it.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
}

/// Which host endpoint is about what, as far as they have anything to say of forwarded packets.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By interface; None: one that has nothing to say, and that `*` is not about.
    of_interface: Vec<(u32, Option<Arc<HostEndpoint>>)>,
    /// `*`: every interface that no other is about, those of tunnels among them.
    elsewhere: Option<Arc<HostEndpoint>>,
    is_idle: bool,
    has_untracked: bool,
}

impl Places {
    pub(super) fn new(hosts: &HostEndpoints, interfaces: &[HostInterface]) -> Places {
        let about_forwarding =
            |host: &Arc<HostEndpoint>| (host.forwards != Forwards::default()).then(|| Arc::clone(host));
        let is_about = |host: &HostEndpoint, interface: &HostInterface| {
            *host.interface == *interface.name
                || host.interface.parse().is_ok_and(|held| interface.addresses.contains(&held))
        };
        let mut of_interface = Vec::new();
        for interface in interfaces {
            if let Some(host) = hosts.by_name.values().find(|host| is_about(host, interface)) {
                of_interface.push((interface.ifindex, about_forwarding(host)));
            }
        }
        let elsewhere =
            hosts.by_name.values().find(|host| &*host.interface == "*").and_then(about_forwarding);
        let all = || of_interface.iter().filter_map(|(_, host)| host.as_ref()).chain(&elsewhere);
        let (is_idle, has_untracked) = (all().next().is_none(), all().any(|host| host.forwards.untracked));
        Places { of_interface, elsewhere, is_idle, has_untracked }
    }
}

/// All host endpoints of this node, by name.
#[derive(Debug, Clone)]
pub struct HostEndpoints {
    pub(super) by_name: Arc<BTreeMap<Arc<str>, Arc<HostEndpoint>>>,
    pub(super) places: Arc<Places>,
    /// Since which tables a packet that is judged by the same classes is judged the same.
    pub(super) since: Generation,
}

impl Default for HostEndpoints {
    fn default() -> Self {
        let places = Arc::new(Places { is_idle: true, ..Places::default() });
        HostEndpoints { by_name: Arc::default(), places, since: Generation::default() }
    }
}

impl HostEndpoints {
    /// The host endpoint of this name.
    pub fn get(&self, name: &str) -> Option<&HostEndpoint> {
        self.by_name.get(name).map(|host| &**host)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &HostEndpoint> {
        self.by_name.values().map(|host| &**host)
    }

    /// Whether none has anything to say of forwarded packets: what most nodes pay is this question.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.places.is_idle
    }

    /// Whether any judges each packet that is forwarded.
    #[inline]
    pub fn has_untracked(&self) -> bool {
        self.places.has_untracked
    }

    /// Whether what was judged under tables with this number (the low half of their generation) must be judged again,
    /// though the classes of its addresses are the same.
    #[inline]
    pub fn have_changed_since(&self, generation: u32) -> bool {
        (self.since.0 as u32).wrapping_sub(generation).cast_signed() > 0
    }

    /// The host endpoint that has something to say of what is forwarded by an interface; None: that of a tunnel.
    pub fn at(&self, ifindex: Option<u32>) -> Option<&HostEndpoint> {
        let named = ifindex.and_then(|wanted| {
            self.places.of_interface.iter().find(|(ifindex, _)| *ifindex == wanted).map(|(_, host)| host)
        });
        named.unwrap_or(&self.places.elsewhere).as_deref()
    }
}

impl Tables {
    /// What becomes of a packet at the host endpoint of this name; None if there is none.
    pub fn judge_host(&self, name: &str, packet: &HostPacket) -> Option<HostJudgement> {
        Some(self.judge_at(self.host_endpoints.get(name)?, packet))
    }

    /// What becomes of a packet at a host endpoint.
    pub fn judge_at(&self, host: &HostEndpoint, packet: &HostPacket) -> HostJudgement {
        let mut ask = |_, flow: &FlowTuple, list: Option<&Arc<PolicyList>>| match list {
            Some(list) => self.policy.ask(list, flow),
            None => Walked::default(),
        };
        host.send(packet, self.node.config(), &mut ask)
    }

    /// What a host endpoint says of a packet that comes in to be forwarded, before it is tracked; None: nothing.
    pub fn judge_untracked(&self, host: &HostEndpoint, flow: &FlowTuple) -> Option<Judgement> {
        let list = host.list(Hook::Untracked, FlowDirection::Ingress);
        self.policy.ask(list, flow).decided.map(|packed| packed.unpack())
    }
}

#[cfg(test)]
mod tests;
