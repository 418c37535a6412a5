use std::collections::BTreeSet;

use super::*;
use crate::probe::ethtool::{Channels, Features, Rings, Rss};
use crate::probe::netdev::XdpFeatures;
use crate::probe::place::Place;

const SETTINGS: Settings = Settings { workers: 2, chunks: 8192, chunk_size: 2048, uplink_ring: 4096 };
const SILENT: &str = "the driver does not say";

/// A card with everything.
fn card() -> Interface {
    let xdp = XdpFeatures { actions: 0x7f, zero_copy_segments: 8, rx_metadata: 7, tx_metadata: 3 };
    Interface {
        name: "eth9".into(),
        index: 9,
        kind: None,
        ethernet: true,
        mtu: 1500,
        up: true,
        carrier: true,
        rx_queues: 8,
        tx_queues: 8,
        attached: None,
        place: Place { driver: Some("card".into()), numa_node: Some(1), ..Place::default() },
        channels: Ok(Channels { combined: 8, combined_max: 8, ..Channels::default() }),
        rings: Ok(Rings { rx: 2048, tx: 2048, rx_max: 8192, tx_max: 8192 }),
        features: Ok(Features { active: ["rx-vlan-hw-parse".to_owned()].into(), ..Features::default() }),
        rss: Ok(Rss { table: (0..8).map(|queue| (queue, 16)).collect(), ..Rss::default() }),
        xdp: Ok(xdp),
    }
}

fn cpus() -> Cpus {
    Cpus { allowed: (0..4).collect(), cores: [].into(), nodes: [(1, BTreeSet::from([2, 3]))].into() }
}

fn advice(interface: &Interface, tried: Option<&Tried>, what: &str) -> Choice {
    let all = advise(interface, tried, SETTINGS, &cpus());
    all.into_iter().find(|choice| choice.what == what).unwrap_or_else(|| panic!("nothing said of {what}"))
}

#[test]
fn a_card_with_everything_is_used_whole_and_nothing_is_to_be_changed() {
    let all = advise(&card(), None, SETTINGS, &cpus());
    let warnings: Vec<_> = all.iter().filter(|choice| choice.warns).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(advice(&card(), None, "XDP program").choice, "native");
    assert!(advice(&card(), None, "socket").choice.starts_with("zero-copy"));
    assert!(advice(&card(), None, "TX checksum").choice.contains("device"));
    assert!(advice(&card(), None, "VLAN tags").choice.contains("asked"));
    assert_eq!(advice(&card(), None, "CPUs").choice, "--cpus 2,3");
}

#[test]
fn checksums_are_left_to_a_device_in_zero_copy_mode_only_when_it_says_that_it_can() {
    let mut card = card();
    card.xdp.as_mut().unwrap().tx_metadata = 0;
    assert_eq!(advice(&card, None, "TX checksum").choice, "completed in software");
    // In copy mode they pass through the kernel, which sees to it.
    card.xdp.as_mut().unwrap().actions = 3;
    assert!(advice(&card, None, "TX checksum").choice.contains("kernel"));
}

#[test]
fn what_was_tried_counts_more_than_what_a_driver_says() {
    let tried = Tried {
        program: Ok(AttachMode::Generic("out of queues".into())),
        zero_copy: Err("no memory".into()),
        copy: Ok(()),
    };
    let program = advice(&card(), Some(&tried), "XDP program");
    assert!(program.warns && program.choice.contains("generic") && program.why.contains("out of queues"));
    let socket = advice(&card(), Some(&tried), "socket");
    assert_eq!((socket.choice.as_str(), socket.why.as_str()), ("copy", "no memory"));
    assert!(advice(&card(), Some(&tried), "TX checksum").choice.contains("kernel"));
}

#[test]
fn a_device_that_hides_vlan_tags_is_warned_of_and_how_to_stop_it_is_said() {
    let mut card = card();
    card.xdp.as_mut().unwrap().rx_metadata = 0;
    let vlan = advice(&card, None, "VLAN tags");
    assert!(vlan.warns && vlan.why.contains("ethtool -K eth9 rxvlan off"), "{vlan:?}");
    card.features = Ok(Features::default());
    assert!(!advice(&card, None, "VLAN tags").warns);
}

#[test]
fn a_mtu_beyond_one_frame_needs_a_driver_with_several_buffers() {
    let mut card = card();
    card.mtu = 9000;
    assert!(advice(&card, None, "frames").why.contains("takes 6"), "{:?}", advice(&card, None, "frames"));
    card.xdp.as_mut().unwrap().actions = 3;
    let frames = advice(&card, None, "frames");
    assert!(frames.warns && frames.why.contains("1778"), "{frames:?}");
}

#[test]
fn zero_copy_without_several_frames_a_packet_is_not_for_a_large_mtu() {
    let mut card = card();
    card.xdp.as_mut().unwrap().zero_copy_segments = 1;
    assert!(advice(&card, None, "socket").choice.starts_with("zero-copy"));
    card.mtu = 9000;
    let socket = advice(&card, None, "socket");
    assert!(socket.choice == "copy" && socket.why.contains("9000"), "{socket:?}");
    assert!(advice(&card, None, "TX checksum").choice.contains("kernel"));
}

#[test]
fn fewer_queues_than_workers_or_a_table_that_leaves_some_out_is_warned_of() {
    let mut card = card();
    card.channels = Ok(Channels { combined: 1, combined_max: 8, ..Channels::default() });
    card.rss = Err(SILENT.into());
    assert!(advice(&card, None, "queues").why.contains("--uplink-queues 2"));
    card.channels = Ok(Channels { combined: 4, combined_max: 8, ..Channels::default() });
    card.rss = Ok(Rss { table: [(0, 64), (1, 64)].into(), ..Rss::default() });
    assert!(advice(&card, None, "queues").why.contains("ethtool -X eth9 equal 4"));
}

#[test]
fn silence_is_told_as_silence() {
    let mut silent = card();
    silent.xdp = Err("the kernel is old".into());
    silent.rings = Err(SILENT.into());
    for what in ["XDP program", "socket"] {
        assert_eq!(advice(&silent, None, what).why, "the kernel is old");
    }
    assert!(advice(&silent, None, "rings").why.contains(SILENT));
    assert_eq!(no_zero_copy(&silent, 2048), None, "to try is the only way to know");
}

#[test]
fn a_device_without_ethernet_headers_is_no_uplink() {
    let tun = Interface { ethernet: false, ..card() };
    let all = advise(&tun, None, SETTINGS, &cpus());
    assert!(all.len() == 1 && all[0].choice == "no");
}
