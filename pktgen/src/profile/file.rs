//! A profile in YAML: what is sent, how fast, from where to where. docs/pktgen.md describes every field.
//!
//! Every field may be left out, and one that is not known is refused; errors name the line. Flags of the command line come
//! before what the file says.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use caracal_wire::tcp::Flags;
use caracal_wire::{MacAddr, Vni};
use serde::Deserialize;
use serde::de::{Deserializer, Error, Visitor};

use super::{Sizes, parse_duration};
use crate::files;
use crate::malformed::Malformed;
use crate::pace::Rate;
use crate::stream::{Distribution, End, Packets, Stream, Tunnel, TunnelKind};

/// Flows of all streams, at most.
pub const FLOWS_MAX: u32 = 1 << 20;
const STREAMS_MAX: usize = 256;
const VXLAN_PORT: u16 = 4789;
/// Source ports that flows have when nobody says otherwise.
const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;

/// A profile, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct File {
    /// How packets are made and taken.
    pub engine: Option<String>,
    /// Packets a second, all streams together.
    #[serde(deserialize_with = "text")]
    pub rate: Option<Rate>,
    /// For how long.
    #[serde(deserialize_with = "text")]
    pub duration: Option<Time>,
    /// How long to wait for a first packet.
    #[serde(deserialize_with = "text")]
    pub wait: Option<Time>,
    /// How long to wait for the last.
    #[serde(deserialize_with = "text")]
    pub linger: Option<Time>,
    /// Processors to send on.
    pub cores: Vec<usize>,
    /// Where packets are sent from.
    pub from: Where,
    /// Where they go.
    pub to: Where,
    /// What is sent.
    pub streams: Vec<StreamFile>,
    /// TCP connections, in place of streams.
    pub connections: Option<Connections>,
}

/// An end.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Where {
    /// The lab that `place` is in.
    pub lab: Option<String>,
    /// Where in the lab, or in the memory engine's node.
    pub place: Option<String>,
    /// A network namespace.
    pub netns: Option<String>,
    /// An interface there.
    pub interface: Option<String>,
    /// The address.
    pub address: Option<IpAddr>,
    /// Which address, when the place has several.
    pub ipv6: Option<bool>,
    /// The next hop's MAC address.
    #[serde(deserialize_with = "text")]
    pub gateway_mac: Option<MacAddr>,
}

/// A stream, as it is written.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct StreamFile {
    /// Its name.
    pub name: Option<String>,
    /// Its weight.
    pub share: Option<f64>,
    /// udp, tcp, syn, echo or malformed.
    pub packets: Option<PacketsFile>,
    /// Of TCP segments.
    #[serde(deserialize_with = "text")]
    pub flags: Option<FlagsFile>,
    /// Of malformed packets.
    pub kinds: Vec<Malformed>,
    /// Frame sizes.
    #[serde(deserialize_with = "text")]
    pub size: Option<SizesFile>,
    /// How many flows.
    pub flows: Option<u32>,
    /// How often which has its turn.
    #[serde(deserialize_with = "text")]
    pub distribution: Option<Distribution>,
    /// New flows a second.
    pub churn: Option<f64>,
    /// Where from.
    pub source: EndFile,
    /// Where to.
    pub destination: EndFile,
    /// What is around.
    pub tunnel: Option<TunnelFile>,
}

/// What a stream's packets are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PacketsFile {
    /// Datagrams.
    Udp,
    /// Segments.
    Tcp,
    /// A flood of first segments.
    Syn,
    /// Requests.
    Echo,
    /// What nobody should let through.
    Malformed,
}

/// What an end of a stream's flows may have.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct EndFile {
    /// The first address.
    pub address: Option<IpAddr>,
    /// How many from it on.
    pub addresses: Option<u32>,
    /// The first port.
    pub port: Option<u16>,
    /// How many from it on.
    pub ports: Option<u32>,
}

/// A tunnel.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct TunnelFile {
    kind: TunnelKindFile,
    source: Option<Ipv4Addr>,
    destination: Option<Ipv4Addr>,
    vni: Option<u32>,
    port: Option<u16>,
    #[serde(default, deserialize_with = "text")]
    inner_source: Option<MacAddr>,
    #[serde(default, deserialize_with = "text")]
    inner_destination: Option<MacAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum TunnelKindFile {
    Vxlan,
    Ipip,
}

/// TCP connections that are made and ended.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Connections {
    /// New ones a second.
    pub per_second: f64,
    /// Bytes that the client sends.
    #[serde(default)]
    pub request: u32,
    /// Bytes that the server answers.
    #[serde(default)]
    pub response: u32,
    /// The server's port.
    #[serde(default = "http")]
    pub port: u16,
    /// Open at a time, at most.
    #[serde(default = "many")]
    pub concurrent: u32,
}

fn http() -> u16 {
    80
}

fn many() -> u32 {
    1024
}

/// A duration with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_duration(text).map(Time)
    }
}

/// Sizes, and as they were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SizesFile(pub Sizes, pub String);

impl FromStr for SizesFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(SizesFile(text.parse()?, text.into()))
    }
}

