//! A program that asks the device it runs on about each frame, by a function that the driver has (`bpf_xdp_metadata_…`, Linux 6.3).
//!
//! The kernel wants to know the device when it loads such a program, and puts the driver's function in the place of the call; the program
//! runs on that device only, and only in native mode. aya can do neither, so its loader makes the maps, and this loads and attaches:
//!
//! ```text
//!   object ─► aya: maps ─────────────┐ descriptors
//!        └──► aya-obj: instructions ─┴─► calls of the placeholder ─► calls of the kernel's function, by the
//!                                        number that its type has in /sys/kernel/btf/vmlinux ─► BPF_PROG_LOAD ─► BPF_LINK_CREATE
//! ```

use std::collections::{BTreeMap, HashSet};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use aya_obj::Object;
use aya_obj::btf::{Btf, BtfKind};
use aya_obj::generated::bpf_insn;
use aya_obj::maps::Map;

use super::XdpError;
use crate::sys;

/// What a program asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    /// What its code calls.
    pub placeholder: i32,
    /// What is meant: a function of the kernel.
    pub function: &'static str,
}

/// A program for one device.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeviceProgram {
    /// Its function.
    pub name: &'static str,
    /// Compiled.
    pub object: &'static [u8],
    /// What it asks.
    pub question: Question,
}

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
const PSEUDO_KFUNC_CALL: u8 = 2;
const PROG_TYPE_XDP: u32 = 6;
const ATTACH_TYPE_XDP: u32 = 37;
/// The program can live with packets in several buffers.
pub(super) const HAS_FRAGS: u32 = 1 << 5;
const DEVICE_BOUND_ONLY: u32 = 1 << 6;
/// In the stack, …
pub(super) const GENERIC_MODE: u32 = 1 << 1;
/// … and in the driver.
pub(super) const DRIVER_MODE: u32 = 1 << 2;
const VERIFIER_LOG: usize = 16 << 10;

impl DeviceProgram {
    /// Loads the program, with the maps of `ebpf`, for a device of the calling thread's network namespace, and attaches it there. It goes with the
    /// link that is returned.
    pub(super) fn attach(&self, ebpf: &aya::Ebpf, ifindex: u32) -> Result<OwnedFd, XdpError> {
        let failed = |doing: &str, reason: String| XdpError::Load {
            doing: format!("{doing} the {} program for device {ifindex}", self.name),
            reason,
        };
        let function = kernel_function(self.question.function).map_err(|reason| failed("link", reason))?;
        let (instructions, license) =
            self.instructions(ebpf, function).map_err(|reason| failed("read", reason))?;
        let load = Load { name: self.name, flags: HAS_FRAGS | DEVICE_BOUND_ONLY, ifindex };
        let program = load.run(&instructions, &license).map_err(|reason| failed("load", reason))?;
        let link = attach(&program, ifindex, DRIVER_MODE);
        link.map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => XdpError::Taken { ifindex },
            _ => XdpError::Attach { ifindex, reason: error.to_string() },
        })
    }

    fn instructions(
        &self,
        ebpf: &aya::Ebpf,
        function: i32,
    ) -> Result<(Vec<bpf_insn>, std::ffi::CString), String> {
        let mut object = Object::parse(self.object).map_err(|error| error.to_string())?;
        let maps: Vec<(String, Map)> =
            object.maps.iter().map(|(name, map)| (name.clone(), map.clone())).collect();
        let mut with_fds = Vec::new();
        for (name, map) in &maps {
            let made = ebpf.map(name).ok_or_else(|| format!("map {name} was not made"))?;
            with_fds.push((name.as_str(), descriptor(made).ok_or("a map of a kind that is not ours")?, map));
        }
        let text: HashSet<usize> = object.functions.keys().map(|(section, _)| *section).collect();
        object.relocate_maps(with_fds.into_iter(), &text).map_err(|error| error.to_string())?;
        let program = object.programs.get(self.name).ok_or("no such program")?;
        let license = program.license.clone();
        let key = program.function_key();
        let code = object.functions.get_mut(&key).ok_or("a program without code")?;
        let mut instructions = std::mem::take(&mut code.instructions);
        for instruction in &mut instructions {
            if instruction.code == CALL
                && instruction.src_reg() == 0
                && instruction.imm == self.question.placeholder
            {
                instruction.set_src_reg(PSEUDO_KFUNC_CALL);
                instruction.imm = function;
            }
        }
        Ok((instructions, license))
    }
}

