//! First packets of a batch, judged together before the flow stage comes to them one by one: what one judgement waits
//! for arrives while others are worked on.
//!
//! Nothing is decided here. The flow stage takes what was foreseen only for the very flow that it would judge, by its key
//! and message; all else follows from those and the tables, which are the same for the whole batch. So what is foreseen in
//! vain, because the packet was translated, refused or told before, changes nothing.

use super::Context;
use super::flow::{Grounds, tuple_of};
use crate::batch::{BATCH_MAX, Ingress, Slot};
use crate::flow::FlowKey;
use crate::stage::parse::Icmp;
use crate::table::{ClassId, EndpointIndex, FlowTuple, Judgement, PolicyListId};

/// Judgements of this batch that nobody has asked for yet.
#[derive(Debug)]
pub struct Foreseen {
    /// Of the flows: their hashes in the flow table, by which packets are found, …
    hashes: Vec<u64>,
    /// … what they are, and what their verdicts rest on.
    flows: Vec<(FlowKey, (u8, u8), Grounds)>,
    asked: Vec<(PolicyListId, FlowTuple)>,
    classes: Vec<ClassId>,
    judgements: Vec<Judgement>,
    /// The flow stage goes the same way through the batch: what is before has been taken.
    next: usize,
    /// Batches in which nothing is foreseen, since nothing of one like them was taken: of what pods send, and of what is for
    /// them.
    pause: [u8; 2],
}

/// Of such a row of batches one in so many is looked at: the flows of a pod that asks services are known by other keys than
/// its packets have, and look like first packets.
const PAUSE: u8 = 8;

impl Default for Foreseen {
    fn default() -> Self {
        Foreseen {
            hashes: Vec::with_capacity(BATCH_MAX),
            flows: Vec::with_capacity(BATCH_MAX),
            asked: Vec::with_capacity(BATCH_MAX),
            classes: Vec::with_capacity(BATCH_MAX),
            judgements: vec![Judgement::default(); BATCH_MAX],
            next: 0,
            pause: [0; 2],
        }
    }
}

impl Foreseen {
    /// The place of what was foreseen of a flow whose first packet this is, if it was; `message`: type and code.
    #[inline]
    pub fn take(&mut self, hash: u64, key: &FlowKey, message: (u8, u8)) -> Option<usize> {
        let ahead = self.hashes.get(self.next..)?.iter().position(|foreseen| *foreseen == hash)?;
        let at = self.next + ahead;
        self.next = at + 1;
        let is_it = self.flows.get(at).is_some_and(|(of, about, _)| of == key && *about == message);
        is_it.then_some(at)
    }

    /// What the verdict rests on.
    #[inline]
    pub fn grounds(&self, at: usize) -> Option<Grounds> {
        self.flows.get(at).map(|(_, _, grounds)| *grounds)
    }

    /// What policy sees of the flow, and says.
    #[inline]
    pub fn judged(&self, at: usize) -> Option<(FlowTuple, Judgement)> {
        Some((self.asked.get(at)?.1, *self.judgements.get(at)?))
    }

    /// Whether the packets that go this way (`out`) are to be judged together now.
    #[inline]
    pub fn is_worth_it(&mut self, out: bool) -> bool {
        let pause = &mut self.pause[usize::from(out)];
        let is_over = *pause == 0;
        *pause = pause.saturating_sub(1);
        is_over
    }

    /// Forgets everything that was foreseen of packets that went this way: the next batch may have other tables.
    #[inline]
    pub fn clear(&mut self, out: bool) {
        if self.next == 0 && !self.hashes.is_empty() {
            self.pause[usize::from(out)] = PAUSE - 1;
        }
        self.hashes.clear();
        self.flows.clear();
        self.asked.clear();
        self.classes.clear();
        self.next = 0;
    }
}