/// TCP flags by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagsFile(pub Flags);

impl FromStr for FlagsFile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut flags = Flags(0);
        for name in text.split([',', ' ', '|']).filter(|name| !name.is_empty()) {
            flags = flags
                | match name.to_ascii_lowercase().as_str() {
                    "fin" => Flags::FIN,
                    "syn" => Flags::SYN,
                    "rst" => Flags::RST,
                    "psh" => Flags::PSH,
                    "ack" => Flags::ACK,
                    "urg" => Flags::URG,
                    "none" => Flags(0),
                    _ => return Err(format!("{name:?} is not fin, syn, rst, psh, ack, urg or none")),
                };
        }
        Ok(FlagsFile(flags))
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is not uniform, nor zipf with its exponent (such as zipf 1.1)");
        match text.split_once([' ', ':']) {
            None if text == "uniform" => Ok(Distribution::Uniform),
            Some(("zipf", exponent)) => match exponent.trim().parse::<f64>() {
                Ok(exponent) if (0.0..=10.0).contains(&exponent) => Ok(Distribution::Zipf(exponent)),
                _ => Err(bad()),
            },
            _ => Err(bad()),
        }
    }
}

/// Something that is written as text, or as a number.
fn text<'de, T: FromStr<Err: fmt::Display>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    struct Text<T>(PhantomData<T>);
    impl<T: FromStr<Err: fmt::Display>> Visitor<'_> for Text<T> {
        type Value = Option<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("text, or a number")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
            text.parse().map(Some).map_err(E::custom)
        }
        fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
            self.visit_str(&number.to_string())
        }
        fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
            self.visit_str(&number.to_string())
        }
        fn visit_f64<E: Error>(self, number: f64) -> Result<Self::Value, E> {
            self.visit_str(&number.to_string())
        }
    }
    deserializer.deserialize_any(Text(PhantomData))
}

/// What streams take from elsewhere when they do not say it themselves.
#[derive(Debug, Clone)]
pub struct Defaults {
    /// The source address that the place has.
    pub source: IpAddr,
    /// Where packets go.
    pub destination: IpAddr,
    /// Flags of the command line: they come before the file.
    pub flags: Flagged,
}

/// What flags say of all streams.
#[derive(Debug, Clone, Default)]
pub struct Flagged {
    /// How many flows.
    pub flows: Option<u32>,
    /// Frame sizes.
    pub sizes: Option<SizesFile>,
    /// The source port.
    pub source_port: Option<u16>,
    /// The destination port.
    pub destination_port: Option<u16>,
}

impl File {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or does not say what a profile may say.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = files::read_text(path)?;
        let file = Self::parse(&text).with_context(|| path.display().to_string())?;
        Ok(file)
    }

    /// Reads a profile's text.
    ///
    /// # Errors
    /// It does not say what a profile may say; the error names the line.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let options = serde_saphyr::options! { strict_booleans: true };
        let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
            let line = error.location().map_or(1, |location| location.line());
            let message = error.without_snippet().to_string();
            anyhow!("line {line}: {}", message.lines().next().unwrap_or("not YAML"))
        })?;
        file.check()?;
        Ok(file)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.streams.len() > STREAMS_MAX {
            bail!("{} streams; up to {STREAMS_MAX} are possible", self.streams.len());
        }
        if self.connections.is_some() && !self.streams.is_empty() {
            bail!("connections and streams: a profile has one of them");
        }
        if let Some(Connections { per_second, concurrent, .. }) = self.connections
            && (!(0.01..=1e7).contains(&per_second) || !(1..=60_000).contains(&concurrent))
        {
            bail!("connections: perSecond is from 0.01 to 10000000, and concurrent from 1 to 60000");
        }
        for (at, stream) in self.streams.iter().enumerate() {
            stream.check().with_context(|| stream.called(at))?;
        }
        let flows: u64 = self.streams.iter().map(|stream| u64::from(stream.flows.unwrap_or(1))).sum();
        if flows > u64::from(FLOWS_MAX) {
            bail!("{flows} flows of all streams; up to {FLOWS_MAX} are possible");
        }
        Ok(())
    }
}

