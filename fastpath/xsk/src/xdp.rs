//! Our XDP programs (bpf/*.c), loaded, attached and filled.
//!
//! | program | on | attached by | life | without a socket |
//! |---|---|---|---|---|
//! | [`uplink`] | the node's uplink | the fastpath | ends with the process, however that ends | passes: the host keeps its network |
//! | [`pod`] | the host's end of each pod's veth | the CNI library | pinned: outlives everybody | drops: fail closed |
//! | [`wire`]: the pod program | a device that is to be a wire's end | `pktgen impair` | ends with the process | drops |
//!
//! Native mode (in the driver) is tried first. A device that cannot gets generic mode (in the stack, a copy more for each packet), with the
//! reason. On a veth, native mode switches TSO off at the other end by itself; **generic mode does not**: then the caller must
//! switch TSO and GSO off in the pod (`ethtool -K eth0 tso off gso off`), or its TCP collapses.

pub mod bpffs;
mod device_bound;
pub mod guard;
pub mod pod;
mod quick;
pub mod uplink;
pub mod wire;

pub use uplink::Uplink;
pub use wire::WireEnd;

use aya::EbpfLoader;
use aya::programs::links::FdLink;
use aya::programs::{Xdp, XdpMode};
use std::error::Error;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, PoisonError};

/// Where pods' programs are pinned, unless whoever pins them and whoever looks for them are told otherwise.
pub const DEFAULT_BPF_DIR: &str = "/sys/fs/bpf/caracal";

/// How a program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver.
    Native,
    /// In the stack, and why not in the driver.
    Generic(String),
}

impl fmt::Display for AttachMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Native => write!(f, "native"),
            Self::Generic(reason) => write!(f, "generic ({reason})"),
        }
    }
}

/// How a program is to be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preference {
    /// Native, or generic if the device cannot.
    #[default]
    NativeFirst,
    /// Native or not at all.
    Native,
    /// Generic.
    Generic,
}

/// What went wrong with a program, a map or a pin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum XdpError {
    /// Not root.
    #[error(
        "{doing}: not permitted; run as root, or with CAP_BPF and CAP_NET_ADMIN (pinning and mounting: CAP_SYS_ADMIN)"
    )]
    NotPermitted {
        /// What was being done.
        doing: String,
    },
    /// The kernel does not take the program.
    #[error(
        "{doing}: {reason}; Linux 5.18 or later with CONFIG_BPF_SYSCALL and CONFIG_XDP_SOCKETS is needed"
    )]
    Load {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        reason: String,
    },
    /// Another program is there.
    #[error(
        "device {ifindex} already has an XDP program (another fastpath?); `ip link show` names it, detach it first"
    )]
    Taken {
        /// The device.
        ifindex: u32,
    },
    /// No device.
    #[error("there is no device with index {ifindex} in this network namespace")]
    NoDevice {
        /// The device.
        ifindex: u32,
    },
    /// The device takes neither mode that was asked for.
    #[error("cannot attach an XDP program to device {ifindex}: {reason}")]
    Attach {
        /// The device.
        ifindex: u32,
        /// What the kernel said.
        reason: String,
    },
    /// A map.
    #[error("{doing}: {reason}")]
    Map {
        /// What was being done.
        doing: String,
        /// What the kernel said.
        reason: String,
    },
    /// A name that cannot be an interface's.
    #[error("{name:?} is not the name of a network interface")]
    Name {
        /// The name.
        name: String,
    },
    /// Nothing pinned.
    #[error("no pod program is pinned at {}; was the pod's link made by the CNI library with another --bpf-dir?", path.display())]
    NotPinned {
        /// Where.
        path: PathBuf,
    },
    /// Not a BPF file system.
    #[error("{} is not on a BPF file system ({reason}); use a directory below /sys/fs/bpf", path.display())]
    NotBpffs {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file operation on the BPF file system.
    #[error("{doing} {}: {source}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl XdpError {
    pub(crate) fn map(doing: impl Into<String>, error: &(dyn Error + 'static)) -> Self {
        match os_error(error) {
            Some(libc::EPERM) => Self::NotPermitted { doing: doing.into() },
            _ => Self::Map { doing: doing.into(), reason: whole_story(error) },
        }
    }

    pub(crate) fn load(program: &str, error: &(dyn Error + 'static)) -> Self {
        let doing = format!("load the {program} program");
        match os_error(error) {
            Some(libc::EPERM) => Self::NotPermitted { doing },
            _ => Self::Load { doing, reason: whole_story(error) },
        }
    }

    fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                Self::NotPermitted { doing: format!("{doing} {}", path.display()) }
            }
            _ => Self::File { doing, path, source },
        }
    }
}

