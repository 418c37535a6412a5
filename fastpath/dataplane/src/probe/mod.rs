//! What a network interface can do, and what the fastpath makes of that: `caracal-fastpath --probe`, and the same answers when an uplink is
//! attached.
//!
//! ```text
//!   rtnetlink: link ──────────┐
//!   ethtool: queues, rings, ──┤
//!     offloads, RSS           ├──► Interface ──► advice: what we would use, and why ──► table, JSON
//!   netdev: XDP ──────────────┤        ▲
//!   sysfs: driver, NUMA node ─┘        └── Tried: only if asked for, a program and a socket for a moment
//! ```
//!
//! Asking changes nothing and needs no privilege. What a kernel or a driver does not say is an [`Answer`] with the reason, not a guess.

pub mod advice;
pub mod ethtool;
pub mod netdev;
pub mod netlink;
pub mod place;
pub mod report;
pub mod tuning;

use std::io;

use caracal_xsk::xdp::{AttachMode, Preference, Uplink};
use caracal_xsk::{Config, Domain, DomainConfig, Mode, Socket};

use self::ethtool::{Channels, Ethtool, Features, Rings, Rss};
use self::netdev::XdpFeatures;
use self::netlink::{Attributes, Conversation, Protocol, attributes, find, number, text};
use self::place::Place;

/// What was asked, or why there is no answer.
pub type Answer<T> = Result<T, String>;

/// Why an interface could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// No netlink.
    #[error("cannot ask the kernel by netlink")]
    Netlink(#[source] io::Error),
    /// No such interface.
    #[error("there is no interface {name} in this network namespace; `ip link` lists them")]
    NoInterface {
        /// Its name.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A program that is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// `native`, `generic`, or how else.
    pub mode: &'static str,
    /// The kernel's number for it.
    pub program: u32,
}

/// What the kernel says of an interface.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
    /// What kind of virtual device it is, if it is one.
    pub kind: Option<String>,
    /// It sends and receives Ethernet frames.
    pub ethernet: bool,
    /// The largest IP packet, bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Packets can pass.
    pub carrier: bool,
    /// Queues that there is room for.
    pub rx_queues: u32,
    /// Queues that there is room for.
    pub tx_queues: u32,
    /// The program that it has now.
    pub attached: Option<Attached>,
    /// Its driver and where it sits.
    pub place: Place,
    /// Its queues.
    pub channels: Answer<Channels>,
    /// Its rings.
    pub rings: Answer<Rings>,
    /// Its offloads.
    pub features: Answer<Features>,
    /// How it spreads what it receives.
    pub rss: Answer<Rss>,
    /// Its XDP.
    pub xdp: Answer<XdpFeatures>,
}

impl Interface {
    /// Asks the kernel about an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// When there is no such interface, or no netlink.
    pub fn ask(name: &str) -> Result<Self, ProbeError> {
        let mut route = Conversation::open(Protocol::Route).map_err(ProbeError::Netlink)?;
        let mut generic = Conversation::open(Protocol::Generic).map_err(ProbeError::Netlink)?;
        let no_interface = |source| ProbeError::NoInterface { name: name.into(), source };
        let answers = route.request(GET_LINK, &link_request(name)).map_err(no_interface)?;
        let link = answers.iter().find_map(|answer| parse_link(answer));
        let link = link.ok_or_else(|| no_interface(io::Error::from(io::ErrorKind::InvalidData)))?;
        let xdp = netdev::xdp_features(&mut generic, link.index).map_err(|error| silence("netdev", &error));
        Ok(Interface {
            channels: ethtool(&mut generic, link.index, |ethtool| ethtool.channels()),
            rings: ethtool(&mut generic, link.index, |ethtool| ethtool.rings()),
            features: ethtool(&mut generic, link.index, |ethtool| ethtool.features()),
            rss: ethtool(&mut generic, link.index, |ethtool| ethtool.rss()),
            xdp,
            ..link
        })
    }

    /// What it is: the driver of its hardware, or the kind of virtual device.
    #[must_use]
    pub fn driver(&self) -> Option<&str> {
        self.place.driver.as_deref().or(self.kind.as_deref())
    }

    /// Queues that receive now.
    #[must_use]
    pub fn receiving_queues(&self) -> u32 {
        self.channels.as_ref().map_or(self.rx_queues, Channels::receiving).max(1)
    }

    /// VLAN tags are taken off before a program sees the frame.
    #[must_use]
    pub fn strips_vlan_tags(&self) -> bool {
        self.features.as_ref().is_ok_and(|features| features.active.contains("rx-vlan-hw-parse"))
    }
}

