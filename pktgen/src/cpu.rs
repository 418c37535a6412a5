//! What a run cost the whole machine: softirq work shows up on cores that no process of ours ran on.

use std::fs;

/// Clock ticks a second in /proc/stat (USER_HZ), the same on every Linux architecture we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds that all CPUs together have been busy since boot; `None` when /proc/stat is not as proc(5) has it.
#[must_use]
pub fn busy_seconds() -> Option<f64> {
    busy_of(&fs::read_to_string("/proc/stat").ok()?)
}

/// user, nice, system, irq, softirq and steal of the first line; idle and iowait are left out, and guest is in user.
fn busy_of(stat: &str) -> Option<f64> {
    let fields: Vec<f64> =
        stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().map_while(|f| f.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, steal, ..] = fields.as_slice() else {
        return None;
    };
    Some((user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_are_not_busy() {
        assert_eq!(busy_of("cpu  100 20 30 4000 500 6 7 8 99 0\ncpu0 1 1 1 1"), Some(1.71));
        assert_eq!(busy_of("cpu  100 20"), None);
        assert_eq!(busy_of(""), None);
    }
}
