//! A node with its neighbors, as network namespaces of a test's own, and who talks in them.
//!
//! ```text
//!   far: far0 192.0.2.1 ──── eth0 192.0.2.11  node  eth1 198.51.100.11 ──── near0 198.51.100.2 :near
//!                                          caracal0 ──── pods0 10.244.1.5 (a pod of the node), 10.244.2.5 (of another) :pods
//! ```

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};

use crate::netns::sh;

/// Against hanging only: how long an answer that must come is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long one that must not come is listened for. On a machine that is slower than this a test sees less, and fails no more often.
const SILENCE: Duration = Duration::from_millis(400);

pub const NODE: &str = "192.0.2.11";
pub const FAR: &str = "192.0.2.1";
pub const NEAR: &str = "198.51.100.2";
pub const NODE6: &str = "fd00:2::11";
pub const FAR6: &str = "fd00:2::1";
pub const OWN_POD: &str = "10.244.1.5";
pub const OTHER_POD: &str = "10.244.2.5";

/// Named network namespaces beside the node's, which go with it.
pub struct Net {
    prefix: String,
}

/// Where somebody is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Node,
    Far,
    Near,
    Pods,
}

impl Net {
    /// Makes the node's neighbors; the calling thread is in the node's namespace.
    fn new(test: &str) -> Net {
        let net = Net { prefix: format!("crt{}-{test}", std::process::id()) };
        sh("ip link set lo up && sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        for (place, inside, outside, addresses) in [
            ("far", "eth0", "far0", ["192.0.2.11/24", "192.0.2.1/24"]),
            ("near", "eth1", "near0", ["198.51.100.11/24", "198.51.100.2/24"]),
            ("pods", "caracal0", "pods0", ["169.254.9.1/24", "169.254.9.2/24"]),
        ] {
            let ns = format!("{}-{place}", net.prefix);
            let [own, theirs] = addresses;
            let gateway = own.split('/').next().unwrap();
            sh(&format!(
                "ip netns add {ns} && ip link add {inside} type veth peer name {outside} netns {ns} && \
                 ip addr add {own} dev {inside} && ip link set {inside} up && \
                 ip -n {ns} link set lo up && ip -n {ns} addr add {theirs} dev {outside} && \
                 ip -n {ns} link set {outside} up && ip -n {ns} route add default via {gateway}"
            ));
        }
        let far = format!("{}-far", net.prefix);
        let pods = format!("{}-pods", net.prefix);
        sh(&format!(
            "ip addr add {NODE6}/64 dev eth0 nodad && ip -n {far} addr add {FAR6}/64 dev far0 nodad && \
             ip -n {pods} addr add {OWN_POD}/32 dev pods0 && ip -n {pods} addr add {OTHER_POD}/32 dev pods0 && \
             ip route add 10.244.0.0/16 via 169.254.9.2 dev caracal0"
        ));
        net
    }

    fn path(&self, place: Place) -> Option<PathBuf> {
        let name = match place {
            Place::Node => return None,
            Place::Far => "far",
            Place::Near => "near",
            Place::Pods => "pods",
        };
        Some(PathBuf::from(format!("/var/run/netns/{}-{name}", self.prefix)))
    }

    /// The namespace of who is far.
    pub fn far_path(&self) -> PathBuf {
        self.path(Place::Far).unwrap()
    }

