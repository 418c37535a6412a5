//! The steps of the pipeline, one file each. A stage looks at a [`Slot`](crate::batch::Slot) and changes its packet, its
//! verdict, or both; what it may use is in [`Context`].

pub mod arp;
pub mod express;
pub mod flow;
pub mod foresee;
pub mod fragment;
pub mod fragmentation;
pub mod host;
pub mod icmp_error;
pub mod limit;
pub mod masquerade;
pub mod nd;
pub mod node;
pub mod parse;
pub mod rewrite;
pub mod route;
pub mod service;
pub mod source;
pub mod tcp_reset;
pub mod tunnel;

use std::net::IpAddr;

use caracal_xsk::{Frame, FramePool};

use crate::batch::{Egress, Ingress, Slot, Verdict};
use crate::clock::Tick;
use crate::counters::WorkerCounters;
use crate::flow::{Carried, FlowTable, Gone};
use crate::fragment::Tracker;
use crate::nat::{Affinity, Translations};
use crate::packet::Packet;
use crate::pipeline::{Links, UNKNOWN_NEIGHBORS_MAX};
use crate::policy_log::Recorder;
use crate::rate_limit::RateLimit;
use crate::stage::express::Express;
use crate::stage::limit::Limiter;
use crate::table::{Deciding, RuleCount, RuleId, Tables};
use crate::worker::WorkerIndex;

/// Puts what a flow of this worker's has carried on its rules' accounts.
#[inline]
pub fn account(tables: &Tables, worker: WorkerIndex, carried: Carried) {
    if carried.packets == 0 {
        return;
    }
    let count = RuleCount { connections: 0, packets: carried.packets, bytes: carried.bytes };
    for (rule, deciding) in [(carried.rule, Deciding::Enforced), (carried.staged, Deciding::Staged)] {
        if let Some(rule) = rule {
            tables.policy.counters.bump(worker.0, rule, deciding, count);
        }
    }
}

/// What stages work with: the tables of this batch, and what the worker owns.
pub struct Context<'a> {
    /// The tables, the same for the whole batch.
    pub tables: &'a Tables,
    /// Low half of their generation, as flows store it.
    pub generation: u32,
    /// This worker's flows.
    pub flows: &'a mut FlowTable,
    /// What this worker translates.
    pub translations: &'a mut Translations,
    /// Which backends it has given to whom.
    pub affinity: &'a mut Affinity,
    /// What takes established flows the short way.
    pub express: &'a mut Express,
    /// MAC addresses and MTUs of what packets can leave by.
    pub links: &'a mut Links,
    /// This worker's counters.
    pub counters: &'a WorkerCounters,
    /// Where answers (ICMP errors) get their frames.
    pub pool: &'a mut FramePool,
    /// Datagrams that pass in parts.
    pub fragments: &'a mut Tracker<Slot>,
    /// Pieces of packets that had to be cut, but the first: each has its verdict.
    pub pieces: &'a mut Vec<Slot>,
    /// Answers made while going through the batch; they start at the route when it is done.
    pub answers: &'a mut Vec<Slot>,
    /// How many ICMP errors may still be sent.
    pub icmp_limit: &'a mut RateLimit,
    /// What this worker's endpoints may move.
    pub limits: &'a mut Limiter,
    /// Judgements of this batch's first packets.
    pub foreseen: &'a mut foresee::Foreseen,
    /// Where judgements go that are to be logged.
    pub recorder: &'a mut Recorder,
    /// Next hops that packets needed and nobody knew.
    pub unknown_neighbors: &'a mut Vec<(u32, IpAddr)>,
    /// The time of this batch.
    pub now: Tick,
    /// Who we are.
    pub worker: WorkerIndex,
}

impl Context<'_> {
    /// Counts the first packet of a flow for the rule that decided about it.
    #[inline]
    pub fn count_first(&self, rule: RuleId, deciding: Deciding, bytes: usize) {
        let count = RuleCount { connections: 1, packets: 1, bytes: bytes as u64 };
        self.tables.policy.counters.bump(self.worker.0, rule, deciding, count);
    }

    /// Counts a packet that belongs to no flow for the rule that decided about it.
    pub fn count_packet(&self, rule: RuleId, bytes: usize) {
        let count = RuleCount { connections: 0, packets: 1, bytes: bytes as u64 };
        self.tables.policy.counters.bump(self.worker.0, rule, Deciding::Enforced, count);
    }

    /// Puts what a flow has carried on its rules' accounts.
    #[inline]
    pub fn account(&self, carried: Carried) {
        account(self.tables, self.worker, carried);
    }

    /// Settles what is left of a flow that is no longer in the table.
    #[inline]
    pub fn forget(&mut self, gone: &Gone) {
        self.account(gone.carried);
    }

    /// Sends an answer of ours to whom `about` is from: by the port that it came in by if that is the host's, else along
    /// the route.
    pub fn answer(&mut self, about: &Slot, frame: Frame) {
        let mut answer = Slot::new(Packet::new(frame), Ingress::Ourselves);
        match about.ingress {
            Ingress::Host => answer.verdict = Verdict::Transmit(Egress::Host),
            Ingress::Forward => answer.verdict = Verdict::Transmit(Egress::Forward),
            _ => {}
        }
        self.answers.push(answer);
    }

    /// Notes that somebody must find out the MAC address of a next hop.
    #[cold]
    pub fn wants_neighbor(&mut self, ifindex: u32, address: IpAddr) {
        if self.unknown_neighbors.len() < UNKNOWN_NEIGHBORS_MAX
            && !self.unknown_neighbors.contains(&(ifindex, address))
        {
            self.unknown_neighbors.push((ifindex, address));
        }
    }
}
