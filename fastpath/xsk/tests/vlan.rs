//! Frames whose VLAN tag the device has taken off before a program sees them. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test's helpers fail as tests do"
)]

mod common;

use caracal_xsk::Socket;
use caracal_xsk::xdp::uplink::Capture;
use caracal_xsk::xdp::{AttachMode, Preference, Uplink};
use common::*;
use std::net::{IpAddr, Ipv4Addr};

const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);

/// The same with an IEEE 802.1Q tag behind the MAC addresses.
fn tagged(frame: &[u8], vlan: u16) -> Vec<u8> {
    let [high, low] = vlan.to_be_bytes();
    [&frame[..12], &[0x81, 0x00, high, low], &frame[12..]].concat()
}

/// A device behind a bridge. The bridge's kernel takes a tag out of the frame and hands it on beside it, as a network card does that strips tags.
fn behind_a_bridge(uplink: &str) -> Wire {
    // Without multicast queries and IPv6 of its own: what it would say is counted, too.
    ip("link add crtbr type bridge mcast_snooping 0");
    let _ = std::fs::write("/proc/sys/net/ipv6/conf/crtbr/disable_ipv6", "1");
    ip("link set crtbr up");
    let (_, _) = veth("crtwire", "crtport0");
    let (_, _) = veth(uplink, "crtport1");
    for port in ["crtport0", "crtport1"] {
        ip(&format!("link set {port} master crtbr"));
    }
    Wire::new("crtwire")
}

#[test]
fn what_came_in_a_vlan_is_the_hosts_though_its_tag_is_no_longer_in_the_frame() {
    in_netns(|| {
        let mut wire = behind_a_bridge("crtup");
        let (domain, mut pool) = domain(64);
        let mut socket = Socket::bind(&domain, ifindex("crtup"), 0, small_rings()).unwrap();
        let mut uplink = Uplink::attach_seeing_vlan_tags(ifindex("crtup")).unwrap();
        assert_eq!(uplink.mode(), &AttachMode::Native);
        assert!(uplink.sees_vlan_tags());
        uplink.capture(Capture::Vxlan { local: IpAddr::V4(HOST), port: 4789 }).unwrap();
        uplink.set_socket(0, &socket).unwrap();
        socket.refill(&mut pool, 32);

        let plain = ipv4(PEER, HOST, 17, 0, &udp(9, 4789, &[7; 30]));
        for vlan in [100, 0, 0xe064] {
            wire.send(&tagged(&plain, vlan));
        }
        wire.send(&plain);
        let counters = eventually("all are counted", || {
            let counters = uplink.counters().unwrap();
            (counters.passed + counters.captured_vxlan >= 4).then_some(counters)
        });
        assert_eq!((counters.passed, counters.captured_vxlan), (3, 1), "{counters:?}");
        assert_eq!(receive_packets(&mut socket, &mut pool, 1), [plain]);
        wire.close();
        socket.close(&mut pool);
    });
}

#[test]
fn a_program_that_asks_goes_with_its_uplink_and_keeps_out_a_second_one() {
    in_netns(|| {
        veth("crtup", "crtwire");
        let first = Uplink::attach_seeing_vlan_tags(ifindex("crtup")).unwrap();
        let second = Uplink::attach_seeing_vlan_tags(ifindex("crtup")).map(drop);
        assert!(second.unwrap_err().to_string().contains("already has an XDP program"));
        drop(first);
        eventually("the device is free", || Uplink::attach(ifindex("crtup"), Preference::Native).ok());
    });
}

#[test]
fn a_device_that_cannot_have_such_a_program_refuses_it_in_a_line() {
    in_netns(|| {
        ip("link add crtbr type bridge");
        let refused = Uplink::attach_seeing_vlan_tags(ifindex("crtbr")).map(drop).unwrap_err().to_string();
        assert!(refused.contains("device") && refused.lines().count() == 1, "{refused}");
    });
}
