//! From where to where, in which flows and sizes: what a profile and flags say together, and the engines that are opened for it.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use caracal_wire::MacAddr;
use caracal_xsk::live_frames;
use clap::ValueEnum;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::connections;
use crate::engine::live::LiveFrames;
use crate::engine::memory::{self, Spot};
use crate::engine::notes::Notes;
use crate::engine::socket::{self, Listener, Reflected, Sender};
use crate::engine::xsk::{self, XskSender, XskSink};
use crate::engine::{Receive, Transmit};
use crate::live::Follow;
use crate::machine::Machine;
use crate::pace::Rate;
use crate::place::Place;
use crate::profile::file::{Connections, Defaults, FLOWS_MAX, File, Flagged, SizesFile, StreamFile, Where};
use crate::profile::{ETHERNET_LEN, SINK_PORT, Sizes, parse_duration};
use crate::reach::{self, Given, Reach};
use crate::run::{Ends, Open};
use crate::stream::{Packets, Stream};
use crate::traffic::{Hop, Traffic};

/// Flows of sockets: a descriptor each.
const SOCKETS_MAX: u32 = 20_000;
/// Descriptors beside the flows' sockets.
const FILES_BESIDE: u64 = 64;
const RATE: Rate = Rate::PerSecond(10_000.0);
const DURATION: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(2);
const LINGER: Duration = Duration::from_millis(500);

/// From where to where, in which flows and sizes.
#[derive(Debug, Clone, clap::Args)]
pub struct Way {
    /// A profile in YAML (docs/pktgen.md); flags come before what it says
    #[arg(value_name = "PROFILE")]
    profile: Option<PathBuf>,
    /// The lab that --from and --to are in
    #[arg(long, value_name = "NAME")]
    lab: Option<String>,
    /// Where to send from, in the lab: NAMESPACE/POD, node/NAME or outside; in the memory engine's world: a, b, c, remote, ipip, plain or outside
    #[arg(long, value_name = "WHERE", conflicts_with = "from_netns")]
    from: Option<String>,
    /// Where to send to, in the lab
    #[arg(long, value_name = "WHERE", conflicts_with = "to_netns")]
    to: Option<String>,
    /// The network namespace to send from: a name of `ip netns`, or a path [default: this one]
    #[arg(long, value_name = "NETNS")]
    from_netns: Option<String>,
    /// The network namespace to send to [default: this one]
    #[arg(long, value_name = "NETNS")]
    to_netns: Option<String>,
    /// The address to send to [default: that of the place]
    #[arg(long, value_name = "ADDRESS")]
    to_address: Option<IpAddr>,
    /// The address to send from [default: as the kernel chooses]
    #[arg(long, value_name = "ADDRESS")]
    from_address: Option<IpAddr>,
    /// The port to send to [default: 9000]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Send to the IPv6 address of the place
    #[arg(short = '6', long, conflicts_with = "to_address")]
    ipv6: bool,
    /// The port that the sink listens on, at any address: when --to-address and --port are a service's, and are translated on the way
    #[arg(long, value_name = "PORT")]
    sink_port: Option<u16>,
    /// The source port of the first flow; further flows count up [default: as the kernel chooses]
    #[arg(long, value_name = "PORT")]
    from_port: Option<u16>,
    /// How many flows; packets take turns among them [default: 1]
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=i64::from(FLOWS_MAX)))]
    flows: Option<u32>,
    /// Frame sizes, from Ethernet header to end of payload, without FCS: SIZE[xWEIGHT],… or imix (64x7,590x4,1514x1) [default: 64]
    #[arg(long, value_name = "SIZES")]
    size: Option<SizesFile>,
    /// How long to wait for a first packet to come through before the counting begins [default: 2s]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// How long to wait for the last packets [default: 500ms]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    linger: Option<Duration>,
    /// How packets are made and taken [default: socket]
    #[arg(long, value_enum)]
    engine: Option<Engine>,
    /// How packets are taken, if not as the engine does
    #[arg(long, value_enum)]
    sink: Option<Sink>,
    /// Have the far end send every packet back, and measure the round trip (socket engine)
    #[arg(long)]
    pub(crate) reflect: bool,
    /// Do not show how it goes
    #[arg(short, long)]
    quiet: bool,
    /// The interface to send out of [default: by the route of the place's kernel]
    #[arg(long, value_name = "INTERFACE")]
    from_interface: Option<String>,
    /// The interface that packets are to come by [default: that with the address]
    #[arg(long, value_name = "INTERFACE")]
    to_interface: Option<String>,
    /// The MAC address of the next hop [default: as the place's kernel finds out]
    #[arg(long, value_name = "MAC")]
    gateway_mac: Option<MacAddr>,
    /// Processors to send on, one thread each [default: one thread, on any]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    cores: Vec<usize>,
}

