//! Decisions.

use super::amount::Amount;
use super::bank::Lane;
use super::constraint::{Constraint, Counts};
use super::decision::{Candidate, Change, Decision, NEAREST_MAX, Refusal};
use super::fleet::Fleet;
use super::judge::{Fall, judge, score};
use super::lanes::{FITS, whole};
use super::policy::{ALTERNATIVES_MAX, Policy, Strategy};
use super::query::Query;
use super::request::Request;
use super::score::Score;
use super::seed::Draws;
use super::table::Table;
use super::tree::{Leaf, TOP_MAX, Top};
use crate::time::Timestamp;

/// Requests that are decided in one step, at most: what a caller may hold the fleet for.
pub(super) const BATCH_MAX: usize = 1_000;

/// [`FITS`] as the trees tell it.
const FITS_WHOLE: u32 = whole(FITS);

/// What the search found.
#[derive(Debug, Default)]
struct Found {
    /// Those that fit, best first; the first is the choice.
    ranked: Top,
    counts: Counts,
    fitting: u32,
    nearest: Nearest,
}

/// The nodes that lack nothing but room, and least of it.
#[derive(Debug, Clone, Copy, Default)]
struct Nearest {
    closeness: u32,
    slot: u32,
    nodes: u32,
}

impl Nearest {
    fn note(&mut self, slot: u32, closeness: u32, nodes: u32) {
        if closeness > self.closeness {
            *self = Self {
                closeness,
                slot,
                nodes,
            };
        } else if closeness == self.closeness && closeness > 0 {
            self.nodes = (self.nodes + nodes).min(NEAREST_MAX);
        }
    }
}

impl Fleet {
    /// Chooses a node and reserves its room.
    ///
    /// # Errors
    /// [`Refusal`] if no node fits.
    pub fn decide(
        &mut self,
        request: &Request,
        policy: &Policy,
        seed: u64,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let (slot, mut decision) = self.choose(request, policy, seed, now)?;
        decision.reservation = Some(self.reserve(slot, request.amount, &request.groups));
        Ok(decision)
    }

    /// What [`Fleet::decide`] would choose. Nothing is reserved.
    ///
    /// # Errors
    /// As there.
    pub fn preview(
        &mut self,
        request: &Request,
        policy: &Policy,
        seed: u64,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        let (_, decision) = self.choose(request, policy, seed, now)?;
        Ok(decision)
    }

    /// The node refused: gives its place back and takes the next alternative that still fits, which
    /// is one step. With none left, decides anew without the nodes that refused.
    ///
    /// # Errors
    /// As [`Fleet::decide`].
    pub fn next(
        &mut self,
        refused: Decision,
        request: &Request,
        policy: &Policy,
        seed: u64,
        now: Timestamp,
    ) -> Result<Decision, Refusal> {
        self.advance(now);
        if let Some(reservation) = refused.reservation {
            self.cancel(reservation);
        }
        let mut decision = refused;
        let node = decision.node.clone();
        decision.refused.push(node);
        let query = Query::new(&self.table, request, policy);
        while !decision.alternatives.is_empty() {
            let candidate = decision.alternatives.remove(0);
            let Some(slot) = self.table.slot(&candidate.node) else {
                continue;
            };
            let aside = query.aside(&self.table, slot);
            if query.excluded.contains(&slot) {
                continue;
            }
            if let Ok(score) = judge(&self.table, slot, &query.view(), aside) {
                decision.node = candidate.node;
                decision.score = score;
                decision.reservation = Some(self.reserve(slot, request.amount, &request.groups));
                return Ok(decision);
            }
        }
        let refused = std::mem::take(&mut decision.refused);
        let mut request = request.clone();
        // The newest first: only so many count.
        request.excluded.splice(0..0, refused.iter().rev().cloned());
        let mut decision = self.decide(&request, policy, seed, now)?;
        decision.refused = refused;
        Ok(decision)
    }

