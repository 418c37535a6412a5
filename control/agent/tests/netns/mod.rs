//! Network namespaces of a test's own.

use std::process::Command;

/// Runs `test` on a thread in a network namespace of its own, which goes with the thread, whatever happens.
pub fn in_new_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .expect("this test needs root (CAP_SYS_ADMIN and CAP_NET_ADMIN), to make network namespaces");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// What a command prints; it must succeed.
pub fn sh(command: &str) -> String {
    let (succeeded, text) = run(command);
    assert!(succeeded, "{command}: {text}");
    text
}

/// Whether a command succeeds, and what it prints.
pub fn run(command: &str) -> (bool, String) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}
