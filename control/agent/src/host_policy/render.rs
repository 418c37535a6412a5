//! From host endpoints' policy to a table of nf_tables. Pure.
//!
//! ```text
//!   comes in ─► untracked-in ─► (tracked) ─► pre-dnat ─► (others' DNAT) ─┬─► input ──────────────────────────► this host
//!               priority -300    -200         -150        -100           └─► forward-in ─► forward-out ─► goes out
//!                                                                             0             1
//!   this host ─► untracked-out ─► (tracked, others' DNAT) ─► output ─► goes out
//!                -300                                         0
//! ```
//!
//! Each of these chains sends what meets a host endpoint to that endpoint's chain for it, which asks one tier's chain after the other. In a
//! tier's chain Pass is `return`, Deny `drop`, and Allow ends the hook: `accept` hands on to the next hook's chain. What the first two
//! hooks allow is marked, because it is to pass the last one unasked ([`ACCEPTED`]).
//!
//! Only what a host endpoint is about is touched: every other packet runs off the end of the chains above, whose policy is to accept.
//! Loopback is never touched. Packets of the host ports are the `*` endpoint's, but for those of this node's own pods: host to own pod
//! is always allowed, and pod to host is the fastpath's business unless `defaultEndpointToHostAction` is Return.

use std::collections::BTreeMap;
use std::net::IpAddr;

use caracal_nft::{
    Base, Chain, Family, Field, Hook, Match, Rule, Ruleset, Set, Side, StateMask, Statement, Verdict,
};
use caracal_plane_api as plane;

use super::inputs::{HostPolicy, host, net};
use super::rules::{Sets, alternatives, number};

/// Our table, of family inet.
pub const TABLE: &str = "caracal";
/// The bit of a packet's mark that says that the untracked or the pre-DNAT hook has allowed it. It is the first of the bits that
/// Calico takes by default.
pub const ACCEPTED: u32 = 0x1_0000;
/// Before connections are tracked (raw).
const RAW: i32 = -300;
/// After that, and before destinations are translated (mangle).
const MANGLE: i32 = -150;
/// Where packets are filtered.
const FILTER: i32 = 0;
const ANY_INTERFACE: &str = "*";
const UDP: u8 = 17;
const IPIP: u8 = 4;
const ICMPV6: u8 = 58;
/// What keeps a host on its link, by hop limit: router and neighbor discovery (RFC 4861, section 4), and who listens to which group
/// (RFC 3810, section 5), without which switches do not deliver the former.
const LINK_MESSAGES: [(u8, &[u8]); 2] = [(255, &[133, 134, 135, 136, 137]), (1, &[130, 131, 132, 143])];
/// The kernel takes prefixes of 127 bytes.
const LOG_PREFIX_BYTES: usize = 120;
/// Longer names of chains are cut, and told apart by number anyway.
const NAME_BYTES: usize = 100;

/// Which interface holds an address.
pub type Interfaces = BTreeMap<IpAddr, String>;

/// A place where packets meet host endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    UntrackedIn,
    UntrackedOut,
    PreDnat,
    Input,
    Output,
    ForwardIn,
    ForwardOut,
}

impl Place {
    const ALL: [Place; 7] = [
        Place::UntrackedIn,
        Place::UntrackedOut,
        Place::PreDnat,
        Place::Input,
        Place::Output,
        Place::ForwardIn,
        Place::ForwardOut,
    ];

