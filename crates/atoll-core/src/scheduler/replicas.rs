//! Several control planes that decide at once, each on its own late view of the same nodes: a model
//! to test and to measure with.
//!
//! Each replica has a [`Fleet`]. What it places itself it knows at once; what the others place it
//! learns from the nodes' heartbeats, which come once in a period. A node admits or refuses by its
//! own exact account. A replica whose decision is refused takes the next alternative, so often at
//! most; a create that found nothing comes back after a second, so often at most.
//!
//! There is no clock and no chance in it but the seed's: the same setup gives the same outcome.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use super::amount::{Amount, Dimension};
use super::decision::Decision;
use super::fleet::{Config, Fleet, Holding};
use super::node::Node;
use super::policy::Policy;
use super::request::Request;
use super::seed::Draws;
use crate::id::NodeId;
use crate::node::NodeState;
use crate::time::Timestamp;

/// Nodes that one attempt asks at most: the choice and all alternatives that a decision carries.
pub const NODES_ASKED_MAX: u32 = 9;

/// Attempts of a create at most: what a patient client waits for.
pub const ATTEMPTS_MAX: u32 = 20;

/// The time between two attempts: what a refusal tells the client to wait.
pub const RETRY: Duration = Duration::from_secs(1);

/// The way from a replica to a node, or back.
const WAY: Duration = Duration::from_millis(2);

/// How long a sandbox lives on average: from half to one and a half of it.
const LIFETIME_S: u32 = 30;

/// Each node's machine.
const MACHINE: Amount = Amount::new(16_000, 65_536, 1_000_000, 10_000);

/// Sizes of sandboxes, and how many in a hundred have them.
const SIZES: [(Amount, u32); 3] = [
    (Amount::new(1_000, 2_048, 1_024, 10), 60),
    (Amount::new(2_000, 4_096, 1_024, 10), 30),
    (Amount::new(2_000, 8_192, 1_024, 10), 10),
];

/// What is played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Control planes: 1 at least.
    pub replicas: usize,
    /// Nodes: 1 at least.
    pub nodes: usize,
    /// The time between two heartbeats of a node: how late a view is at most.
    pub stale: Duration,
    /// How nodes are chosen.
    pub policy: Policy,
    /// How full the fleet is once it is, in percent.
    pub fill_percent: u32,
    /// Creates in all.
    pub creates: u32,
    /// Whether a node that refuses tells what it has, as a heartbeat does.
    pub refusals_tell: bool,
    /// What sizes, lifetimes and choices are drawn by.
    pub seed: u64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Creates that found a place.
    pub placed: u32,
    /// Creates that were given up.
    pub refused: u32,
    /// Of those, how many although a node had room at that time.
    pub refused_with_room: u32,
    /// Attempts in all.
    pub attempts: u32,
    /// Creates by how many nodes refused them, in all attempts.
    pub retries: BTreeMap<u32, u32>,
    /// The most nodes that refused one attempt.
    pub retries_in_attempt_max: u32,
    /// How often a node held more than it has.
    pub over_capacity: u32,
    /// Whether all views were the truth in the end, when everything was told.
    pub has_converged: bool,
}

impl Outcome {
    /// Nodes that refused, for each create.
    #[must_use]
    pub fn retries_mean(&self) -> f64 {
        let sum: u64 = self
            .retries
            .iter()
            .map(|(retries, count)| u64::from(*retries) * u64::from(*count))
            .sum();
        sum as f64 / f64::from((self.placed + self.refused).max(1))
    }

    /// So many of a thousand creates were refused by no more nodes than this.
    #[must_use]
    pub fn retries_at(&self, permille: u32) -> u32 {
        let all = u64::from(self.placed) + u64::from(self.refused);
        let rank = (all * u64::from(permille)).div_ceil(1_000);
        let mut seen = 0;
        for (retries, count) in &self.retries {
            seen += u64::from(*count);
            if seen >= rank {
                return *retries;
            }
        }
        0
    }
}

/// A create on its way.
#[derive(Debug, Clone)]
struct Create {
    replica: usize,
    amount: Amount,
    attempts: u32,
    /// Nodes that refused it, in all attempts and in this one.
    retries: u32,
    asked: u32,
}

#[derive(Debug)]
enum Event {
    Ask(Create),
    /// A decision reaches its node.
    Order(Create, Box<Decision>),
    /// The node's answer is back.
    Answer(Create, Box<Decision>, bool),
    End {
        node: usize,
        number: u64,
    },
    /// The end is known to who placed it.
    Ended {
        replica: usize,
        node: usize,
        amount: Amount,
    },
    Beat {
        node: usize,
    },
}

/// A node as it is.
#[derive(Debug, Default)]
struct Machine {
    sandboxes: BTreeMap<u64, (usize, Amount)>,
    used: Amount,
}

/// What a replica knows.
#[derive(Debug)]
struct Replica {
    fleet: Fleet,
    /// What others have on each node.
    others: Vec<Amount>,
}