/// The operating system's error at the root of an error of aya's.
fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.raw_os_error();
        }
        next = error.source();
    }
    None
}

/// An error and its causes in one line.
fn whole_story(error: &(dyn Error + 'static)) -> String {
    let mut story = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !story.contains(&cause_text) {
            story = format!("{story}: {cause_text}");
        }
        next = cause.source();
    }
    let mut lines: Vec<&str> = story.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // A verifier's log says at its end what it did not like; nobody reads the rest of it in a message.
    if lines.len() > LINES_OF_A_STORY {
        lines.splice(1..lines.len() - (LINES_OF_A_STORY - 2), ["…"]);
    }
    lines.join(" | ")
}

/// Lines of an error that are worth telling.
const LINES_OF_A_STORY: usize = 6;

/// aya's loader reads all of the kernel's type information when it is made, which takes tens of milliseconds; our programs look into no
/// kernel structure, so one loader is made for the process and forgets it.
fn loader() -> &'static Mutex<EbpfLoader<'static>> {
    static LOADER: LazyLock<Mutex<EbpfLoader<'static>>> = LazyLock::new(|| {
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        Mutex::new(loader)
    });
    &LOADER
}

/// Reads one of our objects; its program is not loaded yet.
fn read_object(name: &str, object: &[u8]) -> Result<aya::Ebpf, XdpError> {
    let loaded = loader().lock().unwrap_or_else(PoisonError::into_inner).load(object);
    loaded.map_err(|error| XdpError::load(name, &error))
}

/// Loads one of our objects.
fn load_object(name: &str, object: &[u8]) -> Result<aya::Ebpf, XdpError> {
    let mut ebpf = read_object(name, object)?;
    program(&mut ebpf, name)?.load().map_err(|error| XdpError::load(name, &error))?;
    Ok(ebpf)
}

pub(crate) fn program<'a>(ebpf: &'a mut aya::Ebpf, name: &str) -> Result<&'a mut Xdp, XdpError> {
    let missing = || XdpError::Load {
        doing: format!("find the {name} XDP program"),
        reason: "not in its object".into(),
    };
    ebpf.program_mut(name).and_then(|program| program.try_into().ok()).ok_or_else(missing)
}

/// Attaches a loaded program through a link that ends with its last descriptor or pin.
pub(crate) fn attach(
    program: &mut Xdp,
    ifindex: u32,
    preference: Preference,
) -> Result<(FdLink, AttachMode), XdpError> {
    let generic = |program: &mut Xdp, reason: String| {
        attach_in(program, ifindex, XdpMode::Skb).map(|link| (link, AttachMode::Generic(reason)))
    };
    if preference == Preference::Generic {
        return generic(program, "configured".into());
    }
    match attach_in(program, ifindex, XdpMode::Driver) {
        Ok(link) => Ok((link, AttachMode::Native)),
        Err(XdpError::Attach { reason, .. }) if preference == Preference::NativeFirst => {
            generic(program, reason)
        }
        Err(error) => Err(error),
    }
}

fn attach_failed(ifindex: u32, error: &(dyn Error + 'static)) -> XdpError {
    match os_error(error) {
        Some(libc::EBUSY | libc::EEXIST) => XdpError::Taken { ifindex },
        Some(libc::ENODEV) => XdpError::NoDevice { ifindex },
        Some(libc::EPERM) => {
            XdpError::NotPermitted { doing: format!("attach an XDP program to device {ifindex}") }
        }
        _ => XdpError::Attach { ifindex, reason: whole_story(error) },
    }
}

fn attach_in(program: &mut Xdp, ifindex: u32, mode: XdpMode) -> Result<FdLink, XdpError> {
    let id = program.attach_to_if_index(ifindex, mode).map_err(|error| attach_failed(ifindex, &error))?;
    let link = program.take_link(id).map_err(|error| attach_failed(ifindex, &error))?;
    // aya falls back to attaching without a link. Such a program would outlive us: dropping the link takes it off again.
    FdLink::try_from(link)
        .map_err(|_| XdpError::Attach { ifindex, reason: "the kernel has no BPF links for XDP".into() })
}
