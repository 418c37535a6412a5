//! A node for the tests: a network namespace with a running `caracal-fastpath`, a pod, and machines on the fabric. The
//! test itself is the control plane.

use std::io::BufReader;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use caracal_plane_api::plane::{self, from_client, from_fastpath, op};
use caracal_plane_api::{read_message, write_message};
use caracal_xsk::xdp::{bpffs, pod};

use crate::common::*;

/// The node.
pub const NODE: &str = "192.0.2.11";
/// The pod.
pub const POD: &str = "10.244.1.2";
/// The machine behind the first uplink.
pub const NEAR: &str = "192.0.2.1";

/// The node's namespace is the calling thread's. Everything ends with this value.
pub struct Node {
    fastpath: Child,
    plane: BufReader<UnixStream>,
    seq: u64,
    bpf: PathBuf,
    socket: PathBuf,
    /// The pod's namespace.
    pub pod: Peer,
}

fn name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("crt{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A machine at the other end of a new veth of the calling thread's namespace.
pub fn machine(device: &str, ours: &str, theirs: &str, mtu: u32) -> Peer {
    let peer = Peer::new();
    wire(device, ours, theirs, mtu, &peer);
    peer
}

/// The veth of [`machine`].
pub fn wire(device: &str, ours: &str, theirs: &str, mtu: u32, peer: &Peer) {
    let far = format!("far-{device}");
    veth(device, &far);
    ip(&format!("link set {device} mtu {mtu}"));
    ip(&format!("link set {far} mtu {mtu}"));
    ip(&format!("addr add {ours}/24 dev {device}"));
    peer.adopt(&far);
    let (ours, theirs) = (ours.to_owned(), theirs.to_owned());
    peer.run(move || {
        ip(&format!("addr add {theirs}/24 dev {far}"));
        ip(&format!("link set {far} up"));
        ip(&format!("route add 10.244.1.0/24 via {ours}"));
    });
}

impl Node {
    /// Starts the fastpath with these arguments, and tells it of the node and its pod.
    pub fn start(mtu: u32, arguments: &str) -> Node {
        Node::start_as(config(), mtu, arguments)
    }

    /// The same for a node of another configuration.
    pub fn start_as(config: plane::NodeConfig, mtu: u32, arguments: &str) -> Node {
        let (bpf, socket) = (Path::new(bpffs::MOUNT_POINT).join(name()), std::env::temp_dir().join(name()));
        let pod = pod_of(mtu, &bpf);
        let fastpath = Command::new(env!("CARGO_BIN_EXE_caracal-fastpath"))
            .args(["--chunks", "2048", "--uplink-ring", "256", "--pod-ring", "256", "--no-huge-pages"])
            .args(["--log", "warn", "--socket"])
            .arg(&socket)
            .arg("--bpf-dir")
            .arg(&bpf)
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let stream = eventually("the fastpath listens", || UnixStream::connect(&socket).ok());
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut node = Node { fastpath, plane: BufReader::new(stream), seq: 0, bpf, socket, pod };
        let hello = plane::Hello {
            version: caracal_plane_api::VERSION,
            role: plane::Role::Controller.into(),
            name: "test".into(),
        };
        node.say(from_client::Message::Hello(hello));
        assert!(matches!(node.hear(), from_fastpath::Message::Welcome(_)));
        let allow = plane::Rule { action: plane::Action::Allow.into(), ..plane::Rule::default() };
        let profile =
            plane::Profile { name: "all".into(), ingress: vec![allow.clone()], egress: vec![allow] };
        let block = plane::Route {
            prefix: Some(plane::Prefix { address: vec![10, 244, 1, 0], length: 24 }),
            target: Some(plane::route::Target::LocalBlock(plane::LocalBlock {})),
        };
        node.tell(vec![
            op::Op::NodeConfig(config),
            op::Op::Profile(profile),
            op::Op::Route(block),
            op::Op::Endpoint(endpoint()),
        ]);
        node
    }

    fn say(&mut self, message: from_client::Message) {
        let message = plane::FromClient { message: Some(message) };
        write_message(self.plane.get_mut(), &message).unwrap();
    }

    fn hear(&mut self) -> from_fastpath::Message {
        let message: plane::FromFastpath = read_message(&mut self.plane).unwrap();
        message.message.unwrap()
    }

    /// States something, and waits until the workers know.
    pub fn tell(&mut self, ops: Vec<op::Op>) {
        self.seq += 1;
        let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
        self.say(from_client::Message::Transaction(plane::Transaction { seq: self.seq, ops, in_sync: true }));
        self.hear_ack(self.seq);
    }

    /// States one after another without waiting for each: up to `ahead` are under way. All must be acknowledged, in order.
    pub fn tell_all(&mut self, transactions: impl Iterator<Item = Vec<op::Op>>, ahead: usize) {
        let mut acknowledged = self.seq;
        for ops in transactions {
            self.seq += 1;
            let ops = ops.into_iter().map(|op| plane::Op { op: Some(op) }).collect();
            let transaction = plane::Transaction { seq: self.seq, ops, in_sync: true };
            self.say(from_client::Message::Transaction(transaction));
            if self.seq - acknowledged >= ahead as u64 {
                acknowledged += 1;
                self.hear_ack(acknowledged);
            }
        }
        (acknowledged + 1..=self.seq).for_each(|seq| self.hear_ack(seq));
    }

    fn hear_ack(&mut self, seq: u64) {
        match self.hear() {
            from_fastpath::Message::Ack(ack) => assert_eq!(ack.seq, seq),
            other => panic!("no acknowledgement: {other:?}"),
        }
    }

    fn read(&mut self, what: plane::What) -> Vec<plane::ReadReply> {
        self.say(from_client::Message::Read(plane::Read { what: what.into() }));
        let mut replies = Vec::new();
        while replies.last().is_none_or(|reply: &plane::ReadReply| !reply.last) {
            match self.hear() {
                from_fastpath::Message::ReadReply(reply) => replies.push(reply),
                other => panic!("no reply: {other:?}"),
            }
        }
        replies
    }

    /// Which of its tables is the newest.
    pub fn generation(&mut self) -> u64 {
        let replies = self.read(plane::What::Status);
        replies.into_iter().find_map(|reply| reply.status).unwrap().generation
    }

    /// The rows of its ports.
    pub fn ports(&mut self) -> Vec<plane::PortRow> {
        let replies = self.read(plane::What::Status);
        replies.into_iter().find_map(|reply| reply.status).unwrap().ports
    }

    /// The row of a port, if it has one.
    pub fn port(&mut self, name: &str) -> Option<plane::PortRow> {
        self.ports().into_iter().find(|row| row.name == name)
    }

    /// Waits until a port is up.
    pub fn wait_for(&mut self, port: &str) {
        eventually(&format!("{port} is up"), || self.port(port).filter(|row| row.up));
    }

    /// A counter, summed over workers and objects.
    pub fn counter(&mut self, name: &str) -> u64 {
        let rows = self.read(plane::What::Counters).into_iter().flat_map(|reply| reply.counters);
        rows.filter(|row| row.name == name).map(|row| row.value).sum()
    }

    /// Packets dropped, by reasons that there were.
    pub fn all_drops(&mut self) -> Vec<(String, u64)> {
        let rows = self.read(plane::What::Drops).into_iter().flat_map(|reply| reply.drops);
        rows.filter(|row| row.packets > 0).map(|row| (row.reason, row.packets)).collect()
    }

    /// Packets dropped for a reason.
    pub fn drops(&mut self, reason: &str) -> u64 {
        let rows = self.read(plane::What::Drops).into_iter().flat_map(|reply| reply.drops);
        rows.filter(|row| row.reason == reason).map(|row| row.packets).sum()
    }

    /// Whether the pod gets an answer.
    pub fn pod_pings(&self, to: &str, more: &str) -> bool {
        let arguments = format!("-c 1 -W 1 {more} {to}");
        self.pod.run(move || succeeds("ping", &arguments))
    }

    /// Has the fastpath end in order.
    pub fn end(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.fastpath.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.fastpath.wait().unwrap().success());
    }

    /// Waits until it does.
    pub fn wait_for_answer(&self, to: &str) {
        eventually(&format!("{to} answers the pod"), || self.pod_pings(to, "").then_some(()));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.fastpath.kill();
        let _ = self.fastpath.wait();
        let _ = pod::unpin(&self.bpf, "calia");
        let _ = std::fs::remove_dir(&self.bpf);
        let _ = std::fs::remove_file(&self.socket);
    }
}

