//! Huge pages for what is large: the forwarding table of many routes, the flow tables.
//!
//! A lookup in 64 MiB of 4 KiB pages misses the TLB more often than not, and then waits twice. glibc's allocator asks the kernel
//! for transparent huge pages when it is told to, which only the environment can do, and only before a program starts: so the
//! fastpath starts itself once more with it. (`/sys/kernel/mm/transparent_hugepage/enabled` must be `madvise`, as
//! distributions have it, or `always`.) Frames are not concerned: a domain maps its own memory.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

const TUNABLES: &str = "GLIBC_TUNABLES";
const ASK: &str = "glibc.malloc.hugetlb=1";
/// Says that this has been done: whatever a program with privileges of its own does not get of its environment.
const DONE: &str = "CARACAL_FASTPATH_HUGE_PAGES";

/// Starts this program once more, with an allocator that asks for huge pages. To be called first of all: it does not return
/// where it succeeds.
///
/// # Errors
/// When the program cannot be started: it goes on with small pages.
pub fn ask() -> io::Result<()> {
    if std::env::var_os(DONE).is_some() {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).env(TUNABLES, tunables(std::env::var_os(TUNABLES))).env(DONE, "asked");
    Err(again.exec())
}

/// What somebody has tuned stays.
fn tunables(held: Option<OsString>) -> OsString {
    match held.filter(|held| !held.is_empty()) {
        Some(mut held) => {
            held.push(":");
            held.push(ASK);
            held
        }
        None => ASK.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_has_tuned_stays() {
        assert_eq!(tunables(None), ASK);
        assert_eq!(tunables(Some("".into())), ASK);
        let both = tunables(Some("glibc.malloc.arena_max=2".into()));
        assert_eq!(both, "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1");
    }
}
