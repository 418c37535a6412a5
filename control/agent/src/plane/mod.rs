//! Towards the fastpath: what is said when ([`Session`], pure), and the unix socket it is said over ([`Link`]).

mod chunk;
mod link;
mod session;

use std::net::IpAddr;

pub use link::{Link, LinkEvent};
pub use session::{Action, Event, Session};

/// An address as messages have it: 4 or 16 bytes.
pub(crate) fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}
