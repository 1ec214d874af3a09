//! One life of the server: the control plane as it is, on the simulated store and network.

use std::sync::Arc;
use std::time::Duration;

use atoll_control::config::{Config, ServerConfig};
use atoll_control::{ControlPlane, Parts};
use atoll_core::heartbeat::HEARTBEAT_INTERVAL;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::edge::Edge;
use crate::incarnation::Incarnation;
use crate::link::{Cable, Link};
use crate::options::Sabotage;
use crate::store::{Database, SimStore};
use crate::world::{Part, World};

/// Sandboxes one team may have at once: all teams together want more than the nodes have.
pub(crate) const TEAM_MAX: u32 = 8;

/// How long a create waits.
const CREATE_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a delete waits.
const DELETE_TIMEOUT: Duration = Duration::from_secs(10);

/// Node events that may wait.
const EVENTS_QUEUE: usize = 64;

/// Pause before a node that was not heard announces itself again.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// How long an orderly stop may take: the control plane's own bound and a little.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// See the module.
#[derive(Debug)]
pub(crate) struct Server {
    /// Which of those on the store.
    index: usize,
    pub(crate) control: ControlPlane,
    pub(crate) edge: Arc<Edge>,
    pub(crate) incarnation: Arc<Incarnation>,
    world: Arc<World>,
    cancel: CancellationToken,
    background: JoinHandle<()>,
}

impl Server {
    /// Starts a server and lets the nodes that are up join; none if it did not come up.
    pub(crate) async fn start(
        world: &Arc<World>,
        database: &Arc<Database>,
        cables: &[Arc<Cable>],
        (index, is_first): (usize, bool),
    ) -> Option<Arc<Self>> {
        world.note(format_args!("server {index} starts"));
        world.disturb(Part::Server);
        if is_first {
            // From here on somebody waits for them.
            cables.iter().for_each(|cable| cable.hear());
        }
        let incarnation = Arc::new(Incarnation::default());
        let edge = Arc::new(Edge::new(Arc::clone(world), Arc::clone(&incarnation)));
        let store = SimStore::new(
            Arc::clone(world),
            Arc::clone(database),
            Arc::clone(&incarnation),
        );
        let parts = Parts {
            store: Arc::new(store),
            clock: Arc::clone(world) as _,
            random: Arc::clone(world) as _,
            routes: Arc::clone(&edge) as _,
            cache: None,
        };
        let mut config = Config::development("0.6.13");
        config.team_limits.concurrent_sandboxes = TEAM_MAX;
        config.create_timeout = CREATE_TIMEOUT;
        config.delete_timeout = DELETE_TIMEOUT;
        config.server = (world.options.servers > 1).then(|| ServerConfig {
            address: format!("server-{index}"),
            version: "sim".to_owned(),
        });
        let opened = tokio::select! {
            biased;
            () = incarnation.died() => return None,
            opened = ControlPlane::open(config, parts) => opened,
        };
        let control = opened.ok()?;
        let cancel = CancellationToken::new();
        let background = {
            let (control, cancel) = (control.clone(), cancel.clone());
            world.tasks.spawn(async move { control.run(cancel).await })
        };
        let server = Arc::new(Self {
            index,
            control,
            edge,
            incarnation,
            world: Arc::clone(world),
            cancel,
            background,
        });
        for cable in cables {
            if cable.machine.is_up() {
                server.admit(cable);
            }
        }
        Some(server)
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.incarnation.is_dead()
    }

    /// A node announces itself, until it was heard, and beats from then on; for one life of its
    /// agent.
    pub(crate) fn admit(self: &Arc<Self>, cable: &Arc<Cable>) {
        let (server, cable) = (Arc::clone(self), Arc::clone(cable));
        let Some(life) = cable.machine.life() else {
            return;
        };
        self.world.tasks.spawn(async move {
            let is_over = || cable.machine.life() != Some(life) || server.is_dead();
            while !is_over() {
                if server.join(&cable).await {
                    server.hear_beats(&cable, is_over).await;
                }
                sleep(JOIN_PAUSE).await;
            }
        });
    }

    /// Whether the node was heard.
    async fn join(&self, cable: &Arc<Cable>) -> bool {
        let (sender, events) = mpsc::channel(EVENTS_QUEUE);
        cable.machine.connect(self.index, sender);
        let link = Link::new(Arc::clone(cable), Arc::clone(&self.incarnation));
        let joined = self.control.node_join(Arc::new(link), events).await;
        cable.disturb();
        let node = cable.machine.id();
        match &joined {
            Ok(()) => self.world.note(format_args!("{node} joined")),
            Err(error) => self.world.note(format_args!("{node} not joined: {error}")),
        }
        joined.is_ok()
    }

    /// Carries heartbeats until the server does not know the node any more.
    async fn hear_beats(&self, cable: &Cable, is_over: impl Fn() -> bool) {
        loop {
            sleep(HEARTBEAT_INTERVAL).await;
            if is_over() {
                return;
            }
            let Some(beat) = cable.carry_up(cable.machine.heartbeat()).await else {
                continue;
            };
            if is_over() {
                return;
            }
            if self.world.has(Sabotage::IgnoreHeartbeats) {
                cable.hear();
                continue;
            }
            match self.control.node_heartbeat(beat).await {
                Ok(_) => cable.hear(),
                Err(error) => {
                    let node = cable.machine.id();
                    self.world
                        .note(format_args!("heartbeat of {node} is not taken: {error}"));
                    return;
                }
            }
        }
    }

    /// The process is killed.
    pub(crate) fn crash(&self) {
        let index = self.index;
        self.world.note(format_args!("server {index} crashes"));
        self.incarnation.kill();
        self.background.abort();
    }

    /// The process is asked to end.
    pub(crate) async fn stop(self: Arc<Self>) {
        let index = self.index;
        self.world.note(format_args!("server {index} stops"));
        self.cancel.cancel();
        let ended = async {
            while !self.background.is_finished() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(STOP_TIMEOUT, ended).await.is_err() && !self.is_dead() {
            self.world.violate("the server did not stop in time");
        }
        self.incarnation.kill();
        self.background.abort();
    }
}
