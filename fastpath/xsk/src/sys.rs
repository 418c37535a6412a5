//! The system calls of AF_XDP, each wrapped once. Everything above speaks `std::io::Result` and owned file descriptors.

use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;

/// `SOL_XDP` option: how many packets one `sendto` may send in copy mode (Linux 6.17; the default is 32).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// `struct xdp_umem_reg` with the field that says how many bytes of transmit metadata precede the data (Linux 6.8).
#[repr(C)]
#[derive(Debug, Default)]
pub(crate) struct UmemRegistration {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) chunk_size: u32,
    pub(crate) headroom: u32,
    pub(crate) flags: u32,
    pub(crate) tx_metadata_len: u32,
}

/// A new AF_XDP socket, of the calling thread's network namespace.
pub(crate) fn xdp_socket() -> Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    owned(fd)
}

/// Takes ownership of what a system call returned.
pub(crate) fn owned(fd: libc::c_int) -> Result<OwnedFd> {
    if fd < 0 {
        return Err(Error::last_os_error());
    }
    // SAFETY: the kernel just gave us this descriptor, so nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn register_umem(socket: BorrowedFd<'_>, registration: &UmemRegistration) -> Result<()> {
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, registration)
}

/// Sets the size of one of the four rings.
pub(crate) fn set_ring(socket: BorrowedFd<'_>, option: libc::c_int, entries: u32) -> Result<()> {
    set_option(socket, libc::SOL_XDP, option, &entries)
}

pub(crate) fn set_tx_budget(socket: BorrowedFd<'_>, packets: u32) -> Result<()> {
    set_option(socket, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &packets)
}

/// Receive work is done by whoever polls the socket: so many packets a call, and for up to `BUSY_POLL_MICROS`.
pub(crate) fn set_busy_poll(socket: BorrowedFd<'_>, packets: u32) -> Result<()> {
    const BUSY_POLL_MICROS: libc::c_int = 20;
    let on: libc::c_int = 1;
    set_option(socket, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &on)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL, &BUSY_POLL_MICROS)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_BUSY_POLL_BUDGET, &(packets as libc::c_int))
}

/// In copy mode each packet in flight counts against the socket's send buffer, and the default holds fewer than a hundred.
pub(crate) fn set_send_buffer(socket: BorrowedFd<'_>, bytes: u32) -> Result<()> {
    set_option(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
}

pub(crate) fn ring_offsets(socket: BorrowedFd<'_>) -> Result<libc::xdp_mmap_offsets> {
    // SAFETY: plain integers; all-zero is valid.
    get_option(socket, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS, unsafe { std::mem::zeroed() })
}

pub(crate) fn statistics(socket: BorrowedFd<'_>) -> Result<libc::xdp_statistics> {
    // SAFETY: plain integers; all-zero is valid.
    get_option(socket, libc::SOL_XDP, libc::XDP_STATISTICS, unsafe { std::mem::zeroed() })
}

/// Whether a bound socket is in zero-copy mode.
pub(crate) fn is_zero_copy(socket: BorrowedFd<'_>) -> Result<bool> {
    let options = get_option(socket, libc::SOL_XDP, libc::XDP_OPTIONS, libc::xdp_options { flags: 0 })?;
    Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
}

pub(crate) fn bind(
    socket: BorrowedFd<'_>,
    ifindex: u32,
    queue: u32,
    flags: u16,
    umem: Option<BorrowedFd<'_>>,
) -> Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: ifindex,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: umem.map_or(0, |fd| fd.as_raw_fd() as u32),
    };
    // SAFETY: pointer and length of a live sockaddr_xdp.
    check(unsafe {
        libc::bind(
            socket.as_raw_fd(),
            std::ptr::from_ref(&address).cast(),
            size_of::<libc::sockaddr_xdp>() as libc::socklen_t,
        )
    })
}

/// Makes the kernel look at the TX ring.
pub(crate) fn kick_tx(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no buffer, no address.
    let sent = unsafe {
        libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0)
    };
    check(sent.min(0) as libc::c_int)
}

/// Makes the kernel look at the fill ring.
pub(crate) fn kick_rx(socket: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: no buffer, no address.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    check(received.min(0) as libc::c_int)
}

pub(crate) fn map_ring(
    socket: BorrowedFd<'_>,
    bytes: usize,
    page_offset: i64,
) -> Result<NonNull<libc::c_void>> {
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
    let address = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_POPULATE,
            socket.as_raw_fd(),
            page_offset,
        )
    };
    match NonNull::new(address) {
        Some(base) if address != libc::MAP_FAILED => Ok(base),
        _ => Err(Error::last_os_error()),
    }
}

/// Unmaps what [`map_ring`] mapped. The caller has no pointer into it any more.
pub(crate) fn unmap(base: NonNull<libc::c_void>, bytes: usize) {
    // SAFETY: called once, by the owner of the mapping, with its length.
    unsafe { libc::munmap(base.as_ptr(), bytes) };
}

/// Runs `make` on a thread in a new network namespace, which ends with the last descriptor that holds it.
pub(crate) fn in_new_network_namespace<T: Send>(name: &str, make: impl FnOnce() -> T + Send) -> Result<T> {
    let work = || {
        // SAFETY: no pointers; changes only the calling thread, which ends right after.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        Ok(make())
    };
    std::thread::scope(|scope| {
        match std::thread::Builder::new().name(name.into()).spawn_scoped(scope, work)?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether the calling thread's network namespace has a device of that number.
pub(crate) fn is_device(ifindex: u32) -> bool {
    let mut name = [0; libc::IFNAMSIZ];
    // SAFETY: a buffer of the size that the function wants.
    !unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr()) }.is_null()
}

pub(crate) fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn set_option<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> Result<()> {
    // SAFETY: pointer and length of a live value; every T here is a plain C struct or integer.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })
}

pub(crate) fn get_option<T: Copy>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    mut value: T,
) -> Result<T> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: pointer and length of a live value whose every bit pattern is valid (integers); the kernel writes at most `len` bytes.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_mut(&mut value).cast(),
            std::ptr::from_mut(&mut len),
        )
    })?;
    if len as usize != size_of::<T>() {
        return Err(Error::other(format!(
            "the kernel's answer to socket option {option} has {len} bytes; Linux 5.9 or later is needed"
        )));
    }
    Ok(value)
}

pub(crate) const BPF_MAP_CREATE: libc::c_int = 0;
pub(crate) const BPF_PROG_LOAD: libc::c_int = 5;
pub(crate) const BPF_OBJ_PIN: libc::c_int = 6;
pub(crate) const BPF_OBJ_GET: libc::c_int = 7;
pub(crate) const BPF_LINK_CREATE: libc::c_int = 28;
pub(crate) const BPF_PROG_TEST_RUN: libc::c_int = 10;
/// Frames go where the program says (Linux 5.18).
pub(crate) const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 2;
pub(crate) const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// `bpf(2)` with the part of its attributes that the command wants. Private to this crate, whose callers pass the right struct for the
/// command, with live pointers in it.
pub(crate) fn bpf<T>(command: libc::c_int, attributes: &mut T) -> Result<libc::c_int> {
    // SAFETY: pointer and length of a live struct; see above.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>()) };
    if result < 0 { Err(Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