/// Asks ethtool's family one thing.
fn ethtool<T>(
    kernel: &mut Conversation,
    ifindex: u32,
    question: impl FnOnce(&mut Ethtool<'_>) -> io::Result<T>,
) -> Answer<T> {
    Ethtool::of(kernel, ifindex)
        .and_then(|mut ethtool| question(&mut ethtool))
        .map_err(|error| silence("ethtool", &error))
}

/// Why there is no answer.
fn silence(family: &str, error: &io::Error) -> String {
    if netlink::is_unsupported(error) {
        return "the driver does not say".into();
    }
    match (error.kind(), family) {
        (io::ErrorKind::NotFound, "netdev") => {
            "the kernel does not say (generic netlink family netdev, Linux 6.3)".into()
        }
        (io::ErrorKind::NotFound, _) => format!("the kernel has no generic netlink family {family}"),
        _ => format!("{family}: {error}"),
    }
}

/// `RTM_GETLINK`.
const GET_LINK: u16 = 18;
/// `struct ifinfomsg`: family, type, index, flags, change mask.
const LINK_HEADER: usize = 16;

fn link_request(name: &str) -> Vec<u8> {
    const NAME: u16 = 3;
    let mut zero_ended = name.as_bytes().to_vec();
    zero_ended.push(0);
    let mut body = vec![0; LINK_HEADER];
    body.extend(Attributes::default().with(NAME, &zero_ended).as_bytes());
    body
}

/// An interface by what rtnetlink says; what others say is not known yet.
fn parse_link(answer: &[u8]) -> Option<Interface> {
    const ETHERNET: u16 = 1;
    const UP: u32 = 1;
    const LOWER_UP: u32 = 1 << 16;
    let header = answer.first_chunk::<LINK_HEADER>()?;
    let word = |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let flags = word(8);
    let mut link = Interface {
        name: String::new(),
        index: word(4),
        kind: None,
        ethernet: u16::from_ne_bytes([header[2], header[3]]) == ETHERNET,
        mtu: 0,
        up: flags & UP != 0,
        carrier: flags & LOWER_UP != 0,
        rx_queues: 1,
        tx_queues: 1,
        attached: None,
        place: Place::default(),
        channels: Err(String::new()),
        rings: Err(String::new()),
        features: Err(String::new()),
        rss: Err(String::new()),
        xdp: Err(String::new()),
    };
    let (mut device, mut bus) = (None, None);
    for (kind, value) in attributes(&answer[LINK_HEADER..]) {
        let as_u32 = || number(value).and_then(|n| u32::try_from(n).ok());
        match kind {
            3 => link.name = text(value).unwrap_or_default(),
            4 => link.mtu = as_u32().unwrap_or(0),
            18 => link.kind = find(value, 1).and_then(text),
            31 => link.tx_queues = as_u32().unwrap_or(1),
            32 => link.rx_queues = as_u32().unwrap_or(1),
            43 => link.attached = parse_attached(value),
            56 => device = text(value),
            57 => bus = text(value),
            _ => {}
        }
    }
    if let (Some(bus), Some(device)) = (bus, device) {
        link.place = Place::of(&bus, &device);
    }
    Some(link)
}

/// `IFLA_XDP`.
fn parse_attached(value: &[u8]) -> Option<Attached> {
    let mode = match find(value, 2).and_then(number)? {
        0 => return None,
        1 => "native",
        2 => "generic",
        3 => "in the device",
        _ => "several",
    };
    let program = find(value, 4).and_then(number).and_then(|id| u32::try_from(id).ok());
    Some(Attached { mode, program: program.unwrap_or(0) })
}

/// What became of a program and of sockets that were put on an interface for a moment.
#[derive(Clone, Debug)]
pub struct Tried {
    /// How the program was attached.
    pub program: Answer<AttachMode>,
    /// Whether a socket could be bound in zero-copy mode.
    pub zero_copy: Answer<()>,
    /// Whether one could be in copy mode.
    pub copy: Answer<()>,
}

/// Puts a program that passes everything, and a socket, on queue 0 of an interface, and takes them off. A real device may reset its
/// rings; nothing is taken from the host.
#[must_use]
pub fn try_out(ifindex: u32) -> Tried {
    let program = Uplink::attach(ifindex, Preference::NativeFirst);
    let domain = Domain::new(DomainConfig { chunks: 64, huge_pages: false, ..DomainConfig::default() });
    // Many drivers have zero-copy without several frames a packet.
    let multi_buffer = false;
    let bind = |mode| -> Answer<()> {
        let (domain, pool) = domain.as_ref().map_err(ToString::to_string)?;
        let config =
            Config { rx: 64, tx: 64, fill: 64, completion: 64, mode, multi_buffer, ..Config::default() };
        // Nothing is given to it, so nothing comes back.
        Socket::bind(domain, ifindex, 0, config).map(|socket| drop((socket, pool))).map_err(|e| e.to_string())
    };
    let zero_copy = bind(Mode::ZeroCopy);
    let copy = bind(Mode::Copy);
    Tried {
        program: program.map(|program| program.mode().clone()).map_err(|e| e.to_string()),
        zero_copy,
        copy,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_about_a_link_is_taken_apart_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..400)
        ) {
            let _ = (parse_link(&bytes), parse_attached(&bytes));
        }
    }

    #[test]
    fn a_kernel_or_a_driver_that_says_nothing_is_told_apart() {
        let unsupported = io::Error::from_raw_os_error(nix::libc::EOPNOTSUPP);
        assert_eq!(silence("ethtool", &unsupported), "the driver does not say");
        assert!(silence("netdev", &io::ErrorKind::NotFound.into()).contains("Linux 6.3"));
    }
}
