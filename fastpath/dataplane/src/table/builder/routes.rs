//! The forwarding table being changed: several sources state entries for prefixes, the best one is in force.

use std::collections::{BTreeMap, HashMap};

use crate::table::fib::{ENTRIES_PAGE, Fib, FibEntry, Origin};
use crate::table::lpm::LpmBuilder;
use crate::table::paged::PagedBuilder;
use crate::table::prefix::Prefix;

/// Origins, best first.
const ORIGINS: [Origin; 5] =
    [Origin::Endpoint, Origin::Plane, Origin::KernelLocal, Origin::Service, Origin::Kernel];

/// What is stated, and the table of what is in force.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// By origin, in its order: the number of the entry stated.
    stated: BTreeMap<Prefix, [Option<EntryNumber>; ORIGINS.len()]>,
    by_prefix: LpmBuilder,
    entries: Entries,
}

/// Numbers from 1, so that an Option of one is a word.
type EntryNumber = std::num::NonZeroU32;

impl Routes {
    /// Prefixes that somebody states an entry for.
    pub fn len(&self) -> usize {
        self.stated.len()
    }

    /// States, for `origin`, the entry of `prefix`; None: it states nothing any more. Says whether that is new.
    pub fn state(&mut self, prefix: Prefix, origin: Origin, entry: Option<FibEntry>) -> bool {
        let number = entry.map(|entry| self.entries.retain(entry));
        let stated = self.stated.entry(prefix).or_default();
        let former = std::mem::replace(&mut stated[origin as usize], number);
        match stated.iter().flatten().next() {
            Some(best) => {
                self.by_prefix.insert(prefix, best.get());
            }
            None => {
                self.stated.remove(&prefix);
                self.by_prefix.remove(prefix);
            }
        }
        if let Some(former) = former {
            self.entries.release(former);
        }
        former != number
    }

    /// The prefixes for which `origin` states something.
    pub fn of(&self, origin: Origin) -> impl Iterator<Item = Prefix> {
        let of = self.stated.iter().filter(move |(_, stated)| stated[origin as usize].is_some());
        of.map(|(prefix, _)| *prefix)
    }

    /// What is in force, by prefix, and who stated it.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, FibEntry, Origin)> {
        self.stated.iter().filter_map(|(prefix, stated)| {
            let (origin, number) =
                ORIGINS.iter().zip(stated).find_map(|(o, number)| Some((o, (*number)?)))?;
            Some((*prefix, self.entries.get(number)?, *origin))
        })
    }

    /// Every entry that is stated, once.
    pub fn entries(&self) -> impl Iterator<Item = &FibEntry> {
        self.entries.users.keys()
    }

    pub fn snapshot(&mut self) -> Fib {
        Fib { lpm: self.by_prefix.snapshot(), entries: self.entries.by_number.snapshot() }
    }
}

/// Entries, each once however many routes have it.
#[derive(Debug, Default)]
struct Entries {
    by_number: PagedBuilder<Option<FibEntry>, ENTRIES_PAGE>,
    users: HashMap<FibEntry, (EntryNumber, usize)>,
    free: Vec<EntryNumber>,
}

impl Entries {
    fn get(&self, number: EntryNumber) -> Option<FibEntry> {
        *self.by_number.get(number.get() as usize)?
    }

    fn retain(&mut self, entry: FibEntry) -> EntryNumber {
        if let Some((number, users)) = self.users.get_mut(&entry) {
            *users += 1;
            return *number;
        }
        // With nothing free, the numbers in use are exactly 1 to their count.
        let fresh = EntryNumber::MIN.saturating_add(self.users.len() as u32);
        let number = self.free.pop().unwrap_or(fresh);
        self.by_number.set(number.get() as usize, Some(entry));
        self.users.insert(entry, (number, 1));
        number
    }

    fn release(&mut self, number: EntryNumber) {
        let Some(entry) = self.get(number) else { return };
        let Some((_, users)) = self.users.get_mut(&entry) else { return };
        *users -= 1;
        if *users == 0 {
            self.users.remove(&entry);
            self.by_number.clear(number.get() as usize);
            self.free.push(number);
        }
    }
}
