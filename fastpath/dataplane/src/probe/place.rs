//! Where a device sits in the machine: its driver and the CPUs near it, from sysfs; and which CPUs workers had better have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where a device sits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its address on its bus.
    pub device: Option<String>,
    /// The bus.
    pub bus: Option<String>,
    /// The driver.
    pub driver: Option<String>,
    /// The NUMA node, if the machine says.
    pub numa_node: Option<u32>,
}

impl Place {
    /// Of a device on a bus, whichever network namespace its interface is in.
    #[must_use]
    pub fn of(bus: &str, device: &str) -> Self {
        let mut place = Place { device: Some(device.into()), bus: Some(bus.into()), ..Place::default() };
        // Names come from the kernel, but a path is made of them.
        if bus.contains('/') || device.contains('/') {
            return place;
        }
        let link = Path::new("/sys/bus").join(bus).join("devices").join(device);
        let name_of = |path: PathBuf| Some(path.file_name()?.to_str()?.to_owned());
        place.driver = fs::read_link(link.join("driver")).ok().and_then(name_of);
        // A virtio device says nothing of NUMA, the PCI device that it is in does.
        place.numa_node = fs::canonicalize(&link).ok().and_then(|path| {
            path.ancestors().find_map(|at| fs::read_to_string(at.join("numa_node")).ok()?.trim().parse().ok())
        });
        place
    }
}

/// The CPUs of the machine, as far as placing workers goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus {
    /// Those that this process may use.
    pub allowed: BTreeSet<usize>,
    /// CPUs that share a core with others, by their own number: the whole core.
    pub cores: BTreeMap<usize, BTreeSet<usize>>,
    /// By NUMA node.
    pub nodes: BTreeMap<u32, BTreeSet<usize>>,
}

impl Cpus {
    /// Of this machine, for this process.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let allowed: BTreeSet<usize> =
            core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
        let list = |path: PathBuf| fs::read_to_string(path).ok().and_then(|text| parse_list(text.trim()));
        let core_of = |cpu: usize| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            list(path.into()).unwrap_or_else(|| [cpu].into())
        };
        let cores = allowed.iter().map(|cpu| (*cpu, core_of(*cpu))).collect();
        let mut nodes = BTreeMap::new();
        for entry in fs::read_dir("/sys/devices/system/node").into_iter().flatten().flatten() {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse::<u32>().ok());
            if let (Some(number), Some(cpus)) = (number, list(entry.path().join("cpulist"))) {
                nodes.insert(number, cpus);
            }
        }
        Cpus { allowed, cores, nodes }
    }

    /// Those near a NUMA node that this process may use; all of these if none is, or the node is not known.
    #[must_use]
    pub fn near(&self, node: Option<u32>) -> BTreeSet<usize> {
        let near = node.and_then(|node| self.nodes.get(&node));
        let near: BTreeSet<usize> =
            near.into_iter().flatten().filter(|cpu| self.allowed.contains(cpu)).copied().collect();
        if near.is_empty() { self.allowed.clone() } else { near }
    }

    /// CPUs for so many workers whose uplinks are at these nodes: near them, one a core, and not CPU 0 as long as there are others,
    /// because the host's own work is most often there. Farther ones when these do not suffice.
    #[must_use]
    pub fn choose(&self, workers: usize, uplinks: &[Option<u32>]) -> Vec<usize> {
        let near: BTreeSet<usize> = uplinks.iter().flat_map(|node| self.near(*node)).collect();
        let first_of_core =
            |cpu: usize| self.cores.get(&cpu).and_then(|core| core.first()).is_none_or(|first| *first == cpu);
        let mut ranked: Vec<usize> = self.allowed.iter().copied().collect();
        ranked.sort_by_key(|cpu| (!near.contains(cpu), !first_of_core(*cpu), *cpu == 0, *cpu));
        ranked.truncate(workers);
        ranked.sort_unstable();
        ranked
    }
}

/// "0-3,8" as the kernel writes it.
fn parse_list(text: &str) -> Option<BTreeSet<usize>> {
    let mut cpus = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last.checked_sub(first)? > 65_536 {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two nodes of four CPUs each, two threads a core: 0 and 4, 1 and 5 on node 0; 2 and 6, 3 and 7 on node 1.
    fn machine() -> Cpus {
        let core = |cpu: usize| [cpu % 4, cpu % 4 + 4].into();
        Cpus {
            allowed: (0..8).collect(),
            cores: (0..8).map(|cpu| (cpu, core(cpu))).collect(),
            nodes: [(0, [0, 1, 4, 5].into()), (1, [2, 3, 6, 7].into())].into(),
        }
    }

    #[test]
    fn workers_are_near_their_uplink_one_a_core_and_off_cpu_0_first() {
        let machine = machine();
        assert_eq!(machine.choose(1, &[Some(0)]), [1]);
        assert_eq!(machine.choose(2, &[Some(0)]), [0, 1]);
        assert_eq!(machine.choose(2, &[Some(1)]), [2, 3]);
        assert_eq!(machine.choose(3, &[Some(1)]), [2, 3, 6]);
        assert_eq!(machine.choose(3, &[None]), [1, 2, 3]);
        assert_eq!(machine.choose(3, &[Some(0), Some(1)]), [1, 2, 3]);
    }

    #[test]
    fn workers_take_only_cpus_that_the_process_may_use() {
        let machine = Cpus { allowed: [5, 6].into(), ..machine() };
        assert_eq!(machine.choose(4, &[Some(0)]), [5, 6]);
        assert_eq!(machine.near(Some(0)), [5].into());
        assert_eq!(machine.near(Some(9)), [5, 6].into());
    }

    #[test]
    fn the_kernels_lists_are_read_and_nonsense_is_not() {
        assert_eq!(parse_list("0-2,8"), Some([0, 1, 2, 8].into()));
        assert_eq!(parse_list(""), Some([].into()));
        for nonsense in ["x", "3-1", "0-999999999"] {
            assert_eq!(parse_list(nonsense), None, "{nonsense}");
        }
    }
}
