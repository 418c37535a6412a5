//! A fastpath that believes nothing: every operation is checked against what is there when it comes.

use std::collections::{BTreeMap, BTreeSet};

use caracal_plane_api::op::Op as Kind;
use caracal_plane_api::route::Target;
use caracal_plane_api::{
    Action, Endpoint, Hook, HostEndpoint, Hosts, Member, NodeConfig, Op, Policy, PolicyId, Prefix, Profile,
    Route, Rule, Service, TierBinding, Tunnel,
};

type MemberKey = (Vec<u8>, u32, u32, u32);
type PolicyName = (String, String, String);

/// What a fastpath knows.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Fastpath {
    pub config: Option<NodeConfig>,
    pub sets: BTreeMap<String, BTreeSet<MemberKey>>,
    pub policies: BTreeMap<PolicyName, Policy>,
    pub profiles: BTreeMap<String, Profile>,
    pub endpoints: BTreeMap<String, Endpoint>,
    pub hosts: BTreeMap<String, HostEndpoint>,
    pub tunnels: BTreeMap<String, Tunnel>,
    pub routes: BTreeMap<(Vec<u8>, u32), Route>,
    pub services: BTreeMap<String, Service>,
}

fn member(member: &Member) -> MemberKey {
    let prefix = member.prefix.as_ref().expect("a member has a prefix");
    (prefix.address.clone(), prefix.length, member.protocol, member.port)
}

/// Members as said: one by one, and packed. None may be said twice.
fn members(one_by_one: &[Member], packed: Option<&Hosts>) -> BTreeSet<MemberKey> {
    let (v4, v6) = packed.map_or((&[][..], &[][..]), |hosts| (&*hosts.v4, &*hosts.v6));
    assert!(packed.is_none_or(|_| !v4.is_empty() || !v6.is_empty()), "hosts that hold none");
    assert!(v4.len().is_multiple_of(4) && v6.len().is_multiple_of(16), "half an address");
    let hosts = v4.chunks(4).chain(v6.chunks(16));
    let hosts: Vec<MemberKey> = hosts.map(|bytes| (bytes.to_vec(), 8 * bytes.len() as u32, 0, 0)).collect();
    let one_by_one: Vec<MemberKey> = one_by_one.iter().map(member).collect();
    let is_host =
        |member: &&MemberKey| member.1 == 8 * member.0.len() as u32 && member.2 == 0 && member.3 == 0;
    assert_eq!(one_by_one.iter().find(is_host), None, "a single address that is not packed");
    let count = hosts.len() + one_by_one.len();
    let members: BTreeSet<MemberKey> = hosts.into_iter().chain(one_by_one).collect();
    assert_eq!(members.len(), count, "a member twice");
    members
}

fn policy_name(id: &PolicyId) -> PolicyName {
    (id.kind.clone(), id.namespace.clone(), id.name.clone())
}

fn prefix(prefix: &Prefix) -> (Vec<u8>, u32) {
    (prefix.address.clone(), prefix.length)
}

fn sets_of(rules: &[Rule]) -> impl Iterator<Item = &String> {
    let entities = rules.iter().flat_map(|rule| [&rule.source, &rule.destination]).flatten();
    entities.flat_map(|entity| {
        let addresses = entity.in_all.iter().chain(&entity.in_none);
        addresses.chain(&entity.named_ports).chain(&entity.not_named_ports)
    })
}

fn policies_of(endpoint: &Endpoint) -> impl Iterator<Item = &PolicyId> {
    let staged = [&endpoint.staged_ingress, &endpoint.staged_egress].into_iter().flatten();
    let enforced = endpoint.ingress.iter().chain(&endpoint.egress);
    enforced.chain(staged.flat_map(|staged| &staged.tiers)).flat_map(|tier| &tier.policies)
}

fn hooks_of(host: &HostEndpoint) -> impl Iterator<Item = &Hook> {
    [&host.untracked, &host.pre_dnat, &host.normal, &host.forward].into_iter().flatten()
}

fn policies_of_host(host: &HostEndpoint) -> impl Iterator<Item = &PolicyId> {
    let tiers = hooks_of(host).flat_map(|hook| hook.ingress.iter().chain(&hook.egress));
    tiers.flat_map(|tier| &tier.policies)
}

impl Fastpath {
    /// Applies operations one by one; panics on one that refers to what is not there, removes what is still referred
    /// to or never was, or says what is known already.
    pub fn apply(&mut self, ops: &[Op]) {
        for op in ops {
            self.apply_one(op.op.as_ref().expect("an operation says something"));
        }
        self.check_whole();
    }