/// How packets are made and taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// The kernel's UDP sockets, at both ends
    Socket,
    /// Live frames: an XDP program in the kernel makes the packets and sends them out of an interface, another takes them. Needs root
    Live,
    /// AF_XDP: packets are made in user space and sent by the ring of an interface's queue. Needs root
    Xsk,
    /// The data plane's own pipeline, in this process: no interface, no kernel
    Memory,
}

/// How packets are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sink {
    /// By an XDP program that notes each in the kernel: the cheapest, and so the default of live and xsk
    Xdp,
    /// By AF_XDP sockets
    Xsk,
}

/// What profile and flags say together.
#[derive(Debug, Clone)]
pub struct Asked {
    file: File,
    engine: Engine,
    from: Where,
    to: Where,
    cores: Vec<usize>,
    flags: Flagged,
    /// Packets a second.
    pub rate: Rate,
    /// For how long.
    pub duration: Duration,
    /// How long to wait for a first packet.
    pub wait: Duration,
    /// How long to wait for the last.
    pub linger: Duration,
}

/// Engines that are open.
struct Opened {
    ends: Ends,
    /// Flows whose packets have marks.
    flows: u32,
    /// How much each core sends of all.
    weights: Vec<u64>,
    from: String,
    to: String,
    /// Sizes, for the report.
    sizes: String,
}

impl Way {
    /// The same with frames of one size.
    #[must_use]
    pub fn of_size(&self, bytes: u32) -> Way {
        Way { size: Some(SizesFile(Sizes::one(bytes as usize), bytes.to_string())), ..self.clone() }
    }

    /// Reads the profile, and puts the flags before it.
    ///
    /// # Errors
    /// The profile cannot be read.
    pub fn asked(&self) -> anyhow::Result<Asked> {
        let file = match &self.profile {
            Some(path) => File::read(path)?,
            None => File::default(),
        };
        let engine = match (self.engine, &file.engine) {
            (Some(engine), _) => engine,
            (None, Some(name)) => Engine::from_str(name, true)
                .map_err(|_| anyhow!("engine: {name:?} is not socket, live, xsk or memory"))?,
            (None, None) => Engine::Socket,
        };
        let end = |flags: Where, file: &Where| {
            let Where { lab, place, netns, interface, address, ipv6, gateway_mac } = file.clone();
            // A place of the flags is whole: nothing of the file's is left in it.
            let given = flags.place.is_some() || flags.netns.is_some();
            Where {
                lab: flags.lab.or(lab),
                place: flags.place.or(place.filter(|_| !given)),
                netns: flags.netns.or(netns.filter(|_| !given)),
                interface: flags.interface.or(interface),
                address: flags.address.or(address),
                ipv6: flags.ipv6.or(ipv6),
                gateway_mac: flags.gateway_mac.or(gateway_mac),
            }
        };
        let from = Where {
            lab: self.lab.clone(),
            place: self.from.clone(),
            netns: self.from_netns.clone(),
            interface: self.from_interface.clone(),
            address: self.from_address,
            ipv6: None,
            gateway_mac: self.gateway_mac,
        };
        let to = Where {
            lab: self.lab.clone(),
            place: self.to.clone(),
            netns: self.to_netns.clone(),
            interface: self.to_interface.clone(),
            address: self.to_address,
            ipv6: self.ipv6.then_some(true),
            gateway_mac: None,
        };
        let cores = if self.cores.is_empty() { file.cores.clone() } else { self.cores.clone() };
        let flags = Flagged {
            flows: self.flows,
            sizes: self.size.clone(),
            source_port: self.from_port,
            destination_port: self.port,
        };
        let time = |flag: Option<Duration>, field: Option<crate::profile::file::Time>, default| {
            flag.or(field.map(|time| time.0)).unwrap_or(default)
        };
        Ok(Asked {
            engine,
            from: end(from, &file.from),
            to: end(to, &file.to),
            cores,
            flags,
            rate: file.rate.unwrap_or(RATE),
            duration: time(None, file.duration, DURATION),
            wait: time(self.wait, file.wait, WAIT),
            linger: time(self.linger, file.linger, LINGER),
            file,
        })
    }

