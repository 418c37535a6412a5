//! Files of one line that others read.

use std::io;
use std::path::Path;

/// Sees that a file says `text`; returns whether it said something else before. Readers see the former text or the new
/// one, whole. Folders are made as needed.
///
/// # Errors
/// The file system refused.
pub fn replace(path: &Path, text: &str) -> io::Result<bool> {
    if std::fs::read_to_string(path).is_ok_and(|known| known.trim() == text) {
        return Ok(false);
    }
    if let Some(directory) = path.parent().filter(|path| *path != Path::new("")) {
        std::fs::create_dir_all(directory)?;
    }
    caracal_files::replace(path, 0o644, text.as_bytes())?;
    Ok(true)
}
