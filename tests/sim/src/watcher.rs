//! A watcher of all events. It reads on after the last one it was told of, whichever server lives.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use atoll_control::request::{EventSelection, StartAt};
use atoll_control::view::{EventView, Watched};
use atoll_core::event::{Cursor, Subject};
use atoll_core::id::SandboxId;
use tokio::time::sleep;

use crate::book::{CHANGES, Entry};
use crate::server::Server;
use crate::world::{World, lock};

/// How long it waits where the store does not answer.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Memory {
    server: Weak<Server>,
    last: Option<Cursor>,
    told: BTreeMap<SandboxId, Vec<&'static str>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Watcher {
    world: Arc<World>,
    memory: Mutex<Memory>,
}

impl Watcher {
    pub(crate) fn new(world: Arc<World>) -> Self {
        Self {
            world,
            memory: Mutex::default(),
        }
    }

    /// Watches this server for as long as it lives, if it does not yet.
    pub(crate) fn attach(self: &Arc<Self>, server: &Arc<Server>) {
        let new = Arc::downgrade(server);
        let mut memory = lock(&self.memory);
        let before = memory.server.upgrade();
        if memory.server.ptr_eq(&new) || before.is_some_and(|before| !before.is_dead()) {
            return;
        }
        memory.server = new;
        drop(memory);
        let (watcher, server) = (Arc::clone(self), Arc::clone(server));
        self.world.tasks.spawn(async move {
            tokio::select! {
                biased;
                () = server.incarnation.died() => {}
                () = watcher.read(&server) => {}
            }
        });
    }

    async fn read(&self, server: &Server) {
        let start = lock(&self.memory)
            .last
            .map_or(StartAt::Beginning, StartAt::After);
        let opened = server
            .control
            .fleet_events_watch(&EventSelection::default(), start);
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(error) => return self.world.violate(format_args!("no watching: {error}")),
        };
        while let Some(next) = stream.next().await {
            match next {
                Ok(Watched::Event(event)) => self.take(&event),
                Ok(Watched::Lagged { missed, .. }) => self.world.violate(format_args!(
                    "{missed} events were pruned from a young store"
                )),
                Err(_) => sleep(PAUSE).await,
            }
        }
    }

    fn take(&self, event: &EventView) {
        let mut memory = lock(&self.memory);
        memory.last = Some(event.cursor);
        let kind = CHANGES.iter().find(|kind| **kind == event.kind.as_str());
        if let (Subject::Sandbox(id), Some(kind)) = (&event.subject, kind) {
            memory.told.entry(id.clone()).or_default().push(kind);
        }
    }

    /// It was told of every change of every sandbox, in order.
    pub(crate) fn judge(&self, entries: &BTreeMap<SandboxId, Entry>) {
        let memory = lock(&self.memory);
        for (id, entry) in entries {
            let told = memory.told.get(id).map_or(&[][..], Vec::as_slice);
            if told != entry.events {
                let due = &entry.events;
                self.world
                    .violate(format_args!("a watcher of {id} saw {told:?}, not {due:?}"));
            }
        }
    }
}