fn descriptor(map: &aya::maps::Map) -> Option<std::os::fd::RawFd> {
    use aya::maps::Map;
    match map {
        Map::XskMap(map) | Map::HashMap(map) | Map::LpmTrie(map) | Map::PerCpuArray(map) => {
            Some(map.fd().as_fd().as_raw_fd())
        }
        _ => None,
    }
}

/// The number of a function of the running kernel.
fn kernel_function(name: &'static str) -> Result<i32, String> {
    // To find it takes reading all of the kernel's types, some tens of megabytes; it does not change while this runs.
    static FOUND: Mutex<BTreeMap<&str, Result<i32, String>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    found.entry(name).or_insert_with(|| find_kernel_function(name)).clone()
}

fn find_kernel_function(name: &str) -> Result<i32, String> {
    let types = Btf::from_sys_fs().map_err(|error| format!("the kernel's types cannot be read: {error}"))?;
    let id = types.id_by_type_name_kind(name, BtfKind::Func);
    id.map(|id| id as i32).map_err(|_| format!("the kernel has no function {name} (Linux 6.8)"))
}

/// `union bpf_attr`, as BPF_PROG_LOAD has it.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// How an XDP program is loaded.
pub(super) struct Load<'a> {
    /// What the kernel calls it.
    pub name: &'a str,
    /// `BPF_F_…`.
    pub flags: u32,
    /// The device that it is bound to; 0: none.
    pub ifindex: u32,
}

impl Load<'_> {
    pub(super) fn run(&self, instructions: &[bpf_insn], license: &CStr) -> Result<OwnedFd, String> {
        let mut log = vec![0_u8; VERIFIER_LOG];
        let mut name = [0; 16];
        let fits = self.name.len().min(name.len() - 1);
        name[..fits].copy_from_slice(&self.name.as_bytes()[..fits]);
        let mut request = ProgramLoad {
            kind: PROG_TYPE_XDP,
            instruction_count: instructions.len() as u32,
            instructions: instructions.as_ptr() as u64,
            license: license.as_ptr() as u64,
            flags: self.flags,
            name,
            ifindex: self.ifindex,
            expected_attach_type: ATTACH_TYPE_XDP,
            ..ProgramLoad::default()
        };
        let refused = match sys::bpf(sys::BPF_PROG_LOAD, &mut request).and_then(sys::owned) {
            Ok(program) => return Ok(program),
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                return Err("its driver answers no questions about frames".into());
            }
            Err(error) => error,
        };
        // Once more, to hear why.
        request.log_level = 1;
        request.log_size = log.len() as u32;
        request.log = log.as_mut_ptr() as u64;
        let _ = sys::bpf(sys::BPF_PROG_LOAD, &mut request).and_then(sys::owned);
        let said = String::from_utf8_lossy(&log);
        let last = said
            .trim_end_matches('\0')
            .lines()
            .rfind(|line| !line.is_empty() && !line.starts_with("processed"));
        Err(format!("{refused}: {}", last.unwrap_or("the verifier says nothing")))
    }
}

/// `union bpf_attr`, as BPF_LINK_CREATE has it.
#[repr(C)]
struct LinkCreate {
    program: u32,
    ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program to a device of the calling thread's network namespace, for as long as the link that is returned is open or pinned.
pub(super) fn attach(program: &OwnedFd, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    let mut request = LinkCreate {
        program: program.as_raw_fd() as u32,
        ifindex,
        attach_type: ATTACH_TYPE_XDP,
        flags: mode,
    };
    sys::bpf(sys::BPF_LINK_CREATE, &mut request).and_then(sys::owned)
}
