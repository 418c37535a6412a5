//! Files that other processes read, replaced whole.
//!
//! ```text
//!   write .NAME.PID.new ─► fsync it ─► rename it to NAME ─► fsync the folder
//!                                           │
//!            readers see what was there ◄───┴───► readers see all that is new
//! ```
//!
//! The invariant: at any moment, and after a power cut at any moment, the file holds all of what it held before or all of what it
//! holds now. Once [`replace`] has returned, it is what it holds now.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Replaces a file, or makes it, with these permissions (less the umask). Its folder must be there.
///
/// # Errors
/// The file system refuses. The file is as it was; only where the folder alone could not be written to disk, readers see the new one.
pub fn replace(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    replace_with(path, mode, |file| file.write_all(content))
}

/// As [`replace`], with what `write` writes.
///
/// # Errors
/// As [`replace`]; or `write` fails, and the file is as it was.
pub fn replace_with(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let beside = beside(path)?;
    // Left by a process of this id that was killed. It may have other permissions.
    let _ = fs::remove_file(&beside);
    let mut file = File::options().create_new(true).write(true).mode(mode).open(&beside)?;
    let written = write(&mut file).and_then(|()| file.sync_all()).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    File::open(folder(path))?.sync_all()
}

/// In the same folder, because files are not renamed from one file system to another; hidden, and with an ending of its own, so that
/// programs that read all of a folder, as container runtimes do with /etc/cni/net.d, do not take it for one of theirs.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidFilename)?.to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.new", std::process::id())))
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entry = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        fs::read_dir(folder).unwrap().map(entry).collect()
    }

    #[test]
    fn a_file_is_made_and_replaced_and_nothing_stays_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        replace(&path, 0o600, b"first").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        replace(&path, 0o600, b"2nd").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2nd");
        assert_eq!(names(folder.path()), ["token"]);
    }

    #[test]
    fn who_has_the_former_file_open_reads_it_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugin");
        replace(&path, 0o755, b"first").unwrap();
        let former = File::open(&path).unwrap();
        replace(&path, 0o755, b"second").unwrap();
        assert_eq!(io::read_to_string(former).unwrap(), "first");
    }

    #[test]
    fn a_write_that_fails_leaves_the_file_as_it_was_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        replace(&path, 0o600, b"first").unwrap();
        let failing = replace_with(&path, 0o600, |file| {
            file.write_all(b"sec")?;
            Err(io::ErrorKind::StorageFull.into())
        });
        assert_eq!(failing.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(names(folder.path()), ["token"]);
    }

    #[test]
    fn what_a_killed_process_of_the_same_id_left_is_neither_in_the_way_nor_taken_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let left = beside(&path).unwrap();
        fs::write(&left, "half, and longer than what comes").unwrap();
        fs::set_permissions(&left, fs::Permissions::from_mode(0o644)).unwrap();
        replace(&path, 0o600, b"whole").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(folder.path()), ["token"]);
    }

    #[test]
    fn a_path_without_a_name_is_refused() {
        assert_eq!(replace(Path::new("/"), 0o600, b"").unwrap_err().kind(), io::ErrorKind::InvalidFilename);
    }
}
