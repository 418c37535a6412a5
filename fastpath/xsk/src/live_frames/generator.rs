//! One core's generator: what bpf/generate.c is told, and the system call that runs it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use aya::EbpfLoader;
use aya::programs::Xdp;
use aya::programs::links::FdLink;

use super::shared::{Plain, Shared};
use crate::sys;
use crate::xdp::{self, Preference, XdpError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/generate.o"));

/// Bytes of a template, and so of all headers and the mark.
pub const TEMPLATE_BYTES: usize = 192;
/// Flows of one generator, at most.
pub const FLOWS_MAX: usize = 1 << 20;
/// The longest frame: the kernel keeps it in one page beside its own.
pub const FRAME_MAX: usize = 3_072;
/// The shortest that the kernel takes.
const FRAME_MIN: usize = 14;
/// Frames that the kernel takes through the program before it sends them on, at most.
const BATCH_MAX: u32 = 256;

/// How fast, for how long, and how it went: shared with the program, which is not running while we look.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Control {
    /// When the next packet is due, nanoseconds of the monotonic clock.
    pub due_ns: u64,
    /// Between two packets; 0: as fast as it goes.
    pub interval_ns: u64,
    /// 2^-32 nanoseconds, of `due_ns`.
    pub due_fraction: u32,
    /// The same, of `interval_ns`.
    pub interval_fraction: u32,
    /// How far behind its time a packet may be before those due with it are left out.
    pub catch_up_ns: u64,
    /// No packet is sent from then on.
    pub deadline_ns: u64,
    /// Packets that may still be sent.
    pub tokens: u64,
    /// Packets that were left out.
    pub missed: u64,
    /// Packets that were sent.
    pub sent: u64,
    /// Bytes of their frames.
    pub bytes: u64,
    /// The run's number, for the marks.
    pub run: u32,
    /// 1: all are scouts.
    pub scouting: u32,
    /// The pick whose turn it is.
    pub deck_at: u32,
    /// How many picks there are.
    pub deck_len: u32,
    /// Frames that could not be made.
    pub failed: u64,
}

/// A turn: whose, and how long the frame is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pick {
    /// Which of the generator's flows.
    pub flow: u32,
    /// Bytes from the Ethernet header to the end of the payload.
    pub length: u16,
    /// Nothing.
    pub unused: u16,
}

/// A flow.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Its source; an IPv4 address in the last four bytes.
    pub source: [u8; 16],
    /// Its destination.
    pub destination: [u8; 16],
    /// Source port, or identifier of an echo, in network order.
    pub source_port: [u8; 2],
    /// Destination port.
    pub destination_port: [u8; 2],
    /// Of the IPv4 header without its length and checksum: 16-bit words in memory order, summed and folded.
    pub ip_sum: u16,
    /// Of pseudo-header and L4 header, likewise without lengths, checksum, and what differs from packet to packet.
    pub l4_sum: u16,
    /// Its number in the marks.
    pub id: u32,
    /// Its template.
    pub template: u16,
    /// Source port of the tunnel.
    pub outer_port: [u8; 2],
    /// The number of its next packet, and so how many were sent.
    pub sequence: u64,
    /// The sequence number of its next TCP segment.
    pub tcp_sequence: u32,
    /// Nothing.
    pub unused: u32,
}

/// What is above IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Whatever the template says, without a mark.
    Raw = 0,
    /// UDP.
    Udp = 1,
    /// TCP.
    Tcp = 2,
    /// An ICMP echo request.
    Echo = 3,
}

/// What the frames of some flows have in common.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// All headers.
    pub bytes: [u8; TEMPLATE_BYTES],
    /// How many of the bytes are written to each frame.
    pub copy: u16,
    /// A [`Kind`].
    pub kind: u8,
    /// 1: IPv6.
    pub ipv6: u8,
    /// Where the outer IPv4 header begins; 0: there is none.
    pub outer_ip: u8,
    /// Where the outer UDP header begins; 0: there is none.
    pub outer_udp: u8,
    /// Where the IP header begins.
    pub ip: u8,
    /// Where the header above begins.
    pub l4: u8,
    /// How long that is.
    pub l4_header: u8,
    /// 1: a UDP checksum is made.
    pub checksum: u8,
    /// Of the outer IPv4 header, as in [`Flow::ip_sum`].
    pub outer_sum: u16,
    /// What a packet adds to the flow's TCP sequence number beside its payload.
    pub tcp_step: u32,
}

