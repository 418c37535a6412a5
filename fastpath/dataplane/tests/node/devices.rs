//! What is said of devices, and set of them.

use std::process::{Command, Output};

use caracal_dataplane::port::{PacketSocketPort, Port};
use caracal_dataplane::probe::Interface;
use caracal_dataplane::probe::ethtool::Channels;
use caracal_dataplane::probe::tuning::{Tuning, Wanted};
use caracal_xsk::FramePool;
use caracal_xsk::packet_socket::{Outgoing, PacketSocket};
use caracal_xsk::tap::VirtioNetHeader;
use caracal_xsk::xdp::{Preference, Uplink};

use super::*;

fn probe(arguments: &str) -> Output {
    let arguments = arguments.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_caracal-fastpath")).args(arguments).output().unwrap()
}

fn said(arguments: &str) -> String {
    let output = probe(arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A veth with so many queues, of which all are in use. Its other end sends by one: native XDP wants a veth to have no fewer receive queues.
fn wide_veth(name: &str, queues: u32) {
    let far = format!("far-{name}");
    ip(&format!(
        "link add {name} numrxqueues {queues} numtxqueues {queues} type veth peer name {far} numrxqueues 4 numtxqueues 1"
    ));
    ip(&format!("link set {name} up"));
    ip(&format!("link set {far} up"));
}

fn queues(name: &str) -> u32 {
    Interface::ask(name).unwrap().receiving_queues()
}

#[test]
fn a_probe_says_what_a_veth_can_do_and_changes_nothing() {
    in_netns(|| {
        wide_veth("crtv0", 4);
        let veth = Interface::ask("crtv0").unwrap();
        assert_eq!((veth.driver(), veth.mtu, veth.up, veth.carrier), (Some("veth"), 1500, true, true));
        let channels = Channels { rx: 4, tx: 4, rx_max: 4, tx_max: 4, ..Channels::default() };
        assert_eq!(veth.channels, Ok(channels));
        assert_eq!(veth.rings, Err("the driver does not say".into()));
        let xdp = veth.xdp.as_ref().unwrap();
        assert!(xdp.native() && !xdp.zero_copy() && xdp.rx_vlan_tag() && xdp.rx_hash(), "{xdp:?}");
        let table = said("--probe crtv0 --workers 2");
        for words in ["veth", "native", "copy: driver veth has no zero-copy", "each worker has its own"] {
            assert!(table.contains(words), "{words} is missing in {table}");
        }
        assert_eq!(Interface::ask("crtv0").unwrap().attached, None);
    });
}

#[test]
fn a_probe_of_several_interfaces_has_each_also_as_json() {
    in_netns(|| {
        wide_veth("crtv0", 1);
        ip("tuntap add dev crtt0 mode tap");
        ip("tuntap add dev crtt1 mode tun");
        ip("link add crtb0 type bridge");
        let table = said("--probe crtv0 crtt0 crtt1 crtb0");
        let of = |name: &str| table.split(&format!("{name}: ")).nth(1).unwrap().to_owned();
        assert!(of("crtt0").contains("driver          tun"), "{table}");
        assert!(of("crtt1").contains("its packets have no Ethernet header"), "{table}");
        assert!(of("crtb0").contains("generic, which costs the host throughput"), "{table}");
        let json = said("--probe crtv0 crtt0 -o json");
        assert!(json.starts_with("[{\"name\": \"crtv0\"") && json.contains("{\"name\": \"crtt0\""), "{json}");
        assert!(json.contains("\"rx_metadata\": [\"timestamp\", \"hash\", \"vlan-tag\"]"), "{json}");
    });
}

#[test]
fn a_probe_of_what_is_not_there_says_so_and_fails() {
    in_netns(|| {
        let output = probe("--probe crtnone");
        assert_eq!(output.status.code(), Some(2));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("no interface crtnone"), "{message}");
    });
}

#[test]
fn what_is_tried_is_taken_off_again_and_what_stands_in_its_way_is_said() {
    in_netns(|| {
        wide_veth("crtv0", 1);
        let tried = said("--probe crtv0 --try");
        assert!(tried.contains("tried program   native"), "{tried}");
        assert!(tried.contains("tried copy      it can be bound"), "{tried}");
        assert!(tried.contains("no zero-copy AF_XDP"), "{tried}");
        let free = || Interface::ask("crtv0").unwrap().attached.is_none();
        eventually("the program is off", || free().then_some(()));
        let _uplink = Uplink::attach(ifindex("crtv0"), Preference::Native).unwrap();
        let tried = said("--probe crtv0 --try");
        assert!(tried.contains("already has an XDP program"), "{tried}");
        assert_eq!(Interface::ask("crtv0").unwrap().attached.unwrap().mode, "native");
    });
}

#[test]
fn queues_are_set_and_put_back_and_what_a_device_cannot_is_refused_unchanged() {
    in_netns(|| {
        wide_veth("crtv0", 4);
        let index = ifindex("crtv0");
        let wanted = |queues| Wanted { queues: Some(queues), rings: None };
        let tuning = Tuning::apply("crtv0", index, wanted(2)).unwrap();
        assert!(tuning.is_some());
        assert_eq!(queues("crtv0"), 2);
        drop(tuning);
        assert_eq!(queues("crtv0"), 4);
        assert!(Tuning::apply("crtv0", index, wanted(4)).unwrap().is_none(), "it is so already");
        let refused = Tuning::apply("crtv0", index, wanted(9)).unwrap_err().to_string();
        assert!(refused.contains("9 queues of crtv0") && refused.contains("--uplink-queues"), "{refused}");
        let rings = Wanted { queues: None, rings: Some(512) };
        let refused = Tuning::apply("crtv0", index, rings).unwrap_err().to_string();
        assert!(refused.contains("--uplink-rings"), "{refused}");
        assert_eq!(queues("crtv0"), 4);
    });
}

#[test]
fn a_node_sets_its_uplinks_queues_says_why_it_copies_and_puts_them_back_when_it_ends() {
    in_netns(|| {
        let near = Peer::new();
        wide_veth("crtup0", 4);
        ip(&format!("addr add {NODE}/24 dev crtup0"));
        near.adopt("far-crtup0");
        near.run(|| {
            ip(&format!("addr add {NEAR}/24 dev far-crtup0"));
            ip("link set far-crtup0 up");
            ip(&format!("route add 10.244.1.0/24 via {NODE}"));
        });
        let mut node = Node::start(1500, "--uplink-queues 2 --workers 2");
        node.wait_for("crtup0");
        node.wait_for_answer(NEAR);
        let rows: Vec<_> = node.ports().into_iter().filter(|row| row.name == "crtup0").collect();
        assert_eq!(rows.iter().map(|row| row.worker).collect::<Vec<_>>(), [0, 1]);
        for row in rows {
            assert_eq!(row.io, "af_xdp copy, xdp native, asks for VLAN tags");
            assert_eq!(row.detail, "copy mode: driver veth has no zero-copy");
        }
        assert_eq!(queues("crtup0"), 2);
        node.end();
        assert_eq!(queues("crtup0"), 4);
    });
}

#[test]
fn super_frames_that_are_refused_take_no_more_of_a_turn_than_others_and_all_come_in_the_end() {
    const SENT: usize = 300;
    const A_TURN: usize = 64;
    in_netns(|| {
        let (index, _) = veth("crthost", "crtpod");
        let peer = Peer::new();
        peer.adopt("crtpod");
        peer.run(|| ip("link set crtpod up"));
        let mut port = Port::PacketSocket(PacketSocketPort::new(PacketSocket::open(index).unwrap()));
        peer.run(|| {
            let mut socket = PacketSocket::open_to_send(ifindex("crtpod")).unwrap();
            let ip = [0x45, 0, 0x1f, 0xa8, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            let tcp = [0, 80, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
            let frame = [&[2; 12][..], &[8, 0], &ip, &tcp, &[0; 8064]].concat();
            // More segments than anybody cuts one into.
            let header = VirtioNetHeader {
                flags: VirtioNetHeader::NEEDS_CHECKSUM,
                gso_type: VirtioNetHeader::GSO_TCP4,
                header_len: 54,
                gso_size: 4,
                checksum_start: 34,
                checksum_offset: 16,
            };
            for _ in 0..SENT {
                let mut packet = Outgoing::default();
                assert!(packet.push(header, [&frame[..]].into_iter()));
                assert_eq!(socket.send(&mut packet).unwrap(), 1);
            }
        });
        let (mut pool, mut boxes) = (FramePool::heap(1024), Vec::new());
        let (mut came, mut turns, mut others) = (0, 0, Vec::new());
        loop {
            // What kernels say when a link comes up.
            let now = port.receive(&mut pool, &mut boxes, A_TURN, |packet| others.push(packet));
            assert!(now <= A_TURN, "{now} in a turn");
            if now == 0 {
                break;
            }
            (came, turns) = (came + now, turns + 1);
        }
        let Port::PacketSocket(mut port) = port else { unreachable!() };
        assert_eq!((came, port.take_losses().0 as usize), (SENT + others.len(), SENT), "in {turns} turns");
        others.into_iter().for_each(|packet| packet.release(&mut pool, &mut boxes));
        assert_eq!(pool.free(), pool.total(), "without traffic it holds no frames");
    });
}

#[test]
fn a_port_stays_what_its_pod_said_when_it_says_nothing_any_more_and_status_tells_so() {
    in_netns(|| {
        let _near = machine("crtup0", NODE, NEAR, 1500);
        let mut node = Node::start(1450, "");
        node.wait_for("calia");
        for (said, io, why) in [
            (plane::PodPort::Packet, "packet socket", "the pod's annotation"),
            (plane::PodPort::Auto, "packet socket", "which is gone"),
            (plane::PodPort::AfXdp, "af_xdp copy", "the pod's annotation"),
        ] {
            node.tell(vec![op::Op::Endpoint(plane::Endpoint { port: said.into(), ..endpoint() })]);
            eventually(&format!("{io}: {why}"), || {
                node.port("calia").filter(|row| row.io == io && row.detail.contains(why))
            });
        }
        node.end();
    });
}
