//! The one task that writes the directory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use atoll_core::correction::CorrectionKind;
use atoll_core::event::EventKind;
use atoll_core::id::{Generation, NodeId, SandboxId};
use atoll_core::sandbox::Sandbox;
use atoll_store::store::EventQuery;
use tokio::time::Instant;

use super::waiting::Waiting;
use super::{CHANGES_MAX, Change, Config, Directory, Found, Registration, Standing};
use crate::bus::{EventStream, delays};
use crate::corrections::Corrections;
use crate::limit::DISCOVERY_REPAIRS_TOLD_MAX;
use crate::metrics;
use crate::service::Inner;
use crate::view::Watched;

/// The shortest and the longest time between attempts while the directory takes nothing.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// How often a server that is not on duty looks whether it is.
const DUTY_INTERVAL: Duration = Duration::from_secs(1);

/// How long what changed last may take to be written when the control plane stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// What may change what the directory says of a sandbox.
const KINDS: [EventKind; 6] = [
    EventKind::SandboxPlaced,
    EventKind::SandboxRunning,
    EventKind::SandboxPaused,
    EventKind::SandboxResumed,
    EventKind::SandboxDeleted,
    EventKind::SandboxError,
];

/// What was written of a sandbox: where, and a digest of what.
type Written = (NodeId, u64);

