//! What a lab's things are called, so that people, `ip netns` and `lab down` find them.
//!
//! A lab's name has no dot, and every namespace of lab `demo` begins with `crl-demo.`: no two labs can mean the same namespace.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

use crate::error::LabError;

const LONGEST: usize = 32;

/// Where labs keep what they write.
pub const DIRECTORY: &str = "/var/run/caracal/lab";

/// A lab's name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LabName(String);

impl FromStr for LabName {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let good = (1..=LONGEST).contains(&bytes.len())
            && bytes.iter().all(|&byte| allowed(byte) || byte == b'-')
            && [bytes.first(), bytes.last()].into_iter().flatten().all(|&byte| allowed(byte));
        if good { Ok(Self(text.to_owned())) } else { Err(LabError::BadName(text.to_owned())) }
    }
}

impl fmt::Display for LabName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl LabName {
    /// The name, as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where the lab keeps its state, sockets and logs.
    #[must_use]
    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.0)
    }

    /// The namespace of the routers between the subnets.
    #[must_use]
    pub fn fabric(&self) -> String {
        format!("crl-{self}.fabric")
    }

    /// The namespace of all hosts outside the cluster.
    #[must_use]
    pub fn outside(&self) -> String {
        format!("crl-{self}.outside")
    }

    /// A node's namespace.
    #[must_use]
    pub fn node(&self, node: &str) -> String {
        format!("crl-{self}.node.{node}")
    }

    /// A pod's namespace.
    #[must_use]
    pub fn pod(&self, namespace: &str, pod: &str) -> String {
        format!("crl-{self}.pod.{namespace}.{pod}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_short_and_has_no_dots() {
        for good in ["a", "demo", "case-7", "0a", &"x".repeat(32)] {
            assert_eq!(good.parse::<LabName>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "a.b", "A", "a b", "../x", &"x".repeat(33)] {
            assert!(bad.parse::<LabName>().is_err(), "{bad:?}");
        }
    }
}