    /// Runs `work` in a place, on a thread of its own.
    pub fn at<T: Send + 'static>(&self, place: Place, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = self.path(place);
        let thread = std::thread::spawn(move || {
            if let Some(path) = path {
                enter(&path);
            }
            work()
        });
        thread.join().unwrap()
    }

    /// Answers everything that is sent to this port, over TCP and UDP.
    pub fn listen(&self, place: Place, port: u16) {
        let (tcp, udp) = self.at(place, move || {
            let address: SocketAddr = format!("[::]:{port}").parse().unwrap();
            (TcpListener::bind(address).unwrap(), udp_for_all(port))
        });
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                std::thread::spawn(move || {
                    let mut buffer = [0; 512];
                    while let Ok(length @ 1..) = stream.read(&mut buffer) {
                        let _ = stream.write_all(&buffer[..length]);
                    }
                });
            }
        });
        for socket in udp {
            std::thread::spawn(move || {
                let mut buffer = [0; 512];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..length], from);
                }
            });
        }
    }

    /// A connection, if there comes to be one.
    pub fn connect(&self, from: Place, to: &str, port: u16) -> Option<TcpStream> {
        self.connect_within(PATIENCE, from, to, port)
    }

    fn connect_within(&self, patience: Duration, from: Place, to: &str, port: u16) -> Option<TcpStream> {
        let to = SocketAddr::new(to.parse().unwrap(), port);
        self.at(from, move || TcpStream::connect_timeout(&to, patience)).ok()
    }

    /// Whether a connection carries a byte there and back.
    pub fn tcp(&self, from: Place, to: &str, port: u16) -> bool {
        self.connect(from, to, port).is_some_and(|mut stream| echoes(&mut stream))
    }

    /// Whether none does.
    pub fn no_tcp(&self, from: Place, to: &str, port: u16) -> bool {
        !self
            .connect_within(SILENCE, from, to, port)
            .is_some_and(|mut stream| echoes_within(SILENCE, &mut stream))
    }

    /// Whether a datagram is answered. `source`: the sender's address, where it has several.
    pub fn udp_by(&self, from: Place, source: &str, to: &str, port: u16) -> bool {
        self.udp_within(PATIENCE, from, source, to, port)
    }

    /// Whether it is not.
    pub fn no_udp_by(&self, from: Place, source: &str, to: &str, port: u16) -> bool {
        !self.udp_within(SILENCE, from, source, to, port)
    }

    fn udp_within(&self, patience: Duration, from: Place, source: &str, to: &str, port: u16) -> bool {
        let (source, to) =
            (SocketAddr::new(source.parse().unwrap(), 0), SocketAddr::new(to.parse().unwrap(), port));
        self.at(from, move || {
            let socket = UdpSocket::bind(source).unwrap();
            socket.set_read_timeout(Some(patience)).unwrap();
            socket.send_to(b"?", to).is_ok() && socket.recv(&mut [0; 9]).is_ok()
        })
    }

    pub fn udp(&self, from: Place, to: &str, port: u16) -> bool {
        self.udp_by(from, any(to), to, port)
    }

    pub fn no_udp(&self, from: Place, to: &str, port: u16) -> bool {
        self.no_udp_by(from, any(to), to, port)
    }

    /// Whether an echo request is answered.
    pub fn ping(&self, from: Place, to: &str) -> bool {
        self.ping_within(PATIENCE, from, to)
    }

    /// Whether it is not.
    pub fn no_ping(&self, from: Place, to: &str) -> bool {
        !self.ping_within(SILENCE, from, to)
    }

    fn ping_within(&self, patience: Duration, from: Place, to: &str) -> bool {
        let command = format!("ping -c 1 -W {} {to} >/dev/null 2>&1", patience.as_secs_f32());
        self.at(from, move || crate::netns::run(&command).0)
    }
}

/// The address that stands for all of `to`'s family.
fn any(to: &str) -> &'static str {
    if to.contains(':') { "::" } else { "0.0.0.0" }
}

/// Moves this thread into a namespace, for good.
pub fn enter(path: &Path) {
    setns(std::fs::File::open(path).unwrap().as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
}

/// IPv4 and IPv6 each have their own, so that answers come from the address that was asked.
fn udp_for_all(port: u16) -> Vec<UdpSocket> {
    let addresses =
        ["192.0.2.11", "198.51.100.11", "169.254.9.1", FAR, NEAR, OWN_POD, OTHER_POD, NODE6, FAR6];
    addresses.iter().filter_map(|address| UdpSocket::bind((*address, port)).ok()).collect()
}

/// Whether a byte comes back.
pub fn echoes(stream: &mut TcpStream) -> bool {
    echoes_within(PATIENCE, stream)
}

fn echoes_within(patience: Duration, stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok()
}

impl Drop for Net {
    fn drop(&mut self) {
        for place in ["far", "near", "pods"] {
            let _ = crate::netns::run(&format!("ip netns del {}-{place}", self.prefix));
        }
    }
}

/// Runs `test` in a node of its own.
pub fn on_a_node(name: &'static str, test: impl FnOnce(&Net) + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .expect("this test needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), to make network namespaces");
        let net = Net::new(name);
        test(&net);
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