struct World<'a> {
    setup: &'a Setup,
    machines: Vec<Machine>,
    replicas: Vec<Replica>,
    /// By time, then in the order they were noted.
    due: BinaryHeap<Reverse<(Timestamp, u64)>>,
    events: BTreeMap<u64, Event>,
    noted: u64,
    now: Timestamp,
    draws: Draws,
    open: u32,
    outcome: Outcome,
}

/// Plays it.
#[must_use]
pub fn rehearse(setup: &Setup) -> Outcome {
    let mut world = World::new(setup);
    world.begin();
    while let Some(Reverse((at, number))) = world.due.pop() {
        world.now = at;
        if let Some(event) = world.events.remove(&number) {
            world.take(event);
        }
    }
    world.outcome.has_converged = world.has_converged();
    world.outcome
}

fn id(number: usize) -> NodeId {
    let name = format!("node-{number:05}");
    name.parse().expect("it is a slug")
}

fn holding(amount: Amount) -> Holding {
    Holding {
        amount,
        groups: Vec::new(),
    }
}

impl<'a> World<'a> {
    fn new(setup: &'a Setup) -> Self {
        let start = Timestamp::from_micros(0);
        // Long enough that no node is spared because it came lately.
        let now = start.saturating_add(Duration::from_secs(3_600));
        let replica = |_| {
            let mut fleet = Fleet::new(Config::default());
            for number in 0..setup.nodes {
                fleet.put_node(Node::new(id(number), MACHINE), start);
                fleet.set_state(&id(number), NodeState::Ready, start);
            }
            fleet.advance(now);
            Replica {
                fleet,
                others: vec![Amount::ZERO; setup.nodes],
            }
        };
        Self {
            setup,
            machines: (0..setup.nodes).map(|_| Machine::default()).collect(),
            replicas: (0..setup.replicas.max(1)).map(replica).collect(),
            due: BinaryHeap::new(),
            events: BTreeMap::new(),
            noted: 0,
            now,
            draws: Draws::new(setup.seed),
            open: setup.creates,
            outcome: Outcome::default(),
        }
    }

    fn note(&mut self, after: Duration, event: Event) {
        let at = self.now.saturating_add(after);
        self.noted += 1;
        self.due.push(Reverse((at, self.noted)));
        self.events.insert(self.noted, event);
    }

    /// Notes all creates and every node's first heartbeat.
    fn begin(&mut self) {
        let mut mean = [0_u64; 2];
        for (amount, percent) in SIZES {
            mean[0] += u64::from(amount.get(Dimension::Cpu)) * u64::from(percent);
            mean[1] += u64::from(amount.get(Dimension::Memory)) * u64::from(percent);
        }
        let room = |dimension| 100 * u64::from(MACHINE.get(dimension));
        let each = (room(Dimension::Cpu) / mean[0]).min(room(Dimension::Memory) / mean[1]);
        let nodes = u64::try_from(self.setup.nodes).unwrap_or(1);
        let running = (each * nodes * u64::from(self.setup.fill_percent) / 100).max(1);
        let gap_us = u64::from(LIFETIME_S) * 1_000_000 / running;
        let replicas = u32::try_from(self.replicas.len()).unwrap_or(1);
        for number in 0..self.setup.creates {
            let jitter = u64::from(self.draws.below(1_000)) * gap_us / 1_000;
            let after = Duration::from_micros(u64::from(number) * gap_us + jitter);
            let replica = self.draws.below(replicas) as usize;
            let amount = self.size();
            let create = Create {
                replica,
                amount,
                attempts: 0,
                retries: 0,
                asked: 0,
            };
            self.note(after, Event::Ask(create));
        }
        for node in 0..self.setup.nodes {
            let part = self.draws.below(1_000);
            self.note(self.setup.stale * part / 1_000, Event::Beat { node });
        }
    }

