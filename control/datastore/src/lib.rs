//! How every process of the control plane reaches the Kubernetes API: the client and its credentials, Calico's kinds in
//! whichever of their two API groups the cluster serves them, and address management's store.
//!
//! ```text
//!   kubeconfig, or the pod's service account ── client() ──► Client: made anew from its files after a 401
//!                                                              │
//!   model Object ◄──► Datastore ◄──► projectcalico.org/v3, where its data is kept natively
//!                         │     or   crd.projectcalico.org/v1, as stock Calico stores it
//!                         └─ ipam() ──► caracal_ipam::Store: blocks, affinities, handles
//! ```
//!
//! A write is never tried again here when it is not known whether it was made: whoever asked for it is told so, and looks.

mod backoff;
mod client;
mod datastore;
mod error;
mod ipam;
mod syncer;

pub use backoff::Backoff;
pub use client::{ClientError, client, client_at};
pub use datastore::{ApiGroup, Datastore, UnknownGroup};
pub use error::{DatastoreError, causes};
pub use ipam::{IpamStore, now as ipam_now, object as ipam_object, pool as ipam_pool, record as ipam_record};
pub use syncer::{Standing, SyncEvent, Syncer};
