//! Under which circumstances figures were made. Whatever cannot be read is left out; nothing here fails.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The machine and the program.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// Its name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// What its CPUs call themselves.
    pub cpu_model: String,
    /// CPUs that are on line.
    pub cpus: usize,
    /// How the first CPU's clock is governed, where it can be.
    pub governor: Option<String>,
    /// It is a guest of some hypervisor.
    pub virtual_machine: bool,
    /// KiB of memory.
    pub memory_kib: u64,
    /// What the kernel does about the CPUs' faults, by fault; those that do not affect them are left out.
    pub mitigations: BTreeMap<String, String>,
    /// Load averages over 1, 5 and 15 minutes when the program began.
    pub load: Vec<f64>,
    /// The program's version.
    pub version: String,
    /// The commit that it was built from.
    pub commit: String,
    /// `release`, or `debug`: whose figures say little.
    pub build: String,
}

impl Machine {
    /// This one, now.
    #[must_use]
    pub fn read() -> Self {
        let text =
            |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let cpu_info = text("/proc/cpuinfo");
        Machine {
            host: text("/proc/sys/kernel/hostname"),
            kernel: text("/proc/sys/kernel/osrelease"),
            cpu_model: field(&cpu_info, "model name").unwrap_or_default().to_owned(),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            governor: Some(text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"))
                .filter(|g| !g.is_empty()),
            virtual_machine: field(&cpu_info, "flags")
                .is_some_and(|flags| flags.split(' ').any(|f| f == "hypervisor")),
            memory_kib: field(&text("/proc/meminfo"), "MemTotal")
                .and_then(|kib| kib.split(' ').next()?.parse().ok())
                .unwrap_or(0),
            mitigations: mitigations(Path::new("/sys/devices/system/cpu/vulnerabilities")),
            load: text("/proc/loadavg").split(' ').take(3).map_while(|load| load.parse().ok()).collect(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: env!("PKTGEN_COMMIT").into(),
            build: env!("PKTGEN_PROFILE").into(),
        }
    }

    /// What makes figures of this machine doubtful.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(load) = self.load.first().filter(|load| **load > self.cpus as f64 / 4.0) {
            warnings.push(format!(
                "the machine was busy with other things before this began: load {load} on {} CPUs",
                self.cpus
            ));
        }
        if self.build == "debug" {
            warnings.push("this is a debug build: the generator and the sink are slow".into());
        }
        warnings
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

fn mitigations(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let state = fs::read_to_string(entry.path()).ok()?;
            let state = state.trim();
            (state != "Not affected")
                .then(|| (entry.file_name().to_string_lossy().into_owned(), state.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_the_space_around_them() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz: fast\nMemTotal:       24683668 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz: fast"));
        assert_eq!(field(text, "MemTotal"), Some("24683668 kB"));
        assert_eq!(field(text, "model"), None);
    }

    #[test]
    fn this_machine_can_be_read() {
        let machine = Machine::read();
        assert!(
            !machine.kernel.is_empty()
                && machine.cpus > 0
                && machine.memory_kib > 0
                && machine.load.len() == 3
        );
        assert!(!machine.commit.is_empty());
    }

    #[test]
    fn a_busy_machine_and_a_debug_build_are_warned_of() {
        let quiet =
            Machine { cpus: 4, load: vec![0.9, 3.0, 3.0], build: "release".into(), ..Machine::default() };
        assert!(quiet.warnings().is_empty());
        let busy = Machine { load: vec![1.1], ..quiet.clone() };
        assert!(busy.warnings()[0].contains("load 1.1 on 4 CPUs"));
        let debug = Machine { build: "debug".into(), ..quiet };
        assert!(debug.warnings()[0].contains("debug"));
    }
}
