//! ADD: a container gets its addresses and its link, and its policy is in force before it runs.
//!
//! ```text
//!   agent ready? ─► pod, pools, settings ─► addresses ─► link, cut off ─► annotations ─► in force ─► result
//!      no: 11,                                  │            │               │             │ no
//!      nothing made                             ◄────────────◄───────────────◄─────────────┘ taken back
//! ```
//!
//! The invariant: whatever has been made can be found by the container's name alone — addresses by the handle, which is written before
//! they are, the link by its alias, which is its first attribute, annotations by the container they name. So a DEL after a kill at any
//! moment finds all of it.

use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;

use caracal_datastore::Datastore;
use caracal_model::annotations;
use caracal_model::cidr::Cidr;
use caracal_model::names::veth_name;
use caracal_model::object::{Kind, Object};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use tracing::{info, warn};

use super::config::Config;
use super::env::{Attachment, EnvError, Variables};
use super::error::PluginError;
use super::pod::{self, Wishes};
use super::result::{CniResult, Interface, Ip, Route};
use super::{delegate, gates, ipam, session};
use crate::link::{self, PodLink, Shape};
use crate::netlink::{self, Link, Netlink};
use crate::netns;
use crate::node_socket::{Annotate, Assign, Code, NodeSocket, NodeSocketError, Wait};

/// Attaches a container.
///
/// # Errors
/// It cannot be; then nothing of it stays, or the error says what does.
pub async fn run(
    config: &Config,
    attachment: &Attachment,
    variables: &Variables,
) -> Result<CniResult, PluginError> {
    let mut agent = NodeSocket::connect(&config.node_socket)?;
    let status = agent.status()?;
    if !status.ready {
        return Err(PluginError::NotReady(format!("this node's agent is not ready: {}", status.why)));
    }
    let (namespace, name) =
        attachment.pod().ok_or(EnvError::Missing("K8S_POD_NAMESPACE and K8S_POD_NAME in CNI_ARGS"))?;
    let pod_netns = attachment.netns.as_deref().ok_or(EnvError::Missing("CNI_NETNS"))?;
    check_netns(pod_netns)?;
    let node = session::node_name(config)?;
    let mtu = session::mtu(config)?;
    gates::wait(&config.readiness_gates)?;
    let host_name = veth_name(namespace, name);
    let _turn = session::Turn::take(config, &host_name)?;

    let way = session::Way::new(config, status.api_group.as_deref());
    // An agent that knows where Calico's objects are has looked at this one, too.
    if status.api_group.is_none() {
        session::check_ready(way.datastore().await?).await?;
    }
    let known = match agent.read(namespace, name)? {
        Some((pod, namespace)) => Known { pod, namespace },
        None => Known::read(way.datastore().await?, namespace, name).await?,
    };
    pod::check(&known.pod, attachment, &node)?;
    let wishes = Wishes::read(&known.pod, known.namespace.as_ref(), config)?;

    let job = Job {
        config,
        attachment,
        variables,
        way: &way,
        node: &node,
        host_name: &host_name,
        known: &known,
        wishes: &wishes,
    };
    if let Some(found) = job.stale()? {
        if let Some(result) = job.repeated(&found, mtu)? {
            info!("attached already: the same result again");
            return Ok(result);
        }
        info!(interface = host_name, owner = found.alias, "replacing a link that was left");
        link::remove(None, &host_name, &config.bpf_dir)?;
    }

    let mut made = Made::default();
    let done = job.make(pod_netns, mtu, &mut agent, &mut made).await;
    match done {
        Ok(result) => Ok(result),
        Err(error) => Err(job.take_back(made, error).await),
    }
}

/// What must be known of the cluster.
struct Known {
    pod: Pod,
    namespace: Option<Namespace>,
}

