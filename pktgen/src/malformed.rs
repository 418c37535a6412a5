//! Frames that nobody should let through, by name.

use crate::stream::Stream;
use crate::traffic::Hop;

/// What is wrong with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// An Ethernet header, and nothing in it.
    Empty,
}

impl Malformed {
    /// The frames of this kind: one, or several that belong together.
    #[must_use]
    pub fn frames(self, _stream: &Stream, hop: Hop) -> Vec<Vec<u8>> {
        let mut frame = [hop.destination.0, hop.source.0].concat();
        frame.extend([8, 0]);
        vec![frame]
    }
}