    /// Opens both ends.
    ///
    /// # Errors
    /// A place cannot be entered, or has no address; a port is taken; frames do not fit.
    pub fn open(&self) -> anyhow::Result<Open<'_>> {
        let asked = self.asked()?;
        if asked.file.connections.is_some() {
            bail!("a profile with connections is for pktgen run");
        }
        if self.reflect && asked.engine != Engine::Socket {
            bail!("--reflect needs --engine socket: only its far end sends packets back");
        }
        if self.sink.is_some() && !matches!(asked.engine, Engine::Live | Engine::Xsk) {
            bail!("--sink is for the engines live and xsk");
        }
        let opened = match asked.engine {
            Engine::Memory => asked.open_memory()?,
            Engine::Socket => self.open_sockets(&asked)?,
            Engine::Live | Engine::Xsk => asked.open_frames(self.sink.unwrap_or(Sink::Xdp))?,
        };
        let Opened { ends, flows, weights, from, to, sizes } = opened;
        let follow = Follow { quiet: self.quiet, heading: format!("{from} → {to}  "), ..Follow::default() };
        Ok(Open {
            way: self,
            asked,
            sizes,
            from,
            to,
            flows,
            weights,
            ends: RefCell::new(ends),
            machine: Machine::read(),
            began_ns: AtomicU64::new(0),
            follow,
        })
    }

    fn open_sockets(&self, asked: &Asked) -> anyhow::Result<Opened> {
        let (from, to, to_address) = asked.places()?;
        let source = asked.from.address.unwrap_or(socket::any(to_address));
        let streams = asked.streams(source, to_address)?;
        let [stream] = streams.as_slice() else {
            bail!("{} streams: the socket engine has one; try --engine live", streams.len())
        };
        if stream.packets != Packets::Udp || stream.tunnel.is_some() || stream.churn > 0.0 {
            bail!("{}: the socket engine sends plain UDP in flows that stay; try --engine live", stream.name);
        }
        let core = match asked.cores.as_slice() {
            [] => None,
            [core] => Some(*core),
            cores => bail!("{} cores: the socket engine sends on one; try --engine live", cores.len()),
        };
        let flows = stream.flows;
        if flows > SOCKETS_MAX {
            bail!("{flows} flows: the socket engine has up to {SOCKETS_MAX}; try --engine live");
        }
        raise_file_limit(if self.reflect { 2 * flows } else { flows })?;
        let target = SocketAddr::new(to_address, stream.destination.port);
        let listen = match self.sink_port {
            Some(port) => SocketAddr::new(socket::any(to_address), port),
            None => target,
        };
        let sizes = &stream.sizes;
        let about = (from.to_string(), format!("{to} {target}"));
        let from_port =
            asked.flags.source_port.or(asked.file.streams.first().and_then(|stream| stream.source.port));
        let ends = socket::Ends { from, from_address: asked.from.address, from_port, to: target };
        let sender = Sender::open(&ends, flows, sizes.clone(), core)?;
        let receive: Box<dyn Receive> = if self.reflect {
            Box::new(Reflected::open(&to, listen, sender.back()?)?)
        } else {
            Box::new(Listener::open(to, listen)?)
        };
        let ends = Ends { receives: vec![receive], transmits: vec![Box::new(sender)] };
        Ok(Opened { ends, flows, weights: vec![1], from: about.0, to: about.1, sizes: asked.sizes() })
    }
}