impl Known {
    async fn read(datastore: &Datastore, namespace: &str, name: &str) -> Result<Self, PluginError> {
        // One after the other: a connection more costs more than a request, and plugins come in crowds.
        let pod = pod::read(datastore, namespace, name).await?;
        let outer = match datastore.get(Kind::Namespace, None, namespace).await {
            Ok(Object::Namespace(namespace)) => Some(*namespace),
            Ok(_) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error.into()),
        };
        // The kubelet has it from the same API server, so it has gone: or this is a server that lags behind.
        let pod = pod.ok_or_else(|| {
            PluginError::NotReady(format!(
                "there is no pod {namespace}/{name} in the API: it has gone, or is not there yet"
            ))
        })?;
        Ok(Self { pod, namespace: outer })
    }

    fn namespace_labels(&self) -> impl Iterator<Item = (String, String)> {
        let labels = self.namespace.iter().flat_map(|namespace| namespace.metadata.labels.iter().flatten());
        labels.map(|(key, value)| (key.clone(), value.clone()))
    }
}

/// What has been made, and is to be taken back when what follows fails.
#[derive(Debug, Default)]
struct Made {
    addresses: bool,
    link: bool,
    annotations: bool,
}

/// Addresses, and the routes that came with them.
struct Given {
    addresses: Vec<IpAddr>,
    routes: Option<Vec<Cidr>>,
}

struct Job<'a> {
    config: &'a Config,
    attachment: &'a Attachment,
    variables: &'a Variables,
    way: &'a session::Way<'a>,
    node: &'a str,
    host_name: &'a str,
    known: &'a Known,
    wishes: &'a Wishes,
}

