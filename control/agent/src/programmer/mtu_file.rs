//! The file that tells the CNI plugin how big pods' packets may be: a decimal number.

use std::io;
use std::path::PathBuf;

use crate::text_file;

/// Why it cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the MTU of pods to {path} (is its directory writable?): {error}")]
pub struct MtuFileError {
    path: PathBuf,
    error: io::Error,
}

/// The file.
#[derive(Debug)]
pub struct MtuFile {
    path: PathBuf,
}

impl MtuFile {
    /// The file at this path, which need not be there yet.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Sees that it says `mtu`; returns whether it said something else before. Readers see the former text or the new
    /// one, whole.
    ///
    /// # Errors
    /// The file system refused.
    pub fn set(&self, mtu: u32) -> Result<bool, MtuFileError> {
        text_file::replace(&self.path, &mtu.to_string())
            .map_err(|error| MtuFileError { path: self.path.clone(), error })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_number_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("calico/mtu");
        let file = MtuFile::new(path.clone());
        assert!(file.set(1450).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1450");
        assert!(!file.set(1450).unwrap());
        assert!(file.set(1430).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1430");
        assert_eq!(std::fs::read_dir(directory.path().join("calico")).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let error = MtuFile::new(PathBuf::from("/proc/nowhere/mtu")).set(1450).unwrap_err();
        assert!(error.to_string().contains("/proc/nowhere/mtu"), "{error}");
    }
}