    fn apply_one(&mut self, op: &Kind) {
        match op {
            Kind::NodeConfig(config) => {
                assert_ne!(self.config.replace(config.clone()).as_ref(), Some(config), "told again");
            }
            Kind::IpSet(set) => {
                let members = members(&set.members, set.hosts.as_ref());
                assert!(self.sets.insert(set.id.clone(), members).is_none(), "{} is replaced whole", set.id);
            }
            Kind::IpSetDelta(delta) => {
                let set = self.sets.get_mut(&delta.id).expect("a delta is of a set that is there");
                let add = members(&delta.add, delta.add_hosts.as_ref());
                let remove = members(&delta.remove, delta.remove_hosts.as_ref());
                assert!(!add.is_empty() || !remove.is_empty(), "{}: an empty delta", delta.id);
                for gone in &remove {
                    assert!(set.remove(gone), "{}: {gone:?} was not in it", delta.id);
                }
                for new in add {
                    assert!(!remove.contains(&new), "{}: {new:?} goes and comes", delta.id);
                    assert!(set.insert(new.clone()), "{}: {new:?} was in it", delta.id);
                }
            }
            Kind::IpSetRemove(id) => {
                let mut rules = self.all_rules();
                assert!(!rules.any(|rules| sets_of(rules).any(|used| used == id)), "{id} is still used");
                drop(rules);
                assert!(self.sets.remove(id).is_some(), "{id} was not there");
            }
            Kind::Policy(policy) => {
                self.check_sets(&policy.ingress);
                self.check_sets(&policy.egress);
                let name = policy_name(policy.id.as_ref().expect("a policy has an id"));
                assert_ne!(self.policies.insert(name, policy.clone()).as_ref(), Some(policy), "told again");
            }
            Kind::PolicyRemove(id) => {
                assert!(!self.policies_used().any(|used| used == id), "{id:?} is still used");
                assert!(self.policies.remove(&policy_name(id)).is_some(), "{id:?} was not there");
            }
            Kind::Profile(profile) => {
                self.check_sets(&profile.ingress);
                self.check_sets(&profile.egress);
                let former = self.profiles.insert(profile.name.clone(), profile.clone());
                assert_ne!(former.as_ref(), Some(profile), "told again");
            }
            Kind::ProfileRemove(name) => {
                assert!(!self.profiles_used().any(|used| used == name), "{name} is still used");
                assert!(self.profiles.remove(name).is_some(), "{name} was not there");
            }
            Kind::Endpoint(endpoint) => {
                self.check_references(&endpoint.id, policies_of(endpoint), &endpoint.profiles);
                check_tiers(&endpoint.ingress);
                check_tiers(&endpoint.egress);
                for (staged, enforced) in [
                    (&endpoint.staged_ingress, &endpoint.ingress),
                    (&endpoint.staged_egress, &endpoint.egress),
                ] {
                    if let Some(staged) = staged {
                        check_tiers(&staged.tiers);
                        assert_ne!(staged.tiers, *enforced, "{}: staged, and nothing differs", endpoint.id);
                    }
                }
                assert!(!endpoint.addresses.is_empty(), "{}: no address", endpoint.id);
                let former = self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
                assert_ne!(former.as_ref(), Some(endpoint), "told again");
            }
            Kind::EndpointRemove(id) => {
                assert!(self.endpoints.remove(id).is_some(), "{id} was not there");
            }
            Kind::HostEndpoint(host) => {
                self.check_references(&host.id, policies_of_host(host), &host.profiles);
                for hook in hooks_of(host) {
                    check_tiers(&hook.ingress);
                    check_tiers(&hook.egress);
                }
                for hook in [&host.untracked, &host.pre_dnat].into_iter().flatten() {
                    let mut tiers = hook.ingress.iter().chain(&hook.egress);
                    assert!(tiers.all(|tier| tier.default_action == i32::from(Action::Pass)), "{}", host.id);
                }
                let pre_dnat = host.pre_dnat.as_ref().expect("every hook is said");
                assert!(pre_dnat.egress.is_empty(), "{}: nothing is before DNAT on the way out", host.id);
                let former = self.hosts.insert(host.id.clone(), host.clone());
                assert_ne!(former.as_ref(), Some(host), "told again");
            }
            Kind::HostEndpointRemove(id) => {
                assert!(self.hosts.remove(id).is_some(), "{id} was not there");
            }
            Kind::Tunnel(tunnel) => {
                let former = self.tunnels.insert(tunnel.node.clone(), tunnel.clone());
                assert_ne!(former.as_ref(), Some(tunnel), "told again");
            }
            Kind::TunnelRemove(node) => {
                let used = self.routes.values().any(|route| remote(route) == Some(node));
                assert!(!used, "the tunnel to {node} is still used");
                assert!(self.tunnels.remove(node).is_some(), "{node} was not there");
            }
            Kind::Service(service) => {
                let former = self.services.insert(service.id.clone(), service.clone());
                assert_ne!(former.as_ref(), Some(service), "told again");
            }
            Kind::ServiceRemove(id) => {
                assert!(self.services.remove(id).is_some(), "{id} was not there");
            }
            Kind::Route(route) => {
                if let Some(node) = remote(route) {
                    assert!(self.tunnels.contains_key(node), "no tunnel to {node}");
                }
                let to = prefix(route.prefix.as_ref().expect("a route has a prefix"));
                assert_ne!(self.routes.insert(to, route.clone()).as_ref(), Some(route), "told again");
            }
            Kind::RouteRemove(to) => {
                assert!(self.routes.remove(&prefix(to)).is_some(), "{to:?} was not there");
            }
        }
    }

