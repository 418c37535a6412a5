//! Routes, flows and what is looked up, as text that peers in C read, too.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use caracal_dataplane::table::Prefix;

use super::Random;

/// Lookups in a trace: more than any cache holds lines of what they touch.
const LOOKUPS: usize = 1 << 20;

pub fn run(what: &str, count: u32, directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)
        .map_err(|error| format!("cannot make {}: {error}", directory.display()))?;
    match what {
        "fib-calico" => write_routes(&calico(count, v4_block, 26), directory),
        "fib6-calico" => write_routes(&calico(count, v6_block, 122), directory),
        "fib-internet" => write_routes(&internet(count), directory),
        "fib6-internet" => write_routes(&internet6(count), directory),
        "flows" => flows(count, directory),
        other => Err(format!("nothing is called {other}").into()),
    }
}

/// Routes of a Calico cluster as one node has them: a block of 64 addresses for every other node, and single addresses,
/// one in four: pods of this node, and those that have kept their address on another. Values: nodes.
pub fn calico(count: u32, block: fn(u32, u32) -> IpAddr, length: u8) -> BTreeMap<Prefix, u32> {
    let mut random = Random(26);
    let blocks = count - count / 4;
    let mut routes: BTreeMap<Prefix, u32> =
        (0..blocks).map(|n| (Prefix::new(block(n, 0), length), n % 5000 + 1)).collect();
    while routes.len() < count as usize {
        let host = Prefix::host(block(random.below(blocks), random.below(64)));
        routes.insert(host, random.below(blocks) % 5000 + 1);
    }
    routes
}

pub fn v4_block(number: u32, host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0AF4_0000 + number * 64 + host))
}

pub fn v6_block(number: u32, host: u32) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from_bits(
        0xfd00_0010_0244_0000_0000_0000_0000_0000 | u128::from(number) << 6 | u128::from(host),
    ))
}

/// Draws a length: each as often as its weight says.
fn length(random: &mut Random, weights: &[(u8, u32)]) -> u8 {
    let total = weights.iter().map(|(_, weight)| weight).sum();
    let mut drawn = random.below(total);
    for (length, weight) in weights {
        match drawn.checked_sub(*weight) {
            Some(rest) => drawn = rest,
            None => return *length,
        }
    }
    24
}

/// Prefixes as long as those of an Internet table are, anywhere, to 16 neighbours.
pub fn internet(count: u32) -> BTreeMap<Prefix, u32> {
    const LENGTHS: [(u8, u32); 12] = [
        (24, 600),
        (23, 100),
        (22, 120),
        (21, 55),
        (20, 45),
        (19, 30),
        (18, 15),
        (17, 10),
        (16, 15),
        (15, 4),
        (14, 3),
        (13, 3),
    ];
    let mut random = Random(24);
    let mut routes = BTreeMap::new();
    while routes.len() < count as usize {
        let length = length(&mut random, &LENGTHS);
        let address = 0x0100_0000 + random.below(0xDE00_0000);
        routes.insert(Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(address)), length), random.below(16) + 1);
    }
    routes
}

/// The same for IPv6: everything in 2000::/6, providers' /32 with their customers in them.
pub fn internet6(count: u32) -> BTreeMap<Prefix, u32> {
    const LENGTHS: [(u8, u32); 7] =
        [(48, 480), (44, 110), (40, 100), (36, 50), (32, 220), (29, 20), (46, 20)];
    let mut random = Random(48);
    let mut routes = BTreeMap::new();
    let providers: Vec<u32> = (0..20_000).map(|_| 0x2000_0000 | random.next() >> 6).collect();
    while routes.len() < count as usize {
        let length = length(&mut random, &LENGTHS);
        let provider = providers[random.below(20_000) as usize];
        let address = u128::from(provider) << 96 | u128::from(random.next()) << 64;
        routes.insert(Prefix::new(IpAddr::V6(Ipv6Addr::from_bits(address)), length), random.below(16) + 1);
    }
    routes
}

/// Addresses in routed prefixes, each prefix as likely as any.
pub fn destinations(routes: &BTreeMap<Prefix, u32>, count: usize) -> Vec<IpAddr> {
    let prefixes: Vec<Prefix> = routes.keys().copied().collect();
    let mut random = Random(99);
    let mut any = || match prefixes[random.below(prefixes.len() as u32) as usize] {
        prefix if prefix.address().is_ipv6() => {
            let IpAddr::V6(first) = prefix.address() else { return prefix.address() };
            let host =
                u128::from(random.next()) << 64 | u128::from(random.next()) << 32 | u128::from(random.next());
            let host = host & u128::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host))
        }
        prefix => {
            let IpAddr::V4(first) = prefix.address() else { return prefix.address() };
            let host = random.next() & u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host))
        }
    };
    (0..count).map(|_| any()).collect()
}

fn write_routes(routes: &BTreeMap<Prefix, u32>, directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    for (prefix, value) in routes {
        writeln!(text, "{} {} {value}", Plain(prefix.address()), prefix.length())?;
    }
    save(directory, "routes", &text)?;
    text.clear();
    for address in destinations(routes, LOOKUPS) {
        writeln!(text, "{}", Plain(address))?;
    }
    save(directory, "trace", &text)
}

/// An address as C reads it easily: IPv4 in decimal, IPv6 as 32 hexadecimal digits.
struct Plain(IpAddr);

impl std::fmt::Display for Plain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{}", address.to_bits()),
            IpAddr::V6(address) => write!(f, "{:032x}", address.to_bits()),
        }
    }
}

/// A flow of the table: endpoint, protocol, local address and port, remote address and port.
pub type Flow = (u32, u8, u32, u16, u32, u16);

/// Different flows between 250 pods and the pods of a cluster.
pub fn some_flows(count: u32) -> Vec<Flow> {
    let mut random = Random(5);
    let mut seen = BTreeSet::new();
    let mut flows = Vec::new();
    while flows.len() < count as usize {
        let pod = random.below(250);
        let peer = 0x0AF5_0000 + random.below(0x000A_0000);
        let flow = (pod, 6, 0x0AF4_0000 + pod, 8080, peer, 32_768 + random.below(28_232) as u16);
        if seen.insert(flow) {
            flows.push(flow);
        }
    }
    flows
}

/// `count` flows that are in the table, and as many that are not.
fn flows(count: u32, directory: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = String::new();
    for (endpoint, protocol, local, local_port, remote, remote_port) in some_flows(2 * count) {
        writeln!(text, "{endpoint} {protocol} {local} {local_port} {remote} {remote_port}")?;
    }
    save(directory, "flows", &text)?;
    let mut random = Random(6);
    for (name, first) in [("hits", 0), ("misses", count)] {
        text.clear();
        for _ in 0..LOOKUPS {
            writeln!(text, "{}", first + random.below(count))?;
        }
        save(directory, name, &text)?;
    }
    Ok(())
}

fn save(directory: &Path, name: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let path = directory.join(name);
    std::fs::write(&path, text).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}
