//! Judgements of many flows at once, in steps that all of them take together. Each step asks memory for what the next
//! one reads, so that many flows wait for a load together, not one after another.
//!
//! ```text
//!   list, class ──► place of the row ──► row ──► judgement
//! ```
//!
//! What is said is what [`PolicyTable::judge`] says: the same code says it, once all that it reads is near.

use super::compile::VariantTable;
use super::rows::{self, Flat, Pair, Question, Row};
use super::{ClassId, FlowTuple, Judgement, PolicyListId, PolicyTable};

/// Flows that take a step together: enough to keep all of a core's outstanding loads busy.
const FLOWS: usize = 32;

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
        let count = asked.len().min(classes.len()).min(judgements.len()).min(FLOWS);
        let (asked, classes, judgements) = (&asked[..count], &classes[..count], &mut judgements[..count]);
        let mut variants: [Option<&VariantTable>; FLOWS] = [None; FLOWS];
        let mut questions = [Question::default(); FLOWS];
        for i in 0..count {
            let (list, tuple) = &asked[i];
            let compiled = self.lists.get(list.0 as usize).and_then(Option::as_deref);
            variants[i] = compiled.and_then(|compiled| compiled.variant(tuple.local_address));
            questions[i] = Question::new(tuple);
            if let Some(variant) = variants[i] {
                variant.prefetch(classes[i]);
            }
        }
        let mut rows: [&Row; FLOWS] = [&[]; FLOWS];
        for i in 0..count {
            if let Some(variant) = variants[i] {
                rows[i] = variant.row(classes[i]);
                rows::prefetch(rows[i]);
            }
        }
        // Which rows are flat nobody can guess: each sort is gone through by itself.
        let (mut flat, mut others) = (Places::default(), Places::default());
        for (i, row) in rows[..count].iter().enumerate() {
            let is_flat = Flat::of(row).is_some();
            flat.push(i, is_flat);
            others.push(i, !is_flat);
        }
        for i in others.iter() {
            if let Some(variant) = variants[i] {
                rows::prefetch_shared(rows[i], &variant.layers);
            }
        }
        let mut ranges = [0; FLOWS];
        for i in flat.iter() {
            if let Some(row) = Flat::of(rows[i]) {
                ranges[i] = row.ranges(questions[i]);
            }
        }
        for i in flat.iter() {
            if let Some(row) = Flat::of(rows[i]) {
                judgements[i] = self.unpacked(row.judge(ranges[i], questions[i]));
            }
        }
        let mut pairs: [Option<(Pair<'_>, [u32; 2])>; FLOWS] = [None; FLOWS];
        for i in others.iter() {
            pairs[i] = variants[i].and_then(|variant| {
                let pair = Pair::of(rows[i], &variant.layers)?;
                Some((pair, pair.ranges(questions[i])))
            });
        }
        for i in others.iter() {
            let (list, tuple) = &asked[i];
            let by_pair = pairs[i]
                .zip(variants[i])
                .and_then(|((pair, ranges), variant)| pair.judge(ranges, &variant.list, questions[i]));
            judgements[i] = match (by_pair, variants[i]) {
                (Some(judged), _) => self.unpacked(judged),
                (None, Some(variant)) => self.unpacked(variant.judge(rows[i], questions[i])),
                // What nothing is compiled for is walked.
                (None, None) => self.judge(*list, classes[i], tuple),
            };
        }
    }
}

/// Some of the flows, by their places.
#[derive(Default)]
struct Places {
    places: [u8; FLOWS],
    count: usize,
}

impl Places {
    /// Adds a place if it is `wanted`, which is nothing that a processor could guess.
    #[inline(always)]
    fn push(&mut self, place: usize, wanted: bool) {
        self.places[self.count % FLOWS] = place as u8;
        self.count += usize::from(wanted);
    }

    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = usize> {
        self.places[..self.count.min(FLOWS)].iter().map(|place| usize::from(*place) % FLOWS)
    }
}