impl StreamFile {
    /// What it is called in messages.
    #[must_use]
    pub fn called(&self, at: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("stream {}", at + 1))
    }

    fn check(&self) -> anyhow::Result<()> {
        let packets = self.packets.unwrap_or(PacketsFile::Udp);
        if self.flags.is_some() && packets != PacketsFile::Tcp {
            bail!("flags are for packets: tcp");
        }
        if !self.kinds.is_empty() && packets != PacketsFile::Malformed {
            bail!("kinds are for packets: malformed");
        }
        if self.flows == Some(0) {
            bail!("flows: 0; at least one is needed");
        }
        if self.share.is_some_and(|share| !(share > 0.0 && share <= 1e9)) {
            bail!("share: a weight above 0 is needed");
        }
        if self.churn.is_some_and(|churn| !(0.0..=1e7).contains(&churn)) {
            bail!("churn: from 0 to 10000000 flows a second");
        }
        for end in [self.source, self.destination] {
            if end.addresses == Some(0) || end.ports == Some(0) {
                bail!("addresses and ports: at least one each");
            }
            let last = u64::from(end.port.unwrap_or(0)) + u64::from(end.ports.unwrap_or(1));
            if last > u64::from(u16::MAX) + 1 {
                bail!("ports: there are none above {}", u16::MAX);
            }
        }
        Ok(())
    }

    /// The stream that is meant.
    ///
    /// # Errors
    /// Ends are of different families, or there are too few combinations.
    pub fn resolve(&self, at: usize, defaults: &Defaults) -> anyhow::Result<Stream> {
        self.try_resolve(at, defaults).with_context(|| self.called(at))
    }

    fn try_resolve(&self, at: usize, defaults: &Defaults) -> anyhow::Result<Stream> {
        let flags = &defaults.flags;
        let flows = flags.flows.or(self.flows).unwrap_or(1);
        let sizes = flags.sizes.clone().or_else(|| self.size.clone());
        let sizes = sizes.map_or_else(|| "64".parse(), |sizes| Ok(sizes.0)).map_err(anyhow::Error::msg)?;
        let packets = match self.packets.unwrap_or(PacketsFile::Udp) {
            PacketsFile::Udp => Packets::Udp,
            PacketsFile::Tcp => Packets::Tcp(self.flags.map_or(Flags::ACK, |flags| flags.0)),
            PacketsFile::Syn => Packets::Tcp(Flags::SYN),
            PacketsFile::Echo => Packets::Echo,
            PacketsFile::Malformed if self.kinds.is_empty() => {
                Packets::Malformed(Malformed::all(defaults.source.is_ipv6()))
            }
            PacketsFile::Malformed => Packets::Malformed(self.kinds.clone()),
        };
        let first = flags.source_port.or(self.source.port).unwrap_or(*SOURCE_PORTS.start());
        let source = End {
            address: self.source.address.unwrap_or(defaults.source),
            addresses: self.source.addresses.unwrap_or(1),
            port: first,
            ports: self.source.ports.unwrap_or(u32::from(SOURCE_PORTS.end() - first) + 1),
        };
        let per_port = u64::from(source.ports) * u64::from(source.addresses);
        let port = flags.destination_port.or(self.destination.port).unwrap_or(super::SINK_PORT);
        let more = u64::from(flows).div_ceil(per_port.max(1)).min(u64::from(u16::MAX - port) + 1);
        let destination = End {
            address: self.destination.address.unwrap_or(defaults.destination),
            addresses: self.destination.addresses.unwrap_or(1),
            port,
            // More flows than source ports go to further ports, unless the profile says how many.
            ports: self.destination.ports.unwrap_or(more as u32),
        };
        if source.address.is_ipv6() != destination.address.is_ipv6() {
            bail!("from {} to {}: one is IPv4 and the other IPv6", source.address, destination.address);
        }
        let tunnel = self.tunnel.as_ref().map(|tunnel| tunnel.resolve(defaults)).transpose()?;
        let stream = Stream {
            name: self.called(at),
            share: self.share.unwrap_or(1.0),
            packets,
            sizes,
            flows,
            distribution: self.distribution.unwrap_or(Distribution::Uniform),
            churn: self.churn.unwrap_or(0.0),
            source,
            destination,
            tunnel,
        };
        if stream.combinations() < u64::from(flows) {
            bail!("{flows} flows of {} combinations of addresses and ports", stream.combinations());
        }
        Ok(stream)
    }
}

impl TunnelFile {
    fn resolve(&self, defaults: &Defaults) -> anyhow::Result<Tunnel> {
        let v4 = |given: Option<Ipv4Addr>, default: IpAddr, which: &str| match (given, default) {
            (Some(address), _) | (None, IpAddr::V4(address)) => Ok(address),
            (None, IpAddr::V6(_)) => Err(anyhow!("tunnel: {which} is needed: tunnels here are of IPv4")),
        };
        let kind = match self.kind {
            TunnelKindFile::Ipip if self.vni.or(self.port.map(u32::from)).is_some() => {
                bail!("tunnel: vni and port are for kind: vxlan")
            }
            TunnelKindFile::Ipip => TunnelKind::Ipip,
            TunnelKindFile::Vxlan => {
                let vni = self.vni.unwrap_or(4096);
                if Vni::new(vni).is_err() {
                    bail!("tunnel: vni {vni} has more than 24 bits");
                }
                TunnelKind::Vxlan {
                    vni,
                    port: self.port.unwrap_or(VXLAN_PORT),
                    inner_source: self.inner_source.unwrap_or(MacAddr([2, 0, 0, 0, 0, 1])),
                    inner_destination: self.inner_destination.unwrap_or(MacAddr([2, 0, 0, 0, 0, 2])),
                }
            }
        };
        Ok(Tunnel {
            kind,
            source: v4(self.source, defaults.source, "source")?,
            destination: v4(self.destination, defaults.destination, "destination")?,
        })
    }
}

#[cfg(test)]
mod tests;
