//! The versions of the CNI specification that are spoken, in which configurations come and results are given.

use std::fmt;

/// A version of the specification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(non_camel_case_types, reason = "a version reads as one")]
pub enum Version {
    /// Results of one address a family, `ip4` and `ip6`.
    V0_1_0,
    /// As 0.1.0.
    V0_2_0,
    /// Results of interfaces and any number of addresses, each with its family.
    V0_3_0,
    /// As 0.3.0.
    V0_3_1,
    /// Brought CHECK.
    V0_4_0,
    /// Addresses without their family.
    V1_0_0,
    /// Brought GC and STATUS.
    V1_1_0,
}

/// A version that is not spoken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cniVersion {0:?} is not supported; supported are {list}", list = Version::ALL.map(|v| v.as_str()).join(", "))]
pub struct UnknownVersion(pub String);

impl Version {
    /// All of them, the oldest first.
    pub const ALL: [Self; 7] =
        [Self::V0_1_0, Self::V0_2_0, Self::V0_3_0, Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];
    /// The newest.
    pub const NEWEST: Self = Self::V1_1_0;

    /// As `cniVersion` has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_1_0 => "0.1.0",
            Self::V0_2_0 => "0.2.0",
            Self::V0_3_0 => "0.3.0",
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// The version of a configuration; one that does not say is of the first.
    ///
    /// # Errors
    /// It is not spoken.
    pub fn parse(text: &str) -> Result<Self, UnknownVersion> {
        if text.is_empty() {
            return Ok(Self::V0_1_0);
        }
        let found = Self::ALL.into_iter().find(|version| version.as_str() == text);
        found.ok_or_else(|| UnknownVersion(text.chars().take(40).collect()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_one_that_is_not_spoken_is_answered_with_those_that_are() {
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Ok(version));
        }
        assert_eq!(Version::parse(""), Ok(Version::V0_1_0));
        let error = Version::parse("1.2.0").unwrap_err().to_string();
        assert!(error.contains("1.2.0") && error.contains("0.3.1, 0.4.0, 1.0.0, 1.1.0"), "{error}");
    }
}