    fn size(&mut self) -> Amount {
        let mut drawn = self.draws.below(100);
        for (amount, percent) in SIZES {
            if drawn < percent {
                return amount;
            }
            drawn -= percent;
        }
        SIZES[0].0
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ask(create) => self.ask(create),
            Event::Order(create, decision) => self.order(create, decision),
            Event::Answer(create, decision, is_taken) => self.answer(create, decision, is_taken),
            Event::End { node, number } => self.end(node, number),
            Event::Ended {
                replica,
                node,
                amount,
            } => {
                let fleet = &mut self.replicas[replica].fleet;
                fleet.release(&id(node), &holding(amount));
            }
            Event::Beat { node } => self.beat(node),
        }
    }

    fn ask(&mut self, mut create: Create) {
        create.attempts += 1;
        create.asked = 0;
        self.outcome.attempts += 1;
        let seed = self.draw();
        let fleet = &mut self.replicas[create.replica].fleet;
        let request = request(create.amount);
        match fleet.decide(&request, &self.setup.policy, seed, self.now) {
            Ok(decision) => self.note(WAY, Event::Order(create, Box::new(decision))),
            Err(_) => self.come_back(create),
        }
    }

    fn draw(&mut self) -> u64 {
        u64::from(self.draws.below(u32::MAX))
    }

    /// The node decides by what it really has.
    fn order(&mut self, create: Create, decision: Box<Decision>) {
        let node = number(&decision.node);
        let machine = &mut self.machines[node];
        let used = machine.used.saturating_add(create.amount);
        let is_taken = used.fits_in(MACHINE);
        if is_taken {
            machine.used = used;
            self.noted += 1;
            let number = self.noted;
            let sandbox = (create.replica, create.amount);
            machine.sandboxes.insert(number, sandbox);
            let sum = machine.sandboxes.values();
            let sum = sum.fold(Amount::ZERO, |sum, (_, amount)| sum.saturating_add(*amount));
            self.outcome.over_capacity += u32::from(!sum.fits_in(MACHINE));
            let half = LIFETIME_S * 500;
            let lives = half + 2 * self.draws.below(half);
            let lives = Duration::from_millis(lives.into());
            self.note(lives, Event::End { node, number });
        } else if self.setup.refusals_tell {
            self.tell(node, create.replica);
        }
        self.note(WAY, Event::Answer(create, decision, is_taken));
    }

    fn answer(&mut self, mut create: Create, decision: Box<Decision>, is_taken: bool) {
        let seed = self.draw();
        let fleet = &mut self.replicas[create.replica].fleet;
        if is_taken {
            if let Some(reservation) = decision.reservation {
                fleet.commit(reservation, self.now);
            }
            self.outcome.placed += 1;
            return self.close(&create);
        }
        create.retries += 1;
        create.asked += 1;
        let asked = self.outcome.retries_in_attempt_max.max(create.asked);
        self.outcome.retries_in_attempt_max = asked;
        if create.asked >= NODES_ASKED_MAX {
            if let Some(reservation) = decision.reservation {
                fleet.cancel(reservation);
            }
            return self.come_back(create);
        }
        let request = request(create.amount);
        match fleet.next(*decision, &request, &self.setup.policy, seed, self.now) {
            Ok(decision) => self.note(WAY, Event::Order(create, Box::new(decision))),
            Err(_) => self.come_back(create),
        }
    }

    fn come_back(&mut self, create: Create) {
        if create.attempts < ATTEMPTS_MAX {
            return self.note(RETRY, Event::Ask(create));
        }
        let fits = |machine: &Machine| {
            let used = machine.used.saturating_add(create.amount);
            used.fits_in(MACHINE)
        };
        self.outcome.refused += 1;
        self.outcome.refused_with_room += u32::from(self.machines.iter().any(fits));
        self.close(&create);
    }

    fn close(&mut self, create: &Create) {
        self.open -= 1;
        *self.outcome.retries.entry(create.retries).or_default() += 1;
    }

    fn end(&mut self, node: usize, number: u64) {
        let machine = &mut self.machines[node];
        if let Some((replica, amount)) = machine.sandboxes.remove(&number) {
            machine.used = machine.used.saturating_sub(amount);
            let ended = Event::Ended {
                replica,
                node,
                amount,
            };
            self.note(WAY, ended);
        }
    }

    fn beat(&mut self, node: usize) {
        for replica in 0..self.replicas.len() {
            self.tell(node, replica);
        }
        // As long as anything may still change.
        if self.open > 0 || !self.machines[node].sandboxes.is_empty() {
            self.note(self.setup.stale, Event::Beat { node });
        }
    }

    /// A node tells a replica what others have there.
    fn tell(&mut self, node: usize, replica: usize) {
        let sandboxes = self.machines[node].sandboxes.values();
        let others = sandboxes.filter(|(owner, _)| *owner != replica);
        let others = others.fold(Amount::ZERO, |sum, (_, amount)| sum.saturating_add(*amount));
        let view = &mut self.replicas[replica];
        let before = std::mem::replace(&mut view.others[node], others);
        if before == others {
            return;
        }
        if before != Amount::ZERO {
            view.fleet.release(&id(node), &holding(before));
        }
        if others != Amount::ZERO {
            view.fleet.allocate(&id(node), &holding(others));
        }
    }

    fn has_converged(&self) -> bool {
        let is_true = |replica: &Replica, node: usize| {
            let account = replica.fleet.account(&id(node));
            account.is_some_and(|(_, used)| used == self.machines[node].used)
        };
        let nodes = 0..self.setup.nodes;
        self.replicas
            .iter()
            .all(|replica| nodes.clone().all(|node| is_true(replica, node)))
    }
}

fn request(amount: Amount) -> Request {
    Request {
        amount,
        ..Request::default()
    }
}

fn number(node: &NodeId) -> usize {
    let number = node.as_str().strip_prefix("node-");
    let number = number.and_then(|number| number.parse().ok());
    number.expect("all nodes are called so")
}
