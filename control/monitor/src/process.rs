//! What Prometheus' clients say of their process, by the same names.

use std::fs;
use std::time::SystemTime;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{SysconfVar, sysconf};

use crate::Exposition;

/// `process_*` of this process. What /proc does not tell is left out.
pub fn process_metrics(page: &mut Exposition) {
    if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().and_then(|text| Stat::parse(&text)) {
        let ticks = sysconf(SysconfVar::CLK_TCK).ok().flatten().map_or(100.0, |ticks| ticks as f64);
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().map_or(4096, i64::unsigned_abs);
        let name = "process_cpu_seconds_total";
        page.counter(
            name,
            "Total user and system CPU time spent in seconds.",
            &[],
            stat.cpu_ticks as f64 / ticks,
        );
        let name = "process_virtual_memory_bytes";
        page.gauge(name, "Virtual memory size in bytes.", &[], stat.virtual_bytes);
        let name = "process_resident_memory_bytes";
        page.gauge(name, "Resident memory size in bytes.", &[], stat.resident_pages * page_bytes);
        page.gauge("process_threads", "Number of OS threads in the process.", &[], stat.threads);
        if let Some(booted) = booted() {
            let name = "process_start_time_seconds";
            let help = "Start time of the process since unix epoch in seconds.";
            page.gauge(name, help, &[], booted + stat.start_ticks as f64 / ticks);
        }
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Number of open file descriptors.", &[], descriptors.count());
    }
    if let Ok((soft, _)) = getrlimit(Resource::RLIMIT_NOFILE) {
        page.gauge("process_max_fds", "Maximum number of open file descriptors.", &[], soft);
    }
}

/// When this machine was started, in seconds since the epoch, by its clock of now.
fn booted() -> Option<f64> {
    let uptime: f64 = fs::read_to_string("/proc/uptime").ok()?.split(' ').next()?.parse().ok()?;
    Some(SystemTime::UNIX_EPOCH.elapsed().ok()?.as_secs_f64() - uptime)
}

/// A line of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name, in parentheses, may have anything in it.
        let rest: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        // Counted from 1 in proc(5); the first one here is the third.
        let field = |number: usize| rest.get(number - 3).and_then(|text| text.parse::<u64>().ok());
        Some(Self {
            cpu_ticks: field(14)? + field(15)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_name_does_not_confuse() {
        let text = "12 (a ) b) S 1 1 1 0 -1 4194304 1 0 0 0 70 30 0 0 20 0 5 0 900 4096 17 1844 1 1";
        let expected =
            Stat { cpu_ticks: 100, threads: 5, start_ticks: 900, virtual_bytes: 4096, resident_pages: 17 };
        assert_eq!(Stat::parse(text), Some(expected));
        assert_eq!(Stat::parse("12 (a S 1"), None);
    }

    #[test]
    fn this_process_started_a_moment_ago() {
        let mut page = Exposition::new();
        process_metrics(&mut page);
        let text = page.to_string();
        let line = text.lines().find(|line| line.starts_with("process_start_time_seconds ")).unwrap();
        let started: f64 = line.split(' ').nth(1).unwrap().parse().unwrap();
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!(started <= now + 1.0 && started > now - 3600.0, "{started} {now}");
        assert!(text.contains("process_open_fds ") && text.contains("process_cpu_seconds_total "));
    }
}
