//! First packets of a batch, judged together before the flow stage comes to them one by one: what one judgement waits
//! for arrives while others are worked on.
//!
//! Nothing is decided here. The flow stage asks for the judgement of just what it wants judged, and takes one that was
//! foreseen only if it is of the same list, class and flow by the same tables; else it judges itself. So what is
//! foreseen in vain, because the packet was translated, refused or told before, changes nothing.

use super::Context;
use super::flow::{Grounds, tuple_of};
use crate::batch::{BATCH_MAX, Ingress, Slot};
use crate::stage::parse::Icmp;
use crate::table::{ClassId, EndpointIndex, FlowTuple, Judgement, PolicyListId};

/// Judgements of this batch that nobody has asked for yet.
#[derive(Debug)]
pub struct Foreseen {
    /// The flows' hashes in the flow table, by which their packets are told apart.
    hashes: Vec<u64>,
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
            asked: Vec::with_capacity(BATCH_MAX),
            classes: Vec::with_capacity(BATCH_MAX),
            judgements: vec![Judgement::default(); BATCH_MAX],
            next: 0,
            pause: [0; 2],
        }
    }
}

impl Foreseen {
    /// What `list` says of a flow whose peer is in `class`, if that was foreseen for the packet of this hash.
    #[inline]
    pub fn take(
        &mut self,
        hash: u64,
        list: PolicyListId,
        class: ClassId,
        tuple: &FlowTuple,
    ) -> Option<Judgement> {
        let ahead = self.hashes.get(self.next..)?.iter().position(|foreseen| *foreseen == hash)?;
        let at = self.next + ahead;
        self.next = at + 1;
        let is_same = self.classes.get(at) == Some(&class)
            && self.asked.get(at).is_some_and(|(of, asked)| *of == list && asked == tuple);
        self.judgements.get(at).copied().filter(|_| is_same)
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
    use crate::table::{FlowDirection, RuleId};

    fn tuple(port: u16) -> FlowTuple {
        let address = IpAddr::from([10, 0, 0, 1]);
        FlowTuple {
            protocol: 6,
            peer_address: address,
            peer_port: port,
            local_address: address,
            local_port: 80,
            icmp: None,
            direction: FlowDirection::Ingress,
        }
    }

    #[test]
    fn what_was_foreseen_is_taken_once_and_only_for_the_very_same_question() {
        let mut foreseen = Foreseen::default();
        for port in 0..4 {
            foreseen.hashes.push(u64::from(port));
            foreseen.classes.push(ClassId(1));
            foreseen.asked.push((PolicyListId(1), tuple(port)));
            foreseen.judgements[usize::from(port)].rule = RuleId(port.into());
        }
        let mut take = |hash, list, class, port| {
            let taken = foreseen.take(hash, PolicyListId(list), ClassId(class), &tuple(port));
            taken.map(|judgement| judgement.rule.0)
        };
        assert_eq!(take(0, 1, 1, 0), Some(0));
        assert_eq!(take(0, 1, 1, 0), None, "it has been taken");
        assert_eq!(take(1, 2, 1, 1), None, "of another list");
        assert_eq!(take(2, 1, 2, 2), None, "of another class");
        assert_eq!(take(3, 1, 1, 9), None, "another flow of the same hash");
        foreseen.clear(false);
        assert_eq!(foreseen.take(0, PolicyListId(1), ClassId(1), &tuple(0)), None);
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
        foreseen.classes.push(ClassId(1));
        foreseen.asked.push((PolicyListId(1), tuple(1)));
        assert!(foreseen.take(7, PolicyListId(1), ClassId(1), &tuple(1)).is_some());
        foreseen.clear(true);
        assert!(foreseen.is_worth_it(true), "something was taken");
    }
}
