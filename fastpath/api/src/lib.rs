//! The plane API: what a node's control plane says to its fastpath, and what it can ask.
//!
//! Messages are protobuf ([`plane.proto`](../src/plane.proto) documents each), framed by a four-byte big-endian length,
//! over a unix stream socket. One connection is either the controller's (transactions, acknowledgements) or a
//! reader's. This crate is the messages and their framing, for both planes: the fastpath uses it with blocking sockets, the
//! agent moves [`encode`] and [`Decoder`] under tokio. Whoever only reads has a [`Reader`].

mod frame;
mod health;
mod reader;

pub use frame::{Decoder, FrameError, MAX_MESSAGE_BYTES, encode, read_message, write_message};
pub use health::SILENCE_MS;
pub use reader::{PlaneError, Reader};

/// The version of the contract. Spoken in Hello and Welcome; a fastpath refuses another one.
pub const VERSION: u32 = 1;

/// Where a fastpath listens unless it is told otherwise, and where its clients look for it.
pub const DEFAULT_SOCKET: &str = "/var/run/caracal/fastpath.sock";

/// The source ports of node-level translation where NatOutgoing names no others, as Calico's `bpfPSNATPorts` has them:
/// below the kernel's ephemeral ports (32768–60999) and Kubernetes' NodePorts (30000–32767). The fastpath takes them,
/// the agent reserves them with the kernel.
pub const NAT_PORTS: std::ops::RangeInclusive<u16> = 20_000..=29_999;

/// The generated messages.
#[allow(missing_docs, clippy::all, reason = "generated from plane.proto, where each is documented")]
pub mod plane {
    include!(concat!(env!("OUT_DIR"), "/caracal.plane.rs"));
}

pub use plane::*;

impl ReadReply {
    /// Takes one more part of the same answer; with the last one, `last` is true.
    pub fn add(&mut self, part: Self) {
        // By name, so that a new kind of rows is not forgotten here.
        let Self { last, status, counters, drops, flows, routes, policies, services, nat } = part;
        self.last = last;
        self.status = status.or(self.status.take());
        self.counters.extend(counters);
        self.drops.extend(drops);
        self.flows.extend(flows);
        self.routes.extend(routes);
        self.policies.extend(policies);
        self.services.extend(services);
        self.nat.extend(nat);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_every_part_are_in_the_answer() {
        let mut whole = ReadReply::default();
        let part = |last| ReadReply {
            last,
            services: vec![ServiceRow::default()],
            nat: vec![NatRow::default()],
            ..ReadReply::default()
        };
        whole.add(part(false));
        whole.add(part(true));
        assert_eq!((whole.last, whole.services.len(), whole.nat.len()), (true, 2, 2));
    }
}
