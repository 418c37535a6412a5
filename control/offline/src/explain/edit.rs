//! Single edits of a policy, as values: what to try when the verdict is to be another.

use std::net::IpAddr;

use caracal_dataplane::table::FlowDirection;
use caracal_model::case::World;
use caracal_model::object::{Kind, Object};
use caracal_model::protocol::Protocol;
use serde_json::{Map, Value, json};

use super::cluster::Walk;
use super::policy;
use super::words::{own_labels, pod_of};

/// An edit of one field of an object.
#[derive(Debug, Clone)]
pub(super) struct Edit {
    /// How much it changes: the less, the sooner it is tried.
    pub cost: u32,
    /// The field, in Kubernetes' syntax.
    pub field: String,
    /// What is there.
    pub from: Value,
    /// What would be there.
    pub to: Value,
    /// In words.
    pub description: String,
    /// The object with it.
    pub value: Value,
}

/// An object that is edited, and the flow that it is about.
pub(super) struct Editor<'a> {
    pub world: &'a World,
    pub walk: &'a Walk,
    pub object: &'a Object,
    pub value: Value,
}

impl<'a> Editor<'a> {
    pub fn new(world: &'a World, walk: &'a Walk, object: &'a Object) -> Self {
        Self { world, walk, object, value: object.to_value() }
    }

    pub fn rules(&self) -> &[Value] {
        policy::written_rules(&self.value, self.walk.direction)
    }

