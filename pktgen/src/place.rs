//! Where an end of a flow is: a network namespace of this machine.
//!
//! A socket belongs to the namespace in which it was made, for life. So only a short-lived thread enters the namespace, makes the sockets,
//! and hands them out; and the threads that send live frames, which the kernel sends from the calling thread's namespace.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, anyhow, bail};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, setns};
use nix::sys::socket::SockaddrStorage;

const NETNS_DIR: &str = "/var/run/netns";
/// The interface whose address is meant when none is named: a pod's, then a node's.
const PREFERRED: [&str; 2] = ["eth0", "uplink0"];

/// One end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Where this program runs.
    Here,
    /// A network namespace: its name as `ip netns` has it, or a path.
    Netns(String),
}

impl Place {
    /// A place in a lab: NAMESPACE/POD, node/NAME or outside.
    ///
    /// # Errors
    /// `target` is none of these.
    pub fn in_lab(lab: &str, target: &str) -> anyhow::Result<Self> {
        // As `caracal lab` names them.
        let name = match target.split_once('/') {
            Some(("node", node)) if !node.is_empty() => format!("crl-{lab}.node.{node}"),
            Some((namespace, pod)) if !namespace.is_empty() && !pod.is_empty() => {
                format!("crl-{lab}.pod.{namespace}.{pod}")
            }
            None if target == "outside" => format!("crl-{lab}.outside"),
            _ => bail!("{target:?} is not NAMESPACE/POD, node/NAME or outside"),
        };
        Ok(Place::Netns(name))
    }

    /// Runs `work` in this place, on a thread of its own.
    ///
    /// # Errors
    /// The place cannot be entered, or `work` failed.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        if *self == Place::Here {
            return work();
        }
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Takes the calling thread to this place for good: for threads that end with what they do there.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn enter(&self) -> anyhow::Result<()> {
        let Place::Netns(name) = self else { return Ok(()) };
        let path = if name.contains('/') { PathBuf::from(name) } else { PathBuf::from(NETNS_DIR).join(name) };
        let file = File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                anyhow!("there is no network namespace {}; `ip netns` lists them", path.display())
            }
            _ => anyhow!(error).context(format!("cannot open the network namespace {}", path.display())),
        })?;
        setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
            nix::Error::EPERM => anyhow!("entering the network namespace {} needs root", path.display()),
            nix::Error::EINVAL => anyhow!("{} is not a network namespace", path.display()),
            errno => anyhow!(errno).context(format!("cannot enter the network namespace {}", path.display())),
        })
    }

    /// The IPv4 address of this place that others reach it by, or the IPv6 address.
    ///
    /// # Errors
    /// It has none, or cannot be entered.
    pub fn address(&self, ipv6: bool) -> anyhow::Result<IpAddr> {
        let found = self.within(|| {
            let mut found: Vec<(String, IpAddr)> = Vec::new();
            for interface in getifaddrs().context("cannot list addresses")? {
                let up = interface.flags.contains(InterfaceFlags::IFF_UP);
                let loopback = interface.flags.contains(InterfaceFlags::IFF_LOOPBACK);
                let Some(address) = interface.address.as_ref().and_then(ip) else { continue };
                let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
                if up && !loopback && !link_local && address.is_ipv6() == ipv6 {
                    found.push((interface.interface_name, address));
                }
            }
            Ok(found)
        })?;
        let preferred =
            PREFERRED.iter().find_map(|name| found.iter().find(|(interface, _)| interface == name));
        preferred.or(found.first()).map(|(_, address)| *address).with_context(|| {
            format!(
                "{self} has no {} address; name one with --to-address",
                if ipv6 { "IPv6" } else { "IPv4" }
            )
        })
    }
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Here => f.write_str("here"),
            Place::Netns(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_a_lab_are_namespaces() {
        let named = |target| match Place::in_lab("demo", target) {
            Ok(Place::Netns(name)) => name,
            other => format!("{other:?}"),
        };
        assert_eq!(named("default/web"), "crl-demo.pod.default.web");
        assert_eq!(named("node/node1"), "crl-demo.node.node1");
        assert_eq!(named("outside"), "crl-demo.outside");
        for bad in ["", "web", "/web", "default/", "node/"] {
            assert!(Place::in_lab("demo", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_namespace_that_is_not_there_is_named() {
        let error = Place::Netns("crt-no-such-namespace".into()).within(|| Ok(())).unwrap_err();
        assert!(error.to_string().contains("crt-no-such-namespace"), "{error}");
    }
}