/// Judges what is no flow's, as far as can be told, of packets to or from (`out`) the endpoint that `endpoint_of` says.
#[inline(never)]
pub fn first_packets(
    context: &mut Context,
    batch: &[Slot],
    out: bool,
    endpoint_of: impl Fn(&Slot) -> Option<EndpointIndex>,
) {
    if !context.foreseen.is_worth_it(out) {
        return;
    }
    for slot in batch.iter().filter(|slot| slot.goes_on() && slot.flow_guess.is_none()) {
        let Some(endpoint) = endpoint_of(slot) else { continue };
        // What is passed whatever policy says, or as what it is about.
        let is_judged = match slot.ingress {
            Ingress::Ourselves => false,
            Ingress::Host => out,
            Ingress::Endpoint(sender) => out || sender != endpoint,
            _ => true,
        };
        if !is_judged || matches!(slot.parsed.icmp, Icmp::Error(..)) {
            continue;
        }
        if context.foreseen.hashes.len() == BATCH_MAX {
            break;
        }
        let (peer, _) = slot.flow_key.remote();
        let Some(grounds) = Grounds::of(context, endpoint, peer, out) else { continue };
        let icmp = slot.parsed.icmp.message().unwrap_or_default();
        context.foreseen.hashes.push(slot.flow_hash);
        context.foreseen.flows.push((slot.flow_key, icmp, grounds));
        context.foreseen.classes.push(grounds.peer_class);
        context.foreseen.asked.push((grounds.list, tuple_of(&slot.flow_key, icmp, out)));
    }
    let Foreseen { asked, classes, judgements, .. } = &mut *context.foreseen;
    context.tables.policy.judge_batch(asked, classes, judgements);
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::table::RuleId;

    fn key(port: u16) -> FlowKey {
        let address = IpAddr::from([10, 0, 0, 1]);
        FlowKey::new(EndpointIndex(1), 6, (address, 80), (address, port))
    }

    #[test]
    fn what_was_foreseen_is_taken_once_and_only_for_the_very_same_flow() {
        let mut foreseen = Foreseen::default();
        for port in 0..4 {
            let grounds = Grounds { list: PolicyListId(1), staged: None, peer_class: ClassId(port.into()) };
            foreseen.hashes.push(u64::from(port));
            foreseen.flows.push((key(port), (0, 0), grounds));
            foreseen.classes.push(grounds.peer_class);
            foreseen.asked.push((grounds.list, tuple_of(&key(port), (0, 0), false)));
            foreseen.judgements[usize::from(port)].rule = RuleId(port.into());
        }
        assert_eq!(foreseen.take(0, &key(0), (0, 0)), Some(0));
        assert_eq!(foreseen.take(0, &key(0), (0, 0)), None, "it has been taken");
        assert_eq!(foreseen.take(1, &key(9), (0, 0)), None, "another flow of the same hash");
        assert_eq!(foreseen.take(2, &key(2), (8, 0)), None, "another message");
        assert_eq!(foreseen.take(3, &key(3), (0, 0)), Some(3));
        assert_eq!(foreseen.grounds(3).unwrap().peer_class, ClassId(3));
        let (tuple, judgement) = foreseen.judged(3).unwrap();
        assert_eq!((tuple.peer_port, judgement.rule), (3, RuleId(3)));
        foreseen.clear(false);
        assert_eq!(foreseen.take(0, &key(0), (0, 0)), None);
        assert_eq!(foreseen.grounds(0).map(|_| ()), None);
    }

    #[test]
    fn batches_of_which_nothing_was_taken_spare_the_next_ones_of_their_way() {
        let mut foreseen = Foreseen::default();
        foreseen.hashes.push(7);
        foreseen.clear(true);
        assert!(foreseen.is_worth_it(false), "what is for pods is another matter");
        let spared = (0..PAUSE).take_while(|_| !foreseen.is_worth_it(true)).count();
        assert_eq!(spared, usize::from(PAUSE) - 1);
        foreseen.hashes.push(7);
        let grounds = Grounds { list: PolicyListId(1), staged: None, peer_class: ClassId(1) };
        foreseen.flows.push((key(1), (0, 0), grounds));
        assert!(foreseen.take(7, &key(1), (0, 0)).is_some());
        foreseen.clear(true);
        assert!(foreseen.is_worth_it(true), "something was taken");
    }
}
