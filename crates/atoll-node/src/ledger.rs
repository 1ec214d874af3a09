//! What a node knows about its sandboxes across its own death: one file per sandbox.
//!
//! ```text
//!   <data>/sandboxes/<id>/record.json   this module's; replaced by rename, never half written
//!                        /…             the driver's: lock, control socket, disk, exit file
//! ```
//!
//! The record is written before anything is made for the sandbox and removed, with its directory,
//! after everything of it is gone. So whatever a killed node leaves is found: a directory with a
//! record is either a live sandbox or to be cleaned up, a directory without one is to be removed.
//!
//! Neither environment nor tokens are kept: only the guest agent needs them.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use atoll_core::id::{BuildId, Generation, SandboxId, TemplateId};
use atoll_core::resources::Resources;
use atoll_core::snapshot::Snapshot;
use atoll_core::time::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

const RECORD: &str = "record.json";
const NEW_RECORD: &str = "record.json.new";

/// Format of the record. Version 1 knew no pauses and is read; a newer one is not guessed at, and a
/// node that finds one does not start, because it would remove what it does not understand.
const VERSION: u32 = 2;

/// Records are small; a larger file is not one.
const RECORD_MAX_BYTES: u64 = 64 * 1024;

/// What can go wrong with the ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory refused.
    #[error("{step} `{path}`")]
    Io {
        /// What was being done.
        step: &'static str,
        /// To what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A newer node wrote it.
    #[error("`{path}` was written by a newer version (format {version})")]
    Newer {
        /// The record.
        path: PathBuf,
        /// Its format.
        version: u32,
    },
}

fn io_error<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Io {
        step,
        path: path.to_owned(),
        source,
    }
}

/// How far a sandbox has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Being made. A node that finds this after its own death undoes it: nobody was told yet.
    Starting,
    /// Its guest agent was initialised.
    Running,
    /// It does not run, and what is on its disk would survive the machine's end.
    Paused {
        /// Whether its processes are kept too, frozen.
        has_memory: bool,
    },
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub id: SandboxId,
    /// The placement it runs.
    pub generation: Generation,
    /// The placement its processes were started for, by which their supervisor knows it: a resume
    /// of frozen processes changes the generation only.
    pub born: Generation,
    /// The template it started from, which must stay.
    pub template: TemplateId,
    /// The build of that template.
    pub build: BuildId,
    /// What is allocated to it while it runs.
    pub resources: Resources,
    /// How far it has come.
    pub stage: Stage,
    /// When it began to serve.
    pub started_at: Option<Timestamp>,
    /// What shared storage has of it, while it is paused.
    pub snapshot: Option<Snapshot>,
}

/// A record as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    v: u32,
    id: String,
    generation: u64,
    /// Not in version 1, where it was the generation.
    born: Option<u64>,
    template: String,
    build: String,
    cpu_millis: u32,
    memory_mib: u32,
    disk_mib: u32,
    stage: Stage,
    started_at_us: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotRow>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SnapshotRow {
    store: String,
    generation: u64,
    digest: String,
    bytes: u64,
}

impl SnapshotRow {
    /// What cannot be read is made again.
    fn into_snapshot(self) -> Option<Snapshot> {
        Some(Snapshot {
            store: self.store.parse().ok()?,
            generation: Generation::new(self.generation),
            digest: self.digest.parse().ok()?,
            bytes: self.bytes,
        })
    }
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Self {
        Self {
            v: VERSION,
            id: record.id.to_string(),
            generation: record.generation.get(),
            born: Some(record.born.get()),
            template: record.template.to_string(),
            build: record.build.to_string(),
            cpu_millis: record.resources.cpu_millis,
            memory_mib: record.resources.memory_mib,
            disk_mib: record.resources.disk_mib,
            stage: record.stage,
            started_at_us: record.started_at.map(Timestamp::as_micros),
            snapshot: record.snapshot.as_ref().map(|snapshot| SnapshotRow {
                store: snapshot.store.to_string(),
                generation: snapshot.generation.get(),
                digest: snapshot.digest.to_string(),
                bytes: snapshot.bytes,
            }),
        }
    }
}

