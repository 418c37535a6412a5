//! One end's TCP: smoltcp, as many connections as are asked for, and what became of them. Neither I/O nor a clock: IP packets come and go by
//! queues, and the time is told.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::{Duration as SmolDuration, Instant as SmolInstant};
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};

use crate::profile::file::Connections;

/// Bytes of a connection's buffers, each way, at most.
const BUFFER_MAX: usize = 64 << 10;
const BUFFER_MIN: usize = 1 << 10;
/// A connection that hears nothing for so long has failed.
const PATIENCE: SmolDuration = SmolDuration::from_secs(5);
/// Source ports of the client: the dynamic ones (RFC 6335, 6), and those below as far as nobody listens there.
const PORTS: std::ops::RangeInclusive<u16> = 10_000..=65_000;
/// Handshakes are timed up to this, three digits.
const HANDSHAKE_MAX_NS: u64 = 60_000_000_000;

/// An end's place in its network.
#[derive(Debug, Clone, Copy)]
pub struct Ours {
    /// IP address.
    pub address: IpAddr,
    /// The largest IP packet.
    pub mtu: u16,
}

/// IP packets on their way.
#[derive(Debug, Default)]
struct Queues {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
    mtu: usize,
    repeats: Repeats,
}

/// Finds segments that were sent before.
#[derive(Debug, Default)]
struct Repeats {
    /// By our port: the sequence number after the last that was sent.
    next: HashMap<u16, u32>,
    count: u64,
}

impl Repeats {
    /// Looks at a packet that is sent.
    fn see(&mut self, ip: &[u8]) -> Option<()> {
        let (protocol, l4) = match ip.first()? >> 4 {
            4 => (*ip.get(9)?, usize::from(ip.first()? & 15) * 4),
            _ => (*ip.get(6)?, 40),
        };
        if protocol != 6 {
            return None;
        }
        let tcp = caracal_wire::Tcp::new_checked(ip.get(l4..)?).ok()?;
        let flags = tcp.flags();
        let ends = u32::from(flags.contains(caracal_wire::tcp::Flags::SYN))
            + u32::from(flags.contains(caracal_wire::tcp::Flags::FIN));
        let length = tcp.payload().len() as u32 + ends;
        if length == 0 || flags.contains(caracal_wire::tcp::Flags::RST) {
            return None;
        }
        let (port, sequence) = (tcp.source_port().0, tcp.sequence());
        let after = sequence.wrapping_add(length);
        match self.next.get_mut(&port) {
            // Serial numbers (RFC 1982): not after what was sent.
            Some(next) if (after.wrapping_sub(*next) as i32) <= 0 => self.count += 1,
            Some(next) => *next = after,
            None => {
                self.next.insert(port, after);
            }
        }
        Some(())
    }

    /// A port's next connection begins anew.
    fn forget(&mut self, port: u16) {
        self.next.remove(&port);
    }
}

struct Came(Vec<u8>);

impl RxToken for Came {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

struct Goes<'a>(&'a mut VecDeque<Vec<u8>>, &'a mut Repeats);

impl TxToken for Goes<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.1.see(&frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Came;
    type TxToken<'a> = Goes<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Came, Goes<'_>)> {
        let frame = self.incoming.pop_front()?;
        Some((Came(frame), Goes(&mut self.outgoing, &mut self.repeats)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Goes<'_>> {
        Some(Goes(&mut self.outgoing, &mut self.repeats))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // A virtual device may hand over a checksum that is still to be made.
        capabilities.checksum.tcp = Checksum::Tx;
        capabilities
    }
}

/// One end.
struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    queues: Queues,
}

impl Stack {
    fn new(ours: &Ours, seed: u64) -> anyhow::Result<Self> {
        let mut queues = Queues { mtu: usize::from(ours.mtu), ..Queues::default() };
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut queues, SmolInstant::ZERO);
        let address = IpAddress::from(ours.address);
        let mut room = Ok(());
        interface.update_ip_addrs(|addresses| {
            room = addresses
                .push(IpCidr::new(address, if ours.address.is_ipv6() { 128 } else { 32 }))
                .map_err(|_| ());
        });
        room.ok().context("no room for an address")?;
        Ok(Stack { interface, sockets: SocketSet::new(Vec::new()), queues })
    }