    fn name(self) -> &'static str {
        match self {
            Place::UntrackedIn => "untracked-in",
            Place::UntrackedOut => "untracked-out",
            Place::PreDnat => "pre-dnat",
            Place::Input => "input",
            Place::Output => "output",
            Place::ForwardIn => "forward-in",
            Place::ForwardOut => "forward-out",
        }
    }

    fn base(self) -> Base {
        let (hook, priority) = match self {
            Place::UntrackedIn => (Hook::Prerouting, RAW),
            Place::UntrackedOut => (Hook::Output, RAW),
            Place::PreDnat => (Hook::Prerouting, MANGLE),
            Place::Input => (Hook::Input, FILTER),
            Place::Output => (Hook::Output, FILTER),
            Place::ForwardIn => (Hook::Forward, FILTER),
            Place::ForwardOut => (Hook::Forward, FILTER + 1),
        };
        Base { hook, priority }
    }

    fn is_egress(self) -> bool {
        matches!(self, Place::UntrackedOut | Place::Output | Place::ForwardOut)
    }

    fn interface(self, name: &str) -> Statement {
        let name = name.to_owned();
        if self.is_egress() {
            Match::OutputInterface(name).into()
        } else {
            Match::InputInterface(name).into()
        }
    }

    fn tiers(self, host: &plane::HostEndpoint) -> &[plane::TierBinding] {
        let hook = match self {
            Place::UntrackedIn | Place::UntrackedOut => &host.untracked,
            Place::PreDnat => &host.pre_dnat,
            Place::Input | Place::Output => &host.normal,
            Place::ForwardIn | Place::ForwardOut => &host.forward,
        };
        let Some(hook) = hook else { return &[] };
        if self.is_egress() { &hook.egress } else { &hook.ingress }
    }

    /// Whether a host endpoint has a chain here. Normal traffic without policy is dropped; at the other hooks it goes on.
    fn asks(self, host: &plane::HostEndpoint) -> bool {
        matches!(self, Place::Input | Place::Output) || !self.tiers(host).is_empty()
    }

    /// What Allow does.
    fn allow(self) -> Vec<Statement> {
        let accept = Statement::from(Verdict::Accept);
        match self {
            Place::UntrackedIn | Place::UntrackedOut => {
                vec![Statement::NoTrack, Statement::Mark(ACCEPTED), accept]
            }
            Place::PreDnat => vec![Statement::Mark(ACCEPTED), accept],
            _ => vec![accept],
        }
    }

    /// Whether a tier in which nothing matches may deny.
    fn has_tier_defaults(self) -> bool {
        !matches!(self, Place::UntrackedIn | Place::UntrackedOut | Place::PreDnat)
    }
}

/// Which host endpoint is about which interface, and the one that is about all others.
#[derive(Debug)]
pub(super) struct Bindings<'a> {
    pub named: BTreeMap<String, &'a plane::HostEndpoint>,
    pub others: Option<&'a plane::HostEndpoint>,
    /// Endpoints whose address no interface holds.
    pub nowhere: Vec<&'a plane::HostEndpoint>,
}

impl<'a> Bindings<'a> {
    /// The first by name has the interface.
    pub fn of(policy: &'a HostPolicy, interfaces: &Interfaces) -> Bindings<'a> {
        let mut bindings = Bindings { named: BTreeMap::new(), others: None, nowhere: Vec::new() };
        for host in policy.host_endpoints.values() {
            match (host.interface.as_str(), host.interface.parse::<IpAddr>()) {
                ("", _) => {}
                (ANY_INTERFACE, _) => bindings.others = bindings.others.or(Some(host)),
                (_, Ok(address)) => match interfaces.get(&address) {
                    Some(name) => drop(bindings.named.entry(name.clone()).or_insert(host)),
                    None => bindings.nowhere.push(host),
                },
                (name, Err(_)) => drop(bindings.named.entry(name.to_owned()).or_insert(host)),
            }
        }
        bindings
    }
}

/// The table for what host endpoints say; empty: none is about anything, and there is to be no table.
#[must_use]
pub fn render(policy: &HostPolicy, interfaces: &Interfaces) -> Ruleset {
    let mut renderer = Renderer { policy, ruleset: Ruleset::new(TABLE), set_names: BTreeMap::new() };
    let bindings = Bindings::of(policy, interfaces);
    if bindings.named.is_empty() && bindings.others.is_none() {
        return renderer.ruleset;
    }
    for place in Place::ALL {
        renderer.place(place, &bindings);
    }
    renderer.ruleset
}

struct Renderer<'a> {
    policy: &'a HostPolicy,
    ruleset: Ruleset,
    /// The names of sets by what they are.
    set_names: BTreeMap<String, String>,
}

