//! What is read and written. Nothing that somebody hands us is read without a bound, and output that cannot be written is an error that says so,
//! not a panic.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;

/// The longest text that is read: reports of many flows are the largest.
const TEXT_MAX: u64 = 256 << 20;

/// Reads a file, or what comes out of a pipe, of no more than `max` bytes.
///
/// # Errors
/// It cannot be read, or is longer.
pub fn read(path: &Path, max: u64) -> anyhow::Result<Vec<u8>> {
    let about = || format!("cannot read {}", path.display());
    let file = File::open(path).with_context(about)?;
    let too_long = || format!("{} has more than the {max} bytes that are read", path.display());
    if file.metadata().with_context(about)?.len() > max {
        bail!(too_long());
    }
    let mut bytes = Vec::new();
    // What has no length, such as a device, is found out by reading.
    file.take(max + 1).read_to_end(&mut bytes).with_context(about)?;
    if bytes.len() as u64 > max {
        bail!(too_long());
    }
    Ok(bytes)
}

/// Reads a text.
///
/// # Errors
/// It cannot be read, is too long, or is no text.
pub fn read_text(path: &Path) -> anyhow::Result<String> {
    let bytes = read(path, TEXT_MAX)?;
    String::from_utf8(bytes).with_context(|| format!("{} is not text in UTF-8", path.display()))
}

/// Writes a page.
///
/// # Errors
/// The file cannot be written.
pub fn write(file: &Path, page: &str) -> anyhow::Result<()> {
    fs::write(file, page).with_context(|| format!("cannot write {}", file.display()))
}

/// Whether a page can be written when a run is over: to be known before hours have passed.
///
/// # Errors
/// It cannot.
pub fn check_writable(file: Option<&Path>) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let is_new = !file.exists();
    let opened = OpenOptions::new().append(true).create(true).open(file);
    opened.with_context(|| format!("cannot write {}", file.display()))?;
    if is_new {
        fs::remove_file(file).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(())
}

/// Prints to stdout. Whoever reads there may have enough before we are done: that is no error.
///
/// # Errors
/// It cannot be written: a disk is full.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// Prints a value as JSON.
///
/// # Errors
/// It cannot be written.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Says something on stderr, if anybody listens there.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "pktgen: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_end_is_not_read_for_ever() {
        let error = read(Path::new("/dev/zero"), 1000).unwrap_err().to_string();
        assert!(error.contains("/dev/zero has more than the 1000 bytes"), "{error}");
        assert!(read(Path::new("/dev/null"), 0).unwrap().is_empty());
    }

    #[test]
    fn whether_a_file_can_be_written_is_known_before_and_leaves_nothing_behind() {
        assert!(check_writable(Some(Path::new("/nonexistent/page.html"))).is_err());
        let file = std::env::temp_dir().join(format!("crt{}-page.html", std::process::id()));
        check_writable(Some(&file)).unwrap();
        assert!(!file.exists());
        fs::write(&file, "kept").unwrap();
        check_writable(Some(&file)).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "kept");
        fs::remove_file(&file).unwrap();
    }
}
