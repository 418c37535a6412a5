//! The log: to the file that the configuration names, or nowhere. stdout is the runtime's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing_subscriber::filter::LevelFilter;

use super::config::Log;

/// Begins to log, if there is a file to log to. A log that cannot be written is no reason not to attach a pod.
pub fn start(log: &Log) {
    let Some(path) = &log.file else { return };
    let Ok(file) = open(path, log) else { return };
    // Who has called this twice in a process has a log already.
    let _ = tracing_subscriber::fmt()
        .with_writer(Mutex::new(file))
        .with_ansi(false)
        .with_max_level(LevelFilter::from_level(log.level))
        .try_init();
}

fn open(path: &Path, log: &Log) -> io::Result<File> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    if fs::metadata(path).is_ok_and(|found| found.len() >= log.size_max_mib.saturating_mul(1 << 20)) {
        put_aside(path, log)?;
    }
    File::options().create(true).append(true).open(path)
}

/// Gives the file another name, and removes those put aside before that are too many or too old.
fn put_aside(path: &Path, log: &Log) -> io::Result<()> {
    let now = SystemTime::now();
    let stamp = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{stamp}"));
    fs::rename(path, PathBuf::from(name))?;
    let mut aside = put_aside_before(path)?;
    aside.sort();
    let too_many = aside.len().saturating_sub(log.count as usize);
    let age_max = Duration::from_secs(log.age_days.saturating_mul(24 * 60 * 60));
    for (i, old) in aside.iter().enumerate() {
        let age = fs::metadata(old)
            .and_then(|found| found.modified())
            .map(|at| now.duration_since(at).unwrap_or_default());
        if i < too_many || age.is_ok_and(|age| age > age_max) {
            fs::remove_file(old)?;
        }
    }
    Ok(())
}

fn put_aside_before(path: &Path) -> io::Result<Vec<PathBuf>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(directory)? {
        let file = entry?.path();
        let other = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stamp = other.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
        if stamp.is_some_and(|stamp| !stamp.is_empty() && stamp.bytes().all(|byte| byte.is_ascii_digit())) {
            found.push(file);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_full_is_put_aside_and_no_more_are_kept_than_allowed() {
        let directory = std::env::temp_dir().join(format!("crt{}-cni-log", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("cni.log");
        let log = Log { file: None, level: tracing::Level::INFO, size_max_mib: 1, count: 2, age_days: 1 };
        fs::write(directory.join("cni.log.other"), "not ours").unwrap();
        for _ in 0..4 {
            fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
            open(&path, &log).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        }
        assert_eq!(put_aside_before(&path).unwrap().len(), 2);
        // What is not full goes on.
        fs::write(&path, "some").unwrap();
        open(&path, &log).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "some");
        assert!(directory.join("cni.log.other").exists());
        fs::remove_dir_all(directory).unwrap();
    }
}
