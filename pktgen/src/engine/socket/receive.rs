//! Receives from a UDP socket, for the account.

use std::io::IoSliceMut;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context, anyhow};
use nix::sys::socket::{MsgFlags, MultiHeaders, SetSockOpt, recvmmsg, sockopt};

use crate::account::{Account, Came};
use crate::clock;
use crate::engine::{Progress, Receive};
use crate::place::Place;

/// Packets taken from the kernel in one call, at most.
const BATCH: usize = 64;
/// Bytes of a packet that are looked at; the rest of it is thrown away by the kernel.
const LOOK_BYTES: usize = 64;
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
/// How often the sink looks whether it is to stop.
const TURN: Duration = Duration::from_millis(10);

/// A socket that packets come to.
#[derive(Debug)]
pub struct Listener {
    place: Place,
    socket: UdpSocket,
}

impl Listener {
    /// Opens it in the sink's place.
    ///
    /// # Errors
    /// The place cannot be entered, or the port is taken.
    pub fn open(place: Place, address: SocketAddr) -> anyhow::Result<Self> {
        let socket = open(&place, address)?;
        Ok(Listener { place, socket })
    }
}

impl Receive for Listener {
    fn receive(
        &mut self,
        _run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut taker = Taker::default();
        while !close.load(Ordering::Relaxed) {
            taker.take(&self.socket, MsgFlags::MSG_WAITFORONE, account, progress)?;
        }
        Ok(())
    }

    fn overflowed(&self) -> Option<u64> {
        overflowed(&self.place, &self.socket)
    }
}

/// A socket in a place.
///
/// # Errors
/// The place cannot be entered, or the port is taken.
pub fn open(place: &Place, address: SocketAddr) -> anyhow::Result<UdpSocket> {
    place.within(|| {
        let socket = UdpSocket::bind(address)
            .with_context(|| format!("cannot receive at {address} in {place}; try another --port"))?;
        widen(&socket);
        socket.set_read_timeout(Some(TURN))?;
        Ok(socket)
    })
}

/// Packets that the kernel had for the sink, and threw away because the sink was too slow.
fn overflowed(place: &Place, socket: &UdpSocket) -> Option<u64> {
    let local = socket.local_addr().ok()?;
    let file = if local.is_ipv6() { "/proc/thread-self/net/udp6" } else { "/proc/thread-self/net/udp" };
    // Of the thread: /proc/net is the main thread's, which stays where it was.
    let table = place.within(|| Ok(fs::read_to_string(file)?)).ok()?;
    drops_of(&table, local.port())
}

/// The last column of the socket's line, as udp(7) describes /proc/net/udp.
fn drops_of(table: &str, port: u16) -> Option<u64> {
    let wanted = format!(":{port:04X}");
    let line = table
        .lines()
        .skip(1)
        .find(|line| line.split_whitespace().nth(1).is_some_and(|a| a.ends_with(&wanted)))?;
    line.split_whitespace().last()?.parse().ok()
}

/// Gives a socket room for what comes while nobody looks.
pub fn widen(socket: &UdpSocket) {
    // Without root the default buffer has to do; what it loses is reported as the sink's loss.
    let _ = sockopt::RcvBufForce.set(socket, &RECEIVE_BUFFER_BYTES);
}

/// Takes packets from sockets, many in a call.
pub struct Taker {
    buffers: [[u8; LOOK_BYTES]; BATCH],
    headers: MultiHeaders<()>,
}

impl Default for Taker {
    fn default() -> Self {
        Taker { buffers: [[0; LOOK_BYTES]; BATCH], headers: MultiHeaders::preallocate(BATCH, None) }
    }
}

impl Taker {
    /// Takes what there is.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn take(
        &mut self,
        socket: &UdpSocket,
        flags: MsgFlags,
        account: &mut Account,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut lengths = [0; BATCH];
        let mut slices = self.buffers.each_mut().map(|buffer| [IoSliceMut::new(buffer)]);
        let count = match recvmmsg(socket.as_raw_fd(), &mut self.headers, slices.iter_mut(), flags, None) {
            Ok(messages) => {
                lengths.iter_mut().zip(messages).map(|(length, message)| *length = message.bytes).count()
            }
            // Refused: the far end was not there yet when a scout came.
            Err(nix::Error::EAGAIN | nix::Error::EINTR | nix::Error::ECONNREFUSED) => return Ok(()),
            Err(errno) => {
                return Err(anyhow!(io::Error::from(errno)).context("the kernel refuses to receive"));
            }
        };
        let now = clock::now_ns();
        let mut received = 0;
        for (buffer, length) in self.buffers.iter().zip(lengths).take(count) {
            match account.take(&buffer[..length.min(LOOK_BYTES)], now, 0) {
                Came::Counted => received += 1,
                Came::Scout => progress.scouted.store(true, Ordering::Relaxed),
                Came::Uncounted => {}
            }
        }
        progress.received.fetch_add(received, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_names_the_drops_of_a_port() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n \
                     103: 00000000:2328 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 12 2 0 17\n";
        assert_eq!(drops_of(table, 9000), Some(17));
        assert_eq!(drops_of(table, 9001), None);
    }
}
