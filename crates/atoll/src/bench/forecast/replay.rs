//! A trace on a fleet that is too small for it at times, with room held in different ways.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use atoll_core::id::{NodeId, TeamId};
use atoll_core::node::NodeState;
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::fleet::{Config, Fleet, Holding};
use atoll_core::scheduler::forecast::reserve::Reserve;
use atoll_core::scheduler::forecast::{self, Forecast, Key};
use atoll_core::scheduler::node::{Node, Overcommit};
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::shares::Shares;
use atoll_core::scheduler::total::Total;
use atoll_core::time::Timestamp;

use super::source::{Draws, SOURCES};
use super::trace::Trace;
use crate::bench::workload;

/// Each node's machine.
const MACHINE: Amount = Amount::new(16_000, 65_536, 1_000_000, 10_000);

const MINUTE_US: u32 = 60_000_000;

/// How room is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Way {
    /// Not at all.
    None,
    /// As forecast.
    Forecast(forecast::Config),
    /// Always this much, for all who are awaited.
    Constant(Total),
}

/// What came out, of the days that count.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Outcome {
    pub(super) arrived: [u32; SOURCES.len()],
    pub(super) refused: [u32; SOURCES.len()],
    /// The part of the fleet that was held, 0 to 1.
    pub(super) held_mean: f64,
    pub(super) held_max: f64,
    /// What was held, on average.
    pub(super) held: Total,
    /// The part of the fleet that was in use.
    pub(super) used_mean: f64,
}

/// A sandbox that runs, in the order of its end.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Running {
    ends_at: i64,
    /// So that equal ends have an order.
    number: u64,
    source: usize,
    node: NodeId,
    lives_us: u64,
}

struct Replay {
    way: Way,
    fleet: Fleet,
    policy: Policy,
    total: Total,
    shares: Shares,
    running: BinaryHeap<Reverse<Running>>,
    forecast: Option<Forecast>,
    reserve: Reserve,
    keys: Vec<Key>,
    placed: u64,
}

impl Replay {
    fn new(nodes: usize, way: Way) -> Self {
        let mut fleet = Fleet::new(Config::default());
        let start = Timestamp::from_micros(0);
        let mut total = Total::ZERO;
        for number in 0..nodes {
            let mut node = Node::new(workload::id(number), MACHINE);
            node.overcommit = Overcommit::new(400, 100, 100, 100);
            total = total.saturating_add(node.allocatable().into());
            fleet.put_node(node, start);
            fleet.set_state(&workload::id(number), NodeState::Ready, start);
        }
        let mut shares = Shares::new();
        let keys = SOURCES.iter().map(|source| {
            let team: TeamId = source.name.parse().expect("it is a slug");
            shares.set_weight(&team, source.weight);
            let template = source.template.parse().expect("it is lower case");
            Key { team, template }
        });
        let keys = keys.collect();
        Self {
            way,
            fleet,
            policy: Policy::new(Strategy::BestFit),
            total,
            shares,
            running: BinaryHeap::new(),
            forecast: match way {
                Way::Forecast(config) => Some(Forecast::new(config)),
                Way::None | Way::Constant(_) => None,
            },
            reserve: Reserve::default(),
            keys,
            placed: 0,
        }
    }

    fn free(&self) -> Total {
        self.total.saturating_sub(self.shares.held())
    }

    fn guarantee(&self, team: &TeamId) -> Total {
        self.shares.guarantee(team, weights(), self.total)
    }

    fn advance(&mut self, now: Timestamp) {
        while let Some(Reverse(first)) = self.running.peek()
            && first.ends_at <= now.as_micros()
            && let Some(Reverse(ended)) = self.running.pop()
        {
            let amount = SOURCES[ended.source].amount;
            let holding = Holding {
                amount,
                groups: Vec::new(),
            };
            self.fleet.release(&ended.node, &holding);
            let key = &self.keys[ended.source];
            self.shares.give_back(&key.team, amount);
            if let Some(forecast) = &mut self.forecast {
                forecast.ended(key, Duration::from_micros(ended.lives_us));
            }
        }
        if let Some(forecast) = &mut self.forecast
            && forecast.advance(now)
        {
            let (shares, total) = (&self.shares, self.total);
            let room = |team: &TeamId| shares.guarantee(team, weights(), total);
            self.reserve = forecast.plan(total, room);
        }
    }

