//! Golden captures: what comes in by each link, and every byte of what must come out. See README.md for how each byte was
//! arrived at.
//!
//! `CASE.in.LINK.pcap` are sent, in order, into the small node of `caracal_dataplane::sim::world`; `CASE.out.LINK.pcap` is
//! what it must send by that link, and by no other. `BLESS=1` writes what came out instead of comparing: read the
//! difference before you commit it.

#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

mod pcap;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use caracal_dataplane::clock::Tick;
use caracal_dataplane::sim::datagram::{Datagram, checksum};
use caracal_dataplane::sim::datagram6::Datagram6;
use caracal_dataplane::sim::world::{self, pod};
use caracal_dataplane::sim::{Output, PortName};

/// The links, as file names have them.
fn link(name: &str) -> PortName {
    match name {
        "uplink" => PortName::Uplink,
        "uplink2" => PortName::SecondUplink,
        "host" => PortName::Host,
        "forward" => PortName::Forward,
        pod_name => {
            pod(pod_name.strip_prefix("pod-").unwrap_or_else(|| panic!("no link is called {pod_name}")))
        }
    }
}

fn name(link: &PortName) -> String {
    match link {
        PortName::Uplink => "uplink".into(),
        PortName::SecondUplink => "uplink2".into(),
        PortName::Host => "host".into(),
        PortName::Forward => "forward".into(),
        PortName::Pod(id) => format!("pod-{}", id.trim_start_matches("default/")),
    }
}

#[derive(Default)]
struct Case {
    /// By link.
    input: BTreeMap<String, PathBuf>,
    output: BTreeMap<String, PathBuf>,
}

fn cases(folder: &Path) -> BTreeMap<String, Case> {
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let Some(stem) = file.strip_suffix(".pcap") else { continue };
        let parts: Vec<&str> = stem.split('.').collect();
        let [case, way, link] = parts[..] else {
            panic!("{file}: not CASE.in.LINK.pcap nor CASE.out.LINK.pcap")
        };
        let case = cases.entry(case.to_owned()).or_default();
        match way {
            "in" => case.input.insert(link.to_owned(), path),
            "out" => case.output.insert(link.to_owned(), path),
            _ => panic!("{file}: neither in nor out"),
        };
    }
    cases
}

fn run(case: &Case) -> BTreeMap<String, Vec<Vec<u8>>> {
    let mut node = world::node(1024, 256).unwrap();
    for (from, path) in &case.input {
        for frame in pcap::read(path) {
            assert!(node.inject(&link(from), &frame));
        }
    }
    let mut sent: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for Output { port, frame } in node.run(Tick(0)) {
        sent.entry(name(&port)).or_default().push(frame);
    }
    sent
}

#[test]
fn what_comes_out_is_what_was_written_down_byte_for_byte() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let cases = cases(&folder);
    assert!(cases.len() >= 28, "only {} cases in {}", cases.len(), folder.display());
    for (case_name, case) in &cases {
        assert!(!case.input.is_empty(), "{case_name} has no input");
        let sent = run(case);
        if std::env::var_os("BLESS").is_some() {
            for (link, frames) in &sent {
                pcap::write(&folder.join(format!("{case_name}.out.{link}.pcap")), frames);
            }
            continue;
        }
        let links: BTreeSet<&String> = sent.keys().chain(case.output.keys()).collect();
        for link in links {
            let expected = case.output.get(link).map(|path| pcap::read(path)).unwrap_or_default();
            let actual = sent.get(link).cloned().unwrap_or_default();
            assert_eq!(
                hex(&actual),
                hex(&expected),
                "{case_name}: what left by {link} (left), and should have (right)"
            );
        }
    }
}

/// The captures are held to the RFCs by a second reader, which shares no code with the product: lengths and checksums of
/// everything that must come out.
#[test]
fn every_expected_frame_is_sound() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for (case_name, case) in cases(&folder) {
        for frame in case.output.values().flat_map(|path| pcap::read(path)) {
            if frame[12..14] == [8, 6] {
                assert_eq!(frame.len(), 42, "{case_name}: an ARP message");
                continue;
            }
            sound(&case_name, &frame);
        }
    }
}

/// IPv6's "next header" of a part (RFC 8200, 4.5).
const FRAGMENT_HEADER: u8 = 44;

fn sound(case: &str, frame: &[u8]) {
    if frame[12..14] == [0x86, 0xdd] {
        let packet =
            Datagram6::read(frame).unwrap_or_else(|| panic!("{case}: no IPv6 packet that fills its frame"));
        // A part's checksum is over all parts.
        if packet.next_header == FRAGMENT_HEADER {
            return;
        }
        assert!(packet.checksum_is_right(), "{case}: the checksum behind the IPv6 header");
        let is_vxlan = packet.next_header == 17 && packet.body[2..4] == world::VXLAN_PORT.to_be_bytes();
        if is_vxlan {
            assert_ne!(
                packet.body[6..8],
                [0, 0],
                "{case}: over IPv6 there is a UDP checksum (RFC 8200, 8.1)"
            );
            vxlan_sound(case, &packet.body);
        }
        return;
    }
    let packet =
        Datagram::read(frame).unwrap_or_else(|| panic!("{case}: no IPv4 packet that fills its frame"));
    if packet.fragment_word & 0x3fff != 0 {
        return;
    }
    let word = |at: usize| u16::from_be_bytes([packet.body[at], packet.body[at + 1]]);
    match packet.protocol {
        1 => assert_eq!(checksum(&packet.body), 0, "{case}: the ICMP checksum"),
        6 => assert!(packet.checksum_is_right(), "{case}: the TCP checksum"),
        17 => {
            assert_eq!(usize::from(word(4)), packet.body.len(), "{case}: the UDP length");
            if word(2) == world::VXLAN_PORT {
                // RFC 7348, 5: no UDP checksum, the I flag, everything reserved zero.
                assert_eq!(word(6), 0, "{case}: the outer UDP checksum");
                vxlan_sound(case, &packet.body);
            } else {
                assert!(packet.checksum_is_right(), "{case}: the UDP checksum");
            }
        }
        // RFC 2003: what follows is IPv4, and so says the Ethernet header that it would have.
        4 => sound(case, &[&[0; 12][..], &[8, 0], &packet.body].concat()),
        other => panic!("{case}: protocol {other} is not looked into here"),
    }
}

/// The VXLAN header behind UDP's, and what is inside.
fn vxlan_sound(case: &str, udp: &[u8]) {
    assert_eq!(udp[8..16], [8, 0, 0, 0, 0, 0x10, 0, 0], "{case}: the VXLAN header, VNI 4096");
    sound(case, &udp[16..]);
}

fn hex(frames: &[Vec<u8>]) -> Vec<String> {
    let line = |(at, bytes): (usize, &[u8])| {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{:04x}  {}", at * 16, bytes.join(" "))
    };
    frames.iter().flat_map(|frame| frame.chunks(16).enumerate().map(line).chain([String::new()])).collect()
}