    /// Decides several requests, the largest first, each of which sees what those before it got.
    /// The answers are in the order of the requests; beyond 1,000 there is none.
    pub fn decide_batch(
        &mut self,
        requests: &[Request],
        policy: &Policy,
        seed: u64,
        now: Timestamp,
    ) -> Vec<Result<Decision, Refusal>> {
        let requests = &requests[..requests.len().min(BATCH_MAX)];
        let largest = requests.iter().fold(Amount::ZERO, |largest, request| {
            largest.zip(request.amount, u32::max)
        });
        let mut order: Vec<usize> = (0..requests.len()).collect();
        // Small ones fit into what large ones leave, not the other way round.
        order.sort_by_key(|at| {
            let share = requests[*at].amount.dominant_share(largest);
            (std::cmp::Reverse(share), *at)
        });
        let mut answers: Vec<Option<_>> = requests.iter().map(|_| None).collect();
        for (turn, at) in (0..).zip(order) {
            let answer = self.decide(&requests[at], policy, seed.wrapping_add(turn), now);
            answers[at] = Some(answer);
        }
        answers.into_iter().flatten().collect()
    }

    fn choose(
        &mut self,
        request: &Request,
        policy: &Policy,
        seed: u64,
        now: Timestamp,
    ) -> Result<(u32, Decision), Refusal> {
        self.advance(now);
        self.settle();
        let query = Query::new(&self.table, request, policy);
        let mut draws = Draws::new(seed);
        let found = match query.holders(&self.table) {
            Some(holders) => look_at(&self.table, &query, holders, policy, &mut draws),
            None => self.ask(&query, policy, &mut draws),
        };
        let table = &self.table;
        let Some(chosen) = found.ranked.as_slice().first() else {
            return Err(refusal(table, &found, request.amount));
        };
        let aside = query.aside(table, chosen.slot);
        let score = score(table, chosen.slot, &query.view(), aside);
        debug_assert_eq!(
            judge(table, chosen.slot, &query.view(), aside),
            Ok(score),
            "the class and the table disagree"
        );
        let others = found.ranked.as_slice().iter().skip(1);
        let alternatives = others.take(policy.alternatives).map(|leaf| Candidate {
            node: table.id(leaf.slot).clone(),
            score: leaf.value,
        });
        let decision = Decision {
            node: table.id(chosen.slot).clone(),
            score,
            alternatives: alternatives.collect(),
            strategy: policy.strategy,
            fitting: found.fitting,
            counts: found.counts,
            reservation: None,
            refused: Vec::new(),
        };
        Ok((chosen.slot, decision))
    }

    /// Asks the class, or one for each zone, and looks at the nodes that are better than it knows.
    fn ask(&mut self, query: &Query<'_>, policy: &Policy, draws: &mut Draws) -> Found {
        let mut found = Found::default();
        let wanted = 1 + policy.alternatives.min(ALTERNATIVES_MAX);
        let mut zones = query.zones.iter().map(|(zone, _)| Some(*zone));
        let mut zone = zones.next().unwrap_or_default();
        loop {
            let class = self.classes.ask(&query.kind(zone), &mut self.table);
            account(class, query, &mut found);
            let mut best = match policy.strategy.sample() {
                Some(sample) => draw(class, query, policy.strategy, sample, wanted, draws),
                None => search(class, query, policy.tolerance, wanted, draws),
            };
            if zone.is_some() {
                best = exactly(&self.table, query, &best);
            }
            merge(&mut found.ranked, &best, wanted);
            match zones.next() {
                Some(next) => zone = next,
                None => break,
            }
        }
        if policy.strategy != Strategy::Random {
            favour(&self.table, query, wanted, &mut found.ranked);
        }
        found
    }
}

/// Takes over what a class counts, without the nodes that are excluded.
fn account(class: Lane<'_>, query: &Query<'_>, found: &mut Found) {
    let mut counts = *class.counts();
    let mut fitting = class.fitting();
    for slot in &query.excluded {
        let fits = class.fits(*slot);
        match class.fallen(*slot) {
            Some(constraint) => counts.subtract(constraint),
            None if fits => fitting -= 1,
            None => continue,
        }
        counts.add(Constraint::Excluded, 1);
    }
    found.counts.merge(&counts);
    found.fitting += fitting;
    if fitting > 0 {
        return;
    }
    let nearest = class.tree().top(TOP_MAX);
    let nearest = nearest.as_slice().iter();
    for leaf in nearest.filter(|leaf| !query.excluded.contains(&leaf.slot)) {
        found.nearest.note(leaf.slot, leaf.value, 1);
    }
}