impl Asked {
    /// Both ends of connections, when the profile asks for those.
    ///
    /// # Errors
    /// A place cannot be entered, or has no way to the other.
    pub fn connections(&self) -> anyhow::Result<Option<(Connections, connections::End, connections::End)>> {
        let Some(what) = self.file.connections else { return Ok(None) };
        let (from, to, to_address) = self.places()?;
        let client = reach::reach(&from, to_address, self.from.given())?;
        let mut server =
            reach::reach(&to, client.source, Given { source: Some(to_address), ..self.to.given() })?;
        server.source = to_address;
        let end = |place, reach| connections::End { place, reach };
        Ok(Some((what, end(from, client), end(to, server))))
    }

    /// What may be amiss when nothing comes.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        (self.engine == Engine::Live).then(|| {
            "live frames come into a veth only while its other end polls: with an XDP program, or GRO (`ethtool -K INTERFACE gro on` there); \
             or try --engine xsk"
                .into()
        })
    }

    fn places(&self) -> anyhow::Result<(Place, Place, IpAddr)> {
        let from = place(&self.from).context("--from")?;
        let to = place(&self.to).context("--to")?;
        let to_address = match self.to.address {
            Some(address) => address,
            None => to.address(self.to.ipv6.unwrap_or(false)).context("--to")?,
        };
        Ok((from, to, to_address))
    }

    fn streams(&self, source: IpAddr, destination: IpAddr) -> anyhow::Result<Vec<Stream>> {
        let defaults = Defaults { source, destination, flags: self.flags.clone() };
        let one = [StreamFile::default()];
        let streams = if self.file.streams.is_empty() { &one[..] } else { &self.file.streams };
        streams.iter().enumerate().map(|(at, stream)| stream.resolve(at, &defaults)).collect()
    }

    /// Sizes as they were written.
    fn sizes(&self) -> String {
        if let Some(SizesFile(_, text)) = &self.flags.sizes {
            return text.clone();
        }
        let mut all: Vec<&str> =
            self.file.streams.iter().filter_map(|stream| Some(stream.size.as_ref()?.1.as_str())).collect();
        all.dedup();
        if all.is_empty() { "64".into() } else { all.join("; ") }
    }

    /// Frames that were made by ourselves, out of an interface.
    fn open_frames(&self, sink: Sink) -> anyhow::Result<Opened> {
        let (from, to, to_address) = self.places()?;
        let sink_interface = match &self.to.interface {
            Some(name) => reach::interface(&to, name),
            None => reach::interface_of(&to, to.address(to_address.is_ipv6())?),
        };
        let sink_interface = sink_interface.context("the sink")?;
        let reach = reach::reach(&from, to_address, self.from.given())?;
        let streams = self.streams(reach.source, to_address)?;
        let longest = usize::from(reach.interface.mtu) + ETHERNET_LEN;
        fits(&streams, longest, &reach.interface.name)?;
        match self.engine {
            Engine::Xsk => fits(&streams, xsk::FRAME_MAX, "a chunk of AF_XDP's memory")?,
            _ => fits(&streams, live_frames::FRAME_MAX, "the page of a live frame")?,
        }
        let traffic = Traffic::new(&streams, reach.hop, self.cores.len())?;
        let receive: Box<dyn Receive> = match sink {
            Sink::Xdp => Box::new(Notes::open(&to, &sink_interface)?),
            Sink::Xsk => Box::new(XskSink::open(&to, &sink_interface)?),
        };
        let (flows, weights, longest) = (traffic.marked_flows, traffic.weights(), traffic.longest);
        let mut transmits: Vec<Box<dyn Transmit>> = Vec::new();
        for (at, part) in traffic.parts.into_iter().enumerate() {
            let core = self.cores.get(at).copied();
            let Reach { interface, .. } = &reach;
            transmits.push(match self.engine {
                Engine::Xsk => {
                    let queue = at as u32 % interface.queues;
                    Box::new(XskSender::open(&from, interface, queue, core, part)?)
                }
                _ => Box::new(LiveFrames::open(from.clone(), interface.index, core, part, longest)?),
            });
        }
        let target =
            SocketAddr::new(to_address, streams.first().map_or(SINK_PORT, |stream| stream.destination.port));
        Ok(Opened {
            ends: Ends { receives: vec![receive], transmits },
            flows,
            weights,
            from: from.to_string(),
            to: format!("{to} {target}"),
            sizes: self.sizes(),
        })
    }

    fn open_memory(&self) -> anyhow::Result<Opened> {
        let ipv6 = self.to.ipv6.unwrap_or(false);
        let (from_name, to_name) =
            (self.from.place.as_deref().unwrap_or("a"), self.to.place.as_deref().unwrap_or("b"));
        let from = Spot::named(from_name, ipv6).context("--from")?;
        let to = Spot::named(to_name, ipv6).context("--to")?;
        let mut streams =
            self.streams(self.from.address.unwrap_or(from.address), self.to.address.unwrap_or(to.address))?;
        for stream in &mut streams {
            stream.tunnel = stream.tunnel.or(from.tunnel());
        }
        fits(&streams, memory::FRAME_MAX, "the simulated node's ports")?;
        let hop: Hop = from.hop();
        let traffic = Traffic::new(&streams, hop, 1.max(self.cores.len()))?;
        let (flows, weights) = (traffic.marked_flows, traffic.weights());
        let mut ends = Ends { receives: Vec::new(), transmits: Vec::new() };
        for (at, part) in traffic.parts.into_iter().enumerate() {
            let (pipeline, arrivals) = memory::open(&from, self.cores.get(at).copied(), part)?;
            ends.transmits.push(Box::new(pipeline));
            ends.receives.push(Box::new(arrivals));
        }
        let about = |name: &str| format!("{name} in memory");
        Ok(Opened { ends, flows, weights, from: about(from_name), to: about(to_name), sizes: self.sizes() })
    }
}

