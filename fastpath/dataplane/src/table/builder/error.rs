//! Why a transaction was refused.

use crate::table::policy::{MemberError, RuleError};
use crate::table::prefix::PrefixError;

/// Why a transaction was refused. Nothing of it has been applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// An operation with nothing in it, or of a kind that this fastpath does not know.
    #[error("operation {operation} is empty or of an unknown kind: is the agent newer than this fastpath?")]
    EmptyOperation {
        /// Its place in the transaction, from 0.
        operation: usize,
    },
    /// An operation that cannot be read.
    #[error("operation {operation}: {thing}: {reason}")]
    Malformed {
        /// Its place in the transaction, from 0.
        operation: usize,
        /// What it is about.
        thing: String,
        /// What is wrong.
        reason: Malformed,
    },
    /// Something refers to what would not be.
    #[error("{user} refers to {missing}, which does not exist: send it before, or in the same transaction")]
    Missing {
        /// What refers.
        user: String,
        /// What is missing.
        missing: String,
    },
    /// What would be removed is still referred to.
    #[error(
        "{removed} cannot be removed: {user} refers to it; remove or change that in the same transaction"
    )]
    StillUsed {
        /// What was to be removed.
        removed: String,
        /// What refers to it.
        user: String,
    },
}

/// What is wrong with an operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An address or prefix.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A member of an IP set.
    #[error("member: {0}")]
    Member(#[from] MemberError),
    /// A rule.
    #[error("{direction} rule {rule}: {reason}")]
    Rule {
        /// "ingress" or "egress".
        direction: &'static str,
        /// Its place, from 0.
        rule: usize,
        /// What is wrong with it.
        reason: RuleError,
    },
    /// A policy without a name.
    #[error("the policy has no id")]
    NoPolicyId,
    /// An address of the other family than is wanted.
    #[error("{what} has {bytes} bytes; it must be an {family} address, or empty")]
    Family {
        /// What it is the address of.
        what: &'static str,
        /// How many bytes were given.
        bytes: usize,
        /// "IPv4" or "IPv6".
        family: &'static str,
    },
    /// Neither family.
    #[error("neither an IPv4 nor an IPv6 address of the node is given: it needs at least one")]
    NoNodeAddress,
    /// A range that ends before it begins.
    #[error("the range of ports {first}–{last} is empty")]
    PortRange {
        /// Where it begins.
        first: u32,
        /// Where it ends.
        last: u32,
    },
    /// A MAC of the wrong length.
    #[error("a MAC address has 6 bytes, not {0}")]
    Mac(usize),
    /// More than 24 bits.
    #[error("VNI {0} has more than 24 bits")]
    Vni(u32),
    /// Above 255, or 0 where there must be one.
    #[error("protocol {0} is above 255, or none")]
    Protocol(u32),
    /// Packed addresses that do not come out even.
    #[error("{bytes} bytes of packed addresses are no multiple of {each}")]
    PackedHosts {
        /// How many bytes were given.
        bytes: usize,
        /// How many an address has.
        each: usize,
    },
    /// An answer this fastpath does not know.
    #[error("unknown endpoint-to-host action {0}")]
    EndpointToHost(i32),
    /// A port this fastpath does not know.
    #[error("unknown kind of pod port {0}")]
    PodPort(i32),
    /// Above 65535.
    #[error("port {0} is above 65535")]
    Port(u32),
    /// An encapsulation this fastpath does not know.
    #[error("unknown encapsulation {0}")]
    Encapsulation(i32),
    /// A route to nowhere.
    #[error("the route has no target, or one that this fastpath does not know")]
    NoTarget,
    /// More addresses than an endpoint can have.
    #[error("{given} addresses, at most {most} are supported")]
    TooManyAddresses {
        /// How many were given.
        given: usize,
        /// How many there can be.
        most: usize,
    },
    /// More backends than a service can have.
    #[error("{given} backends, at most {most} are supported: split the service")]
    TooManyBackends {
        /// How many were given.
        given: usize,
        /// How many there can be.
        most: usize,
    },
    /// Neither Deny nor Pass.
    #[error("a tier's default action is Deny or Pass, not {0}")]
    TierDefault(i32),
}
