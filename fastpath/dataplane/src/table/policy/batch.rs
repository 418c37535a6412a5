//! Judgements of many flows at once, in steps that all of them take together. Each step asks memory for what the next
//! one reads, so that many flows wait for a load together, not one after another.
//!
//! ```text
//!   list, class ──► place of the row ──► row ──► judgement
//! ```
//!
//! What is said is what [`PolicyTable::judge`] says: the same code says it, once all that it reads is near.

use super::compile::{CompiledPolicy, VariantTable};
use super::rows::{self, Question, Row};
use super::{ClassId, FlowTuple, Judgement, PolicyListId, PolicyTable};

/// Flows that take a step together: enough to keep all of a core's outstanding loads busy.
const FLOWS: usize = 32;

/// A flow on its way.
#[derive(Debug, Clone, Copy)]
struct Asked<'a> {
    compiled: &'a CompiledPolicy,
    variant: &'a VariantTable,
    question: Question,
    row: &'a Row,
}

impl PolicyTable {
    /// Judges flows with the classes of their peers, as [`judge`](Self::judge) does one by one. The slices are of one
    /// length; beyond the shortest nothing is judged.
    pub fn judge_batch(
        &self,
        asked: &[(PolicyListId, FlowTuple)],
        classes: &[ClassId],
        judgements: &mut [Judgement],
    ) {
        let parts = asked.chunks(FLOWS).zip(classes.chunks(FLOWS)).zip(judgements.chunks_mut(FLOWS));
        for ((asked, classes), judgements) in parts {
            self.judge_some(asked, classes, judgements);
        }
    }

    fn judge_some(
        &self,
        asked: &[(PolicyListId, FlowTuple)],
        classes: &[ClassId],
        judgements: &mut [Judgement],
    ) {
        let mut flows = [const { None::<Asked<'_>> }; FLOWS];
        for ((flow, (list, tuple)), class) in flows.iter_mut().zip(asked).zip(classes) {
            // What nothing is compiled for is walked in the last step.
            let Some(compiled) = self.lists.get(list.0 as usize).and_then(Option::as_deref) else { continue };
            let Some(variant) = compiled.variant(tuple.local_address) else { continue };
            variant.prefetch(*class);
            *flow = Some(Asked { compiled, variant, question: Question::new(tuple), row: &[] });
        }
        for (flow, class) in flows.iter_mut().zip(classes) {
            if let Some(flow) = flow {
                flow.row = flow.variant.row(*class);
                rows::prefetch(flow.row);
            }
        }
        let answers = asked.iter().zip(classes).zip(judgements).zip(&flows);
        for ((((list, tuple), class), judgement), flow) in answers {
            *judgement = match flow {
                Some(Asked { compiled, variant, question, row }) => {
                    self.unpacked(rows::judge(row, variant.layers(), &compiled.list, *question))
                }
                None => self.judge(*list, *class, tuple),
            };
        }
    }
}
