//! What a cluster's controllers do for services, as pure functions of objects: addresses and node ports
//! ([`allocation`]), and slices of their endpoints ([`slices`]). The API server and the worlds of cases use them alike.

pub mod allocation;
pub mod slices;
#[cfg(test)]
mod tests;