/// The best of a class: the first one by chance among those that are as good as the best.
fn search(
    class: Lane<'_>,
    query: &Query<'_>,
    tolerance: u32,
    wanted: usize,
    draws: &mut Draws,
) -> Top {
    let tree = class.tree();
    let mut best = Top::default();
    let top = tree.top(wanted + query.excluded.len());
    for leaf in top.as_slice() {
        if leaf.value >= FITS_WHOLE && !query.excluded.contains(&leaf.slot) {
            best.append(bare(*leaf));
        }
    }
    let Some(first) = best.as_slice().first() else {
        return best;
    };
    let least = first.value.saturating_sub(tolerance);
    let picked = tree.pick(FITS + least as f32, draws).map(bare);
    let picked = picked.filter(|leaf| !query.excluded.contains(&leaf.slot));
    let picked = picked.or_else(|| {
        let as_good = best.as_slice().iter().filter(|leaf| leaf.value >= least);
        let skip = draws.below(u32::try_from(as_good.clone().count()).unwrap_or(1));
        as_good.copied().nth(skip as usize)
    });
    if let Some(leaf) = picked {
        best.promote(leaf, wanted);
    }
    best
}

/// Nodes that fit, drawn by chance: the best of the sample first, then its rest, then more.
fn draw(
    class: Lane<'_>,
    query: &Query<'_>,
    strategy: Strategy,
    sample: u8,
    wanted: usize,
    draws: &mut Draws,
) -> Top {
    let members = class.members();
    let mut drawn = Top::default();
    let Ok(count) = u32::try_from(members.len()) else {
        return drawn;
    };
    let aim = wanted.max(usize::from(sample)).min(TOP_MAX);
    let is_new = |drawn: &Top, slot| {
        let is_drawn = drawn.as_slice().iter().any(|leaf| leaf.slot == slot);
        !is_drawn && !query.excluded.contains(&slot)
    };
    let leaf = |slot| {
        bare(Leaf {
            slot,
            value: whole(class.tree().get(slot)),
        })
    };
    if members.len() > 2 * aim {
        // Enough: the same one is seldom drawn twice.
        for _ in 0..2 * aim {
            let slot = members[draws.below(count) as usize];
            if drawn.as_slice().len() < aim && is_new(&drawn, slot) {
                drawn.append(leaf(slot));
            }
        }
    }
    if drawn.as_slice().is_empty() && count > 0 {
        let begin = draws.below(count) as usize;
        let all = members[begin..].iter().chain(&members[..begin]);
        for slot in all {
            if drawn.as_slice().len() < aim && is_new(&drawn, *slot) {
                drawn.append(leaf(*slot));
            }
        }
    }
    if strategy != Strategy::Random {
        drawn.rank(usize::from(sample));
    }
    drawn.truncate(wanted);
    drawn
}

/// The same nodes with all that counts for them, best first but for the first one's place.
fn exactly(table: &Table, query: &Query<'_>, best: &Top) -> Top {
    let mut exact = Top::default();
    for leaf in best.as_slice() {
        let aside = query.aside(table, leaf.slot);
        if let Ok(score) = judge(table, leaf.slot, &query.view(), aside) {
            exact.append(Leaf {
                slot: leaf.slot,
                value: score.total(),
            });
        }
    }
    exact
}

/// Takes in another zone's best: its first one is the choice if it is better than the choice.
fn merge(ranked: &mut Top, other: &Top, wanted: usize) {
    let Some(first) = other.as_slice().first() else {
        return;
    };
    let choice = match ranked.as_slice().first() {
        None => {
            *ranked = *other;
            return;
        }
        Some(choice) if choice.value >= first.value => *choice,
        Some(_) => *first,
    };
    for leaf in other.as_slice() {
        ranked.push(wanted, *leaf);
    }
    ranked.rank(TOP_MAX);
    ranked.promote(choice, wanted);
}

/// Looks at the nodes that are better than the class knows.
fn favour(table: &Table, query: &Query<'_>, wanted: usize, ranked: &mut Top) {
    let choice = ranked.as_slice().first().copied();
    let mut best: Option<Leaf> = None;
    let favoured = query.favoured();
    if favoured.is_empty() {
        return;
    }
    for slot in favoured {
        let aside = query.aside(table, slot);
        let Ok(score) = judge(table, slot, &query.view(), aside) else {
            continue;
        };
        let leaf = Leaf {
            slot,
            value: score.total(),
        };
        ranked.remove(slot);
        ranked.push(wanted, leaf);
        if best.is_none_or(|best| best.value < leaf.value) {
            best = Some(leaf);
        }
    }
    ranked.rank(TOP_MAX);
    // Who was chosen by chance stays, unless one of these is better or is it.
    let stays = choice.filter(|choice| best.is_none_or(|best| best.value <= choice.value));
    if let Some(choice) = stays {
        let now = ranked.as_slice().iter().find(|l| l.slot == choice.slot);
        let choice = now.copied().unwrap_or(choice);
        ranked.promote(choice, wanted);
    }
}

