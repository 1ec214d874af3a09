//! What changes in a directory, by inotify.
//!
//! The kernel watches single directories. A recursive watch therefore adds one for each directory
//! that appears and takes away those of directories that move off; what is in a new directory
//! before its watch is set is announced as created, once. When the kernel's queue overflows the
//! watch fails, because what was lost cannot be told.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use atoll_proto::filesystem::{EventType, FilesystemEvent};
use rustix::fs::FsWord;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::entry;
use crate::sys;
use crate::user::Names;

/// Directories of one recursive watch.
const DIRECTORIES_MAX: usize = 8192;

/// Entries remembered as announced before the kernel told of them.
const ANNOUNCED_MAX: usize = 4096;

/// Bytes of events read at once.
const READ_BUFFER: usize = 8 * 1024;

/// Magic numbers of file systems on other machines, where not all changes are seen (linux/magic.h).
const NETWORK_FILE_SYSTEMS: [FsWord; 5] = [0x6969, 0xFF53_4D42, 0x517B, 0xFE53_4D42, 0x6573_5546];

/// Why a watch cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("error creating watcher: {0}")]
    Create(io::Error),
    #[error("error adding path {path} to watcher: {source}")]
    Add { path: String, source: io::Error },
    #[error("error adding path {0} to watcher: more than {DIRECTORIES_MAX} directories")]
    TooMany(String),
    #[error("watcher error: {0}")]
    Read(io::Error),
    #[error("watcher error: queue or buffer overflow")]
    Overflow,
}

/// Whether a path is on a file system of another machine.
pub(crate) fn is_on_network(path: &str) -> io::Result<bool> {
    let magic = rustix::fs::statfs(path)?.f_type;
    Ok(NETWORK_FILE_SYSTEMS.contains(&magic))
}

/// One watched directory.
#[derive(Debug)]
pub(crate) struct Watch {
    kernel: AsyncFd<OwnedFd>,
    root: PathBuf,
    is_recursive: bool,
    with_entries: bool,
    directories: HashMap<i32, PathBuf>,
    announced: HashSet<PathBuf>,
}

/// An event as the kernel gives it.
struct Raw {
    watch: i32,
    flags: ReadFlags,
    name: Option<String>,
}