    fn direction(&self) -> &'static str {
        policy::field(self.walk.direction)
    }

    fn is_kubernetes(&self) -> bool {
        self.object.kind() == Kind::NetworkPolicy
    }

    fn is_cluster_policy(&self) -> bool {
        self.object.kind() == Kind::ClusterNetworkPolicy
    }

    fn peer_field(&self) -> &'static str {
        match (self.is_kubernetes() || self.is_cluster_policy(), self.walk.direction) {
            (true, FlowDirection::Ingress) => "from",
            (true, FlowDirection::Egress) => "to",
            (false, FlowDirection::Ingress) => "source",
            (false, FlowDirection::Egress) => "destination",
        }
    }

    /// The destination's port, for protocols that have ports.
    fn port(&self) -> Option<u16> {
        let protocol = Protocol(self.walk.flow.protocol);
        let port = match self.walk.direction {
            FlowDirection::Ingress => self.walk.flow.local_port,
            FlowDirection::Egress => self.walk.flow.peer_port,
        };
        protocol.has_ports().then_some(port)
    }

    fn protocol(&self) -> Value {
        let protocol = Protocol(self.walk.flow.protocol);
        let named = [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::ICMP, Protocol::ICMPV6];
        if named.contains(&protocol) { protocol.to_string().into() } else { protocol.0.into() }
    }

    /// The value at a path of the object, replaced (or removed, with null), as an edit.
    pub fn set(&self, cost: u32, path: &[Step], to: Value, description: String) -> Option<Edit> {
        let mut value = self.value.clone();
        let (last, parents) = path.split_last()?;
        let mut here = &mut value;
        for step in parents {
            here = match step {
                Step::Key(key) => {
                    let map = here.as_object_mut()?;
                    map.entry(*key).or_insert_with(|| Value::Object(Map::new()))
                }
                Step::Index(index) => here.as_array_mut()?.get_mut(*index)?,
            };
        }
        let from = match last {
            Step::Key(key) => {
                let map = here.as_object_mut()?;
                let from = map.get(*key).cloned().unwrap_or_default();
                if to.is_null() {
                    map.remove(*key)
                } else {
                    map.insert((*key).to_owned(), to.clone())
                };
                from
            }
            Step::Index(index) => {
                let list = here.as_array_mut()?;
                if to.is_null() {
                    if *index >= list.len() {
                        return None;
                    }
                    list.remove(*index)
                } else {
                    std::mem::replace(list.get_mut(*index)?, to.clone())
                }
            }
        };
        Some(Edit { cost, field: name(path), from, to, description, value })
    }

    /// A rule put in front of the one at `index`, or behind all.
    pub fn insert_rule(&self, cost: u32, index: usize, rule: Value, why: &str) -> Option<Edit> {
        let mut rules = self.rules().to_vec();
        let index = index.min(rules.len());
        let place = if index < rules.len() {
            format!("in front of rule {index}")
        } else {
            "behind its rules".to_owned()
        };
        rules.insert(index, rule.clone());
        let whole =
            self.set(cost, &[Step::Key("spec"), Step::Key(self.direction())], rules.into(), String::new())?;
        Some(Edit {
            cost,
            field: format!("spec.{}[{index}]", self.direction()),
            from: Value::Null,
            to: rule,
            description: format!("add a rule {place} that {why}"),
            value: whole.value,
        })
    }

    /// A rule for this flow and no other, as far as the kind of policy can say it.
    pub fn narrow_rule(&self, action: &str) -> Option<Value> {
        let mut rule = Map::new();
        if self.is_kubernetes() {
            if action != "Allow" {
                return None;
            }
            rule.insert(self.peer_field().to_owned(), json!([self.kubernetes_peer()]));
            if let Some(port) = self.port() {
                rule.insert("ports".to_owned(), json!([{"protocol": self.protocol(), "port": port}]));
            }
            return Some(rule.into());
        }
        if self.is_cluster_policy() {
            let action = if action == "Allow" { "Accept" } else { action };
            rule.insert("action".to_owned(), action.into());
            rule.insert(self.peer_field().to_owned(), json!([self.cluster_peer()?]));
            rule.insert("protocols".to_owned(), json!([self.cluster_protocol()?]));
            return Some(rule.into());
        }
        rule.insert("action".to_owned(), action.into());
        rule.insert("protocol".to_owned(), self.protocol());
        if let Some((kind, code)) = self.walk.flow.icmp {
            rule.insert("icmp".to_owned(), json!({"type": kind, "code": code}));
        }
        let mut sides = Map::new();
        sides.insert(self.peer_field().to_owned(), self.calico_peer());
        if let Some(port) = self.port()
            && let Some(destination) = sides.entry("destination").or_insert_with(|| json!({})).as_object_mut()
        {
            destination.insert("ports".to_owned(), json!([port]));
        }
        rule.extend(sides);
        Some(rule.into())
    }

    fn peer(&self) -> IpAddr {
        self.walk.flow.peer_address
    }

    fn namespace(&self) -> Option<String> {
        self.object.key().namespace
    }

    /// The peer as a side of a Calico rule: by its labels where it has some, else by its address.
    fn calico_peer(&self) -> Value {
        let Some(pod) = pod_of(self.world, self.peer()) else { return json!({"nets": [net(self.peer())]}) };
        let labels = own_labels(self.world, &pod.namespace, &pod.name);
        if labels.is_empty() {
            return json!({"nets": [net(self.peer())]});
        }
        let terms: Vec<String> = labels.iter().map(|(key, value)| format!("{key} == '{value}'")).collect();
        let selector = terms.join(" && ");
        if self.namespace().as_ref() == Some(&pod.namespace) {
            json!({"selector": selector})
        } else {
            json!({"namespaceSelector": format!("projectcalico.org/name == '{}'", pod.namespace), "selector": selector})
        }
    }

    /// The peer as a peer of a Kubernetes policy.
    fn kubernetes_peer(&self) -> Value {
        let pod = pod_of(self.world, self.peer());
        let labels = pod.map(|pod| own_labels(self.world, &pod.namespace, &pod.name)).unwrap_or_default();
        match pod {
            Some(pod) if !labels.is_empty() => {
                let labels: Map<String, Value> =
                    labels.into_iter().map(|(key, value)| (key, value.into())).collect();
                if self.namespace().as_ref() == Some(&pod.namespace) {
                    json!({"podSelector": {"matchLabels": labels}})
                } else {
                    let name = json!({"matchLabels": {"kubernetes.io/metadata.name": pod.namespace}});
                    json!({"namespaceSelector": name, "podSelector": {"matchLabels": labels}})
                }
            }
            _ => json!({"ipBlock": {"cidr": net(self.peer())}}),
        }
    }

    fn cluster_peer(&self) -> Option<Value> {
        match pod_of(self.world, self.peer()) {
            Some(pod) => {
                let labels: Map<String, Value> = own_labels(self.world, &pod.namespace, &pod.name)
                    .into_iter()
                    .map(|(key, value)| (key, value.into()))
                    .collect();
                let name = json!({"matchLabels": {"kubernetes.io/metadata.name": pod.namespace}});
                Some(json!({"pods": {"namespaceSelector": name, "podSelector": {"matchLabels": labels}}}))
            }
            None if self.walk.direction == FlowDirection::Egress => {
                Some(json!({"networks": [net(self.peer())]}))
            }
            None => None,
        }
    }

    fn cluster_protocol(&self) -> Option<Value> {
        let name = match Protocol(self.walk.flow.protocol) {
            Protocol::TCP => "tcp",
            Protocol::UDP => "udp",
            Protocol::SCTP => "sctp",
            _ => return None,
        };
        Some(json!({name: {"destinationPort": {"number": self.port()?}}}))
    }

    fn rule_path(&self, index: usize) -> Vec<Step> {
        vec![Step::Key("spec"), Step::Key(self.direction()), Step::Index(index)]
    }

    fn within(&self, index: usize, rest: &[Step]) -> Vec<Step> {
        [self.rule_path(index), rest.to_vec()].concat()
    }

    /// Edits that let a rule match which does not: the missing port, the missing peer, a condition less.
    pub fn widen(&self, index: usize) -> Vec<Edit> {
        let Some(rule) = self.rules().get(index) else { return Vec::new() };
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let mut edits = Vec::new();
        let protocol = Protocol(self.walk.flow.protocol);
        let with = |list: &[Value], value: Value| Value::Array(list.iter().cloned().chain([value]).collect());
        if self.is_kubernetes() || self.is_cluster_policy() {
            let (ports, entry) = if self.is_kubernetes() {
                let entry = self.port().map(|port| json!({"protocol": self.protocol(), "port": port}));
                ("ports", entry)
            } else {
                ("protocols", self.cluster_protocol())
            };
            let listed = list(rule.get(ports));
            if let Some(entry) = entry.filter(|_| !listed.is_empty()) {
                let words =
                    format!("add {protocol} port {} to rule {index}", self.port().unwrap_or_default());
                edits.extend(self.set(
                    10,
                    &self.within(index, &[Step::Key(ports)]),
                    with(&listed, entry),
                    words,
                ));
            }
            let peers = list(rule.get(self.peer_field()));
            let peer = if self.is_kubernetes() { Some(self.kubernetes_peer()) } else { self.cluster_peer() };
            if let Some(peer) = peer.filter(|_| !peers.is_empty()) {
                let words = format!("add the {} to the peers of rule {index}", self.peer_words());
                edits.extend(self.set(
                    11,
                    &self.within(index, &[Step::Key(self.peer_field())]),
                    with(&peers, peer),
                    words,
                ));
            }
            for key in [ports, self.peer_field()] {
                if self.is_kubernetes() && rule.get(key).is_some() {
                    let words = format!("drop `{key}` from rule {index}");
                    edits.extend(self.set(40, &self.within(index, &[Step::Key(key)]), Value::Null, words));
                }
            }
            return edits;
        }
        for side in ["source", "destination"] {
            let Some(entity) = rule.get(side).and_then(Value::as_object) else { continue };
            let path = |key| self.within(index, &[Step::Key(side), Step::Key(key)]);
            let port = if (side == "destination") == (self.walk.direction == FlowDirection::Ingress) {
                self.walk.flow.local_port
            } else {
                self.walk.flow.peer_port
            };
            let ports = list(entity.get("ports"));
            if protocol.has_ports() && !ports.is_empty() {
                let words = format!("add port {port} to rule {index}");
                edits.extend(self.set(10, &path("ports"), with(&ports, port.into()), words));
            }
            if side == self.peer_field() {
                let nets = list(entity.get("nets"));
                if !nets.is_empty() {
                    let words = format!("add {} to the nets of rule {index}", net(self.peer()));
                    edits.extend(self.set(11, &path("nets"), with(&nets, net(self.peer()).into()), words));
                }
                if let Some(selector) = entity.get("selector").and_then(Value::as_str)
                    && let Some(wanted) = self.calico_peer().get("selector").and_then(Value::as_str)
                {
                    let words = format!("let rule {index} select the {}, too", self.peer_words());
                    edits.extend(self.set(
                        12,
                        &path("selector"),
                        format!("({selector}) || ({wanted})").into(),
                        words,
                    ));
                }
            }
            for (key, value) in entity {
                let Some(key) = CONDITIONS.iter().copied().find(|known| known == key) else { continue };
                if value.is_null() {
                    continue;
                }
                let words = format!("drop `{side}.{key}` from rule {index}");
                edits.extend(self.set(40, &path(key), Value::Null, words));
            }
        }
        for key in ["icmp", "notICMP", "notProtocol", "ipVersion", "protocol"] {
            if rule.get(key).is_some_and(|value| !value.is_null()) {
                let words = format!("drop `{key}` from rule {index}");
                edits.extend(self.set(41, &self.within(index, &[Step::Key(key)]), Value::Null, words));
            }
        }
        edits
    }

    /// Edits that take a rule's matches away, or some of them.
    pub fn narrow(&self, index: usize) -> Vec<Edit> {
        let Some(rule) = self.rules().get(index) else { return Vec::new() };
        let mut edits = Vec::new();
        if self.is_kubernetes() || self.is_cluster_policy() {
            let ports = if self.is_kubernetes() { "ports" } else { "protocols" };
            for (cost, key, what) in [(20, ports, "port entry"), (21, self.peer_field(), "peer")] {
                let entries = rule.get(key).and_then(Value::as_array).map_or(0, Vec::len);
                // Removing the last one would widen the rule to everything.
                for entry in (0..entries).filter(|_| entries > 1) {
                    let path = self.within(index, &[Step::Key(key), Step::Index(entry)]);
                    edits.extend(self.set(
                        cost,
                        &path,
                        Value::Null,
                        format!("remove {what} {entry} of rule {index}"),
                    ));
                }
            }
        }
        edits.extend(self.set(50, &self.rule_path(index), Value::Null, format!("remove rule {index}")));
        edits
    }

    /// The rule with another action.
    pub fn action(&self, index: usize, action: &str) -> Option<Edit> {
        if self.is_kubernetes() {
            return None;
        }
        let action = if self.is_cluster_policy() && action == "Allow" { "Accept" } else { action };
        let path = self.within(index, &[Step::Key("action")]);
        self.set(45, &path, action.into(), format!("let rule {index} say {action}"))
    }

    /// The policy no longer selecting the endpoint, by one of its labels.
    pub fn deselect(&self) -> Vec<Edit> {
        let Some((namespace, name)) =
            self.walk.endpoint.split_once('/').filter(|_| !self.walk.is_host_endpoint)
        else {
            return Vec::new();
        };
        let labels = own_labels(self.world, namespace, name);
        let edits = labels.iter().filter_map(|(key, value)| {
            let words = format!("let the policy leave out pods with {key}={value}");
            if self.is_kubernetes() {
                let term = json!({"key": key, "operator": "NotIn", "values": [value]});
                let terms =
                    self.value.pointer("/spec/podSelector/matchExpressions").and_then(Value::as_array);
                let terms: Vec<Value> = terms.into_iter().flatten().cloned().chain([term]).collect();
                let path = [Step::Key("spec"), Step::Key("podSelector"), Step::Key("matchExpressions")];
                return self.set(60, &path, terms.into(), words);
            }
            if self.is_cluster_policy() {
                return None;
            }
            let selector = self.value.pointer("/spec/selector").and_then(Value::as_str).unwrap_or_default();
            let left_out = format!("{key} != '{value}'");
            let to =
                if selector.trim().is_empty() { left_out } else { format!("({selector}) && {left_out}") };
            self.set(60, &[Step::Key("spec"), Step::Key("selector")], to.into(), words)
        });
        edits.collect()
    }

    fn peer_words(&self) -> String {
        match pod_of(self.world, self.peer()) {
            Some(pod) => format!("pod {}/{}", pod.namespace, pod.name),
            None => format!("address {}", self.peer()),
        }
    }

    /// What a narrow rule does, in words.
    pub fn narrow_words(&self, action: &str) -> String {
        let verb = if action == "Deny" { "denies" } else { "allows" };
        let port = self.port().map(|port| format!(" port {port}")).unwrap_or_default();
        let way = if self.walk.direction == FlowDirection::Ingress { "from" } else { "to" };
        format!("{verb} {}{port} {way} the {}", Protocol(self.walk.flow.protocol), self.peer_words())
    }
}

/// Conditions of a side of a Calico rule.
const CONDITIONS: [&str; 9] = [
    "ports",
    "notPorts",
    "nets",
    "notNets",
    "selector",
    "notSelector",
    "namespaceSelector",
    "serviceAccounts",
    "services",
];

/// A step of a path into an object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Key(&'static str),
    Index(usize),
}

fn name(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

fn net(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
