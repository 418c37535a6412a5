//! The store's file: redb, one table of objects and one of counters.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use super::state::{Key, Stored};

/// (resource, namespace, name) → (revision, JSON).
const OBJECTS: TableDefinition<(&str, &str, &str), (u64, &[u8])> = TableDefinition::new("objects");
/// `revision`: the newest; `format`: the version of this layout.
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters");
const FORMAT: u64 = 1;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("{file} is in use by another caracal apiserver{}; stop that one, or give this one its own --data-dir",
        .process.as_ref().map_or(String::new(), |process| format!(" (process {process})")))]
    InUse {
        /// The store's file.
        file: PathBuf,
        /// Who has it, if it has said so.
        process: Option<u32>,
    },
    /// The file cannot be read, or is not ours.
    #[error("cannot open {file}: {reason}")]
    Unreadable {
        /// The store's file.
        file: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// The file was written by another version of this program.
    #[error("{file} has layout {found}, this program knows {FORMAT}; use the version that wrote it")]
    Format {
        /// The store's file.
        file: PathBuf,
        /// What it says.
        found: u64,
    },
    /// The writer's thread cannot be started.
    #[error("cannot start the store's writer: {0}")]
    Thread(std::io::Error),
}

/// What is done to one key.
pub type Write = (Key, Option<(u64, Vec<u8>)>);

/// What a file holds, as it is written there.
struct Content {
    format: u64,
    /// The newest.
    revision: u64,
    /// Each with the revision of its last write, and its JSON.
    objects: Vec<(Key, u64, Vec<u8>)>,
}

/// What a store's file holds: the file, its objects, the newest revision.
pub type Loaded = (Disk, BTreeMap<Key, Arc<Stored>>, u64);

/// The open file. Locked: one process has it at a time.
///
/// After an error redb answers nothing more: the file must be opened again, which tells what became of the write that
/// failed. A disk that was full may have room then.
pub struct Disk {
    file: PathBuf,
    database: Option<Database>,
}

/// Where the process that has the store is noted.
fn beside(file: &Path) -> PathBuf {
    file.with_extension("pid")
}

/// The process that has the store, as it has noted.
fn owner(file: &Path) -> Option<u32> {
    std::fs::read_to_string(beside(file)).ok()?.trim().parse().ok()
}

/// Whether there is no room for what was to be written.
pub fn is_full(error: &redb::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error, redb::Error::Io(error) if [StorageFull, QuotaExceeded, FileTooLarge].contains(&error.kind()))
}

impl Disk {
    /// Opens or makes `file` and reads it whole.
    pub fn open(file: &Path) -> Result<Loaded, OpenError> {
        let unreadable =
            |error: redb::Error| OpenError::Unreadable { file: file.to_owned(), reason: error.to_string() };
        let database = match Database::create(file) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => {
                return Err(OpenError::InUse { file: file.to_owned(), process: owner(file) });
            }
            Err(error) => return Err(unreadable(error.into())),
        };
        let disk = Disk { file: file.to_owned(), database: Some(database) };
        disk.make_tables().map_err(unreadable)?;
        let content = disk.load().map_err(unreadable)?;
        if content.format != FORMAT {
            return Err(OpenError::Format { file: file.to_owned(), found: content.format });
        }
        let mut parsed = BTreeMap::new();
        for (key, revision, json) in content.objects {
            let value = serde_json::from_slice(&json).map_err(|error| OpenError::Unreadable {
                file: file.to_owned(),
                reason: format!("{}/{}/{} is not JSON: {error}", key.resource, key.namespace, key.name),
            })?;
            parsed.insert(key, Arc::new(Stored { revision, value, size: json.len() }));
        }
        disk.sign();
        Ok((disk, parsed, content.revision))
    }

    /// Says beside the file whose it is, for whoever finds it in use. If that cannot be said, nothing is lost.
    fn sign(&self) {
        if let Err(error) = std::fs::write(beside(&self.file), std::process::id().to_string()) {
            tracing::debug!(%error, "the process that has the store could not be noted");
        }
    }

    fn database(&self) -> Result<&Database, redb::Error> {
        self.database.as_ref().ok_or(redb::Error::PreviousIo)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        transaction.open_table(OBJECTS)?;
        {
            let mut counters = transaction.open_table(COUNTERS)?;
            if counters.get("format")?.is_none() {
                counters.insert("format", FORMAT)?;
                counters.insert("revision", 0)?;
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn load(&self) -> Result<Content, redb::Error> {
        let transaction = self.database()?.begin_read()?;
        let counters = transaction.open_table(COUNTERS)?;
        let counter = |name| counters.get(name).map(|found| found.map_or(0, |value| value.value()));
        let mut objects = Vec::new();
        for entry in transaction.open_table(OBJECTS)?.iter()? {
            let (key, value) = entry?;
            let ((resource, namespace, name), (revision, json)) = (key.value(), value.value());
            objects.push((Key::new(resource, namespace, name), revision, json.to_owned()));
        }
        Ok(Content { format: counter("format")?, revision: counter("revision")?, objects })
    }

    /// Opens the file again after an error; returns the newest revision that it holds.
    pub fn reopen(&mut self) -> Result<u64, redb::Error> {
        // Two handles exclude each other, also within one process.
        self.database = None;
        self.database = Some(Database::open(&self.file)?);
        let transaction = self.database()?.begin_read()?;
        let revision = transaction.open_table(COUNTERS)?.get("revision")?;
        Ok(revision.map_or(0, |revision| revision.value()))
    }

    /// Makes all of `writes` durable, or none. After an error it is not known which, until [`Disk::reopen`].
    pub fn write(&self, writes: &[Write], revision: u64) -> Result<(), redb::Error> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut objects = transaction.open_table(OBJECTS)?;
            for (key, put) in writes {
                let at = (key.resource.as_str(), key.namespace.as_str(), key.name.as_str());
                match put {
                    Some((revision, json)) => objects.insert(at, (*revision, json.as_slice()))?,
                    None => objects.remove(at)?,
                };
            }
            transaction.open_table(COUNTERS)?.insert("revision", revision)?;
        }
        // Durability::Immediate, redb's default: returns after fsync.
        transaction.commit()?;
        Ok(())
    }
}