    fn policies_used(&self) -> impl Iterator<Item = &PolicyId> {
        let pods = self.endpoints.values().flat_map(policies_of);
        pods.chain(self.hosts.values().flat_map(policies_of_host))
    }

    fn profiles_used(&self) -> impl Iterator<Item = &String> {
        let pods = self.endpoints.values().flat_map(|endpoint| &endpoint.profiles);
        pods.chain(self.hosts.values().flat_map(|host| &host.profiles))
    }

    fn check_references<'a>(
        &self,
        id: &str,
        policies: impl Iterator<Item = &'a PolicyId>,
        profiles: &[String],
    ) {
        for used in policies {
            assert!(self.policies.contains_key(&policy_name(used)), "{id}: {used:?} is missing");
        }
        for used in profiles {
            assert!(self.profiles.contains_key(used), "{id}: {used} is missing");
        }
    }

    fn all_rules(&self) -> impl Iterator<Item = &[Rule]> {
        let policies = self.policies.values().flat_map(|policy| [policy.ingress.as_slice(), &policy.egress]);
        policies
            .chain(self.profiles.values().flat_map(|profile| [profile.ingress.as_slice(), &profile.egress]))
    }

    fn check_sets(&self, rules: &[Rule]) {
        for used in sets_of(rules) {
            assert!(self.sets.contains_key(used), "{used} is missing");
        }
    }

    /// Nothing is there that nobody needs.
    fn check_whole(&self) {
        let used: BTreeSet<&String> = self.all_rules().flat_map(sets_of).collect();
        let unused: Vec<&String> = self.sets.keys().filter(|id| !used.contains(id)).collect();
        assert!(unused.is_empty(), "sets that no rule uses: {unused:?}");
        let used: BTreeSet<PolicyName> = self.policies_used().map(policy_name).collect();
        let unused: Vec<&PolicyName> = self.policies.keys().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "policies that apply to no endpoint: {unused:?}");
        let used: BTreeSet<&String> = self.profiles_used().collect();
        let unused: Vec<&String> = self.profiles.keys().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "profiles that no endpoint names: {unused:?}");
        let bound: Vec<&String> =
            self.hosts.values().map(|host| &host.interface).filter(|name| !name.is_empty()).collect();
        let distinct: BTreeSet<&String> = bound.iter().copied().collect();
        assert_eq!(bound.len(), distinct.len(), "two host endpoints about one interface: {bound:?}");
    }
}

/// A tier is bound once, and only with policies, each once.
fn check_tiers(tiers: &[TierBinding]) {
    let names: BTreeSet<&String> = tiers.iter().map(|tier| &tier.tier).collect();
    assert_eq!(names.len(), tiers.len(), "a tier twice: {tiers:?}");
    for tier in tiers {
        let policies: BTreeSet<PolicyName> = tier.policies.iter().map(policy_name).collect();
        assert!(policies.len() == tier.policies.len() && !policies.is_empty(), "{tier:?}");
    }
}

fn remote(route: &Route) -> Option<&String> {
    match route.target.as_ref().expect("a route leads somewhere") {
        Target::Remote(remote) => Some(&remote.node),
        Target::LocalBlock(_) | Target::LocalHost(_) => None,
    }
}
