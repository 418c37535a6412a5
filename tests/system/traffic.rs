//! Traffic of real kernel sockets, and what became of it.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use caracal_cni::netns;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::machine::{PATIENCE, eventually};

/// A network namespace and an address in it.
#[derive(Clone, Debug)]
pub struct Place {
    pub netns: String,
    pub address: IpAddr,
}

impl Place {
    /// Its address, which is one of IPv4.
    pub fn v4(&self) -> Ipv4Addr {
        match self.address {
            IpAddr::V4(address) => address,
            IpAddr::V6(address) => panic!("{address} is no IPv4 address"),
        }
    }

    /// Runs something inside. Sockets made there stay there.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(&netns::path(&self.netns), work).unwrap()
    }

    /// A UDP socket with room for what comes while its reader sleeps.
    pub fn udp(&self, port: u16) -> UdpSocket {
        self.run(|| {
            let socket = UdpSocket::from(self.bound(Type::DGRAM, port));
            setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).unwrap();
            setsockopt(&socket, sockopt::SndBufForce, &(8 << 20)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            socket
        })
    }

    /// A socket that sends whole IPv4 packets, whatever they say.
    pub fn raw(&self) -> Socket {
        self.run(|| {
            // 255: IPPROTO_RAW
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            socket.set_header_included_v4(true).unwrap();
            socket
        })
    }

    /// Listens to TCP.
    pub fn listen(&self, port: u16) -> TcpListener {
        self.run(|| {
            let socket = self.bound(Type::STREAM, port);
            socket.listen(128).unwrap();
            socket.into()
        })
    }

    /// A socket at its address, even if nobody has been given that. The thread is inside.
    fn bound(&self, kind: Type, port: u16) -> Socket {
        let socket = Socket::new(Domain::for_address(self.at(port)), kind, None).unwrap();
        match self.address {
            IpAddr::V4(_) => socket.set_freebind_v4(true).unwrap(),
            IpAddr::V6(_) => socket.set_freebind_v6(true).unwrap(),
        }
        socket.set_reuse_address(kind == Type::STREAM).unwrap();
        socket.bind(&self.at(port).into()).unwrap();
        socket
    }

    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Datagrams that the kernel's sockets in this namespace have dropped for want of room.
    fn socket_losses(&self) -> u64 {
        let text = self.run(|| fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
        let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let column = names.split(' ').position(|name| name == "RcvbufErrors").unwrap();
        values.split(' ').nth(column).unwrap().parse().unwrap()
    }
}

/// Numbered datagrams one way, at a steady rate.
pub struct Stream {
    stop: StopAtEnd,
    sender: JoinHandle<u64>,
    receiver: JoinHandle<Vec<Option<Instant>>>,
    received: Arc<AtomicU64>,
    to: Place,
    socket_losses: u64,
}

/// Lets threads end when this goes, also by a panic.
pub struct StopAtEnd(pub Arc<AtomicBool>);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// What became of a [`Stream`].
#[derive(Debug)]
pub struct Delivery {
    pub sent: u64,
    pub received: u64,
    /// The longest time in which nothing came.
    pub silence: Duration,
    /// Of what was lost, what the receiving kernel's socket had no room for.
    pub lost_by_socket: u64,
    /// Numbers of what was lost: the first ranges of them.
    pub lost: Vec<Range<u64>>,
}

impl Delivery {
    pub fn assert_whole(&self, what: &str) {
        println!(
            "{what}: {} of {} packets arrived, longest silence {:?}",
            self.received, self.sent, self.silence
        );
        let Self { sent, received, lost, lost_by_socket, .. } = self;
        assert_eq!(
            received, sent,
            "{what}: lost {lost:?}, {lost_by_socket} of them for want of room in the receiver's socket"
        );
    }
}

impl Stream {
    pub fn start(from: &Place, to: &Place, port: u16, packets_per_second: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (source, sink) = (from.udp(0), to.udp(port));
        let socket_losses = to.socket_losses();
        let destination = to.at(port);
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&received));
        let receiver = thread::spawn(move || receive(&sink, &stopped, &count));
        let stopped = Arc::clone(&stop);
        let sender = thread::spawn(move || send(&source, destination, packets_per_second, &stopped));
        let stream =
            Self { stop: StopAtEnd(stop), sender, receiver, received, to: to.clone(), socket_losses };
        eventually("the stream flows", || stream.received.load(Relaxed) > 0);
        stream
    }

    pub fn end(self) -> Delivery {
        self.stop.0.store(true, Relaxed);
        let sent = self.sender.join().unwrap();
        let mut arrivals = self.receiver.join().unwrap();
        arrivals.resize(usize::try_from(sent).unwrap().max(arrivals.len()), None);
        // The first packets may have met a neighbour or a flow that was not there yet; they count like all others.
        let mut lost: Vec<Range<u64>> = Vec::new();
        for number in (0..sent).filter(|number| arrivals[*number as usize].is_none()) {
            match lost.last_mut() {
                Some(range) if range.end == number => range.end += 1,
                _ => lost.push(number..number + 1),
            }
        }
        lost.truncate(20);
        let mut times: Vec<Instant> = arrivals.iter().flatten().copied().collect();
        times.sort();
        let silence = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        let lost_by_socket = self.to.socket_losses() - self.socket_losses;
        Delivery { sent, received: times.len() as u64, silence, lost_by_socket, lost }
    }
}

