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
use atoll_core::time::Timestamp;
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

const RECORD: &str = "record.json";
const NEW_RECORD: &str = "record.json.new";

/// Format of the record; a node refuses to guess at another one.
const VERSION: u32 = 1;

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
}

/// One sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Which.
    pub id: SandboxId,
    /// The placement it runs.
    pub generation: Generation,
    /// The template it started from, which must stay.
    pub template: TemplateId,
    /// The build of that template.
    pub build: BuildId,
    /// What is allocated to it.
    pub resources: Resources,
    /// How far it has come.
    pub stage: Stage,
    /// When it began to serve.
    pub started_at: Option<Timestamp>,
}

/// A record as it stands in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Row {
    v: u32,
    id: String,
    generation: u64,
    template: String,
    build: String,
    cpu_millis: u32,
    memory_mib: u32,
    disk_mib: u32,
    stage: Stage,
    started_at_us: Option<i64>,
}

impl From<&Record> for Row {
    fn from(record: &Record) -> Self {
        Self {
            v: VERSION,
            id: record.id.to_string(),
            generation: record.generation.get(),
            template: record.template.to_string(),
            build: record.build.to_string(),
            cpu_millis: record.resources.cpu_millis,
            memory_mib: record.resources.memory_mib,
            disk_mib: record.resources.disk_mib,
            stage: record.stage,
            started_at_us: record.started_at.map(Timestamp::as_micros),
        }
    }
}

impl Row {
    fn into_record(self) -> Option<Record> {
        Some(Record {
            id: self.id.parse().ok().filter(|_| self.v == VERSION)?,
            generation: Generation::new(self.generation),
            template: self.template.parse().ok()?,
            build: self.build.parse().ok()?,
            resources: Resources {
                cpu_millis: self.cpu_millis,
                memory_mib: self.memory_mib,
                disk_mib: self.disk_mib,
            },
            stage: self.stage,
            started_at: self.started_at_us.map(Timestamp::from_micros),
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

    /// Where a sandbox's files lie.
    #[must_use]
    pub fn directory(&self, id: &SandboxId) -> PathBuf {
        self.directory.join(id.as_str())
    }

    /// Everything that is there.
    ///
    /// # Errors
    /// If the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Found>, Error> {
        let entries = fs::read_dir(&self.directory).map_err(io_error("read", &self.directory))?;
        let mut found = Vec::new();
        for entry in entries.flatten() {
            let directory = entry.path();
            // A record under another name than its own was put there by somebody else.
            let record = read(&directory.join(RECORD))
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
        let directory = self.directory(&record.id);
        make_private(&directory)?;
        let path = directory.join(NEW_RECORD);
        let bytes = serde_json::to_vec(&Row::from(record)).map_err(|error| Error::Io {
            step: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .map_err(io::Error::from)
            .and_then(|file| fs::File::from(file).write_all(&bytes))
            .map_err(io_error("write", &path))?;
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

fn read(path: &Path) -> Option<Record> {
    let length = fs::symlink_metadata(path).ok()?.len();
    if length > RECORD_MAX_BYTES {
        return None;
    }
    let row: Row = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    row.into_record()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(stage: Stage) -> Record {
        Record {
            id: "i1".parse().unwrap(),
            generation: Generation::new(4),
            template: "base".parse().unwrap(),
            build: "b1".parse().unwrap(),
            resources: Resources {
                cpu_millis: 2000,
                memory_mib: 512,
                disk_mib: 1024,
            },
            stage,
            started_at: (stage == Stage::Running).then(|| Timestamp::from_micros(9)),
        }
    }

    #[test]
    fn a_record_is_found_again_and_the_newest_counts() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path().join("s")).unwrap();
        for stage in [Stage::Starting, Stage::Running] {
            ledger.write(&record(stage)).unwrap();
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
}
