//! What should be there against what has been said: only the difference goes out.
//!
//! ```text
//!          wanted ──────┐                        said
//!        (pending only) ▼                         │
//!   key a  Some(new) ── differs ──► upsert a      │ old
//!   key b  Some(same) ─ equal ────► nothing       │ same
//!   key c  None ─────── said ─────► remove c      │ old
//! ```

use std::collections::BTreeMap;

/// Things by key: as last said, and as wanted where that may differ.
#[derive(Debug)]
pub(crate) struct Delta<K, V> {
    said: BTreeMap<K, V>,
    pending: BTreeMap<K, Option<V>>,
}

/// What a flush says.
#[derive(Debug)]
pub(crate) struct Flushed<K, V> {
    pub upserts: Vec<V>,
    pub removals: Vec<K>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Delta<K, V> {
    pub fn new() -> Self {
        Self { said: BTreeMap::new(), pending: BTreeMap::new() }
    }

    /// The thing should be there, like this; or not at all.
    pub fn want(&mut self, key: K, value: Option<V>) {
        self.pending.insert(key, value);
    }

    /// The difference, which counts as said from now on.
    pub fn flush(&mut self) -> Flushed<K, V> {
        let mut flushed = Flushed { upserts: Vec::new(), removals: Vec::new() };
        for (key, wanted) in std::mem::take(&mut self.pending) {
            match wanted {
                Some(value) => {
                    if self.said.get(&key) != Some(&value) {
                        self.said.insert(key, value.clone());
                        flushed.upserts.push(value);
                    }
                }
                None => {
                    if self.said.remove(&key).is_some() {
                        flushed.removals.push(key);
                    }
                }
            }
        }
        flushed
    }

    /// Everything that has been said.
    pub fn said(&self) -> impl Iterator<Item = &V> {
        self.said.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_said() {
        let mut delta = Delta::new();
        delta.want("a", Some(1));
        delta.want("b", Some(1));
        assert_eq!(delta.flush().upserts, [1, 1]);
        delta.want("a", Some(2));
        delta.want("a", Some(1));
        delta.want("b", None);
        delta.want("c", Some(1));
        delta.want("c", None);
        let flushed = delta.flush();
        assert!(flushed.upserts.is_empty());
        assert_eq!(flushed.removals, ["b"]);
        assert_eq!(delta.said().collect::<Vec<_>>(), [&1]);
    }
}