fn send(socket: &UdpSocket, to: SocketAddr, packets_per_second: u32, stop: &AtomicBool) -> u64 {
    // After a pause the sender does not catch up: what is tested is neither how much the rings hold, nor how fast this machine is.
    const BURST: f64 = 32.0;
    let mut payload = [0; 64];
    let (mut turn, mut due) = (Instant::now(), 0.0_f64);
    let mut number = 0_u64;
    while !stop.load(Relaxed) {
        let now = Instant::now();
        due = (due + (now - turn).as_secs_f64() * f64::from(packets_per_second)).min(BURST);
        turn = now;
        while due >= 1.0 {
            due -= 1.0;
            payload[..8].copy_from_slice(&number.to_be_bytes());
            socket.send_to(&payload, to).unwrap();
            number += 1;
        }
        thread::sleep(Duration::from_micros(300));
    }
    number
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, received: &AtomicU64) -> Vec<Option<Instant>> {
    // What is under way when the sender stops arrives before this is over.
    const LAST: Duration = Duration::from_millis(700);
    let mut arrivals: Vec<Option<Instant>> = Vec::new();
    let mut buffer = [0; 2048];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(length, 64, "a datagram changed its length");
                let number = u64::from_be_bytes(buffer[..8].try_into().unwrap()) as usize;
                if arrivals.len() <= number {
                    arrivals.resize(number + 1, None);
                }
                assert!(arrivals[number].is_none(), "datagram {number} came twice");
                arrivals[number] = Some(Instant::now());
                received.fetch_add(1, Relaxed);
                last = Instant::now();
            }
            Err(_) if stop.load(Relaxed) && last.elapsed() > LAST => return arrivals,
            Err(_) => {}
        }
    }
}