impl Default for Template {
    fn default() -> Self {
        Self {
            bytes: [0; TEMPLATE_BYTES],
            copy: 0,
            kind: Kind::Raw as u8,
            ipv6: 0,
            outer_ip: 0,
            outer_udp: 0,
            ip: 0,
            l4: 0,
            l4_header: 0,
            checksum: 0,
            outer_sum: 0,
            tcp_step: 0,
        }
    }
}

// The structures of bpf/generate.c.
const _: () = assert!(size_of::<Control>() == 96 && size_of::<Pick>() == 8);
const _: () = assert!(size_of::<Flow>() == 64 && size_of::<Template>() == 208);

// SAFETY: `repr(C)`, integers, and 96 bytes are the sum of theirs.
unsafe impl Plain for Control {}
// SAFETY: `repr(C)`, integers, and 8 bytes are the sum of theirs.
unsafe impl Plain for Pick {}
// SAFETY: `repr(C)`, integers and arrays of them, and 64 bytes are the sum of theirs.
unsafe impl Plain for Flow {}
// SAFETY: `repr(C)`, integers and arrays of them, and 208 bytes are the sum of theirs.
unsafe impl Plain for Template {}

/// How much there is of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Flows.
    pub flows: usize,
    /// Templates.
    pub templates: usize,
    /// Picks of the deck.
    pub deck: usize,
    /// The longest frame.
    pub frame: usize,
}

/// The program's attachment to a device that no packet ever enters, the loopback of a network namespace of its own. The kernel calls
/// attached programs directly, through a table; of one that is not attached it makes room in that table when it begins to run it, and takes it
/// away again when it ends, and waits for all processors both times: tens of milliseconds for every call of ours.
struct Anchor {
    _link: FdLink,
    /// Holds the network namespace.
    _namespace: File,
}

impl Anchor {
    fn new(program: &mut Xdp) -> Result<Self, XdpError> {
        let doing = "make a network namespace for the generator of live frames";
        let failed = |error: &io::Error| XdpError::Map { doing: doing.into(), reason: error.to_string() };
        let made = sys::in_new_network_namespace("live-anchor", || {
            let namespace = File::open("/proc/thread-self/ns/net").map_err(|error| failed(&error))?;
            let (link, _) = xdp::attach(program, LOOPBACK, Preference::Generic)?;
            Ok(Anchor { _link: link, _namespace: namespace })
        });
        match made {
            Ok(made) => made,
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                Err(XdpError::NotPermitted { doing: doing.into() })
            }
            Err(error) => Err(failed(&error)),
        }
    }
}

/// The loopback device of every network namespace.
const LOOPBACK: u32 = 1;

/// A generator. Its memory is zero at first.
pub struct Generator {
    _anchor: Anchor,
    program: OwnedFd,
    control: Shared<Control>,
    deck: Shared<Pick>,
    flows: Shared<Flow>,
    templates: Shared<Template>,
    /// What the kernel fills new pages with.
    blank: Vec<u8>,
}

