//! The calc graph: Kubernetes objects in, what this node's fastpath must do out. Pure and incremental.

use caracal_model::object::{Object, ObjectKey};
use caracal_plane_api::Op;

/// A change to the objects.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The object is there, or is there now with other contents.
    Upsert(Object),
    /// The object is gone.
    Delete(ObjectKey),
}

/// What one node must do, as a function of all objects. Feed it with [`apply`](Self::apply), take the difference out
/// with [`flush`](Self::flush).
#[derive(Debug)]
pub struct CalcGraph {
    node: String,
}

impl CalcGraph {
    /// The graph of the node named `node`, with no objects yet.
    pub fn new(node: impl Into<String>) -> Self {
        Self { node: node.into() }
    }

    /// Takes a change in. Nothing is said of it before the next flush; an object that has not changed costs nothing.
    pub fn apply(&mut self, update: Update) {
        let _ = (update, &self.node);
    }

    /// What has changed since the last flush, in an order in which no operation refers to what is not there.
    pub fn flush(&mut self) -> Vec<Op> {
        Vec::new()
    }

    /// Everything that has been flushed so far, for a fastpath that knows nothing yet.
    pub fn state(&self) -> Vec<Op> {
        Vec::new()
    }
}
