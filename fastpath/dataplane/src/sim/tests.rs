//! Packets through a whole node, in the small world of [`super::world`]. Every test says what comes out, byte by byte,
//! and which counters moved: one that moves without being named fails the test.

#[macro_use]
mod support;
mod arp;
mod attribution;
mod chains;
mod conntrack;
mod drops;
mod encapsulations;
mod express;
mod flows;
mod fragments;
mod host;
mod host_endpoints;
mod icmp;
mod ipv6;
mod limits;
mod local;
mod nat;
mod nd;
mod policy;
mod policy_log;
mod services;
mod staged;
mod translation;
mod tunnels;
mod uplinks;
mod workers;
