//! A wire of the lab's fabric that loses, doubles and reorders packets.
//!
//! ```text
//!   uplink0 ══ n1 ─── subnet0 (bridge)         uplink0 ══ n1 ── pktgen impair ── impaired1 ══ impaired0 ── subnet0 (bridge)
//!   node2                                      node2
//! ```

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
};

use caracal_cni::netlink::{Netlink, VethEnd};
use caracal_lab::MARK;

use crate::{lab::Lab, machine::program, traffic::Place};

/// An impaired wire between a node's uplink and its subnet; until this goes.
pub struct Impaired {
    pktgen: Child,
    fabric: Place,
    uplink: String,
}

const NEAR: &str = "impaired0";
const FAR: &str = "impaired1";
const BRIDGE: &str = "subnet0";

/// What a wire does to packets, if a test says no more.
pub const BAD: [&str; 8] = ["--loss", "1%", "--reorder", "2%", "--duplicate", "1%", "--seed", "7"];

impl Impaired {
    /// Puts the wire of the node with that index (0 for node1) through `pktgen impair` with `arguments`.
    pub fn new(lab: &Lab, index: usize, arguments: &[&str]) -> Self {
        let fabric = lab.router();
        let uplink = format!("n{index}");
        fabric.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let mtu = netlink.link(&uplink).unwrap().mtu;
            let end = |name| VethEnd { name, ..VethEnd::default() };
            netlink.add_veth(&end(NEAR), &end(FAR), mtu).unwrap();
            let [near, far, uplink, bridge] =
                [NEAR, FAR, uplink.as_str(), BRIDGE].map(|name| netlink.link(name).unwrap().index);
            netlink.set_up(near).unwrap();
            netlink.set_up(far).unwrap();
            netlink.set_bridge(uplink, 0).unwrap();
            netlink.set_bridge(near, bridge).unwrap();
        });
        let mut pktgen = fabric.run(|| {
            Command::new(program("pktgen"))
                .args(["impair", &uplink, FAR])
                .args(arguments)
                // `lab down` ends it if this test cannot.
                .env(MARK, &lab.state().run)
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut said = BufReader::new(pktgen.stderr.take().unwrap()).lines().map_while(Result::ok);
        let ready = said.find(|line| line.contains("ready"));
        // Whoever stops reading would stop it from writing.
        thread::spawn(move || said.for_each(drop));
        assert!(ready.is_some(), "pktgen impair is not ready: {:?}", pktgen.wait());
        Self { pktgen, fabric, uplink }
    }
}

impl Drop for Impaired {
    fn drop(&mut self) {
        let _ = self.pktgen.kill();
        let _ = self.pktgen.wait();
        self.fabric.run(|| {
            let mut netlink = Netlink::open().unwrap();
            let [uplink, bridge] =
                [self.uplink.as_str(), BRIDGE].map(|name| netlink.link(name).unwrap().index);
            let _ = netlink.delete_link(NEAR);
            let _ = netlink.set_bridge(uplink, bridge);
        });
    }
}