impl Watch {
    /// Begins. Whatever changes after this returns is told.
    pub(crate) fn begin(path: &str, is_recursive: bool, with_entries: bool) -> Result<Self, Error> {
        let kernel = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|error| Error::Create(error.into()))?;
        let mut watch = Self {
            kernel: sys::watch_descriptor(kernel).map_err(Error::Create)?,
            root: PathBuf::from(path),
            is_recursive,
            with_entries,
            directories: HashMap::new(),
            announced: HashSet::new(),
        };
        let root = watch.root.clone();
        watch.add(&root, &mut Vec::new())?;
        Ok(watch)
    }

    /// Waits for the next changes; never empty.
    pub(crate) async fn next(&mut self) -> Result<Vec<FilesystemEvent>, Error> {
        loop {
            let raws = self
                .kernel
                .async_io(Interest::READABLE, read)
                .await
                .map_err(Error::Read)?;
            let mut events = Vec::new();
            for raw in raws {
                self.digest(&raw, &mut events)?;
            }
            if !events.is_empty() {
                return Ok(events);
            }
        }
    }

    fn digest(&mut self, raw: &Raw, events: &mut Vec<FilesystemEvent>) -> Result<(), Error> {
        if raw.flags.contains(ReadFlags::QUEUE_OVERFLOW) {
            return Err(Error::Overflow);
        }
        if raw.flags.contains(ReadFlags::IGNORED) {
            self.directories.remove(&raw.watch);
            return Ok(());
        }
        // Events of a directory that is no longer watched may still be in the queue.
        let Some(directory) = self.directories.get(&raw.watch) else {
            return Ok(());
        };
        let path = match &raw.name {
            Some(name) => directory.join(name),
            // The parent's watch tells the same about a directory inside.
            None if *directory != self.root => return Ok(()),
            None => directory.clone(),
        };
        if raw
            .flags
            .intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM)
        {
            self.announced.remove(&path);
        }
        let is_announced = raw.flags.contains(ReadFlags::CREATE) && self.announced.remove(&path);
        if !is_announced {
            for kind in kinds(raw.flags) {
                events.push(self.event(&path, kind));
            }
        }
        if self.is_recursive && raw.flags.contains(ReadFlags::ISDIR) {
            if raw.flags.contains(ReadFlags::MOVED_FROM) {
                self.forget(&path);
            }
            if raw
                .flags
                .intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO)
                && !is_announced
            {
                // A directory that is gone again needs no watch.
                match self.add(&path, events) {
                    Err(Error::Add { .. }) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Watches a directory and, if recursive, those in it. What is found inside a new one is told
    /// as created.
    fn add(&mut self, directory: &Path, events: &mut Vec<FilesystemEvent>) -> Result<(), Error> {
        let is_new = directory != self.root && !self.directories.is_empty();
        let mut queue = vec![directory.to_owned()];
        let is_first = self.directories.is_empty();
        while let Some(path) = queue.pop() {
            let shown = || path.to_string_lossy().into_owned();
            if self.directories.len() >= DIRECTORIES_MAX {
                return Err(Error::TooMany(shown()));
            }
            let flags = WatchFlags::CREATE
                | WatchFlags::MODIFY
                | WatchFlags::ATTRIB
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            let added = inotify::add_watch(self.kernel.get_ref(), &path, flags);
            match added {
                Ok(number) => drop(self.directories.insert(number, path.clone())),
                Err(error) if path == directory => {
                    return Err(Error::Add {
                        path: shown(),
                        source: error.into(),
                    });
                }
                // Gone between being listed and being watched.
                Err(_) => continue,
            }
            if !self.is_recursive {
                return Ok(());
            }
            for item in fs::read_dir(&path).into_iter().flatten().flatten() {
                let inner = item.path();
                if is_new
                    && !is_first
                    && self.announced.len() < ANNOUNCED_MAX
                    && self.announced.insert(inner.clone())
                {
                    events.push(self.event(&inner, EventType::EVENT_TYPE_CREATE));
                }
                if item.file_type().is_ok_and(|kind| kind.is_dir()) {
                    queue.push(inner);
                }
            }
        }
        Ok(())
    }

    fn forget(&mut self, directory: &Path) {
        let gone: Vec<i32> = self
            .directories
            .iter()
            .filter(|(_, path)| path.starts_with(directory))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            let _ = inotify::remove_watch(self.kernel.get_ref(), number);
            self.directories.remove(&number);
        }
        self.announced.retain(|path| !path.starts_with(directory));
    }

    fn event(&self, path: &Path, kind: EventType) -> FilesystemEvent {
        let name = match path.strip_prefix(&self.root) {
            Ok(name) if name.as_os_str().is_empty() => ".".to_owned(),
            Ok(name) => name.to_string_lossy().into_owned(),
            Err(_) => path.to_string_lossy().into_owned(),
        };
        // Of what was removed or moved off, something else may be in its place by now.
        let may_exist = matches!(
            kind,
            EventType::EVENT_TYPE_CREATE
                | EventType::EVENT_TYPE_WRITE
                | EventType::EVENT_TYPE_CHMOD
        );
        let entry = (self.with_entries && may_exist)
            .then(|| entry::describe(&path.to_string_lossy(), &Names::load()).ok())
            .flatten();
        FilesystemEvent {
            name,
            r#type: kind.into(),
            entry: entry.into(),
            ..FilesystemEvent::default()
        }
    }
}

fn read(kernel: &OwnedFd) -> io::Result<Vec<Raw>> {
    let mut buffer = [MaybeUninit::uninit(); READ_BUFFER];
    let mut reader = inotify::Reader::new(kernel, &mut buffer);
    let mut raws = Vec::new();
    loop {
        match reader.next() {
            Ok(event) => raws.push(Raw {
                watch: event.wd(),
                flags: event.events(),
                name: event
                    .file_name()
                    .map(CStr::to_string_lossy)
                    .map(std::borrow::Cow::into_owned),
            }),
            Err(error) if raws.is_empty() => return Err(error.into()),
            Err(_) => return Ok(raws),
        }
        // What is in the buffer is taken; more is read the next time.
        if reader.is_buffer_empty() {
            return Ok(raws);
        }
    }
}

/// One change of the kernel may stand for several of the protocol, in this order.
fn kinds(flags: ReadFlags) -> impl Iterator<Item = EventType> {
    let table = [
        (
            ReadFlags::CREATE | ReadFlags::MOVED_TO,
            EventType::EVENT_TYPE_CREATE,
        ),
        (
            ReadFlags::MOVED_FROM | ReadFlags::MOVE_SELF,
            EventType::EVENT_TYPE_RENAME,
        ),
        (ReadFlags::ATTRIB, EventType::EVENT_TYPE_CHMOD),
        (ReadFlags::MODIFY, EventType::EVENT_TYPE_WRITE),
        (
            ReadFlags::DELETE | ReadFlags::DELETE_SELF,
            EventType::EVENT_TYPE_REMOVE,
        ),
    ];
    table
        .into_iter()
        .filter(move |(mask, _)| flags.intersects(*mask))
        .map(|(_, kind)| kind)
}
