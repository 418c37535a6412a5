//! The file that tells the CNI plugin how big pods' packets may be: a decimal number.

use std::io;
use std::path::{Path, PathBuf};

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
        let text = mtu.to_string();
        if std::fs::read_to_string(&self.path).is_ok_and(|known| known.trim() == text) {
            return Ok(false);
        }
        let write = || {
            if let Some(directory) = self.path.parent().filter(|path| *path != Path::new("")) {
                std::fs::create_dir_all(directory)?;
            }
            let mut beside = self.path.clone().into_os_string();
            beside.push(".new");
            std::fs::write(&beside, &text)?;
            std::fs::rename(&beside, &self.path)
        };
        write().map_err(|error| MtuFileError { path: self.path.clone(), error })?;
        Ok(true)
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