impl Where {
    /// What need not be asked for.
    fn given(&self) -> Given<'_> {
        Given { interface: self.interface.as_deref(), source: self.address, next_hop: self.gateway_mac }
    }
}

fn fits(streams: &[Stream], longest: usize, what: &str) -> anyhow::Result<()> {
    for stream in streams {
        if stream.sizes.largest() > longest {
            bail!(
                "{}: frames of {} bytes do not fit {what}: {longest} are possible",
                stream.name,
                stream.sizes.largest()
            );
        }
    }
    Ok(())
}

fn place(end: &Where) -> anyhow::Result<Place> {
    match (&end.lab, &end.place, &end.netns) {
        (Some(lab), Some(target), _) => Place::in_lab(lab, target),
        (_, _, Some(netns)) => Ok(Place::Netns(netns.clone())),
        (None, Some(target), None) => bail!("in which --lab is {target}?"),
        (Some(lab), None, None) => bail!("say where in lab {lab}"),
        (None, None, None) => Ok(Place::Here),
    }
}

fn raise_file_limit(flows: u32) -> anyhow::Result<()> {
    let needed = u64::from(flows) + FILES_BESIDE;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit of open files")?;
    if needed <= soft {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).with_context(|| {
        format!("{flows} flows need {needed} open files, and the limit is {hard}; ask for fewer --flows")
    })
}
