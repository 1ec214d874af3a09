//! Ways to choose a node, on one and the same account of the fleet.

use atoll_core::scheduler::amount::{Amount, Dimension, SHARE_MAX, share};
use atoll_core::scheduler::fleet::{Fleet, Holding};
use atoll_core::scheduler::oracle::verdict;
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::score::{Term, Weights};
use atoll_core::time::Timestamp;
use rand::Rng as _;
use rand::rngs::StdRng;
use rand::seq::index::sample;
use serde::Serialize;

use crate::bench::workload;

/// Nodes that the published rule looks at.
const SAMPLE: usize = 3;

/// Samples that it draws before its client's patience is at an end: a second at a few ms each.
const DRAWS_MAX: usize = 10;

/// A way to choose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Contender {
    /// The best node by a walk over all of them, with the weights of `best_fit`.
    Oracle,
    /// Ours, packing.
    BestFit,
    /// Ours, spreading.
    LeastAllocated,
    /// Ours, spreading, rather where the template is.
    Weighted,
    /// The first node with room, in the order of their names.
    FirstFit,
    /// Any node with room.
    Random,
    /// The published rule of best of three: least cpu of three nodes drawn, with or without room;
    /// drawn again when the node refuses.
    BestOf3,
}

impl Contender {
    pub(super) const ALL: [Self; 7] = [
        Self::Oracle,
        Self::BestFit,
        Self::LeastAllocated,
        Self::Weighted,
        Self::FirstFit,
        Self::Random,
        Self::BestOf3,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Oracle => "oracle",
            Self::BestFit => "best_fit",
            Self::LeastAllocated => "least_allocated",
            Self::Weighted => "weighted",
            Self::FirstFit => "first_fit",
            Self::Random => "random",
            Self::BestOf3 => "best_of_3",
        }
    }

    fn policy(self) -> Policy {
        match self {
            Self::LeastAllocated => Policy::new(Strategy::LeastAllocated),
            Self::Weighted => Policy {
                preferences: Weights::of(&[(Term::Template, 20)]),
                ..Policy::new(Strategy::LeastAllocated)
            },
            Self::Oracle | Self::BestFit | Self::FirstFit | Self::Random | Self::BestOf3 => {
                Policy::new(Strategy::BestFit)
            }
        }
    }
}

/// A fleet in the hands of a contender.
pub(super) struct Placer {
    contender: Contender,
    policy: Policy,
    pub(super) fleet: Fleet,
    nodes: usize,
    random: StdRng,
}

impl Placer {
    pub(super) fn new(contender: Contender, fleet: Fleet, nodes: usize, random: StdRng) -> Self {
        Self {
            contender,
            policy: contender.policy(),
            fleet,
            nodes,
            random,
        }
    }

    /// Places a request and accounts for it. Answers the node's number; none: refused.
    pub(super) fn place(&mut self, request: &Request, now: Timestamp) -> Option<usize> {
        let node = match self.contender {
            Contender::BestFit | Contender::LeastAllocated | Contender::Weighted => {
                let seed = self.random.random();
                let decision = self.fleet.decide(request, &self.policy, seed, now).ok()?;
                let is_ours = self.fleet.commit(decision.reservation?, now);
                return is_ours.then(|| number(decision.node.as_str())).flatten();
            }
            Contender::Oracle => {
                let best = verdict(&self.fleet, request, &self.policy).best?;
                number(best.0.as_str())?
            }
            Contender::FirstFit => (0..self.nodes).find(|node| self.has_room(*node, request))?,
            Contender::Random => {
                let fitting = (0..self.nodes).filter(|node| self.has_room(*node, request));
                let fitting: Vec<_> = fitting.collect();
                (!fitting.is_empty())
                    .then(|| fitting[self.random.random_range(0..fitting.len())])?
            }
            Contender::BestOf3 => self.best_of_3(request)?,
        };
        let holding = Holding {
            amount: request.amount,
            groups: Vec::new(),
        };
        self.fleet.allocate(&workload::id(node), &holding);
        Some(node)
    }

    /// Whether any node has room.
    pub(super) fn has_any_room(&self, request: &Request) -> bool {
        (0..self.nodes).any(|node| self.has_room(node, request))
    }

    fn has_room(&self, node: usize, request: &Request) -> bool {
        let account = self.fleet.account(&workload::id(node));
        account.is_some_and(|(total, used)| used.saturating_add(request.amount).fits_in(total))
    }

    fn best_of_3(&mut self, request: &Request) -> Option<usize> {
        for _ in 0..DRAWS_MAX {
            let drawn = sample(&mut self.random, self.nodes, SAMPLE.min(self.nodes));
            let best = drawn.iter().min_by_key(|node| {
                let account = self.fleet.account(&workload::id(*node)).unwrap_or_default();
                let used = account.1.saturating_add(request.amount);
                // Its measured use adds at most half a core: nothing beside what is allocated.
                share(used.get(Dimension::Cpu), account.0.get(Dimension::Cpu))
            });
            if let Some(node) = best.filter(|node| self.has_room(*node, request)) {
                return Some(node);
            }
        }
        None
    }
}

fn number(name: &str) -> Option<usize> {
    name.strip_prefix("node-")?.parse().ok()
}

/// How a fleet looks at a moment.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    /// Nodes with any sandbox.
    pub(super) used_nodes: u32,
    /// Cpu and memory that are free behind a dimension too full for a sandbox of the middle size,
    /// of all cpu and memory: 0 to 1.
    pub(super) stranded: f64,
    /// The fullest node's share to the mean.
    pub(super) imbalance: f64,
}

/// Looks at a fleet.
pub(super) fn look(fleet: &Fleet, nodes: usize, middle: Amount) -> Look {
    let mut look = Look::default();
    let mut stranded = [0.0; 2];
    let mut totals = [0.0; 2];
    let mut shares = Vec::with_capacity(nodes);
    for number in 0..nodes {
        let account = fleet.account(&workload::id(number)).unwrap_or_default();
        let (total, used) = account;
        let sandboxes = fleet.sandboxes(&workload::id(number));
        look.used_nodes += u32::from(sandboxes.is_some_and(|(count, _)| count > 0));
        let is_closed = !used.saturating_add(middle).fits_in(total);
        for (at, dimension) in [Dimension::Cpu, Dimension::Memory].into_iter().enumerate() {
            let free = f64::from(total.get(dimension) - used.get(dimension));
            stranded[at] += if is_closed { free } else { 0.0 };
            totals[at] += f64::from(total.get(dimension));
        }
        let of = |d| share(used.get(d), total.get(d));
        let full = of(Dimension::Cpu).max(of(Dimension::Memory));
        shares.push(f64::from(full) / f64::from(SHARE_MAX));
    }
    look.stranded = (stranded[0] / totals[0] + stranded[1] / totals[1]) / 2.0;
    let most = shares.iter().copied().fold(0.0, f64::max);
    let mean = shares.iter().sum::<f64>() / f64::from(u32::try_from(nodes).unwrap_or(u32::MAX));
    look.imbalance = if mean > 0.0 { most / mean } else { 1.0 };
    look
}