impl Job<'_> {
    fn handle(&self) -> String {
        self.config.handle(&self.attachment.container)
    }

    /// A link of that name that is there already.
    fn stale(&self) -> Result<Option<Link>, PluginError> {
        // Mostly there is none, and to see that is cheaper.
        match netlink::index_of(self.host_name).and_then(|_| Netlink::open()?.link(self.host_name)) {
            Ok(link) => Ok(Some(link)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The result of the ADD before, if this one repeats it: the link is this container's, with its addresses at its other end.
    fn repeated(&self, found: &Link, mtu: u32) -> Result<Option<CniResult>, PluginError> {
        let Some(pod_netns) = self.attachment.netns.as_deref() else { return Ok(None) };
        let addresses = pod::addresses(&self.known.pod);
        let is_ours =
            found.alias == self.handle() && pod::container(&self.known.pod) == self.attachment.container;
        if !is_ours || addresses.is_empty() {
            return Ok(None);
        }
        let interface = self.attachment.interface.as_str();
        let at_the_end = netns::within(pod_netns, || -> Result<Vec<IpAddr>, PluginError> {
            let mut netlink = Netlink::open()?;
            let index = match netlink.link(interface) {
                Ok(link) => link.index,
                Err(error) if error.is_not_found() => return Ok(Vec::new()),
                Err(error) => return Err(error.into()),
            };
            Ok(netlink.addresses(index)?.into_iter().map(|(address, _)| address).collect())
        })??;
        if !addresses.iter().all(|address| at_the_end.contains(address)) {
            return Ok(None);
        }
        let given = Given { addresses, routes: None };
        self.result(pod_netns, &given, mtu).map(Some)
    }

    async fn make(
        &self,
        pod_netns: &std::path::Path,
        mtu: u32,
        agent: &mut NodeSocket,
        made: &mut Made,
    ) -> Result<CniResult, PluginError> {
        made.addresses = !self.wishes.without_ipam;
        let given = self.addresses(agent).await?;
        if given.addresses.is_empty() {
            return Err(PluginError::Ipam(
                "no address has been given: neither family is asked for (ipam.assign_ipv4, ipam.assign_ipv6)"
                    .into(),
            ));
        }

        made.link = true;
        let handle = self.handle();
        let link = PodLink {
            node_netns: None,
            pod_netns,
            host_name: self.host_name,
            addresses: &given.addresses,
            mtu,
            mac: self.wishes.mac,
            bpf_dir: &self.config.bpf_dir,
        };
        let shape = Shape {
            interface: &self.attachment.interface,
            owner: &handle,
            forwards: self.config.allow_ip_forwarding,
            routes: given.routes.as_deref(),
        };
        link::add_shaped(&link, &shape)?;
        let result = self.result(pod_netns, &given, mtu)?;

        made.annotations = true;
        let metadata = &self.known.pod.metadata;
        let annotate = Annotate {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            pod: metadata.name.clone().unwrap_or_default(),
            uid: metadata.uid.clone().unwrap_or_default(),
            container_id: self.attachment.container.clone(),
            addresses: given.addresses.clone(),
        };
        if agent.annotate(annotate.clone())?.is_none() {
            pod::write(self.way.datastore().await?, &annotate).await?;
        }

        agent.wait(Wait {
            namespace: annotate.namespace,
            pod: annotate.pod,
            container_id: annotate.container_id,
            interface: self.host_name.to_owned(),
            addresses: annotate.addresses,
            timeout_ms: u64::try_from(self.config.policy_timeout.as_millis()).unwrap_or(u64::MAX),
        })?;
        Ok(result)
    }

    async fn addresses(&self, agent: &mut NodeSocket) -> Result<Given, PluginError> {
        if self.wishes.without_ipam {
            return Ok(Given { addresses: self.wishes.addresses.clone(), routes: None });
        }
        if !self.config.ipam.is_own() {
            if !self.wishes.addresses.is_empty() {
                return Err(PluginError::Annotation {
                    name: annotations::POD_WANTED_ADDRESSES,
                    of: format!("pod {}", self.known.pod.metadata.name.as_deref().unwrap_or_default()),
                    why: format!(
                        "only addresses of Calico's pools can be asked for, and ipam.type is {}",
                        self.config.ipam.kind
                    ),
                });
            }
            let whole = delegate::configuration(self.config, self.way, self.node).await?;
            let result = delegate::execute(self.config, &whole, self.variables)?;
            let (addresses, mut routes) = delegate::given(&result);
            if self.config.include_default_routes {
                routes.extend(["0.0.0.0/0", "::/0"].iter().filter_map(|text| text.parse::<Cidr>().ok()));
                routes.sort();
                routes.dedup();
            }
            return Ok(Given { addresses, routes: (!routes.is_empty()).then_some(routes) });
        }
        let config = &self.config.ipam;
        let (ipv4, ipv6) = self.wishes.families.unwrap_or((config.assign_ipv4, config.assign_ipv6));
        let exactly = match self.attachment.arguments.address {
            Some(address) if self.wishes.addresses.is_empty() => vec![address],
            _ => self.wishes.addresses.clone(),
        };
        let wanted = ipam::Wanted {
            handle: self.handle(),
            node: self.node.to_owned(),
            pod: self.attachment.pod().map(|(namespace, name)| (namespace.to_owned(), name.to_owned())),
            ipv4,
            ipv6,
            ipv4_pools: self.wishes.ipv4_pools.clone().unwrap_or_else(|| config.ipv4_pools.clone()),
            ipv6_pools: self.wishes.ipv6_pools.clone().unwrap_or_else(|| config.ipv6_pools.clone()),
            exactly,
        };
        if let Some(addresses) = by_agent(agent, &wanted, self.known)? {
            return Ok(Given { addresses, routes: None });
        }
        let datastore = self.way.datastore().await?;
        let mut world = session::world(datastore, Some(self.node), None).await?;
        world.namespace_labels = self.known.namespace_labels().collect();
        let lock = ipam::lock(&self.config.ipam_lock);
        let addresses = ipam::assign(datastore, &world, &wanted, lock.as_deref()).await?;
        Ok(Given { addresses, routes: None })
    }

    fn result(&self, pod_netns: &std::path::Path, given: &Given, mtu: u32) -> Result<CniResult, PluginError> {
        let interface = self.attachment.interface.as_str();
        let mac = netns::within(pod_netns, || Netlink::open()?.link(interface))??.mac;
        let texts = || given.addresses.iter().map(|address| pod::with_length(*address));
        let routes: Vec<String> = match &given.routes {
            // One for each address, as calico-ipam has it.
            None => texts().collect(),
            Some(routes) => routes.iter().map(ToString::to_string).collect(),
        };
        Ok(CniResult {
            interfaces: vec![
                Interface { name: self.host_name.to_owned(), ..Interface::default() },
                Interface {
                    name: interface.to_owned(),
                    mac: mac_text(&mac),
                    mtu: Some(mtu),
                    sandbox: pod_netns.display().to_string(),
                },
            ],
            ips: texts().map(|address| Ip { address, interface: Some(1), ..Ip::default() }).collect(),
            routes: routes.into_iter().map(|dst| Route { dst, ..Route::default() }).collect(),
            dns: self.config.dns.clone(),
        })
    }

    async fn clear(&self) -> Result<(), PluginError> {
        Ok(pod::clear(self.way.datastore().await?, &self.known.pod).await?)
    }

    async fn release(&self, handle: &str) -> Result<(), PluginError> {
        let datastore = self.way.datastore().await?;
        // Of all that is read for address management, releasing needs what pools and settings say.
        let world = session::world(datastore, None, None).await?;
        ipam::release(datastore, &world, handle).await
    }

    /// Takes back what has been made, the last first; the error, with what remains.
    async fn take_back(&self, made: Made, error: PluginError) -> PluginError {
        warn!("taking back what has been made: {error}");
        let mut remains = Vec::new();
        // Cut off first, then forgotten, then its addresses go to others.
        if made.link
            && let Err(error) = link::remove(None, self.host_name, &self.config.bpf_dir)
        {
            remains.push(format!("the link {} ({error})", self.host_name));
        }
        if made.annotations
            && let Err(error) = self.clear().await
        {
            remains.push(format!("the pod's annotations ({error})"));
        }
        if made.addresses {
            let handle = self.handle();
            let released = match self.config.ipam.is_own() {
                true => self.release(&handle).await,
                false => {
                    let mut variables = self.variables.clone();
                    variables.insert("CNI_COMMAND".into(), "DEL".into());
                    let whole = delegate::configuration_for_del(self.config);
                    delegate::execute(self.config, &whole, &variables).map(drop)
                }
            };
            if let Err(error) = released {
                remains.push(format!("the addresses of {handle} ({error})"));
            }
        }
        if remains.is_empty() {
            return error;
        }
        PluginError::Remains {
            error: Box::new(error),
            remains: format!("DEL takes back what remains: {}", remains.join("; ")),
        }
    }
}

/// The addresses that the agent gives. It gives to many at once what plugins give one after the other; `None`: it leaves that to us.
fn by_agent(
    agent: &mut NodeSocket,
    wanted: &ipam::Wanted,
    known: &Known,
) -> Result<Option<Vec<IpAddr>>, PluginError> {
    let Some((namespace, pod)) = wanted.pod.clone().filter(|_| wanted.exactly.is_empty()) else {
        return Ok(None);
    };
    let assign = Assign {
        handle: wanted.handle.clone(),
        namespace,
        pod,
        namespace_labels: known.namespace_labels().collect(),
        ipv4: wanted.ipv4,
        ipv6: wanted.ipv6,
        ipv4_pools: wanted.ipv4_pools.clone(),
        ipv6_pools: wanted.ipv6_pools.clone(),
    };
    match agent.assign(assign) {
        Err(NodeSocketError::Failure(failure)) if failure.code == Code::NoAddress => {
            Err(PluginError::Ipam(failure.error))
        }
        given => Ok(given?),
    }
}

/// The host keeps its network: what is made inside a pod is not made in the namespace that this process is in.
fn check_netns(pod_netns: &std::path::Path) -> Result<(), PluginError> {
    let identity = |path: &std::path::Path| {
        let found = std::fs::metadata(path);
        let found =
            found.map_err(PluginError::io(format!("look at the network namespace {}", path.display())))?;
        Ok::<_, PluginError>((found.dev(), found.ino()))
    };
    let (pods, own) = (identity(pod_netns)?, identity(std::path::Path::new("/proc/self/ns/net"))?);
    let why = match () {
        // All namespaces are files of one file system.
        () if pods.0 != own.0 => "must be the file of a network namespace",
        () if pods.1 == own.1 => "must not be the host's own network namespace",
        () => return Ok(()),
    };
    let value = pod_netns.display().to_string();
    Err(EnvError::Bad { variable: "CNI_NETNS", value, why }.into())
}

/// `02:00:00:00:00:01`.
pub(super) fn mac_text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
