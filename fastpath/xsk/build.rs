//! Compiles the XDP programs in bpf/ with clang.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

const PROGRAMS: [&str; 6] = ["uplink", "uplink_vlan", "pod", "guard", "generate", "record"];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed=bpf");
    println!("cargo::rerun-if-env-changed=CLANG");
    for program in PROGRAMS {
        if let Err(error) = compile(program) {
            // One line, as an error of cargo's, in place of a backtrace.
            println!("cargo::error={error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn compile(program: &str) -> Result<(), String> {
    let variable = |name| std::env::var(name).map_err(|_| format!("cargo did not set {name}"));
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let source = format!("bpf/{program}.c");
    let object = PathBuf::from(variable("OUT_DIR")?).join(format!("{program}.o"));
    let mut command = Command::new(&clang);
    command
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-c", &source, "-o"])
        .arg(&object);
    // Debian keeps <asm/types.h> in a folder named after the machine, where clang does not look when its target is bpf.
    let headers = format!("/usr/include/{}-linux-gnu", variable("CARGO_CFG_TARGET_ARCH")?);
    if Path::new(&headers).is_dir() {
        command.arg(format!("-I{headers}"));
    }
    let output = command.output().map_err(|error| {
        format!("cannot run {clang} to compile the XDP programs: {error}; install it (apt install clang) or set CLANG")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let hint = if message.contains("file not found") {
        "; install the kernel's headers (apt install linux-libc-dev)"
    } else {
        ""
    };
    Err(format!("{clang} failed on {source}{hint}: {}", message.trim().replace('\n', " | ")))
}
