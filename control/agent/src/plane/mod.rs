//! Towards the fastpath: what is said when ([`Session`], pure), and the unix socket it is said over ([`Link`]).

mod chunk;
mod link;
mod session;

pub use link::{Link, LinkEvent};
pub use session::{Action, Event, Session};
