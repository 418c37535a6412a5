//! Host endpoints' policy on the host's own traffic: it holds whoever of us is dead, and never cuts failsafe ports off.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    thread,
    time::Duration,
};

use caracal_model::object::{Kind, ObjectKey};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    lab::{Lab, Plan},
    machine::{PATIENCE, eventually, program},
    traffic::{Connection, Place, is_cut_off},
};

const CALICO: &str = "projectcalico.org/v3";
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(1500);

fn host_endpoint(node: &str) -> Value {
    json!({
        "apiVersion": CALICO, "kind": "HostEndpoint",
        "metadata": {"name": format!("uplink-{node}"), "labels": {"role": "edge"}},
        "spec": {"node": node, "interfaceName": "uplink0", "profiles": ["projectcalico-default-allow"]},
    })
}

fn deny_all() -> Value {
    json!({
        "apiVersion": CALICO, "kind": "GlobalNetworkPolicy", "metadata": {"name": "deny-all"},
        "spec": {"selector": "role == 'edge'", "applyOnForward": true, "types": ["Ingress", "Egress"]},
    })
}

/// Answers TCP at a place as long as the test lives: each byte with itself.
fn echo(at: &Place, port: u16) {
    let listener = at.listen(port);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
}

/// Whether a new connection carries a byte there and back.
fn connects(from: &Place, to: &Place, port: u16) -> bool {
    connects_within(PATIENCE, from, to, port)
}

/// Whether none does.
fn is_closed(from: &Place, to: &Place, port: u16) -> bool {
    !connects_within(SILENCE, from, to, port)
}

fn connects_within(limit: Duration, from: &Place, to: &Place, port: u16) -> bool {
    from.run(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&to.at(port), limit) else { return false };
        stream.set_read_timeout(Some(limit)).unwrap();
        stream.write_all(b"?").is_ok() && stream.read_exact(&mut [0]).is_ok()
    })
}

#[test]
fn what_deny_all_denies_stays_denied_when_fastpath_and_agent_are_killed_and_ssh_keeps_answering() {
    let plan = Plan::pods(&[("a", "node1"), ("b", "node2")]).object(host_endpoint("node1"));
    let lab = Lab::up("host-deny-all", &plan);
    let (node1, node2) = (lab.node("node1"), lab.node("node2"));
    let stranger = lab.outside(Ipv4Addr::new(203, 0, 113, 7));
    for port in [22, 8085] {
        [&node1, &node2].into_iter().for_each(|place| echo(place, port));
    }
    echo(&stranger, 8085);
    assert!(connects(&stranger, &node1, 8085) && connects(&node1, &stranger, 8085), "the profile allows all");
    let former = Connection::start(&stranger, &node1, 7001);

    lab.kubernetes().create(deny_all()).unwrap();
    eventually("the host is closed", || is_closed(&stranger, &node1, 8085));
    let assert_closed = |when: &str| {
        assert!(is_closed(&stranger, &node1, 8085), "TCP to the host, {when}");
        assert!(is_closed(&node2, &node1, 8085), "TCP from another node, {when}");
        assert!(is_cut_off(&stranger, &node1, 7100), "UDP to the host, {when}");
        assert!(
            is_closed(&node1, &stranger, 8085) && is_closed(&node1, &node2, 8085),
            "TCP from the host, {when}"
        );
        assert!(is_cut_off(&node1, &node2, 7101), "UDP from the host, {when}");
        assert!(connects(&stranger, &node1, 22) && connects(&node2, &node1, 22), "ssh, {when}");
        assert!(connects(&node2, &stranger, 8085), "the other node, {when}");
    };
    assert_closed("with all alive");

    // Nobody brings them back.
    lab.supervisor().signal(Signal::SIGSTOP);
    eventually("the supervisor is stopped", || lab.supervisor().is_stopped());
    for name in ["agent-node1", "fastpath-node1"] {
        let killed = lab.kill(name);
        assert!(killed.process.is_some_and(|process| process.wait_end(PATIENCE)));
    }
    assert_closed("with agent and fastpath killed");
    // Who knows nothing of host endpoints yet changes nothing.
    let (messages, slowest) = former.end();
    println!("the connection from before: {messages} messages, the slowest {slowest:?}");

    let caracal = program("caracal");
    lab.must("node/node1", &[caracal.to_str().unwrap(), "agent", "--cleanup"]);
    assert!(
        connects(&stranger, &node1, 8085) && connects(&node1, &node2, 8085),
        "nothing is left of the policy"
    );

    // Whoever comes back puts it in force again.
    lab.supervisor().signal(Signal::SIGCONT);
    eventually("the host is closed again", || is_closed(&stranger, &node1, 8085));
    assert_closed("with all back");
    let key = ObjectKey { kind: Kind::GlobalNetworkPolicy, namespace: None, name: "deny-all".into() };
    lab.kubernetes().delete(&key).unwrap();
    eventually("the host is open", || connects(&stranger, &node1, 8085) && connects(&node1, &node2, 8085));
}