impl Row {
    fn into_record(self) -> Option<Record> {
        Some(Record {
            id: self.id.parse().ok()?,
            generation: Generation::new(self.generation),
            born: Generation::new(self.born.unwrap_or(self.generation)),
            template: self.template.parse().ok()?,
            build: self.build.parse().ok()?,
            resources: Resources {
                cpu_millis: self.cpu_millis,
                memory_mib: self.memory_mib,
                disk_mib: self.disk_mib,
            },
            stage: self.stage,
            started_at: self.started_at_us.map(Timestamp::from_micros),
            snapshot: self.snapshot.and_then(SnapshotRow::into_snapshot),
        })
    }
}

/// A directory found in the ledger.
#[derive(Debug)]
pub struct Found {
    /// Where.
    pub directory: PathBuf,
    /// Its record, if it has a readable one.
    pub record: Option<Record>,
}

/// The directory of all sandboxes.
#[derive(Debug, Clone)]
pub struct Ledger {
    directory: PathBuf,
}

impl Ledger {
    /// Opens it, and makes it if it is missing. Only root may enter it.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(directory: PathBuf) -> Result<Self, Error> {
        make_private(&directory)?;
        Ok(Self { directory })
    }

    /// The ledger of a node that may or may not live, to look into only.
    #[must_use]
    pub const fn of_other(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The record of one sandbox; none if there is none, or no whole one.
    ///
    /// # Errors
    /// If a newer node was here.
    pub fn get(&self, id: &SandboxId) -> Result<Option<Record>, Error> {
        let record = read(&self.directory(id).join(RECORD))?;
        Ok(record.filter(|record| record.id == *id))
    }

    /// Whether nothing is there; what cannot be read may hold something.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match fs::read_dir(&self.directory) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Where a sandbox's files lie.
    #[must_use]
    pub fn directory(&self, id: &SandboxId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// Everything that is there.
    ///
    /// # Errors
    /// If the directory cannot be read, or a newer node was here.
    pub fn list(&self) -> Result<Vec<Found>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(io_error("read", &self.directory))?;
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let directory = entry.path();
            // A record under another name than its own was put there by somebody else.
            let record = read(&directory.join(RECORD))?
                .filter(|record| entry.file_name().to_str() == Some(record.id.as_str()));
            found.push(Found { directory, record });
        }
        Ok(found)
    }

    /// Writes a record, making the sandbox's directory if need be. When this returns, a kill of the
    /// process does not lose it.
    ///
    /// # Errors
    /// If it cannot be written; then the older record, if any, is still whole.
    pub fn write(&self, record: &Record) -> Result<(), Error> {
        self.replace(record, false)
    }

    /// As [`Self::write`]; when this returns, the machine's end does not lose it either. That takes
    /// some milliseconds.
    ///
    /// # Errors
    /// If it cannot be written; then it is not known which of the two records is there.
    pub fn write_durable(&self, record: &Record) -> Result<(), Error> {
        self.replace(record, true)?;
        // The entry of the record, and that of the directory.
        for directory in [&self.directory(&record.id), &self.directory] {
            fs::File::open(directory)
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", directory))?;
        }
        Ok(())
    }

    fn replace(&self, record: &Record, is_synced: bool) -> Result<(), Error> {
        let directory = self.directory(&record.id);
        make_private(&directory)?;
        let path = directory.join(NEW_RECORD);
        let bytes = serde_json::to_vec(&Row::from(record)).map_err(|error| Error::Io {
            step: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let write = || {
            let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?;
            let mut file = fs::File::from(file);
            file.write_all(&bytes)?;
            if is_synced { file.sync_all() } else { Ok(()) }
        };
        write().map_err(io_error("write", &path))?;
        fs::rename(&path, directory.join(RECORD))
            .map_err(io_error("replace the record in", &directory))
    }

    /// Removes a sandbox's directory with all in it. An absent one is fine.
    ///
    /// # Errors
    /// If something in it cannot be removed.
    pub fn remove(&self, directory: &Path) -> Result<(), Error> {
        // The record goes last: until then a crash leaves something that names its sandbox.
        if let Ok(entries) = fs::read_dir(directory) {
            for entry in entries.flatten() {
                if entry.file_name() != RECORD {
                    remove_entry(&entry).map_err(io_error("remove", &entry.path()))?;
                }
            }
        }
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(io_error("remove", directory)),
        }
    }
}