impl Sets for Renderer<'_> {
    fn name(&mut self, wanted: &str, set: impl FnOnce() -> Set) -> String {
        if let Some(name) = self.set_names.get(wanted) {
            return name.clone();
        }
        let name = match wanted.strip_prefix("ports ") {
            // What they are may be long.
            Some(_) => format!("ports-{}", self.set_names.len()),
            None => identifier(wanted),
        };
        self.set_names.insert(wanted.to_owned(), name.clone());
        self.ruleset.sets.insert(name.clone(), set());
        name
    }
}

impl Renderer<'_> {
    /// The chain at a hook, and those that it leads to.
    fn place(&mut self, place: Place, bindings: &Bindings<'_>) {
        let asking = bindings.named.values().chain(&bindings.others).any(|host| place.asks(host));
        if !asking {
            return;
        }
        let accept = |name: &str| Rule::new(vec![place.interface(name), Verdict::Accept.into()]);
        let mut rules = vec![accept("lo")];
        let mut chains: BTreeMap<&str, String> = BTreeMap::new();
        let hosts = bindings.named.values().chain(&bindings.others);
        for (at, host) in hosts.filter(|host| place.asks(host)).enumerate() {
            if !chains.contains_key(host.id.as_str()) {
                chains.insert(&host.id, self.endpoint(place, host, at));
            }
        }
        let goto = |host: &plane::HostEndpoint| {
            chains.get(host.id.as_str()).map(|chain| Verdict::Goto(chain.clone()))
        };
        let others = bindings.others.and_then(goto);
        for port in self.host_ports() {
            match &others {
                Some(goto) if matches!(place, Place::Input | Place::Output) => {
                    rules.extend(self.own_pods(place, &port));
                    rules.push(Rule::new(vec![place.interface(&port), goto.clone().into()]));
                }
                _ => rules.push(accept(&port)),
            }
        }
        for (name, host) in &bindings.named {
            match goto(host) {
                Some(goto) => rules.push(Rule::new(vec![place.interface(name), goto.into()])),
                // Not the other endpoint's, which is about the interfaces that nobody else is about.
                None => rules.push(accept(name)),
            }
        }
        rules.extend(others.map(|goto| Rule::new(vec![goto.into()])));
        self.ruleset.chains.insert(place.name().to_owned(), Chain { base: Some(place.base()), rules });
    }

    fn host_ports(&self) -> Vec<String> {
        let node = self.policy.node.as_ref();
        let ports = node.map(|node| [node.host_port.clone(), node.forward_port.clone()]);
        ports.into_iter().flatten().filter(|name| !name.is_empty()).collect()
    }

    /// What a host port carries to or from this node's own pods.
    fn own_pods(&mut self, place: Place, port: &str) -> Vec<Rule> {
        let returns = self
            .policy
            .node
            .as_ref()
            .is_some_and(|node| node.endpoint_to_host() == plane::EndpointToHost::Return);
        if place == Place::Input && returns {
            return Vec::new();
        }
        let (side, comment) = match place {
            Place::Output => (Side::Destination, "host to own pod is always allowed"),
            _ => (Side::Source, "from own pods: defaultEndpointToHostAction, which the fastpath has taken"),
        };
        let policy = self.policy;
        let rule = |family| {
            let pods = policy.pods.values().flatten().copied();
            let set = self.name(&format!("pods {}", number(family)), || Set::of_prefixes(family, pods));
            let fields = vec![Field::Address(side, family)];
            let conditions = [Match::Family(family), Match::InSet { fields, set, is: true }];
            let statements = [place.interface(port)].into_iter().chain(conditions.map(Statement::from));
            Rule::new(statements.chain([Verdict::Accept.into()]).collect()).with_comment(comment)
        };
        Family::BOTH.map(rule).into()
    }

    /// A host endpoint's chain at a hook; its name.
    fn endpoint(&mut self, place: Place, host: &plane::HostEndpoint, number: usize) -> String {
        let chain = format!("{}/{number}-{}", place.name(), identifier(&host.id));
        let mut rules = self.before_policy(place, host);
        for (at, tier) in place.tiers(host).iter().enumerate() {
            let name = format!("{chain}/{at}-{}", identifier(&tier.tier));
            let tier_rules = self.tier(place, tier);
            self.ruleset.chains.insert(name.clone(), Chain { base: None, rules: tier_rules });
            rules.push(Rule::new(vec![Verdict::Jump(name).into()]));
        }
        if matches!(place, Place::Input | Place::Output) {
            for profile in host.profiles.iter().filter_map(|name| self.policy.profiles.get(name)) {
                let of_profile = if place.is_egress() { &profile.egress } else { &profile.ingress };
                let title = format!("profile {}", profile.name);
                let names = LogNames { kind: "Profile", name: &profile.name, ..LogNames::default() };
                for (at, rule) in of_profile.iter().enumerate() {
                    // After the tiers there is nothing to pass to.
                    if rule.action() != plane::Action::Pass {
                        rules.extend(self.rule(place, rule, &title, at, &names));
                    }
                }
            }
            rules.push(dropped("no policy or profile matched"));
        }
        self.ruleset.chains.insert(chain.clone(), Chain { base: None, rules });
        chain
    }

    /// What comes before any policy of a host endpoint.
    fn before_policy(&mut self, place: Place, host: &plane::HostEndpoint) -> Vec<Rule> {
        let accept = |conditions: Vec<Statement>, comment: &str| {
            let all = conditions.into_iter().chain([Statement::Counter, Verdict::Accept.into()]).collect();
            Rule::new(all).with_comment(comment)
        };
        let marked = || accept(vec![Match::Marked(ACCEPTED).into()], "allowed by an earlier hook");
        let is_untracked = matches!(place, Place::UntrackedIn | Place::UntrackedOut);
        let mut rules = Vec::new();
        let (earlier, marks_here): (&[Place], bool) = match place {
            Place::UntrackedIn | Place::UntrackedOut => (&[], true),
            Place::PreDnat => (&[Place::UntrackedIn], true),
            Place::Input | Place::ForwardIn => (&[Place::UntrackedIn, Place::PreDnat], false),
            Place::Output => (&[Place::UntrackedOut], false),
            Place::ForwardOut => (&[], false),
        };
        let may_be_marked = earlier.iter().any(|place| place.asks(host));
        if marks_here && !may_be_marked {
            // The bit is ours: nobody else's counts.
            rules.push(Rule::new(vec![Statement::Unmark(ACCEPTED)]));
        }
        if !is_untracked {
            let is_last = place != Place::PreDnat;
            if is_last {
                let invalid = Match::State(StateMask::INVALID).into();
                let drop = vec![invalid, Statement::Counter, Verdict::Drop.into()];
                rules.push(Rule::new(drop).with_comment("of no connection"));
            }
            if may_be_marked {
                rules.push(marked());
            }
            let established = Match::State(StateMask::ESTABLISHED_OR_RELATED).into();
            rules.push(accept(vec![established], "of a connection that was allowed"));
        }
        if !matches!(place, Place::ForwardIn | Place::ForwardOut) {
            for (hop_limit, kinds) in LINK_MESSAGES {
                rules.extend(kinds.iter().map(|kind| {
                    let conditions = [
                        Match::Family(Family::V6),
                        Match::HopLimit(hop_limit),
                        Match::Protocol { protocol: ICMPV6, is: true },
                        Match::Icmp { kind: *kind, code: None, is: true },
                    ];
                    accept(conditions.map(Statement::from).to_vec(), "neighbor discovery, as ARP is for IPv4")
                }));
            }
            rules.extend(
                self.failsafes(place)
                    .into_iter()
                    .map(|conditions| accept(conditions, "failsafe port of the host")),
            );
        }
        if matches!(place, Place::Input | Place::Output) {
            rules.extend(self.tunnels(place));
        }
        rules
    }

    /// The conditions of what failsafes take past a hook, or let through.
    fn failsafes(&self, place: Place) -> Vec<Vec<Statement>> {
        let Some(node) = &self.policy.node else { return Vec::new() };
        let remote = if place.is_egress() { Side::Destination } else { Side::Source };
        let (asked, answering) = match place.is_egress() {
            true => (&node.failsafe_outbound, &node.failsafe_inbound),
            false => (&node.failsafe_inbound, &node.failsafe_outbound),
        };
        let conditions = |failsafe: &plane::Failsafe, side: Side| {
            let port = u16::try_from(failsafe.port).ok()?;
            let mut conditions: Vec<Statement> = Vec::new();
            // What is forwarded has no failsafes; here it is not yet known what will be.
            if matches!(place, Place::UntrackedIn | Place::PreDnat) {
                conditions.push(Match::LocalDestination.into());
            }
            if let Some(prefix) = &failsafe.net {
                let (address, length) = net(prefix)?;
                conditions.push(Match::Family(Family::of(address)).into());
                conditions.push(Match::Address { side: remote, prefix: address, length }.into());
            }
            let protocol = u8::try_from(failsafe.protocol).ok()?;
            conditions.push(Match::Protocol { protocol, is: true }.into());
            conditions.push(Match::Port { side, first: port, last: port, is: true }.into());
            Some(conditions)
        };
        let mut all: Vec<_> = asked.iter().filter_map(|one| conditions(one, Side::Destination)).collect();
        if matches!(place, Place::UntrackedIn | Place::UntrackedOut) {
            // Half of a connection must not be left untracked.
            all.extend(answering.iter().filter_map(|one| conditions(one, Side::Source)));
        }
        all
    }

    /// Tunnels between nodes: packets from and to nodes pass, others that come in do not.
    fn tunnels(&mut self, place: Place) -> Vec<Rule> {
        let Some(node) = self.policy.node.clone() else { return Vec::new() };
        let has_vxlan = !node.tunnel_address.is_empty() || !node.tunnel_address_v6.is_empty();
        let mut kinds: Vec<Vec<Match>> = Vec::new();
        if let (true, Ok(port)) = (has_vxlan, u16::try_from(node.vxlan_port)) {
            let port = Match::Port { side: Side::Destination, first: port, last: port, is: true };
            kinds.push(vec![Match::Protocol { protocol: UDP, is: true }, port]);
        }
        if !node.ipip_tunnel_address.is_empty() {
            kinds.push(vec![Match::Protocol { protocol: IPIP, is: true }]);
        }
        let side = if place.is_egress() { Side::Destination } else { Side::Source };
        let policy = self.policy;
        let further: Vec<_> = node.tunnel_sources.iter().filter_map(net).collect();
        let ends = || policy.nodes.values().flatten().copied().map(host).chain(further.iter().copied());
        let mut rules = Vec::new();
        for kind in kinds {
            for family in Family::BOTH {
                let set =
                    self.name(&format!("nodes {}", number(family)), || Set::of_prefixes(family, ends()));
                let end = Match::InSet { fields: vec![Field::Address(side, family)], set, is: true };
                let conditions = [Match::Family(family)].into_iter().chain(kind.clone()).chain([end]);
                let verdict = [Statement::Counter, Verdict::Accept.into()];
                let statements = conditions.map(Statement::from).chain(verdict).collect();
                rules.push(Rule::new(statements).with_comment("tunnel between nodes"));
            }
            if !place.is_egress() {
                let conditions = kind.into_iter().map(Statement::from);
                let statements = conditions.chain([Statement::Counter, Verdict::Drop.into()]).collect();
                rules.push(Rule::new(statements).with_comment("tunnel from no node"));
            }
        }
        rules
    }

    fn tier(&mut self, place: Place, tier: &plane::TierBinding) -> Vec<Rule> {
        let mut rules = Vec::new();
        for id in &tier.policies {
            let Some(policy) = self.policy.policy(id) else { continue };
            let of_policy = if place.is_egress() { &policy.egress } else { &policy.ingress };
            let slash = if id.namespace.is_empty() { "" } else { "/" };
            let title = format!("tier {} · {} {}{slash}{}", policy.tier, id.kind, id.namespace, id.name);
            let names =
                LogNames { tier: &policy.tier, kind: &id.kind, namespace: &id.namespace, name: &id.name };
            for (at, rule) in of_policy.iter().enumerate() {
                rules.extend(self.rule(place, rule, &title, at, &names));
            }
        }
        if place.has_tier_defaults() && tier.default_action() == plane::Action::Deny {
            let direction = direction(place);
            rules.push(dropped(&format!("tier {} · {direction} default", tier.tier)));
        }
        rules
    }

    fn rule(
        &mut self,
        place: Place,
        rule: &plane::Rule,
        title: &str,
        at: usize,
        names: &LogNames<'_>,
    ) -> Vec<Rule> {
        let end = match rule.action() {
            plane::Action::Allow => place.allow(),
            plane::Action::Deny => vec![Verdict::Drop.into()],
            plane::Action::Pass => vec![Verdict::Return.into()],
            plane::Action::Log => {
                let prefix = self.policy.node.as_ref().map(|node| names.filled_into(&node.log_prefix));
                vec![Statement::Log(prefix.unwrap_or_default())]
            }
        };
        let comment = format!("{title} · {} rule {at}", direction(place));
        let alternatives = alternatives(rule, self.policy, self);
        let statements = alternatives.into_iter().map(|conditions| {
            let conditions = conditions.into_iter().map(Statement::from);
            conditions.chain([Statement::Counter]).chain(end.clone()).collect()
        });
        statements.map(|statements| Rule::new(statements).with_comment(&comment)).collect()
    }
}

