//! What goes wrong, at random, besides what the network and the store do to single messages.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::link::Cable;
use crate::server::Server;
use crate::store::Database;
use crate::world::{Part, World};

/// Chance in a thousand that a step begins a fault.
const BEGINS_PER_MILLE: u32 = 130;

/// How long the work of a server that ended may rest, if there are others.
const MOVES_WITHIN: Duration = Duration::from_secs(10);

/// The servers; none where one is down.
pub(crate) type Servers = [Option<Arc<Server>>];

/// Something that has an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ongoing {
    AgentDown(usize),
    Slow(usize),
    Cut(usize),
    ServerDown(usize),
    StoreDown,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Faults {
    world: Arc<World>,
    database: Arc<Database>,
    cables: Vec<Arc<Cable>>,
    ongoing: Vec<(Instant, Ongoing)>,
}

impl Faults {
    pub(crate) const fn new(
        world: Arc<World>,
        database: Arc<Database>,
        cables: Vec<Arc<Cable>>,
    ) -> Self {
        Self {
            world,
            database,
            cables,
            ongoing: Vec::new(),
        }
    }

    /// Ends what is due and perhaps begins something.
    pub(crate) async fn step(&mut self, servers: &mut Servers) {
        let now = Instant::now();
        let due = |(at, _): &(Instant, Ongoing)| *at <= now;
        for (_, fault) in self
            .ongoing
            .extract_if(.., |one| due(one))
            .collect::<Vec<_>>()
        {
            self.end(fault, servers).await;
        }
        if self.world.goes_wrong(BEGINS_PER_MILLE) {
            self.begin(servers).await;
        }
        for index in 0..servers.len() {
            let down = Ongoing::ServerDown(index);
            if servers[index].take_if(|server| server.is_dead()).is_some() {
                // It died by itself, in the middle of something.
                self.world.disturb_for(Part::Server, MOVES_WITHIN);
                self.last(down, 100, 20_000);
            }
            if servers[index].is_none() && !self.has(down) {
                self.start(index, servers).await;
            }
        }
        self.stamp(servers);
    }

    /// Ends everything.
    pub(crate) async fn cease(&mut self, servers: &mut Servers) {
        self.world.note("faults cease");
        self.world.calm_down();
        for server in servers.iter_mut() {
            server.take_if(|server| server.is_dead());
        }
        for (_, fault) in std::mem::take(&mut self.ongoing) {
            self.end(fault, servers).await;
        }
        for index in 0..servers.len() {
            while servers[index].is_none() {
                self.start(index, servers).await;
            }
        }
    }

    async fn start(&self, index: usize, servers: &mut Servers) {
        let is_dead =
            |server: &Option<Arc<Server>>| server.as_ref().is_none_or(|server| server.is_dead());
        let is_first = servers.iter().all(is_dead);
        let (world, database) = (&self.world, &self.database);
        let started = Server::start(world, database, &self.cables, (index, is_first));
        servers[index] = started.await;
    }

    fn has(&self, fault: Ongoing) -> bool {
        self.ongoing.iter().any(|(_, other)| *other == fault)
    }

    fn last(&mut self, fault: Ongoing, from_ms: u64, to_ms: u64) {
        let until = Instant::now() + self.world.millis(from_ms, to_ms);
        self.ongoing.push((until, fault));
    }

    async fn begin(&mut self, servers: &mut Servers) {
        let index = self.world.one_of(servers.len());
        let server = &mut servers[index];
        let node = self.world.below(self.cables.len());
        let cable = Arc::clone(&self.cables[node]);
        let name = cable.machine.id().clone();
        let note = |what: &str| self.world.note(format_args!("{name} {what}"));
        match self.world.below(12) {
            0 | 1 => {
                if let Some(server) = server.take() {
                    server.crash();
                    self.world.disturb_for(Part::Server, MOVES_WITHIN);
                    self.last(Ongoing::ServerDown(index), 0, 40_000);
                }
            }
            2 => {
                if let Some(server) = server.take() {
                    server.stop().await;
                    self.world.disturb_for(Part::Server, MOVES_WITHIN);
                    self.last(Ongoing::ServerDown(index), 0, 10_000);
                }
            }
            3 | 4 if cable.machine.is_up() => {
                note("agent crashes");
                cable.machine.crash();
                self.last(Ongoing::AgentDown(node), 50, 45_000);
            }
            5 if cable.machine.is_up() => {
                note("loses power");
                cable.machine.lose_power();
                self.last(Ongoing::AgentDown(node), 1_000, 45_000);
            }
            6 => {
                note("becomes slow");
                cable.machine.set_slow(true);
                self.last(Ongoing::Slow(node), 2_000, 30_000);
            }
            7 | 8 => {
                let (requests, answers) =
                    [(true, true), (true, false), (false, true)][self.world.below(3)];
                note(&format!(
                    "is cut off, requests {requests}, answers {answers}"
                ));
                cable.set(requests, answers);
                self.last(Ongoing::Cut(node), 500, 60_000);
            }
            9 => {
                self.world.note("store goes down");
                self.database.set_down(true);
                self.last(Ongoing::StoreDown, 100, 8_000);
            }
            10 => self.jump(),
            _ => {
                let index = self.world.below(64);
                if let Some(id) = cable.machine.end_one(index) {
                    note(&format!("{id} ends by itself"));
                }
            }
        }
    }

    fn jump(&self) {
        /// A second, a minute, two hours: less than any timer, more, and more than most lives.
        const JUMPS: [i64; 6] = [1, -1, 60, -60, 7_200, -7_200];
        let by = JUMPS[self.world.below(JUMPS.len())];
        self.world.note(format_args!("wall clock jumps by {by} s"));
        self.world.jump(by);
        self.world.disturb(Part::WallClock);
    }

    async fn end(&mut self, fault: Ongoing, servers: &mut Servers) {
        self.world.note(format_args!("{fault:?} ends"));
        match fault {
            Ongoing::AgentDown(node) => {
                let cable = &self.cables[node];
                if !cable.machine.is_up() {
                    cable.machine.start();
                    for server in servers.iter().flatten() {
                        server.admit(cable);
                    }
                }
            }
            Ongoing::Slow(node) => self.cables[node].machine.set_slow(false),
            Ongoing::Cut(node) => self.cables[node].set(false, false),
            Ongoing::StoreDown => self.database.set_down(false),
            Ongoing::ServerDown(index) => self.start(index, servers).await,
        }
        self.stamp(servers);
        match fault {
            Ongoing::AgentDown(node) | Ongoing::Slow(node) | Ongoing::Cut(node) => {
                self.cables[node].disturb();
            }
            Ongoing::StoreDown => self.world.disturb(Part::Store),
            Ongoing::ServerDown(_) => {}
        }
    }

    /// Notes what is disturbed at this step.
    fn stamp(&self, servers: &Servers) {
        if servers.iter().all(Option::is_none) {
            self.world.disturb(Part::Server);
        }
        if self.database.is_down() {
            self.world.disturb(Part::Store);
        }
        for cable in self.cables.iter().filter(|cable| cable.is_troubled()) {
            cable.disturb();
        }
    }
}

/// How long a run waits between steps: mostly moments, at times long enough for timers to pass.
pub(crate) fn pause(world: &World) -> Duration {
    if world.happens(50) {
        world.millis(5_000, 40_000)
    } else {
        world.millis(0, 800)
    }
}
