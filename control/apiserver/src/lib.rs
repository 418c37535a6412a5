//! Caracal's API server: what is needed of the Kubernetes API, from an embedded store on disk.
//!
//! ```text
//!   kubectl, agents ──TLS, bearer token──► server ──► handlers ──► path, request   what is asked
//!                                                        │         admission       decode, complete, judge
//!                                                        │         patch           merge, JSON, strategic merge
//!                                                        ▼         view            whole, table, metadata
//!                                                      store ────► watch           the log, followed by cursors
//!   kinds, custom: what is served, as a table                      discovery, openapi
//!   services: addresses and node ports; slices of endpoints, in the background
//! ```
//!
//! Pods are deleted at once: there is no kubelet here to wait for, so a grace period is taken as zero.

mod admission;
mod credentials;
mod custom;
mod discovery;
mod handlers;
mod kinds;
mod metadata;
mod namespaces;
mod neighbours;
mod openapi;
mod patch;
mod path;
mod pointer;
mod profiles;
mod protobuf;
mod request;
mod schema;
mod selector;
mod server;
mod services;
mod shape;
mod status;
mod store;
mod table;
mod tokens;
mod view;
mod watch;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use caracal_model::services::allocation::Ranges;
pub use server::{ServeError, Server, serve, serve_with_tokens};
pub use tokens::TokenFileError;

/// What `caracal apiserver` is told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; made if it is not there.
    pub data_dir: PathBuf,
    /// Where to listen. Port 0: any free one; the kubeconfig says which.
    pub listen: SocketAddr,
    /// Where to write the kubeconfig that clients use: it holds the token, and is readable by its owner only.
    pub write_kubeconfig: PathBuf,
    /// From where services get their addresses and node ports.
    pub ranges: Ranges,
}

/// What answers requests.
struct App {
    store: store::Store,
    tokens: tokens::Tokens,
    ranges: Ranges,
    /// Held while a service is given its addresses: of two that ask for one, the second is to see the first.
    allocating: tokio::sync::Mutex<()>,
    /// What is served now.
    tables: tokio::sync::watch::Sender<Arc<table::Table>>,
    /// Held while definitions are judged: of two that ask for one name, the second is to see the first.
    settling: tokio::sync::Mutex<()>,
    /// Becomes true when the server is to stop: watches end.
    stop: tokio::sync::watch::Receiver<bool>,
}

impl App {
    /// What is served now.
    fn table(&self) -> Arc<table::Table> {
        Arc::clone(&self.tables.borrow())
    }
}
