//! Round trips: the far end sends every packet back as it came, and the generator's own sockets are the sink.
//!
//! Both directions are measured as one, and the reflector's turn with them: it works packet by packet, and is no match for the other engines'
//! rates. Packets that it cannot send back count as lost.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, anyhow};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::MsgFlags;

use super::receive::{self, Taker};
use crate::account::Account;
use crate::engine::{Progress, Receive};
use crate::place::Place;

/// The longest packet that is sent back whole.
const LONGEST: usize = 65_536;
/// How long to wait for a packet before looking whether to stop, milliseconds.
const TURN_MS: u16 = 10;
const EVENTS: usize = 64;

/// A reflector, and the sockets that its packets come back to.
#[derive(Debug)]
pub struct Reflected {
    reflector: UdpSocket,
    back: Vec<UdpSocket>,
    ready: Epoll,
}

impl Reflected {
    /// Opens the reflector in the sink's place; `back` are the generator's sockets.
    ///
    /// # Errors
    /// The place cannot be entered, or the port is taken.
    pub fn open(place: &Place, address: SocketAddr, back: Vec<UdpSocket>) -> anyhow::Result<Self> {
        let reflector = receive::open(place, address)?;
        let ready =
            Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("cannot wait for packets that come back")?;
        for (at, socket) in (0..).zip(&back) {
            receive::widen(socket);
            ready
                .add(socket, EpollEvent::new(EpollFlags::EPOLLIN, at))
                .context("cannot wait for packets that come back")?;
        }
        Ok(Reflected { reflector, back, ready })
    }

    fn come_back(
        &self,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        let mut taker = Taker::default();
        let mut events = [EpollEvent::empty(); EVENTS];
        while !close.load(Ordering::Relaxed) {
            let count = match self.ready.wait(&mut events, TURN_MS) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(errno) => return Err(anyhow!(errno).context("cannot wait for packets that come back")),
            };
            for event in events.iter().take(count) {
                let socket = usize::try_from(event.data()).ok().and_then(|at| self.back.get(at));
                if let Some(socket) = socket {
                    taker.take(socket, MsgFlags::MSG_DONTWAIT, account, progress)?;
                }
            }
        }
        Ok(())
    }
}

impl Receive for Reflected {
    fn receive(
        &mut self,
        _run: u32,
        account: &mut Account,
        progress: &Progress,
        close: &AtomicBool,
    ) -> anyhow::Result<()> {
        thread::scope(|scope| {
            let reflector = scope.spawn(|| reflect(&self.reflector, close));
            let came = self.come_back(account, progress, close);
            // The reflector ends with the run, which a sink that failed ends, too.
            let sent = reflector.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            came.and(sent)
        })
    }

    fn overflowed(&self) -> Option<u64> {
        // There are many sockets, and two ends.
        None
    }
}

/// Sends everything back until told to stop.
fn reflect(socket: &UdpSocket, close: &AtomicBool) -> anyhow::Result<()> {
    let mut buffer = vec![0; LONGEST];
    while !close.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                // What the kernel does not take is lost on its way back.
                let _ = socket.send_to(buffer.get(..length).unwrap_or_default(), from);
            }
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::Interrupted | ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => return Err(anyhow!(error).context("the kernel refuses to receive")),
        }
    }
    Ok(())
}
