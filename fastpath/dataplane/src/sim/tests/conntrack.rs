//! The flow stage against a plain model of connection tracking, on random walks of packets.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::PortName;
use super::super::datagram::{ACK, Datagram, FIN, RST, SYN};
use super::super::world::{A, OUTSIDE, pod};
use super::policy::ingress;
use super::support::*;
use crate::flow::FlowKey;
use caracal_plane_api::plane::{Action, Entity, PortRange};

/// One packet between pod a and somebody outside.
#[derive(Clone, Copy, Debug)]
struct Step {
    is_tcp: bool,
    /// The pod sends it.
    out: bool,
    /// 80 may be opened from outside, 81 not.
    pod_port: u16,
    peer_port: u16,
    flags: u8,
    /// Milliseconds since the former packet.
    pause: u32,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK]);
    let pause = prop_oneof![
        8 => 0u32..3000,
        2 => prop::sample::select(vec![20_000u32, 20_001, 30_001, 40_000, 40_001, 60_000, 60_001]),
        1 => prop::sample::select(vec![3_599_999u32, 3_600_001]),
    ];
    (any::<bool>(), any::<bool>(), 80u16..82, 1u16..3, flags, pause).prop_map(
        |(is_tcp, out, pod_port, peer_port, flags, pause)| Step {
            is_tcp,
            out,
            pod_port,
            peer_port,
            flags,
            pause,
        },
    )
}

/// Who sends what, true: the side that opens. What connections are like (RFC 9293, 3.5 and 3.6), which walks at random
/// seldom find.
const LIVES: [&[(bool, u8)]; 6] = [
    // Opened, used, closed by one side and then the other.
    &[
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (false, ACK),
        (true, FIN | ACK),
        (false, ACK),
        (false, FIN | ACK),
        (true, ACK),
    ],
    // Opened by both at once (figure 7).
    &[(true, SYN), (false, SYN), (true, SYN | ACK), (false, SYN | ACK), (true, ACK), (false, ACK)],
    // Closed by both at once (figure 13).
    &[
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (true, FIN | ACK),
        (false, FIN | ACK),
        (true, ACK),
        (false, ACK),
    ],
    // Refused.
    &[(true, SYN), (false, RST | ACK), (true, SYN), (false, RST | ACK)],
    // Broken off, and the ports used again by either side.
    &[
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
        (true, RST),
        (false, ACK),
        (true, SYN),
        (false, SYN | ACK),
    ],
    // Closed, and the ports used again while the last ACK may be under way (RFC 9293, 3.6.1).
    &[
        (true, ACK),
        (true, FIN | ACK),
        (false, FIN | ACK),
        (true, ACK),
        (true, SYN),
        (false, SYN | ACK),
        (true, ACK),
    ],
];

/// A connection's life, or a part of it, in a hurry or not.
fn life() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop::sample::select(vec![0u32, 0, 0, 1, 19_999, 20_001, 30_001]);
    let packets = (prop::sample::select(LIVES.to_vec()), 1usize..9);
    (packets, any::<bool>(), 80u16..82, 1u16..3, pause).prop_map(
        |((packets, length), pod_opens, pod_port, peer_port, pause)| {
            let packets = packets.iter().take(length);
            let step = |(by_opener, flags): &(bool, u8)| Step {
                is_tcp: true,
                out: *by_opener == pod_opens,
                pod_port,
                peer_port,
                flags: *flags,
                pause,
            };
            packets.map(step).collect()
        },
    )
}

/// What RFC 9293's connections look like from the middle, written down without regard to speed.
struct Connection {
    opened_by_pod: bool,
    answered_syn: bool,
    established: bool,
    fin_from_opener: bool,
    fin_from_other: bool,
    reset: bool,
    last: u64,
}

#[derive(Default)]
struct Model {
    connections: HashMap<(bool, u16, u16), Connection>,
    now: u64,
}