/// What stands for `%t` (tier), `%k` (kind), `%n` (name) and `%p` (namespace and name) in the prefix of lines of Log rules.
#[derive(Debug, Default)]
struct LogNames<'a> {
    tier: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
}

impl LogNames<'_> {
    fn filled_into(&self, prefix: &str) -> String {
        let prefix = if prefix.is_empty() { "calico-packet" } else { prefix };
        let slash = if self.namespace.is_empty() { "" } else { "/" };
        let full = format!("{}{slash}{}", self.namespace, self.name);
        let mut filled = String::new();
        let mut rest = prefix;
        while let Some((before, after)) = rest.split_once('%') {
            filled.push_str(before);
            let known = match after.chars().next() {
                Some('t') => Some(self.tier),
                Some('k') => Some(self.kind),
                Some('n') => Some(self.name),
                Some('p') => Some(full.as_str()),
                _ => None,
            };
            filled.push_str(known.unwrap_or("%"));
            rest = after.get(usize::from(known.is_some())..).unwrap_or_default();
        }
        filled.push_str(rest);
        // The kernel puts what it says of the packet right behind.
        let mut prefix: String = filled.chars().filter(|c| !c.is_control() && *c != '"').collect();
        while prefix.len() > LOG_PREFIX_BYTES {
            prefix.pop();
        }
        format!("{prefix}: ")
    }
}

fn direction(place: Place) -> &'static str {
    if place.is_egress() { "egress" } else { "ingress" }
}

fn dropped(comment: &str) -> Rule {
    Rule::new(vec![Statement::Counter, Verdict::Drop.into()]).with_comment(comment)
}

/// A text as nft(8) reads names.
fn identifier(text: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    text.chars().take(NAME_BYTES).map(fine).collect()
}
