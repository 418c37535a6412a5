//! The kernel's UDP sockets: works everywhere, without root, and is the slowest.

pub mod receive;
pub mod reflect;
pub mod send;

pub use receive::Listener;
pub use reflect::Reflected;
pub use send::{Ends, Sender, any};