    fn poll(&mut self, now: Duration) -> bool {
        let result = self.interface.poll(at(now), &mut self.queues, &mut self.sockets);
        result == PollResult::SocketStateChanged
    }
}

fn at(now: Duration) -> SmolInstant {
    SmolInstant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

fn socket(receive: u32, send: u32) -> Socket<'static> {
    let buffer = |bytes: u32| SocketBuffer::new(vec![0; (bytes as usize).clamp(BUFFER_MIN, BUFFER_MAX)]);
    let mut socket = Socket::new(buffer(receive), buffer(send));
    socket.set_timeout(Some(PATIENCE));
    socket.set_nagle_enabled(false);
    socket.set_ack_delay(None);
    socket
}

/// Sends and receives without looking at the bytes.
fn exchange(socket: &mut Socket<'_>, to_send: &mut u32, to_receive: &mut u32) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while *to_send > 0 && socket.can_send() {
        let chunk = (*to_send as usize).min(ZEROS.len());
        match socket.send_slice(ZEROS.get(..chunk).unwrap_or(&[])) {
            Ok(0) | Err(_) => break,
            Ok(sent) => *to_send -= sent as u32,
        }
    }
    while socket.can_recv() {
        match socket.recv(|bytes| (bytes.len(), bytes.len())) {
            Ok(0) | Err(_) => break,
            Ok(received) => *to_receive = to_receive.saturating_sub(received as u32),
        }
    }
}

/// What became of connections.
#[derive(Debug)]
pub struct Outcome {
    /// First segments sent, again ones not counted.
    pub attempted: u64,
    /// Handshakes that were completed.
    pub established: u64,
    /// Connections that carried all, and were ended by both.
    pub completed: u64,
    /// Connections that were refused, reset, or heard nothing.
    pub failed: u64,
    /// Segments that were sent again.
    pub retransmitted: u64,
    /// Connections that were due while as many as may be were open.
    pub missed: u64,
    /// From the first SYN to the answer, nanoseconds.
    pub handshake_ns: Histogram<u64>,
}

/// A connection of the client's.
struct Open {
    handle: SocketHandle,
    since: Duration,
    is_established: bool,
    to_send: u32,
    to_receive: u32,
    is_closing: bool,
}

/// The client's end.
pub struct Client {
    stack: Stack,
    address: IpAddr,
    server: (IpAddr, u16),
    what: Connections,
    open: Vec<Open>,
    next_port: u16,
    /// What became of them.
    pub outcome: Outcome,
}

impl Client {
    /// A client of that server.
    ///
    /// # Errors
    /// Never: there is room for one address.
    pub fn new(ours: &Ours, server: IpAddr, what: Connections, seed: u64) -> anyhow::Result<Self> {
        let handshake_ns =
            Histogram::new_with_bounds(1, HANDSHAKE_MAX_NS, 3).context("cannot count latencies")?;
        let outcome = Outcome {
            attempted: 0,
            established: 0,
            completed: 0,
            failed: 0,
            retransmitted: 0,
            missed: 0,
            handshake_ns,
        };
        let first = seed % u64::from(PORTS.end() - PORTS.start());
        Ok(Client {
            stack: Stack::new(ours, seed)?,
            address: ours.address,
            server: (server, what.port),
            what,
            open: Vec::new(),
            next_port: PORTS.start() + first as u16,
            outcome,
        })
    }

