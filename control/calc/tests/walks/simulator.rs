//! A fastpath that believes nothing: every operation is checked against what is there when it comes.

use std::collections::{BTreeMap, BTreeSet};

use caracal_plane_api::op::Op as Kind;
use caracal_plane_api::route::Target;
use caracal_plane_api::{
    Endpoint, Member, NodeConfig, Op, Policy, PolicyId, Prefix, Profile, Route, Rule, Tunnel,
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
    pub tunnels: BTreeMap<String, Tunnel>,
    pub routes: BTreeMap<(Vec<u8>, u32), Route>,
}

fn member(member: &Member) -> MemberKey {
    let prefix = member.prefix.as_ref().expect("a member has a prefix");
    (prefix.address.clone(), prefix.length, member.protocol, member.port)
}

fn policy_name(id: &PolicyId) -> PolicyName {
    (id.kind.clone(), id.namespace.clone(), id.name.clone())
}

fn prefix(prefix: &Prefix) -> (Vec<u8>, u32) {
    (prefix.address.clone(), prefix.length)
}

fn sets_of(rules: &[Rule]) -> impl Iterator<Item = &String> {
    let entities = rules.iter().flat_map(|rule| [&rule.source, &rule.destination]).flatten();
    entities.flat_map(|entity| entity.in_all.iter().chain(&entity.in_none).chain(&entity.named_ports))
}

fn policies_of(endpoint: &Endpoint) -> impl Iterator<Item = &PolicyId> {
    endpoint.ingress.iter().chain(&endpoint.egress).flat_map(|tier| &tier.policies)
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
                let members: BTreeSet<MemberKey> = set.members.iter().map(member).collect();
                assert_eq!(members.len(), set.members.len(), "{}: a member twice", set.id);
                assert!(self.sets.insert(set.id.clone(), members).is_none(), "{} is replaced whole", set.id);
            }
            Kind::IpSetDelta(delta) => {
                let set = self.sets.get_mut(&delta.id).expect("a delta is of a set that is there");
                assert!(!delta.add.is_empty() || !delta.remove.is_empty(), "{}: an empty delta", delta.id);
                for gone in &delta.remove {
                    assert!(set.remove(&member(gone)), "{}: {gone:?} was not in it", delta.id);
                }
                for new in &delta.add {
                    assert!(set.insert(member(new)), "{}: {new:?} was in it", delta.id);
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
                let used =
                    self.endpoints.values().any(|endpoint| policies_of(endpoint).any(|used| used == id));
                assert!(!used, "{id:?} is still used");
                assert!(self.policies.remove(&policy_name(id)).is_some(), "{id:?} was not there");
            }
            Kind::Profile(profile) => {
                self.check_sets(&profile.ingress);
                self.check_sets(&profile.egress);
                let former = self.profiles.insert(profile.name.clone(), profile.clone());
                assert_ne!(former.as_ref(), Some(profile), "told again");
            }
            Kind::ProfileRemove(name) => {
                let used = self.endpoints.values().any(|endpoint| endpoint.profiles.contains(name));
                assert!(!used, "{name} is still used");
                assert!(self.profiles.remove(name).is_some(), "{name} was not there");
            }
            Kind::Endpoint(endpoint) => {
                for used in policies_of(endpoint) {
                    assert!(
                        self.policies.contains_key(&policy_name(used)),
                        "{}: {used:?} is missing",
                        endpoint.id
                    );
                }
                for used in &endpoint.profiles {
                    assert!(self.profiles.contains_key(used), "{}: {used} is missing", endpoint.id);
                }
                assert!(!endpoint.addresses.is_empty(), "{}: no address", endpoint.id);
                let former = self.endpoints.insert(endpoint.id.clone(), endpoint.clone());
                assert_ne!(former.as_ref(), Some(endpoint), "told again");
            }
            Kind::EndpointRemove(id) => {
                assert!(self.endpoints.remove(id).is_some(), "{id} was not there");
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
        let used: BTreeSet<PolicyName> =
            self.endpoints.values().flat_map(policies_of).map(policy_name).collect();
        let unused: Vec<&PolicyName> = self.policies.keys().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "policies that apply to no endpoint: {unused:?}");
        let used: BTreeSet<&String> =
            self.endpoints.values().flat_map(|endpoint| &endpoint.profiles).collect();
        let unused: Vec<&String> = self.profiles.keys().filter(|name| !used.contains(name)).collect();
        assert!(unused.is_empty(), "profiles that no endpoint names: {unused:?}");
    }
}

fn remote(route: &Route) -> Option<&String> {
    match route.target.as_ref().expect("a route leads somewhere") {
        Target::Remote(remote) => Some(&remote.node),
        Target::LocalBlock(_) | Target::LocalHost(_) => None,
    }
}
