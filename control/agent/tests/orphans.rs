//! Sweeping pinned programs, with real ones. Needs root.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking, helpers included"
)]

mod netns;

use caracal_agent::programmer::{Inputs, Kernel, Orphans, Programmer, reconcile};
use caracal_xsk::xdp::pod;
use netns::{in_new_netns, sh};
use nix::sched::{CloneFlags, unshare};

#[test]
fn a_pinned_program_goes_some_time_after_its_veth_and_no_other_does() {
    in_new_netns(async || {
        // A BPF file system that goes with the thread, too.
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let mount = directory.path().display();
        sh(&format!("mount --make-rprivate /; mount -t bpf bpf {mount}"));
        let bpf_dir = directory.path().join("caracal");
        for (veth, index) in [("calia", 100), ("calib", 200)] {
            sh(&format!(
                "ip link add {veth} index {index} type veth peer name p{veth}; ip link set {veth} up"
            ));
            pod::pin(&bpf_dir, veth, index).unwrap();
        }
        std::fs::create_dir(bpf_dir.join("half")).unwrap();
        let mut orphans = Orphans::new(bpf_dir.clone());
        orphans.sweep();
        sh("ip link del calia");
        orphans.sweep();
        assert_eq!(
            pod::pinned(&bpf_dir).unwrap(),
            ["calia", "calib"],
            "half a pin twice seen is swept; calia once"
        );
        orphans.sweep();
        assert_eq!(pod::pinned(&bpf_dir).unwrap(), ["calib"]);
        orphans.sweep();
        assert_eq!(pod::pinned(&bpf_dir).unwrap(), ["calib"]);
    });
}

#[test]
fn a_directory_that_is_not_there_is_no_trouble() {
    Orphans::new("/nonexistent/caracal".into()).sweep();
}

#[test]
fn the_programmer_says_when_it_has_tried() {
    in_new_netns(async || {
        sh("ip link set lo up; ip addr add 192.0.2.11/32 dev lo");
        let directory = tempfile::tempdir().unwrap();
        let mtu = directory.path().join("mtu");
        let programmer = Programmer::start("/nonexistent".into(), mtu.clone(), Default::default()).unwrap();
        let config = caracal_plane_api::NodeConfig {
            address: vec![192, 0, 2, 11],
            tunnel_address: vec![10, 244, 1, 0],
            host_port: "caracal0".into(),
            forward_port: "caracal1".into(),
            ..Default::default()
        };
        let mut inputs = Inputs::default();
        inputs.apply(&[caracal_plane_api::Op { op: Some(caracal_plane_api::op::Op::NodeConfig(config)) }]);
        programmer.set(&inputs);
        programmer.attempted().await;
        let reconciled = reconcile(&Kernel::open().unwrap(), &inputs).await;
        assert_eq!(reconciled.changes, vec![], "it was all done when it said so");
        assert!(reconciled.failures.is_empty(), "{:?}", reconciled.failures);
        assert_eq!(std::fs::read_to_string(mtu).unwrap(), "1460", "no interface but lo");
    });
}