impl Model {
    /// How far a connection is, in the words of the flow table; None: it is not known.
    fn state(&self, step: &Step) -> Option<&'static str> {
        let c = self.connections.get(&(step.is_tcp, step.pod_port, step.peer_port))?;
        Some(match c {
            Connection { reset: true, .. } => "reset",
            Connection { fin_from_opener: true, fin_from_other: true, .. } => "closed",
            c if c.fin_from_opener || c.fin_from_other => "half-closed",
            Connection { established: true, .. } => "established",
            Connection { answered_syn: true, .. } => "answered",
            _ => "opening",
        })
    }

    fn lives(is_tcp: bool, c: &Connection) -> u64 {
        match (is_tcp, c) {
            (false, _) => 60_000,
            (true, Connection { reset: true, .. }) => 40_000,
            (true, Connection { fin_from_opener: true, fin_from_other: true, .. }) => 30_000,
            (true, Connection { established: true, .. }) => 3_600_000,
            (true, c) if c.fin_from_opener || c.fin_from_other => 3_600_000,
            _ => 20_000,
        }
    }

    /// Whether the packet passes.
    fn passes(&mut self, step: &Step) -> bool {
        self.now += u64::from(step.pause);
        let key = (step.is_tcp, step.pod_port, step.peer_port);
        if let Some(c) = self.connections.get(&key) {
            let timed_out = self.now - c.last > Model::lives(step.is_tcp, c);
            let over = c.reset || (c.fin_from_opener && c.fin_from_other);
            if timed_out || (step.is_tcp && over && step.flags & SYN != 0) {
                self.connections.remove(&key);
            }
        }
        let Some(c) = self.connections.get_mut(&key) else {
            let allowed = step.out || step.pod_port == 80;
            let to_be_kept = !step.is_tcp || step.flags & RST == 0;
            if allowed && to_be_kept {
                let begins = step.flags & SYN != 0 && step.flags & ACK == 0;
                self.connections.insert(
                    key,
                    Connection {
                        opened_by_pod: step.out,
                        answered_syn: false,
                        established: !begins,
                        fin_from_opener: false,
                        fin_from_other: false,
                        reset: false,
                        last: self.now,
                    },
                );
            }
            return allowed;
        };
        c.last = self.now;
        let by_opener = c.opened_by_pod == step.out;
        let has = |flag| step.flags & flag != 0;
        // A reset connection stays so until a SYN begins another.
        c.reset |= has(RST);
        if c.reset {
            return true;
        }
        let is_closing = c.fin_from_opener || c.fin_from_other;
        if has(FIN) {
            let fin = if by_opener { &mut c.fin_from_opener } else { &mut c.fin_from_other };
            *fin = true;
        } else if is_closing {
            // Only the other FIN is still to come.
        } else if !by_opener && has(SYN) {
            // A SYN of its own, or together with the answer to the other's.
            c.answered_syn = true;
        } else if has(ACK) {
            // The third packet of the handshake, or an answer to an opening that was not seen whole.
            c.established |= by_opener == c.answered_syn;
        }
        true
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_passes_is_what_a_plain_model_of_connections_lets_pass(
        parts in prop::collection::vec(prop_oneof![prop::collection::vec(step(), 1..10), life()], 1..12),
    ) {
        let steps = parts.concat();
        let mut world = World::new();
        let to_80 = Entity { ports: vec![PortRange { first: 80, last: 80 }], ..Default::default() };
        let rule = |protocol| caracal_plane_api::plane::Rule {
            action: Action::Allow.into(),
            protocol,
            destination: Some(to_80.clone()),
            ..Default::default()
        };
        world.apply(&ingress("a", vec![rule(6), rule(17)]));
        let mut model = Model { now: u64::from(world.now), ..Model::default() };
        for step in &steps {
            world.now += step.pause;
            let (pods, peers) = ((A, step.pod_port), (OUTSIDE, step.peer_port));
            let (from, to) = if step.out { (pods, peers) } else { (peers, pods) };
            let packet = if step.is_tcp {
                Datagram::tcp(from, to, step.flags, b"")
            } else {
                Datagram::udp(from, to, b"")
            };
            let outputs = if step.out {
                world.send(&pod("a"), &from_pod(&packet))
            } else {
                world.send(&PortName::Uplink, &from_uplink(&packet))
            };
            prop_assert_eq!(outputs.len() == 1, model.passes(step), "{:?}", step);
            let state = world.node.drops();
            prop_assert_eq!(state.len(), usize::from(outputs.is_empty()), "{:?}", state);
            if step.is_tcp {
                let endpoint = world.index_of("a");
                let flows = &world.node.engine_mut().pipeline.flows;
                let local = (A.into(), step.pod_port);
                let key = FlowKey::new(endpoint, 6, local, (OUTSIDE.into(), step.peer_port));
                let found = flows.find(&key, flows.hash(&key), None);
                let state = found.map(|index| flows.entry(index).state.label());
                prop_assert_eq!(state, model.state(step), "{:?} of {:?}", step, steps);
            }
        }
    }
}