/// A change that repairs something, and why it does.
type Repair = (CorrectionKind, &'static str);

pub(super) struct Keeper {
    inner: Arc<Inner>,
    directory: Arc<dyn Directory>,
    standing: Arc<Standing>,
    config: Config,
    waiting: Arc<Waiting>,
    /// What this process wrote and has not removed.
    written: HashMap<SandboxId, Written>,
}

/// What a pass over one node leads to.
#[derive(Default)]
struct Differences {
    changes: Vec<Change>,
    /// What is right without having been written by this process.
    right: Vec<Registration>,
    repairs: Vec<(SandboxId, Repair, Option<Sandbox>)>,
}

impl Keeper {
    pub(super) fn new(
        inner: Arc<Inner>,
        directory: Arc<dyn Directory>,
        standing: Arc<Standing>,
        config: Config,
    ) -> Self {
        Self {
            inner,
            directory,
            standing,
            config,
            waiting: Arc::default(),
            written: HashMap::new(),
        }
    }

    /// Begins. What happens from now on is noted before everything is looked at for the first time.
    pub(super) fn spawn(self) -> crate::error::Result<()> {
        let query = EventQuery {
            kinds: KINDS.to_vec(),
            ..EventQuery::default()
        };
        let (bus, cancel) = (&self.inner.bus, self.inner.cancel.clone());
        let events = EventStream::open(bus, query, bus.now(), cancel)?;
        let tasks = &self.inner.tasks;
        tasks.spawn(note(events, Arc::clone(&self.waiting)));
        tasks.clone().spawn(self.run());
        Ok(())
    }

    async fn run(mut self) {
        let cancel = self.inner.cancel.clone();
        let waiting = Arc::clone(&self.waiting);
        let mut waits = delays(RETRY.0, RETRY.1);
        let mut next_pass = Instant::now();
        loop {
            let is_pass = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                () = tokio::time::sleep_until(next_pass) => true,
                () = waiting.more() => false,
            };
            let begun = Instant::now();
            if !self.inner.servers.is_on_duty() {
                self.stand_by(begun);
                next_pass = begun + DUTY_INTERVAL;
                continue;
            }
            let work = async {
                if is_pass {
                    self.pass().await
                } else {
                    self.catch_up().await
                }
            };
            let result = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                result = work => result,
            };
            match self.judge(result, begun) {
                Ok(()) => {
                    waits = delays(RETRY.0, RETRY.1);
                    if is_pass {
                        next_pass = Instant::now() + self.config.interval;
                    }
                }
                Err(()) => {
                    tokio::select! {
                        biased;
                        () = cancel.cancelled() => break,
                        () = tokio::time::sleep(waits.next().unwrap_or(RETRY.1)) => {}
                    }
                    // Nobody knows what was written: all of it is looked at.
                    next_pass = Instant::now();
                }
            }
        }
        // What ended because the control plane stops.
        let last = tokio::time::timeout(FLUSH_LIMIT, self.catch_up()).await;
        if !matches!(last, Ok(Ok(()))) && !waiting.is_empty() {
            tracing::warn!("the directory is not told of the last changes");
        }
    }

    /// Leaves the directory to the server that is on duty, and its changes with it: who comes on
    /// duty begins with a comparison.
    fn stand_by(&mut self, now: Instant) {
        self.written.clear();
        self.waiting.take(usize::MAX);
        let at = self.inner.clock.now();
        self.standing.note(Ok(()), now.elapsed(), at);
    }

    fn judge(&self, result: Result<(), String>, begun: Instant) -> Result<(), ()> {
        let now = self.inner.clock.now();
        let told = result
            .as_ref()
            .err()
            .map_or(Ok(()), |why| Err(why.as_str()));
        let is_news = self.standing.note(told, begun.elapsed(), now);
        match result {
            Ok(()) => {
                if is_news {
                    tracing::info!("sandboxes are registered again");
                }
                Ok(())
            }
            Err(problem) => {
                metrics::discovery_failed();
                if is_news {
                    tracing::warn!(problem, "sandboxes are not registered; they go on");
                }
                Err(())
            }
        }
    }

    /// Writes what changed.
    async fn catch_up(&mut self) -> Result<(), String> {
        loop {
            let ids = self.waiting.take(CHANGES_MAX / 2);
            if ids.is_empty() {
                return Ok(());
            }
            let result = self.write(&ids).await;
            if result.is_err() {
                self.waiting.add(ids);
                return result;
            }
        }
    }

    async fn write(&mut self, ids: &[SandboxId]) -> Result<(), String> {
        let mut changes = Vec::new();
        for (id, row) in self.rows(ids).await? {
            let wanted = row.and_then(|row| self.wanted(&row));
            let before = self.written.get(&id);
            if let Some((node, _)) = before
                && wanted.as_ref().is_none_or(|wanted| wanted.node != *node)
            {
                changes.push(remove(node, &id));
            }
            match wanted {
                Some(wanted) if before != Some(&written_as(&wanted)) => {
                    changes.push(Change::Register(wanted));
                }
                Some(_) | None => {}
            }
        }
        self.apply(changes).await
    }

    /// Makes changes, and notes that they are made.
    async fn apply(&mut self, changes: Vec<Change>) -> Result<(), String> {
        for changes in changes.chunks(CHANGES_MAX) {
            self.directory.apply(changes).await?;
            for change in changes {
                match change {
                    Change::Register(of) => {
                        self.written.insert(of.sandbox.clone(), written_as(of));
                    }
                    Change::Remove { node, id } => {
                        let id = id.parse::<SandboxId>().ok();
                        let id =
                            id.filter(|id| self.written.get(id).is_some_and(|(at, _)| at == node));
                        id.map(|id| self.written.remove(&id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Compares the directory with what is intended, and mends it.
    async fn pass(&mut self) -> Result<(), String> {
        self.catch_up().await?;
        let mut placed = self.inner.registry.placed();
        for node in self.directory.nodes().await? {
            placed.entry(node).or_default();
        }
        let mut told = 0;
        for (node, placed) in &placed {
            let found = self.directory.registered(node).await?;
            let differences = self.compare((node, placed), found).await?;
            let right = differences.right.iter();
            self.written
                .extend(right.map(|of| (of.sandbox.clone(), written_as(of))));
            self.apply(differences.changes).await?;
            self.tell(node, differences.repairs, &mut told);
            // One that is known may be written to at any moment.
            if placed.is_empty() && !self.inner.registry.is_known(node) {
                self.directory.release(node).await?;
            }
        }
        Ok(())
    }

    async fn compare(
        &self,
        (node, placed): (&NodeId, &BTreeSet<SandboxId>),
        found: Vec<Found>,
    ) -> Result<Differences, String> {
        let mut differences = Differences::default();
        let authority = self.inner.registry.authority_of(node);
        let authority = authority.unwrap_or_else(|| self.config.authority.clone());
        let mut there: BTreeMap<SandboxId, Option<Registration>> = BTreeMap::new();
        for Found { id, registration } in found {
            match id.parse::<SandboxId>() {
                Ok(id) => drop(there.insert(id, registration)),
                // No sandbox has such an id, and what is below this node is ours.
                Err(_) => differences.changes.push(Change::Remove {
                    node: node.clone(),
                    id,
                }),
            }
        }
        let in_doubt: Vec<_> = placed
            .iter()
            .chain(there.keys().filter(|id| !placed.contains(*id)))
            .filter(|id| {
                let there = there.get(*id).and_then(Option::as_ref);
                let is_right = there.is_some_and(|there| {
                    self.written.get(id) == Some(&written_as(there))
                        && (&there.node, &there.authority) == (node, &authority)
                });
                !(is_right && placed.contains(id))
            })
            // Its change is on its way.
            .filter(|id| !self.waiting.has(id))
            .cloned()
            .collect();
        for ids in in_doubt.chunks(CHANGES_MAX) {
            for (id, row) in self.rows(ids).await? {
                let is_there = there.get(&id);
                self.settle(node, (id, row), is_there, &mut differences);
            }
        }
        Ok(differences)
    }

    /// Adds what has to be done about a sandbox for the directory to be right below a node.
    fn settle(
        &self,
        node: &NodeId,
        (id, row): (SandboxId, Option<Sandbox>),
        there: Option<&Option<Registration>>,
        differences: &mut Differences,
    ) {
        let wanted = row.as_ref().and_then(|row| self.wanted(row));
        let wanted = wanted.filter(|wanted| wanted.node == *node);
        let before = self.written.get(&id);
        let repair = match (wanted, there) {
            (None, None) => return,
            (Some(wanted), Some(Some(there))) if wanted == *there => {
                differences.right.push(wanted);
                return;
            }
            (Some(wanted), there) => {
                let was_written = before == Some(&written_as(&wanted));
                differences.changes.push(Change::Register(wanted));
                let why = if there.is_some() {
                    "what the directory said of it was changed"
                } else {
                    "it was deleted from the directory"
                };
                was_written.then_some((CorrectionKind::RegistrationRestored, why))
            }
            (None, Some(_)) => {
                differences.changes.push(remove(node, &id));
                let why = "the directory had it, and it is not there";
                let is_ours = before.is_some_and(|(at, _)| at == node);
                (!is_ours).then_some((CorrectionKind::RegistrationRemoved, why))
            }
        };
        if let Some(repair) = repair {
            differences.repairs.push((id, repair, row));
        }
    }

    /// Records repairs, up to a number of each pass; all of them are counted.
    fn tell(
        &self,
        node: &NodeId,
        repairs: Vec<(SandboxId, Repair, Option<Sandbox>)>,
        told: &mut usize,
    ) {
        let mut corrections = Corrections::default();
        for (id, (kind, why), row) in repairs {
            metrics::discovery_repaired(kind.as_str());
            *told += 1;
            if *told > DISCOVERY_REPAIRS_TOLD_MAX {
                continue;
            }
            let generation = row.as_ref().map_or(Generation::FIRST, |row| row.generation);
            let of = (node, &id, generation);
            corrections.of_sandbox(&self.inner, of, (kind, why), row.as_ref());
        }
        corrections.record(&self.inner);
    }

    fn wanted(&self, row: &Sandbox) -> Option<Registration> {
        self.inner.registration(row, &self.config.authority)
    }

    async fn rows(&self, ids: &[SandboxId]) -> Result<Vec<(SandboxId, Option<Sandbox>)>, String> {
        let rows = self.inner.store.sandbox_list_by_id(ids).await;
        let rows =
            rows.map_err(|error| format!("the store does not say what to register: {error}"))?;
        let rows = rows.into_iter().map(|row| (row.id.clone(), row));
        let mut rows: BTreeMap<_, _> = rows.collect();
        Ok(ids.iter().map(|id| (id.clone(), rows.remove(id))).collect())
    }
}

fn written_as(registration: &Registration) -> Written {
    let mut digest = DefaultHasher::new();
    registration.hash(&mut digest);
    (registration.node.clone(), digest.finish())
}

fn remove(node: &NodeId, id: &SandboxId) -> Change {
    Change::Remove {
        node: node.clone(),
        id: id.to_string(),
    }
}

/// Notes what happens. What is missed is found by the next pass over everything.
async fn note(mut events: EventStream, waiting: Arc<Waiting>) {
    while let Some(watched) = events.next().await {
        match watched {
            Ok(Watched::Event(event)) => waiting.add(event.subject.sandbox().cloned()),
            Ok(Watched::Lagged { .. }) => {}
            Err(error) => {
                tracing::debug!(%error, "events cannot be read");
                tokio::time::sleep(RETRY.0).await;
            }
        }
    }
}