    /// How many are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.len()
    }

    /// Takes an IP packet that came.
    pub fn take(&mut self, frame: &[u8]) {
        self.stack.queues.incoming.push_back(frame.to_vec());
    }

    /// The next IP packet that is to be sent.
    pub fn give(&mut self) -> Option<Vec<u8>> {
        self.stack.queues.outgoing.pop_front()
    }

    /// Begins `due` connections, and goes on with the others.
    pub fn turn(&mut self, now: Duration, due: u64) {
        for _ in 0..due {
            if self.open.len() >= self.what.concurrent as usize {
                self.outcome.missed += 1;
                continue;
            }
            self.begin(now);
        }
        self.stack.poll(now);
        self.look(now);
        self.stack.poll(now);
        self.outcome.retransmitted = self.stack.queues.repeats.count;
    }

    fn begin(&mut self, now: Duration) {
        let port = self.next_port;
        self.next_port = if port < *PORTS.end() { port + 1 } else { *PORTS.start() };
        self.stack.queues.repeats.forget(port);
        let handle = self.stack.sockets.add(socket(self.what.response, self.what.request));
        let socket = self.stack.sockets.get_mut::<Socket<'_>>(handle);
        self.outcome.attempted += 1;
        if socket.connect(self.stack.interface.context(), self.server, (self.address, port)).is_err() {
            self.stack.sockets.remove(handle);
            self.outcome.failed += 1;
            return;
        }
        self.open.push(Open {
            handle,
            since: now,
            is_established: false,
            to_send: self.what.request,
            to_receive: self.what.response,
            is_closing: false,
        });
    }

    fn look(&mut self, now: Duration) {
        let (sockets, outcome) = (&mut self.stack.sockets, &mut self.outcome);
        self.open.retain_mut(|open| {
            let socket = sockets.get_mut::<Socket<'_>>(open.handle);
            if !open.is_established && !matches!(socket.state(), State::SynSent | State::Closed) {
                open.is_established = true;
                outcome.established += 1;
                let took = u64::try_from((now - open.since).as_nanos()).unwrap_or(u64::MAX);
                outcome.handshake_ns.saturating_record(took.max(1));
            }
            exchange(socket, &mut open.to_send, &mut open.to_receive);
            let is_done = open.to_send == 0 && open.to_receive == 0;
            if open.is_established && is_done && !open.is_closing && socket.send_queue() == 0 {
                socket.close();
                open.is_closing = true;
            }
            let over = matches!(socket.state(), State::TimeWait | State::Closed);
            if over {
                // Neither end was reset before all was said: TIME-WAIT (RFC 9293, 3.6) is not waited for, our ports come again late enough.
                let well = open.is_closing && is_done && socket.state() == State::TimeWait;
                if well {
                    outcome.completed += 1
                } else {
                    outcome.failed += 1
                }
                sockets.remove(open.handle);
            }
            !over
        });
    }
}

/// A connection of the server's.
struct Served {
    handle: SocketHandle,
    to_send: u32,
    to_receive: u32,
    is_closing: bool,
}

/// The server's end.
pub struct Server {
    stack: Stack,
    what: Connections,
    served: Vec<Served>,
}

/// Sockets that listen beside those that serve: as many can come at once.
const BACKLOG: usize = 64;

impl Server {
    /// A server at that address.
    ///
    /// # Errors
    /// Never: there is room for one address.
    pub fn new(ours: &Ours, what: Connections, seed: u64) -> anyhow::Result<Self> {
        let mut server = Server { stack: Stack::new(ours, seed)?, what, served: Vec::new() };
        for _ in 0..BACKLOG {
            server.listen();
        }
        Ok(server)
    }

    fn listen(&mut self) {
        let handle = self.stack.sockets.add(socket(self.what.request, self.what.response));
        let socket = self.stack.sockets.get_mut::<Socket<'_>>(handle);
        // A port of 0 is refused when the profile is read.
        if socket.listen(self.what.port).is_err() {
            self.stack.sockets.remove(handle);
            return;
        }
        self.served.push(Served {
            handle,
            to_send: self.what.response,
            to_receive: self.what.request,
            is_closing: false,
        });
    }

    /// Takes an IP packet that came.
    pub fn take(&mut self, frame: &[u8]) {
        self.stack.queues.incoming.push_back(frame.to_vec());
    }

