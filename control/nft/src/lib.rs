//! nf_tables, as much of it as policy of the host takes: a table of ours, made, changed and read back over netlink.
//!
//! ```text
//!   Ruleset (values; reads like `nft list ruleset`) ─► Transaction (messages) ─► Nft::commit: one batch, all or nothing
//!       │                                                                              │
//!       └─► evaluate: what the kernel would do to a packet, slowly                      ▼
//!                     Ruleset ◄── compared ── Listing ◄── Nft::list ◄────────────── the kernel
//! ```
//!
//! Everything but [`Nft`] is pure. The invariants: a table is replaced in one batch, so that each packet meets the old rules
//! or the new ones; and no message names another table than the one it is asked for.

mod evaluate;
mod expression;
mod listing;
mod message;
mod netlink;
mod ruleset;
mod set;
mod statement;
mod transaction;

pub use evaluate::{Fate, State, Tested};
pub use listing::{ListedRule, Listing, TableName};
pub use netlink::{Nft, NftError};
pub use ruleset::{Base, Chain, Hook, Rule, Ruleset};
pub use set::{Element, FieldType, Set};
pub use statement::{Field, Match, Side, StateMask, Statement, Verdict};
pub use transaction::Transaction;

/// The version of IP that a statement or a set is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];

    /// That of an address.
    #[must_use]
    pub fn of(address: std::net::IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}
