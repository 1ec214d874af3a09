//! The directory of services: it says what is there, and nobody waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use atoll_control::discovery::{CHANGES_MAX, Change, Config, Directory, Found, Registration};
use atoll_control::limit::DISCOVERY_INTERVAL;
use atoll_control::view::{ComponentHealth, HealthStatus};
use atoll_core::correction::CorrectionKind;
use atoll_core::id::{NodeId, SandboxId};
use futures::future::join_all;
use tokio::time::Instant;

use crate::world::{Running, World, wait_for};

const AUTHORITY: &str = "10.0.0.7:3000";

#[derive(Debug, Default)]
struct State {
    entries: BTreeMap<(NodeId, String), Option<Registration>>,
    is_away: bool,
    delay: Duration,
    most_changes: usize,
}

/// A directory in memory: slow or away where a test wants it so.
#[derive(Debug, Default)]
struct Memory(Mutex<State>);

impl Memory {
    async fn reach(&self) -> Result<(), String> {
        let delay = self.0.lock().unwrap().delay;
        tokio::time::sleep(delay).await;
        if self.0.lock().unwrap().is_away {
            return Err("nobody is there".to_owned());
        }
        Ok(())
    }

    fn set_away(&self, is_away: bool) {
        self.0.lock().unwrap().is_away = is_away;
    }

    fn registrations(&self) -> BTreeMap<SandboxId, Registration> {
        let state = self.0.lock().unwrap();
        let said = state.entries.values().flatten();
        said.map(|of| (of.sandbox.clone(), of.clone())).collect()
    }

    fn edit(&self, edit: impl FnOnce(&mut BTreeMap<(NodeId, String), Option<Registration>>)) {
        edit(&mut self.0.lock().unwrap().entries);
    }
}

#[async_trait]
impl Directory for Memory {
    async fn nodes(&self) -> Result<BTreeSet<NodeId>, String> {
        self.reach().await?;
        let state = self.0.lock().unwrap();
        Ok(state.entries.keys().map(|(node, _)| node.clone()).collect())
    }

    async fn registered(&self, node: &NodeId) -> Result<Vec<Found>, String> {
        self.reach().await?;
        let state = self.0.lock().unwrap();
        let below = state.entries.iter().filter(|((at, _), _)| at == node);
        let found = below.map(|((_, id), registration)| Found {
            id: id.clone(),
            registration: registration.clone(),
        });
        Ok(found.collect())
    }

    async fn apply(&self, changes: &[Change]) -> Result<(), String> {
        self.reach().await?;
        let mut state = self.0.lock().unwrap();
        state.most_changes = state.most_changes.max(changes.len());
        for change in changes.iter().cloned() {
            match change {
                Change::Register(of) => {
                    let key = (of.node.clone(), of.sandbox.to_string());
                    state.entries.insert(key, Some(of));
                }
                Change::Remove { node, id } => drop(state.entries.remove(&(node, id))),
            }
        }
        Ok(())
    }

    async fn release(&self, node: &NodeId) -> Result<(), String> {
        self.reach().await?;
        self.edit(|entries| entries.retain(|(at, _), _| at != node));
        Ok(())
    }
}

async fn start(world: &World) -> (Running, Arc<Memory>) {
    let running = world.start().await;
    let directory = Arc::<Memory>::default();
    keep(&running, &directory);
    (running, directory)
}

fn keep(running: &Running, directory: &Arc<Memory>) {
    let config = Config {
        authority: AUTHORITY.to_owned(),
        interval: DISCOVERY_INTERVAL,
    };
    let directory = Arc::clone(directory) as Arc<dyn Directory>;
    running.control.discovery_keep(directory, config).unwrap();
}

async fn kill(running: &Running, id: &SandboxId) {
    let killed = running.control.sandbox_kill(&running.tenant, id).await;
    killed.unwrap();
}

async fn health(running: &Running) -> ComponentHealth {
    let health = running.control.health().await;
    let mut parts = health.components.into_iter();
    parts.find(|part| part.name == "discovery").unwrap()
}