impl Generator {
    /// Loads a program with memory of its own.
    ///
    /// # Errors
    /// Not root, an old kernel, or too much of something.
    pub fn load(size: Size) -> Result<Self, XdpError> {
        let reason = match size {
            Size { flows, .. } if !(1..=FLOWS_MAX).contains(&flows) => {
                Some(format!("{flows} flows, of 1 to {FLOWS_MAX}"))
            }
            Size { templates, .. } if !(1..=usize::from(u16::MAX)).contains(&templates) => {
                Some(format!("{templates} templates, of 1 to {}", u16::MAX))
            }
            Size { deck, .. } if !(1..=1 << 24).contains(&deck) => Some(format!("a deck of {deck} picks")),
            Size { frame, .. } if !(FRAME_MIN..=FRAME_MAX).contains(&frame) => {
                Some(format!("frames of {frame} bytes: live frames have {FRAME_MIN} to {FRAME_MAX}"))
            }
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(XdpError::Load { doing: "make a generator of live frames".into(), reason });
        }
        let count = |entries: usize| u32::try_from(entries).unwrap_or(u32::MAX);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("flows", count(size.flows))
            .map_max_entries("templates", count(size.templates))
            .map_max_entries("deck", count(size.deck))
            .load(OBJECT)
            .map_err(|error| XdpError::load("generate", &error))?;
        let program = xdp::program(&mut ebpf, "generate")?;
        program.load().map_err(|error| XdpError::load("generate", &error))?;
        let anchor = Anchor::new(program)?;
        let fd = program.fd().map_err(|error| XdpError::load("generate", &error))?;
        let program = fd.as_fd().try_clone_to_owned().map_err(|error| XdpError::load("generate", &error))?;
        Ok(Self {
            _anchor: anchor,
            program,
            control: Shared::map(&mut ebpf, "controls", 1)?,
            deck: Shared::map(&mut ebpf, "deck", size.deck)?,
            flows: Shared::map(&mut ebpf, "flows", size.flows)?,
            templates: Shared::map(&mut ebpf, "templates", size.templates)?,
            blank: vec![0; size.frame],
        })
    }

    /// Runs the program on `frames` frames of the longest length, `batch` of them at a time. Returns when it has, or a signal came. The device is one of the calling thread's network namespace.
    ///
    /// # Errors
    /// No such device, not root, or a kernel before 5.18.
    pub fn run(&mut self, ifindex: u32, frames: u32, batch: u32) -> io::Result<()> {
        /// The head of `struct xdp_md`.
        #[repr(C)]
        struct Context {
            data: u32,
            data_end: u32,
            data_meta: u32,
            ingress_ifindex: u32,
            rx_queue_index: u32,
            egress_ifindex: u32,
        }
        /// `union bpf_attr`, as BPF_PROG_TEST_RUN has it.
        #[repr(C)]
        #[derive(Default)]
        struct TestRun {
            program: u32,
            result: u32,
            data_len_in: u32,
            data_len_out: u32,
            data_in: u64,
            data_out: u64,
            repeat: u32,
            duration: u32,
            context_len_in: u32,
            context_len_out: u32,
            context_in: u64,
            context_out: u64,
            flags: u32,
            cpu: u32,
            batch: u32,
            padding: u32,
        }
        let context = Context {
            data: 0,
            data_end: self.blank.len() as u32,
            data_meta: 0,
            ingress_ifindex: ifindex,
            rx_queue_index: 0,
            egress_ifindex: 0,
        };
        let mut request = TestRun {
            program: self.program.as_raw_fd() as u32,
            data_len_in: self.blank.len() as u32,
            data_in: self.blank.as_ptr() as u64,
            repeat: frames,
            context_len_in: size_of::<Context>() as u32,
            context_in: std::ptr::from_ref(&context) as u64,
            flags: sys::BPF_F_TEST_XDP_LIVE_FRAMES,
            batch: batch.clamp(1, BATCH_MAX),
            ..TestRun::default()
        };
        match sys::bpf(sys::BPF_PROG_TEST_RUN, &mut request) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// How it stands.
    pub fn control(&self) -> Control {
        self.control.read(0)
    }

    /// Says how to go on.
    pub fn set_control(&mut self, control: Control) {
        self.control.write(0, Control { deck_len: self.deck.len() as u32, ..control });
    }

    /// Sets a pick. One of a flow that there is not would send nothing.
    pub fn set_pick(&mut self, at: usize, pick: Pick) {
        self.deck.write(at, pick);
    }

    /// A flow, as it stands.
    pub fn flow(&self, at: usize) -> Flow {
        self.flows.read(at)
    }

    /// Sets a flow.
    pub fn set_flow(&mut self, at: usize, flow: Flow) {
        self.flows.write(at, flow);
    }

    /// Sets a template.
    pub fn set_template(&mut self, at: usize, template: Template) {
        self.templates.write(at, template);
    }
}
