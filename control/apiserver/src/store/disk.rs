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
    #[error("{0} is in use by another caracal apiserver; stop that one, or give this one its own --data-dir")]
    InUse(PathBuf),
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

/// What a store's file holds.
pub type Loaded = (Disk, BTreeMap<Key, Arc<Stored>>, u64);

/// The open file. Locked: one process has it at a time.
pub struct Disk {
    database: Database,
}

impl Disk {
    /// Opens or makes `file` and reads it whole.
    pub fn open(file: &Path) -> Result<Loaded, OpenError> {
        let unreadable =
            |error: redb::Error| OpenError::Unreadable { file: file.to_owned(), reason: error.to_string() };
        let database = match Database::create(file) {
            Ok(database) => database,
            Err(DatabaseError::DatabaseAlreadyOpen) => return Err(OpenError::InUse(file.to_owned())),
            Err(error) => return Err(unreadable(error.into())),
        };
        let disk = Disk { database };
        disk.make_tables().map_err(unreadable)?;
        let (format, revision, objects) = disk.load().map_err(unreadable)?;
        if format != FORMAT {
            return Err(OpenError::Format { file: file.to_owned(), found: format });
        }
        let mut parsed = BTreeMap::new();
        for (key, revision, json) in objects {
            let value = serde_json::from_slice(&json).map_err(|error| OpenError::Unreadable {
                file: file.to_owned(),
                reason: format!("{}/{}/{} is not JSON: {error}", key.resource, key.namespace, key.name),
            })?;
            parsed.insert(key, Arc::new(Stored { revision, value, size: json.len() }));
        }
        Ok((disk, parsed, revision))
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
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

    #[allow(clippy::type_complexity, reason = "the three things that a file holds, used once")]
    fn load(&self) -> Result<(u64, u64, Vec<(Key, u64, Vec<u8>)>), redb::Error> {
        let transaction = self.database.begin_read()?;
        let counters = transaction.open_table(COUNTERS)?;
        let counter = |name| counters.get(name).map(|found| found.map_or(0, |value| value.value()));
        let mut objects = Vec::new();
        for entry in transaction.open_table(OBJECTS)?.iter()? {
            let (key, value) = entry?;
            let ((resource, namespace, name), (revision, json)) = (key.value(), value.value());
            objects.push((Key::new(resource, namespace, name), revision, json.to_owned()));
        }
        Ok((counter("format")?, counter("revision")?, objects))
    }

    /// Makes all of `writes` durable, or none.
    pub fn write(&self, writes: &[Write], revision: u64) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
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
