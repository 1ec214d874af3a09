//! Decisions.

use super::amount::Amount;
use super::bank::Lane;
use super::change::WAITING_MAX;
use super::constraint::{Constraint, Counts};
use super::decision::{Candidate, Change, Decision, NEAREST_MAX, Refusal};
use super::fleet::Fleet;
use super::judge::{Fall, judge, score};
use super::lanes::{FITS, whole};
use super::policy::{ALTERNATIVES_MAX, Policy, Strategy};
use super::query::{DIRECT_MAX, Query, ZONES_MAX};
use super::request::{EXCLUDED_MAX, Request};
use super::score::Score;
use super::seed::Draws;
use super::table::Table;
use super::tree::{CHUNK, Leaf, TOP_MAX, Top};
use crate::time::Timestamp;

/// Requests that are decided in one step, at most: what a caller may hold the fleet for.
pub(super) const BATCH_MAX: usize = 1_000;

/// Nodes that a decision looks at, at most, however large the fleet is and whatever was asked
/// before: those that changed, for each zone that counts a chunk of what its class has not seen and
/// the nodes that are out of the question, and those that have what only few have.
///
/// The one exception is a request of a kind that has no class and of which nothing fits in those
/// chunks. That nothing fits at all cannot be said before each node was looked at; the class
/// remembers it, and the next request of that kind is within the bound again.
pub const LOOKS_MAX: usize =
    WAITING_MAX + ZONES_MAX * (CHUNK as usize + DIRECT_MAX + EXCLUDED_MAX) + DIRECT_MAX + 1;

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
    /// Nodes that were looked at one by one.
    looks: usize,
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
        self.looks += found.looks as u64;
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
            unseen: unseen(table, &found),
            reservation: None,
            refused: Vec::new(),
        };
        Ok((chosen.slot, decision))
    }

    /// Asks the class, or one for each zone, and looks at the nodes that are better than it knows.
    ///
    /// A class that has not seen all nodes sees one chunk more, and is taken at its word if
    /// something fits: then so many nodes are as good as all. That nothing fits it can only say
    /// when it has seen the rest, once.
    fn ask(&mut self, query: &Query<'_>, policy: &Policy, draws: &mut Draws) -> Found {
        let found = self.ask_classes(query, policy, draws, false);
        if !found.ranked.as_slice().is_empty() || unseen(&self.table, &found) == 0 {
            return found;
        }
        self.looks += found.looks as u64;
        self.ask_classes(query, policy, draws, true)
    }

    /// With what the classes know now and one chunk more, or with all that they need until
    /// something fits.
    fn ask_classes(
        &mut self,
        query: &Query<'_>,
        policy: &Policy,
        draws: &mut Draws,
        is_thorough: bool,
    ) -> Found {
        let mut found = Found::default();
        let wanted = 1 + policy.alternatives.min(ALTERNATIVES_MAX);
        let mut zones = query.zones.iter().map(|(zone, _)| Some(*zone));
        let mut zone = zones.next().unwrap_or_default();
        loop {
            let at = self.classes.ask(&query.kind(zone), &mut self.table);
            self.classes.step(at, &self.table);
            if is_thorough {
                while !has_any(self.classes.lane(at), query) && self.classes.step(at, &self.table) {
                }
            }
            self.classes.hide(at, &query.hidden);
            found.looks += query.hidden.len();
            let class = self.classes.lane(at);
            account(class, query, &mut found);
            let mut best = match policy.strategy.sample() {
                Some(sample) => draw(class, query, policy.strategy, sample, wanted, draws),
                None => search(class, query, policy.tolerance, wanted, draws),
            };
            self.classes.show(at);
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
            found.looks += favour(&self.table, query, wanted, &mut found.ranked);
        }
        found
    }
}

/// Whether a class knows a node that fits and is not out of the question.
fn has_any(class: Lane<'_>, query: &Query<'_>) -> bool {
    let hidden = query.hidden.iter().filter(|slot| class.fits(**slot));
    class.fitting() as usize > hidden.count()
}

/// How many nodes nothing is known of yet: each of the others fits or has fallen.
fn unseen(table: &Table, found: &Found) -> u32 {
    let nodes = u32::try_from(table.nodes()).unwrap_or(u32::MAX);
    nodes.saturating_sub(found.counts.sum().saturating_add(found.fitting))
}

/// Takes over what a class counts, without the nodes that are out of the question.
fn account(class: Lane<'_>, query: &Query<'_>, found: &mut Found) {
    let mut counts = *class.counts();
    let mut fitting = class.fitting();
    for slot in &query.hidden {
        let fell = if query.excluded.contains(slot) {
            Constraint::Excluded
        } else if class.is_open(*slot) {
            Constraint::AntiAffinity
        } else {
            continue;
        };
        match class.fallen(*slot) {
            Some(constraint) => counts.subtract(constraint),
            None if class.fits(*slot) => fitting -= 1,
            None => continue,
        }
        counts.add(fell, 1);
    }
    found.counts.merge(&counts);
    found.fitting += fitting;
    if fitting > 0 {
        return;
    }
    let nearest = class.tree().top(TOP_MAX);
    for leaf in nearest.as_slice() {
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
    let top = tree.top(wanted);
    let fitting = top.as_slice().iter();
    let mut fitting = fitting.filter(|leaf| leaf.value >= FITS_WHOLE).peekable();
    let Some(first) = fitting.peek() else {
        return best;
    };
    let least = bare(**first)
        .value
        .saturating_sub(query.scale.part(tolerance));
    for leaf in fitting {
        best.append(scaled(*leaf, query));
    }
    if let Some(leaf) = tree.pick(FITS + least as f32, draws) {
        best.promote(scaled(leaf, query), wanted);
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
        !is_drawn && !query.is_hidden(slot)
    };
    let leaf = |slot| {
        let value = whole(class.tree().get(slot));
        scaled(Leaf { slot, value }, query)
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
        // They fit, and few are out of the question: this ends soon.
        for slot in all {
            if drawn.as_slice().len() == aim {
                break;
            }
            if is_new(&drawn, *slot) {
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

/// Looks at the nodes that are better than the class knows; answers at how many.
fn favour(table: &Table, query: &Query<'_>, wanted: usize, ranked: &mut Top) -> usize {
    let choice = ranked.as_slice().first().copied();
    let mut best: Option<Leaf> = None;
    let favoured = query.favoured();
    let looks = favoured.len();
    if looks == 0 {
        return 0;
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
    looks
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
    found.looks = holders.clone().count();
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

/// A leaf with its whole score, not only of what the class knows.
fn scaled(leaf: Leaf, query: &Query<'_>) -> Leaf {
    let Leaf { slot, value } = bare(leaf);
    let value = query.scale.whole(value);
    Leaf { slot, value }
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