    /// Answers whether it found room.
    fn arrive(&mut self, source: usize, lives_us: u64, seed: u64, now: Timestamp) -> bool {
        let amount = SOURCES[source].amount;
        let free = self.free();
        let key = &self.keys[source];
        let may_take = match self.way {
            Way::None => true,
            Way::Forecast(_) => {
                let room = self.guarantee(&key.team);
                self.reserve.ask(key, amount, free, room).is_ok()
            }
            Way::Constant(held) => {
                let needed = Total::from(amount).saturating_add(held);
                SOURCES[source].is_awaited || needed.fits_in(free)
            }
        };
        if let Some(forecast) = &mut self.forecast {
            forecast.arrived(key, amount, now);
        }
        let request = Request {
            amount,
            ..Request::default()
        };
        let decision = may_take
            .then(|| self.fleet.decide(&request, &self.policy, seed, now).ok())
            .flatten();
        let Some(decision) = decision else {
            if let Some(forecast) = &mut self.forecast {
                forecast.refused(key);
            }
            return false;
        };
        if let Some(reservation) = decision.reservation {
            self.fleet.commit(reservation, now);
        }
        self.shares.take(&key.team, amount);
        self.reserve.take(key);
        self.placed += 1;
        self.running.push(Reverse(Running {
            ends_at: now
                .saturating_add(Duration::from_micros(lives_us))
                .as_micros(),
            number: self.placed,
            source,
            node: decision.node,
            lives_us,
        }));
        true
    }

    fn held(&self) -> Total {
        match self.way {
            Way::Constant(held) => held,
            Way::None | Way::Forecast(_) => self.reserve.total(),
        }
    }
}

/// Of all teams together.
fn weights() -> u64 {
    SOURCES.iter().map(|source| u64::from(source.weight)).sum()
}

/// Replays a trace on so many nodes; what comes before the minute `counted_from` is not counted.
pub(super) fn replay(trace: &Trace, nodes: usize, way: Way, counted_from: usize) -> Outcome {
    let mut replay = Replay::new(nodes, way);
    let mut outcome = Outcome::default();
    // Order and lifetimes are the same whatever is held.
    let mut draws = Draws::new(7);
    let mut minutes = 0_u32;
    let begun = workload::begun().as_micros();
    for (minute, counts) in trace.minutes().iter().enumerate() {
        let first = i64::try_from(minute).unwrap_or(0) * i64::from(MINUTE_US);
        // Days begin at midnight: `begun` is an hour that nobody sees.
        let at = |us: u32| {
            let passed = first + i64::from(us);
            Timestamp::from_micros(begun + 23 * 60 * i64::from(MINUTE_US) + passed)
        };
        let mut arrivals = Vec::new();
        for (source, count) in counts.iter().enumerate() {
            let half = SOURCES[source].lives_minutes * MINUTE_US / 2;
            for _ in 0..*count {
                let lives = u64::from(half) + u64::from(draws.below(half)) * 2;
                arrivals.push((draws.below(MINUTE_US), source, lives, draws.below(u32::MAX)));
            }
        }
        arrivals.sort_unstable();
        replay.advance(at(0));
        let is_counted = minute >= counted_from;
        for (us, source, lives, seed) in arrivals {
            replay.advance(at(us));
            let is_placed = replay.arrive(source, lives, seed.into(), at(us));
            outcome.arrived[source] += u32::from(is_counted);
            outcome.refused[source] += u32::from(is_counted && !is_placed);
        }
        if is_counted {
            let held = replay.held();
            let part = held.dominant(replay.total).1;
            outcome.held_mean += part;
            outcome.held_max = outcome.held_max.max(part);
            outcome.held = outcome.held.saturating_add(held);
            outcome.used_mean += replay.shares.held().dominant(replay.total).1;
            minutes += 1;
        }
    }
    let count = f64::from(minutes.max(1));
    outcome.held_mean /= count;
    outcome.used_mean /= count;
    outcome.held = outcome
        .held
        .zip(Total::ZERO, |sum, _| sum / u64::from(minutes.max(1)));
    outcome
}