fn remove_entry(entry: &fs::DirEntry) -> io::Result<()> {
    let removed = if entry.file_type()?.is_dir() {
        fs::remove_dir_all(entry.path())
    } else {
        fs::remove_file(entry.path())
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes a directory that only its owner can enter.
pub(crate) fn make_private(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error("make", path))
}

/// The record in a file; none if there is no whole one.
fn read(path: &Path) -> Result<Option<Record>, Error> {
    #[derive(Deserialize)]
    struct Version {
        v: u32,
    }
    let is_small =
        fs::symlink_metadata(path).is_ok_and(|metadata| metadata.len() <= RECORD_MAX_BYTES);
    let Some(bytes) = is_small.then(|| fs::read(path).ok()).flatten() else {
        return Ok(None);
    };
    match serde_json::from_slice(&bytes) {
        Ok(Version { v: version }) if version > VERSION => Err(Error::Newer {
            path: path.to_owned(),
            version,
        }),
        Ok(_) => Ok(serde_json::from_slice(&bytes)
            .ok()
            .and_then(Row::into_record)),
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use atoll_core::snapshot::Digest;

    use super::*;

    fn record(stage: Stage) -> Record {
        Record {
            id: "i1".parse().unwrap(),
            generation: Generation::new(4),
            born: Generation::new(3),
            template: "base".parse().unwrap(),
            build: "b1".parse().unwrap(),
            resources: Resources {
                cpu_millis: 2000,
                memory_mib: 512,
                disk_mib: 1024,
            },
            stage,
            started_at: (stage == Stage::Running).then(|| Timestamp::from_micros(9)),
            snapshot: matches!(stage, Stage::Paused { has_memory: false }).then(|| Snapshot {
                store: "s1".parse().unwrap(),
                generation: Generation::new(4),
                digest: Digest::new([9; 32]),
                bytes: 7,
            }),
        }
    }

    #[test]
    fn a_record_is_found_again_and_the_newest_counts() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("s")).unwrap();
        let kept = [true, false].map(|has_memory| Stage::Paused { has_memory });
        for stage in [Stage::Starting, Stage::Running].into_iter().chain(kept) {
            let write = match stage {
                Stage::Paused { .. } => Ledger::write_durable,
                _ => Ledger::write,
            };
            write(&ledger, &record(stage)).unwrap();
            let found = ledger.list().unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].record, Some(record(stage)));
        }
        ledger
            .remove(&ledger.directory(&"i1".parse().unwrap()))
            .unwrap();
        assert!(ledger.list().unwrap().is_empty());
    }

    #[test]
    fn what_is_no_record_of_its_directory_is_found_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("s")).unwrap();
        ledger.write(&record(Stage::Running)).unwrap();
        let own = ledger.directory(&"i1".parse().unwrap());
        let other = own.with_file_name("i2");
        fs::create_dir(&other).unwrap();
        fs::copy(own.join(RECORD), other.join(RECORD)).unwrap();
        let torn = own.with_file_name("i3");
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join(RECORD), "{\"v\":1,").unwrap();
        let unreadable: Vec<_> = ledger
            .list()
            .unwrap()
            .into_iter()
            .filter(|found| found.record.is_none())
            .map(|found| found.directory)
            .collect();
        assert_eq!(unreadable.len(), 2);
        assert!(unreadable.contains(&other) && unreadable.contains(&torn));
    }

    #[test]
    fn a_record_of_the_first_version_is_read_and_a_newer_one_stops_the_node() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("s")).unwrap();
        let own = ledger.directory(&"i1".parse().unwrap());
        fs::create_dir(&own).unwrap();
        let first = r#"{"v":1,"id":"i1","generation":4,"template":"base","build":"b1",
            "cpu_millis":2000,"memory_mib":512,"disk_mib":1024,"stage":"running",
            "started_at_us":9}"#;
        fs::write(own.join(RECORD), first).unwrap();
        let expected = Record {
            born: Generation::new(4),
            ..record(Stage::Running)
        };
        assert_eq!(ledger.list().unwrap()[0].record, Some(expected));
        fs::write(own.join(RECORD), r#"{"v":3,"other":true}"#).unwrap();
        let error = ledger.list().unwrap_err();
        assert!(matches!(error, Error::Newer { version: 3, .. }), "{error}");
    }
}
