//! A driver whose sandboxes are entries in a list. Any step can be made to fail, and any sandbox to
//! die. What is in the list outlives the agent, as processes do.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use atoll_core::network::NetworkPolicy;
use atoll_core::sandbox::SandboxSpec;
use atoll_node::driver::{Capabilities, Created, Driver, Error, ImageDefaults, Instance, Usage};
use atoll_node::ledger::Record;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

/// What a sandbox wrote, in its directory.
pub(crate) const FILE: &str = "files";
const FILE_BYTES: usize = 64 << 10;

/// A step that fails the next time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    Create,
    Initialise,
    Pause,
    Resume,
    Restore,
    Settle,
}

#[derive(Debug, Default)]
pub(crate) struct Machine {
    state: Mutex<State>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct State {
    faults: BTreeSet<Fault>,
    living: BTreeMap<PathBuf, Arc<Pretended>>,
    files: BTreeSet<PathBuf>,
    next: u32,
}

#[derive(Debug)]
pub(crate) struct Pretended {
    machine: Arc<Machine>,
    directory: PathBuf,
    number: u32,
    is_dead: watch::Sender<bool>,
}

impl Machine {
    pub(crate) fn fail_next(&self, fault: Fault) {
        self.state.lock().unwrap().faults.insert(fault);
    }

    /// No step fails any more.
    pub(crate) fn mend(&self) {
        self.state.lock().unwrap().faults.clear();
    }

    pub(crate) fn kill(&self, id: &str) {
        let state = self.state.lock().unwrap();
        let found = state.living.iter().find(|(path, _)| path.ends_with(id));
        if let Some((_, instance)) = found {
            instance.is_dead.send_replace(true);
        }
    }

    pub(crate) fn count_living(&self) -> usize {
        self.state.lock().unwrap().living.len()
    }

    fn check(&self, fault: Fault) -> Result<(), Error> {
        if self.state.lock().unwrap().faults.remove(&fault) {
            Err(Error::NoRoom(format!("{fault:?} was to fail")))
        } else {
            Ok(())
        }
    }

    fn make(self: &Arc<Self>, directory: &Path) -> Created {
        let mut state = self.state.lock().unwrap();
        state.next += 1;
        let instance = Arc::new(Pretended {
            machine: Arc::clone(self),
            directory: directory.to_owned(),
            number: state.next,
            is_dead: watch::Sender::new(false),
        });
        let before = state
            .living
            .insert(directory.to_owned(), Arc::clone(&instance));
        assert!(before.is_none(), "two sandboxes in {}", directory.display());
        state.files.insert(directory.to_owned());
        let file = directory.join(FILE);
        if !file.exists() {
            // Some of it zeros, some of it its own.
            let mut content = vec![0; FILE_BYTES];
            content[FILE_BYTES / 2..][..8].copy_from_slice(b"it wrote");
            std::fs::write(file, content).unwrap();
        }
        Created {
            instance,
            defaults: ImageDefaults::default(),
            timings: Vec::new(),
        }
    }
}

/// The driver of one agent on the machine.
#[derive(Debug)]
pub(crate) struct PretendDriver(pub(crate) Arc<Machine>);

#[async_trait]
impl Driver for PretendDriver {
    fn name(&self) -> &'static str {
        "pretend"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::default()
    }

    async fn create(&self, _: &SandboxSpec, directory: &Path) -> Result<Created, Error> {
        self.0.check(Fault::Create)?;
        Ok(self.0.make(directory))
    }

    async fn restore(&self, _: &SandboxSpec, directory: &Path) -> Result<Created, Error> {
        let is_known = self.0.state.lock().unwrap().files.contains(directory);
        let has_files = is_known || directory.join(FILE).exists();
        assert!(has_files, "nothing was kept in {}", directory.display());
        self.0.check(Fault::Restore)?;
        Ok(self.0.make(directory))
    }

    fn files(&self, directory: &Path) -> Option<PathBuf> {
        Some(directory.join(FILE))
    }

    async fn settle(&self, _: &Path) -> Result<(), Error> {
        self.0.check(Fault::Settle)
    }

    async fn adopt(
        &self,
        _: &Record,
        directory: &Path,
    ) -> Result<Option<Arc<dyn Instance>>, Error> {
        let state = self.0.state.lock().unwrap();
        let living = state.living.get(directory);
        let living = living.filter(|found| !*found.is_dead.borrow()).cloned();
        Ok(living.map(|instance| instance as Arc<dyn Instance>))
    }

    async fn sweep(&self, live: &[Arc<dyn Instance>]) -> Result<(), Error> {
        let keep: BTreeSet<u32> = live.iter().map(|instance| instance.number()).collect();
        let mut state = self.0.state.lock().unwrap();
        state
            .living
            .retain(|_, instance| keep.contains(&instance.number));
        Ok(())
    }

    async fn close(&self) {}
}

#[async_trait]
impl Instance for Pretended {
    fn number(&self) -> u32 {
        self.number
    }

    fn helpers(&self) -> BTreeSet<i32> {
        BTreeSet::new()
    }

    async fn ended(&self) -> String {
        let _ = self.is_dead.subscribe().wait_for(|is_dead| *is_dead).await;
        "it was to die".to_owned()
    }

    fn kill(&self) {
        self.is_dead.send_replace(true);
    }

    async fn release(&self) -> Result<(), Error> {
        self.kill();
        let mut state = self.machine.state.lock().unwrap();
        state.living.remove(&self.directory);
        Ok(())
    }

    fn usage(&self) -> Result<Usage, Error> {
        Ok(Usage::default())
    }

    /// Whoever connects is answered that the guest agent is initialised, or nothing.
    async fn dial(&self, _: u16) -> io::Result<TcpStream> {
        if *self.is_dead.borrow() || self.machine.check(Fault::Initialise).is_err() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        self.machine.tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 16 * 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        });
        TcpStream::connect(address).await
    }

    async fn update_network(&self, _: &NetworkPolicy) -> Result<(), Error> {
        Ok(())
    }

    async fn pause(&self) -> Result<(), Error> {
        self.machine.check(Fault::Pause)
    }

    async fn resume(&self) -> Result<(), Error> {
        self.machine.check(Fault::Resume)
    }
}