    /// The next IP packet that is to be sent.
    pub fn give(&mut self) -> Option<Vec<u8>> {
        self.stack.queues.outgoing.pop_front()
    }

    /// Goes on with all connections.
    pub fn turn(&mut self, now: Duration) {
        self.stack.poll(now);
        let sockets = &mut self.stack.sockets;
        let mut listening = 0;
        self.served.retain_mut(|served| {
            let socket = sockets.get_mut::<Socket<'_>>(served.handle);
            match socket.state() {
                State::Listen => {
                    listening += 1;
                    return true;
                }
                State::Closed | State::TimeWait => {
                    sockets.remove(served.handle);
                    return false;
                }
                _ => {}
            }
            // The answer waits for the whole question.
            let mut nothing = 0;
            let to_send = if served.to_receive == 0 { &mut served.to_send } else { &mut nothing };
            exchange(socket, to_send, &mut served.to_receive);
            // The client ends first.
            if socket.state() == State::CloseWait && !served.is_closing {
                socket.close();
                served.is_closing = true;
            }
            true
        });
        for _ in listening..BACKLOG {
            self.listen();
        }
        self.stack.poll(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn what(request: u32, response: u32) -> Connections {
        Connections { per_second: 1.0, request, response, port: 80, concurrent: 100 }
    }

    fn ours(last: u8) -> Ours {
        Ours { address: IpAddr::from([10, 0, 0, last]), mtu: 1500 }
    }

    /// Both ends on a wire that loses every `lose`th frame.
    fn run(what: Connections, connections: u64, lose: Option<usize>, seconds: u64) -> Client {
        let mut client = Client::new(&ours(1), [10, 0, 0, 2].into(), what, 7).unwrap();
        let mut server = Server::new(&ours(2), what, 8).unwrap();
        let mut number = 0;
        let mut lost = || {
            number += 1;
            lose.is_some_and(|lose| number % lose == 0)
        };
        for tick in 0..seconds * 1000 {
            let now = Duration::from_millis(tick);
            client.turn(now, if tick < connections { 1 } else { 0 });
            while let Some(frame) = client.give() {
                if !lost() {
                    server.take(&frame);
                }
            }
            server.turn(now);
            while let Some(frame) = server.give() {
                if !lost() {
                    client.take(&frame);
                }
            }
        }
        client
    }

    #[test]
    fn connections_are_made_carry_all_and_are_ended() {
        for (request, response) in [(0, 0), (100, 0), (0, 100), (100, 100_000), (100_000, 10)] {
            let client = run(what(request, response), 200, None, 8);
            let outcome = &client.outcome;
            let counts = (outcome.attempted, outcome.established, outcome.completed, outcome.failed);
            assert_eq!(counts, (200, 200, 200, 0), "{request} and {response} bytes");
            assert_eq!((outcome.retransmitted, client.open()), (0, 0));
        }
    }

    #[test]
    fn what_is_lost_is_sent_again_and_counted() {
        let client = run(what(2000, 2000), 100, Some(20), 60);
        let outcome = &client.outcome;
        assert_eq!((outcome.established, outcome.completed + outcome.failed, client.open()), (100, 100, 0));
        assert!(outcome.completed >= 95, "{outcome:?}");
        assert!(outcome.retransmitted > 20, "{}", outcome.retransmitted);
    }

    #[test]
    fn a_port_that_nobody_listens_on_fails_every_connection() {
        let mut client =
            Client::new(&ours(1), [10, 0, 0, 2].into(), Connections { port: 81, ..what(1, 1) }, 7).unwrap();
        let mut server = Server::new(&ours(2), what(1, 1), 8).unwrap();
        for tick in 0..3000 {
            let now = Duration::from_millis(tick);
            client.turn(now, u64::from(tick < 10));
            while let Some(frame) = client.give() {
                server.take(&frame);
            }
            server.turn(now);
            while let Some(frame) = server.give() {
                client.take(&frame);
            }
        }
        let outcome = &client.outcome;
        assert_eq!((outcome.attempted, outcome.established, outcome.failed), (10, 0, 10));
    }
}
