//! The sink in the kernel: bpf/record.c on a device, and its notes.

use aya::EbpfLoader;
use aya::maps::{MapData, XskMap};
use aya::programs::links::FdLink;

use super::shared::{Plain, Shared};
use crate::socket::Socket;
use crate::xdp::{self, AttachMode, Preference, XdpError};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/record.o"));

/// Rings, at most: one for each queue, or CPU.
const RINGS: usize = 64;
/// Words of a head: what was written, and lost, by the program; what was read, by us.
const WRITTEN: usize = 0;
const LOST: usize = 1;
const READ: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
struct Control {
    run: u32,
    mask: u32,
    by_cpu: u32,
    to_sockets: u32,
    tcp_port: [u8; 2],
    unused: [u8; 6],
}

/// A packet that came.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// When, nanoseconds of the monotonic clock.
    pub now_ns: u64,
    /// When it was sent, as its mark has it.
    pub sent_ns: u64,
    /// Its number in its flow.
    pub sequence: u64,
    /// Its flow.
    pub flow: u32,
    /// Bytes of its frame.
    pub length: u32,
}

type Head = [u64; 16];

const _: () = assert!(size_of::<Control>() == 24 && size_of::<Note>() == 32 && size_of::<Head>() == 128);

// SAFETY: `repr(C)`, integers and arrays of them, and 24 bytes are the sum of theirs.
unsafe impl Plain for Control {}
// SAFETY: `repr(C)`, integers, and 32 bytes are the sum of theirs.
unsafe impl Plain for Note {}
// SAFETY: an array of integers.
unsafe impl Plain for Head {}

/// What is taken, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Marked packets, noted in the kernel.
    Noted,
    /// Marked packets, given to AF_XDP sockets.
    BySockets,
    /// TCP from or to this port, given to AF_XDP sockets.
    Tcp(u16),
}

/// A sink on a device. Dropping it, or the end of the process, detaches the program.
pub struct Recorder {
    _link: FdLink,
    mode: AttachMode,
    control: Shared<Control>,
    heads: Shared<Head>,
    notes: Shared<Note>,
    sockets: XskMap<MapData>,
    mask: u64,
}

impl Recorder {
    /// Attaches the program to a device of the calling thread's network namespace. Until a run is set it takes nothing. `notes` is how many there is
    /// room for in each of `rings` rings.
    ///
    /// # Errors
    /// Not root, another program, no such device, an old kernel.
    pub fn attach(
        ifindex: u32,
        preference: Preference,
        taken: Taken,
        rings: u32,
        notes: u32,
    ) -> Result<Self, XdpError> {
        let notes = notes.clamp(1, 1 << 20).next_power_of_two();
        let rings = (rings as usize).clamp(1, RINGS);
        let mut ebpf = EbpfLoader::new()
            .btf(None)
            .map_max_entries("notes", notes * rings as u32)
            .load(OBJECT)
            .map_err(|error| XdpError::load("record", &error))?;
        xdp::program(&mut ebpf, "record")?.load().map_err(|error| XdpError::load("record", &error))?;
        let control = Shared::map(&mut ebpf, "controls", 1)?;
        let heads = Shared::map(&mut ebpf, "heads", RINGS)?;
        let all = Shared::map(&mut ebpf, "notes", notes as usize * rings)?;
        let missing = || XdpError::Load { doing: "find map xsks".into(), reason: "not in its object".into() };
        let sockets = XskMap::try_from(ebpf.take_map("xsks").ok_or_else(missing)?)
            .map_err(|error| XdpError::load("record", &error))?;
        let set = |mode: Option<&AttachMode>| Control {
            run: 0,
            mask: notes - 1,
            by_cpu: u32::from(matches!(mode, Some(AttachMode::Generic(_)))),
            to_sockets: u32::from(taken == Taken::BySockets),
            tcp_port: match taken {
                Taken::Tcp(port) => port.to_be_bytes(),
                Taken::Noted | Taken::BySockets => [0; 2],
            },
            unused: [0; 6],
        };
        control.write(0, set(None));
        let (link, mode) = xdp::attach(xdp::program(&mut ebpf, "record")?, ifindex, preference)?;
        control.write(0, set(Some(&mode)));
        Ok(Self { _link: link, mode, control, heads, notes: all, sockets, mask: u64::from(notes - 1) })
    }

    /// How it is attached.
    pub fn mode(&self) -> &AttachMode {
        &self.mode
    }

    /// From now on takes packets of this run, and no others.
    pub fn set_run(&mut self, run: u32) {
        self.control.write(0, Control { run, ..self.control.read(0) });
    }

    /// What comes by a receive queue goes to this socket, which is bound to that queue.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn set_socket(&mut self, queue: u32, socket: &Socket) -> Result<(), XdpError> {
        let doing = || format!("direct queue {queue} of the sink to its socket");
        self.sockets.set(queue, socket.fd(), 0).map_err(|error| XdpError::map(doing(), &error))
    }

    /// Hands over up to `max` notes of each ring, in the order in which they were written. Returns how many.
    pub fn drain(&mut self, max: usize, mut see: impl FnMut(Note)) -> usize {
        let mut count = 0;
        let rings = self.notes.len() / (self.mask as usize + 1);
        for ring in 0..rings {
            let written = self.heads.load(ring, WRITTEN);
            let read = self.heads.load(ring, READ);
            // Never more than there is room for.
            let waiting = written.wrapping_sub(read).min(self.mask + 1).min(max as u64);
            let base = ring * (self.mask as usize + 1);
            for at in 0..waiting {
                see(self.notes.read(base + (read.wrapping_add(at) & self.mask) as usize));
            }
            if waiting > 0 {
                self.heads.store(ring, READ, read.wrapping_add(waiting));
            }
            count += waiting as usize;
        }
        count
    }

    /// Notes that there was no room for.
    pub fn lost(&self) -> u64 {
        (0..self.heads.len()).map(|ring| self.heads.load(ring, LOST)).sum()
    }
}