fn repairs(running: &Running, kind: CorrectionKind) -> Vec<String> {
    let all = running.control.corrections(1_000);
    let of_kind = all.into_iter().filter(|correction| correction.kind == kind);
    of_kind
        .map(|correction| correction.sandbox.unwrap().to_string())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_is_in_the_directory_from_its_start_until_its_end() {
    let world = World::in_memory(&["node-1"]);
    let (running, directory) = start(&world).await;
    let made = join_all((0..CHANGES_MAX * 3).map(|_| running.create())).await;
    wait_for("all are registered", async || {
        directory.registrations().len() == made.len()
    })
    .await;
    let of = directory.registrations()[&made[0].sandbox.id].clone();
    assert_eq!(of.team, running.tenant.team);
    assert_eq!(of.template, made[0].sandbox.config.template);
    assert_eq!(of.node, "node-1".parse().unwrap());
    assert_eq!(of.authority, AUTHORITY);
    assert!(directory.0.lock().unwrap().most_changes <= CHANGES_MAX);

    join_all(made.iter().map(|of| kill(&running, &of.sandbox.id))).await;
    wait_for("none is left", async || {
        directory.registrations().is_empty()
    })
    .await;
    for kind in CorrectionKind::ALL {
        assert_eq!(repairs(&running, kind), [""; 0], "{}", kind.as_str());
    }
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_somebody_changed_by_hand_is_mended_and_recorded() {
    let world = World::in_memory(&["node-1"]);
    let (running, directory) = start(&world).await;
    let made = join_all((0..4).map(|_| running.create())).await;
    wait_for("all are registered", async || {
        directory.registrations().len() == made.len()
    })
    .await;
    let intended = directory.registrations();
    let [deleted, changed, left, _] = [0, 1, 2, 3].map(|at| made[at].sandbox.id.to_string());
    let node: NodeId = "node-1".parse().unwrap();
    let ghost = "ighostghostghostghos";
    directory.edit(|entries| {
        entries.remove(&(node.clone(), deleted.clone()));
        entries.insert((node.clone(), changed.clone()), None);
        let of = entries[&(node.clone(), left)].clone().unwrap();
        let id: SandboxId = ghost.parse().unwrap();
        let strange = Some(Registration { sandbox: id, ..of });
        entries.insert((node.clone(), ghost.to_owned()), strange.clone());
        entries.insert(("gone".parse().unwrap(), ghost.to_owned()), strange);
    });
    // Nobody tells of anything: it is the comparison that finds it.
    tokio::time::sleep(DISCOVERY_INTERVAL).await;
    wait_for("it is as before", async || {
        let nodes = directory.nodes().await.unwrap();
        directory.registrations() == intended && nodes == BTreeSet::from([node.clone()])
    })
    .await;
    let mut restored = repairs(&running, CorrectionKind::RegistrationRestored);
    restored.sort_unstable();
    let mut expected = [deleted, changed];
    expected.sort_unstable();
    assert_eq!(restored, expected);
    let removed = repairs(&running, CorrectionKind::RegistrationRemoved);
    assert_eq!(removed, [ghost; 2]);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_away_is_told_everything_once_it_is_back() {
    let world = World::in_memory(&["node-1"]);
    let (running, directory) = start(&world).await;
    let ended = running.create().await.sandbox.id;
    wait_for("it is registered", async || {
        directory.registrations().contains_key(&ended)
    })
    .await;
    assert_eq!(health(&running).await.status, HealthStatus::Healthy);

    directory.set_away(true);
    let made = running.create().await.sandbox.id;
    kill(&running, &ended).await;
    wait_for("health tells", async || {
        let part = health(&running).await;
        part.status == HealthStatus::Degraded && part.detail.contains("nobody is there")
    })
    .await;
    assert!(health(&running).await.last_success.is_some());

    // It lost everything meanwhile.
    directory.edit(BTreeMap::clear);
    directory.set_away(false);
    wait_for("it says what is there", async || {
        let keys: Vec<_> = directory.registrations().into_keys().collect();
        keys == [made.clone()]
    })
    .await;
    wait_for("health is well", async || {
        health(&running).await.status == HealthStatus::Healthy
    })
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_directory_slows_no_create() {
    let world = World::in_memory(&["node-1"]);
    let (running, directory) = start(&world).await;
    let delay = Duration::from_secs(4);
    directory.0.lock().unwrap().delay = delay;
    let begun = Instant::now();
    for _ in 0..10 {
        running.create().await;
    }
    // The clock stands still but for those who wait.
    assert!(begun.elapsed() < delay, "{:?}", begun.elapsed());
    wait_for("all are registered", async || {
        tokio::time::sleep(delay).await;
        directory.registrations().len() == 10
    })
    .await;
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_starts_takes_over_what_is_right_and_mends_the_rest() {
    let world = World::in_memory(&["node-1"]);
    let (running, directory) = start(&world).await;
    let stays = running.create().await.sandbox.id;
    let goes = running.create().await.sandbox.id;
    wait_for("both are registered", async || {
        directory.registrations().len() == 2
    })
    .await;
    directory.set_away(true);
    kill(&running, &goes).await;
    running.stop().await;
    directory.set_away(false);

    let running = world.start().await;
    keep(&running, &directory);
    wait_for("what ended is gone", async || {
        let keys: Vec<_> = directory.registrations().into_keys().collect();
        keys == [stays.clone()]
    })
    .await;
    assert_eq!(
        repairs(&running, CorrectionKind::RegistrationRestored),
        [""; 0]
    );
    running.stop().await;
}
