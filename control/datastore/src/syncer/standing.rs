//! How well the API server is followed, over all kinds. Pure.

use std::collections::BTreeMap;

use caracal_model::object::Kind;

/// How well something is followed, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// The API server does not answer.
    Waiting,
    /// It does, and lists are coming in.
    Listing,
    /// Everything is known, and changes come as they happen.
    Following,
}

/// The standing of each kind.
#[derive(Debug)]
pub(super) struct Standings {
    by_kind: BTreeMap<Kind, Standing>,
    resyncs: u64,
}

impl Standings {
    pub fn new(kinds: &[Kind]) -> Self {
        let by_kind = kinds.iter().map(|kind| (*kind, Standing::Waiting)).collect();
        Self { by_kind, resyncs: 1 }
    }

    pub fn set(&mut self, kind: Kind, standing: Standing) {
        let before = self.overall();
        self.by_kind.insert(kind, standing);
        if before == Standing::Following && self.overall() != Standing::Following {
            self.resyncs += 1;
        }
    }

    /// That of the kind that is followed worst.
    pub fn overall(&self) -> Standing {
        self.by_kind.values().copied().min().unwrap_or(Standing::Following)
    }

    /// How often not all was followed: once at the beginning, and again each time something was lost.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_followed_when_each_kind_is_and_what_is_lost_is_a_new_beginning() {
        let mut standings = Standings::new(&[Kind::Pod, Kind::Node]);
        let mut set = |kind, standing| {
            standings.set(kind, standing);
            (standings.overall(), standings.resyncs())
        };
        assert_eq!(set(Kind::Pod, Standing::Following), (Standing::Waiting, 1));
        assert_eq!(set(Kind::Node, Standing::Listing), (Standing::Listing, 1));
        assert_eq!(set(Kind::Node, Standing::Following), (Standing::Following, 1));
        assert_eq!(set(Kind::Pod, Standing::Waiting), (Standing::Waiting, 2));
        assert_eq!(set(Kind::Node, Standing::Waiting), (Standing::Waiting, 2), "the same outage");
        assert_eq!(set(Kind::Pod, Standing::Following), (Standing::Waiting, 2));
        assert_eq!(set(Kind::Node, Standing::Following), (Standing::Following, 2));
    }
}