/// Looks at each of a few nodes, the only ones that have what must be there.
fn look_at(
    table: &Table,
    query: &Query<'_>,
    holders: &[u32],
    policy: &Policy,
    draws: &mut Draws,
) -> Found {
    let mut found = Found {
        counts: query.excluded_counts(),
        ..Found::default()
    };
    let holders = holders.iter().filter(|slot| !query.excluded.contains(slot));
    let others = table.nodes() - query.excluded.len() - holders.clone().count();
    let others = u32::try_from(others).unwrap_or(u32::MAX);
    found.counts.add(Constraint::Artifact, others);
    let mut fitting = Vec::new();
    for slot in holders {
        match judge(table, *slot, &query.view(), query.aside(table, *slot)) {
            Ok(score) => fitting.push(Leaf {
                slot: *slot,
                value: score.total(),
            }),
            Err(fall) => {
                found.counts.add(fall.constraint, 1);
                found.nearest.note(*slot, fall.closeness, 1);
            }
        }
    }
    found.fitting = u32::try_from(fitting.len()).unwrap_or(u32::MAX);
    found.ranked = rank(fitting, policy, draws);
    found
}

/// Ranks nodes as the strategy does.
fn rank(mut fitting: Vec<Leaf>, policy: &Policy, draws: &mut Draws) -> Top {
    let wanted = 1 + policy.alternatives.min(ALTERNATIVES_MAX);
    let mut ranked = Top::default();
    if let Some(sample) = policy.strategy.sample() {
        while let Ok(count) = u32::try_from(fitting.len())
            && count > 0
            && ranked.as_slice().len() < wanted.max(usize::from(sample))
        {
            ranked.append(fitting.swap_remove(draws.below(count) as usize));
        }
        if policy.strategy != Strategy::Random {
            ranked.rank(usize::from(sample));
        }
        ranked.truncate(wanted);
        return ranked;
    }
    for leaf in &fitting {
        ranked.push(wanted, *leaf);
    }
    let best = ranked.as_slice().first().map_or(0, |leaf| leaf.value);
    let least = best.saturating_sub(policy.tolerance);
    fitting.retain(|leaf| leaf.value >= least);
    if let Ok(count) = u32::try_from(fitting.len())
        && count > 0
    {
        ranked.promote(fitting[draws.below(count) as usize], wanted);
    }
    ranked
}

/// A leaf with its score only.
const fn bare(leaf: Leaf) -> Leaf {
    Leaf {
        slot: leaf.slot,
        value: leaf.value.saturating_sub(FITS_WHOLE),
    }
}

fn refusal(table: &Table, found: &Found, needs: Amount) -> Refusal {
    let last = found.counts.iter().last();
    let lift = last.map(|(constraint, nodes)| Change::Lift { constraint, nodes });
    let nearest = found.nearest;
    let room = (nearest.closeness > 0).then(|| {
        let row = table.row(nearest.slot);
        Change::Room {
            needs,
            free: row.allocatable.saturating_sub(row.used),
            nodes: nearest.nodes.min(NEAREST_MAX),
        }
    });
    Refusal {
        counts: found.counts,
        smallest_change: room.or(lift),
    }
}

/// What a walk over all nodes says.
#[derive(Debug)]
pub(super) struct Walked {
    pub(super) best: Option<(u32, Score)>,
    pub(super) fitting: Vec<u32>,
    pub(super) counts: Counts,
}

/// Judges every node.
pub(super) fn walk(table: &Table, request: &Request, policy: &Policy) -> Walked {
    let query = Query::new(table, request, policy);
    let mut walked = Walked {
        best: None,
        fitting: Vec::new(),
        counts: Counts::default(),
    };
    for slot in table.all() {
        if table.cold(slot).is_none() {
            continue;
        }
        if query.excluded.contains(&slot) {
            walked.counts.add(Constraint::Excluded, 1);
            continue;
        }
        match judge(table, slot, &query.view(), query.aside(table, slot)) {
            Ok(score) => {
                walked.fitting.push(slot);
                let best = walked.best.map_or(0, |(_, best)| best.total());
                if walked.best.is_none() || score.total() > best {
                    walked.best = Some((slot, score));
                }
            }
            Err(Fall { constraint, .. }) => walked.counts.add(constraint, 1),
        }
    }
    walked
}