/// A question a millisecond of one flow, each answered by the other end.
pub struct Questions {
    stop: Arc<AtomicBool>,
    answers: Arc<Mutex<Vec<Instant>>>,
    heard: Arc<AtomicU64>,
    /// How often the other end found nothing to hear.
    lulls: Arc<AtomicU64>,
    /// Questions since the last answer.
    unanswered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Questions {
    pub fn start(from: &Place, to: &Place, port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(Vec::new()));
        let (heard, lulls) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let unanswered = Arc::new(AtomicU64::new(0));
        let (asker, answerer) = (from.udp(0), to.udp(port));
        asker.set_nonblocking(true).unwrap();
        let to = to.at(port);
        let (stopped, count, empty) = (Arc::clone(&stop), Arc::clone(&heard), Arc::clone(&lulls));
        let answering = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Relaxed) {
                if let Ok((length, from)) = answerer.recv_from(&mut buffer) {
                    count.fetch_add(1, Relaxed);
                    let _ = answerer.send_to(&buffer[..length], from);
                } else {
                    empty.fetch_add(1, Relaxed);
                }
            }
        });
        let (stopped, list, asked) = (Arc::clone(&stop), Arc::clone(&answers), Arc::clone(&unanswered));
        let asking = thread::spawn(move || {
            let mut buffer = [0; 64];
            while !stopped.load(Relaxed) {
                // Errors are the network's, which is what is asked about.
                let _ = asker.send_to(b"?", to);
                asked.fetch_add(1, Relaxed);
                while asker.recv(&mut buffer).is_ok() {
                    asked.store(0, Relaxed);
                    list.lock().unwrap().push(Instant::now());
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, answers, heard, lulls, unanswered, threads: vec![answering, asking] }
    }

    /// Questions that reached the other end, answered or not.
    pub fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    /// The same, once the other end has read all that has come. To be asked where nothing may come any more.
    pub fn heard_in_all(&self) -> u64 {
        let before = self.lulls.load(Relaxed);
        eventually("nothing more comes", || self.lulls.load(Relaxed) >= before + 2);
        self.heard()
    }

    /// Answers until now.
    pub fn answers(&self) -> usize {
        self.answers.lock().unwrap().len()
    }

    /// When the first answer came after some instant.
    pub fn first_after(&self, instant: Instant) -> Option<Instant> {
        self.answers.lock().unwrap().iter().copied().find(|answer| *answer > instant)
    }

    /// When the last answer came, until now.
    pub fn last(&self) -> Option<Instant> {
        self.answers.lock().unwrap().last().copied()
    }

    /// Waits for an answer that comes after some instant, and says how long after.
    pub fn wait_after(&self, what: &str, instant: Instant) -> Duration {
        eventually(&format!("{what} is answered"), || self.first_after(instant).is_some());
        self.first_after(instant).unwrap() - instant
    }

    /// Waits until nothing has been answered for a while, and says when the last answer came after some instant.
    pub fn wait_silence(&self, what: &str, instant: Instant) -> Duration {
        // Counted in questions, too: on a busy machine nobody may have asked for so long.
        const QUIET: Duration = Duration::from_millis(150);
        const QUESTIONS: u64 = 100;
        eventually(&format!("{what} is not answered any more"), || {
            self.last().is_none_or(|last| last.elapsed() > QUIET)
                && instant.elapsed() > QUIET
                && self.unanswered.load(Relaxed) > QUESTIONS
        });
        self.last().map_or(Duration::ZERO, |last| last.saturating_duration_since(instant))
    }
}

impl Drop for Questions {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Whether datagrams come to be answered.
pub fn answers(from: &Place, to: &Place, port: u16) -> bool {
    is_answered_within(PATIENCE, from, to, port)
}

/// Whether none of many datagrams is answered. On a machine on which an answer takes longer than this, a test sees less.
pub fn is_cut_off(from: &Place, to: &Place, port: u16) -> bool {
    !is_answered_within(Duration::from_secs(2), from, to, port)
}

fn is_answered_within(limit: Duration, from: &Place, to: &Place, port: u16) -> bool {
    let questions = Questions::start(from, to, port);
    let start = Instant::now();
    while start.elapsed() < limit {
        if questions.answers() > 0 {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

/// A TCP connection that must stay, with a message and its echo every few milliseconds.
pub struct Connection {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(u64, Duration)>,
}

impl Connection {
    pub fn start(from: &Place, to: &Place, port: u16) -> Self {
        let listener = to.run(|| TcpListener::bind(to.at(port)).unwrap());
        let address = to.at(port);
        let mut client = from.run(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap());
        let (mut server, _) = listener.accept().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = server.read(&mut buffer) {
                if server.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_nodelay(true).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let (mut count, mut slowest) = (0, Duration::ZERO);
            let mut buffer = [0; 4];
            while !stopped.load(Relaxed) {
                let start = Instant::now();
                client.write_all(b"ping").unwrap();
                client.read_exact(&mut buffer).unwrap();
                slowest = slowest.max(start.elapsed());
                count += 1;
                thread::sleep(Duration::from_millis(2));
            }
            (count, slowest)
        });
        Self { stop, thread }
    }

    /// Messages echoed, and the longest that one took.
    pub fn end(self) -> (u64, Duration) {
        self.stop.store(true, Relaxed);
        self.thread.join().expect("the connection broke")
    }
}

/// Sends bytes that can be told from any others over TCP, checks each, and returns Mbit/s.
pub fn transfer(from: &Place, to: &Place, port: u16, bytes: usize) -> f64 {
    transfer_by(from, to.at(port), to, port, bytes)
}

/// As [`transfer`], by an address that is another one's than the receiver's.
pub fn transfer_by(from: &Place, address: SocketAddr, to: &Place, port: u16, bytes: usize) -> f64 {
    let listener = to.listen(port);
    let start = Instant::now();
    let receiver = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut expected = Pattern::new();
        let (mut buffer, mut wanted) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        let mut received = 0;
        loop {
            let length = match stream.read(&mut buffer) {
                Ok(0) => return received,
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("after {received} bytes: {error}"),
            };
            expected.fill(&mut wanted[..length]);
            assert!(
                buffer[..length] == wanted[..length],
                "bytes from {received} on are not those that were sent"
            );
            received += length;
        }
    });
    let mut stream = from.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut pattern = Pattern::new();
    let mut chunk = vec![0; 1 << 16];
    for _ in 0..bytes.div_ceil(chunk.len()) {
        pattern.fill(&mut chunk);
        stream.write_all(&chunk).unwrap();
    }
    drop(stream);
    assert_eq!(receiver.join().expect("the receiver"), bytes.next_multiple_of(1 << 16));
    bytes as f64 * 8.0 / start.elapsed().as_secs_f64() / 1e6
}

/// Bytes that do not repeat, in pieces of any length.
struct Pattern {
    state: u64,
    rest: [u8; 8],
    used: usize,
}

impl Pattern {
    fn new() -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, rest: [0; 8], used: 8 }
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.used == 8 {
                self.state ^= self.state << 13;
                self.state ^= self.state >> 7;
                self.state ^= self.state << 17;
                self.rest = self.state.to_le_bytes();
                self.used = 0;
            }
            *byte = self.rest[self.used];
            self.used += 1;
        }
    }
}