/// The tap by which packets go to the host, as the agent makes it.
pub fn host_port(name: &str) {
    ip(&format!("tuntap add {name} mode tap vnet_hdr"));
    ip(&format!("link set {name} mtu 1450 up"));
}

/// What the node is told of itself.
pub fn config() -> plane::NodeConfig {
    plane::NodeConfig {
        node: "node1".into(),
        address: bytes(NODE),
        vni: 4096,
        vxlan_port: 4789,
        ..plane::NodeConfig::default()
    }
}

/// The pod, as the control plane knows it.
pub fn endpoint() -> plane::Endpoint {
    plane::Endpoint {
        id: "default/a".into(),
        interface: "calia".into(),
        addresses: vec![bytes(POD)],
        profiles: vec!["all".into()],
        ..plane::Endpoint::default()
    }
}

/// An address as the plane says it.
pub fn bytes(address: &str) -> Vec<u8> {
    match address.parse().unwrap() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A pod as the CNI plugin makes it.
fn pod_of(mtu: u32, bpf: &Path) -> Peer {
    let peer = Peer::new();
    veth("calia", "crtpod0");
    ip(&format!("link set calia mtu {mtu}"));
    ip(&format!("link set crtpod0 mtu {mtu}"));
    peer.adopt("crtpod0");
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    peer.run(move || {
        ip(&format!("addr add {POD}/32 dev crtpod0"));
        ip("link set crtpod0 up");
        ip(&format!("route add {gateway} dev crtpod0"));
        ip(&format!("route add default via {gateway}"));
    });
    pod::pin(bpf, "calia", ifindex("calia")).unwrap();
    peer
}
