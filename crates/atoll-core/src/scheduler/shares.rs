//! How a fleet that is too small is divided among teams.
//!
//! A team's share is what it would get if the fleet were divided by weight and what some leave of
//! their part went to the others: weighted max-min fairness on the dominant share, which is the
//! largest part that a team holds of any dimension (A. Ghodsi et al., "Dominant resource fairness",
//! NSDI 2011). Who waits is taken to want all that it may get, who does not to want what it has.
//! Nothing is taken from anybody. What changes is who gets what becomes free:
//!
//! - As long as nobody waits, nobody is limited.
//! - A team that stays within its share is never refused here. One that finds no room waits, and so
//!   does one that is refused here: its demand is remembered, and forgotten soon after it no longer
//!   asks.
//! - A team at its share or above is refused while another one below its share waits; one that
//!   would come above it, while another one waits that would not. Unless there is room for both.
//!
//! So what becomes free goes to those below their share, and as soon as enough has ended each has
//! its weighted max-min fair part, what others leave of theirs included, to within one sandbox on
//! average. That those wait as well who are refused here is what makes the leftovers exact: their
//! share grows as soon as another one has all it wants, and what is free next is theirs then.
//!
//! What it does not know: nodes. Room that is free in pieces too small for the one who waits counts
//! as taken: with each refusal the caller tells what was free, and only more than that is room.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use super::amount::{Amount, DIMENSIONS, Dimension};
use super::total::Total;
use crate::id::TeamId;
use crate::time::Timestamp;

/// A team's weight unless its operator sets another one.
pub const WEIGHT_DEFAULT: u32 = 1;

/// The largest weight: beyond, others' shares are too small to mean anything.
pub const WEIGHT_MAX: u32 = 1_000;

/// How long a team that found no room counts as waiting after it last asked: several times
/// [`RETRY`].
pub const WAIT: Duration = Duration::from_secs(15);

/// The time after which who was refused asks again: refusals in so long are as many requests.
pub const RETRY: Duration = Duration::from_secs(5);

/// Teams that are remembered as waiting: more at a time are served in no fairer way than those.
pub const WAITING_MAX: usize = 1_024;

/// How long shares hold before they are worked out again: a step over all teams, which must not
/// come with every request.
pub const LEVELS_TTL: Duration = Duration::from_millis(100);

/// What sums of shares may be off.
const ROUNDING: f64 = 1e-9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Wait {
    /// What was refused in the newest span of [`RETRY`] and in the one before it.
    unmet: [Total; 2],
    /// The newest request.
    last: Amount,
    /// When that was.
    at: Timestamp,
    /// What was free in the fleet when there was no room for it last.
    free: Total,
}

impl Wait {
    fn note(&mut self, amount: Amount, free: Option<Total>, now: Timestamp) {
        match span(now).saturating_sub(span(self.at)) {
            ..=0 => {}
            1 => self.unmet = [Total::ZERO, self.unmet[0]],
            2.. => self.unmet = [Total::ZERO; 2],
        }
        self.unmet[0] = self.unmet[0].saturating_add(amount.into());
        (self.last, self.at) = (amount, now);
        self.free = free.unwrap_or(self.free);
    }

    fn unmet(&self) -> Total {
        self.unmet[0].zip(self.unmet[1], u64::max)
    }
}

fn span(at: Timestamp) -> i64 {
    let retry = i64::try_from(RETRY.as_micros()).unwrap_or(i64::MAX);
    at.as_micros().div_euclid(retry)
}

/// How much of the fleet's dominant resource a weight of one gets, by the dimension that is short.
type Levels = [f64; DIMENSIONS];

/// What the teams hold and wait for.
#[derive(Debug, Default)]
pub struct Shares {
    /// Only weights that are not the default.
    weights: BTreeMap<TeamId, u32>,
    /// Only teams that hold something.
    held: BTreeMap<TeamId, Total>,
    waiting: BTreeMap<TeamId, Wait>,
    sum: Total,
    levels: Option<(Timestamp, Levels)>,
}

/// A refusal: the team has its share and others wait for theirs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct OverShare {
    /// Whose request.
    pub team: TeamId,
    /// The dimension it holds most of.
    pub dimension: Dimension,
    /// What it holds of that, in thousandths.
    pub holds_permille: u32,
    /// Its share, in thousandths.
    pub share_permille: u32,
    /// How many teams below their share wait.
    pub waiting: usize,
}

impl fmt::Display for OverShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |permille: u32| match permille % 10 {
            0 => format!("{} %", permille / 10),
            rest => format!("{}.{rest} %", permille / 10),
        };
        let (team, verb) = match self.waiting {
            1 => ("team", "waits"),
            _ => ("teams", "wait"),
        };
        write!(
            f,
            "team {} holds {} of the fleet's {}, its share is {} while {} other {team} {verb}",
            self.team,
            percent(self.holds_permille),
            self.dimension.as_str(),
            percent(self.share_permille),
            self.waiting,
        )
    }
}

/// How a team stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// Its weight.
    pub weight: u32,
    /// What it holds.
    pub held: Total,
    /// The dimension it holds most of.
    pub dimension: Dimension,
    /// What it holds of that, 0 to 1.
    pub holds: f64,
    /// Its share, 0 to 1; 1 while nobody waits.
    pub share: f64,
    /// What it waits for.
    pub unmet: Total,
}

impl Standing {
    /// Whether it is within its share with this as well.
    fn reaches_with(&self, amount: Amount, fleet: Total) -> bool {
        let after = unbounded(self.held.saturating_add(amount.into()), fleet);
        after <= self.share + ROUNDING
    }
}

impl Shares {
    /// None hold anything.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a team's weight: 1 to [`WEIGHT_MAX`]; what is beyond is taken for the bound.
    pub fn set_weight(&mut self, team: &TeamId, weight: u32) {
        match weight.clamp(1, WEIGHT_MAX) {
            WEIGHT_DEFAULT => self.weights.remove(team),
            weight => self.weights.insert(team.clone(), weight),
        };
        self.levels = None;
    }

    /// A team's weight.
    #[must_use]
    pub fn weight(&self, team: &TeamId) -> u32 {
        self.weights.get(team).copied().unwrap_or(WEIGHT_DEFAULT)
    }

    /// A team got something: it waits for that much less.
    pub fn take(&mut self, team: &TeamId, amount: Amount) {
        let amount = Total::from(amount);
        self.sum = self.sum.saturating_add(amount);
        let held = self.held.entry(team.clone()).or_default();
        *held = held.saturating_add(amount);
        if let Some(wait) = self.waiting.get_mut(team) {
            wait.unmet = wait.unmet.map(|unmet| unmet.saturating_sub(amount));
            if wait.unmet().is_zero() {
                self.waiting.remove(team);
                self.levels = None;
            }
        }
    }

    /// A team gave something back.
    pub fn give_back(&mut self, team: &TeamId, amount: Amount) {
        let Some(held) = self.held.get_mut(team) else {
            return;
        };
        let before = *held;
        *held = held.saturating_sub(amount.into());
        self.sum = self.sum.saturating_sub(before.saturating_sub(*held));
        if held.is_zero() {
            self.held.remove(team);
        }
    }

    /// A team below its share found no room. `free` is what the whole fleet had free then. To be
    /// told only of what would fit if there were more free: what never fits would hold up others
    /// for nothing.
    pub fn refused(&mut self, team: &TeamId, amount: Amount, free: Total, now: Timestamp) {
        self.wait(team, amount, Some(free), now);
    }

    /// A team waits from now on. `free`: what was too little; none: it is others' turn.
    fn wait(&mut self, team: &TeamId, amount: Amount, free: Option<Total>, now: Timestamp) {
        self.forget(now);
        if self.waiting.len() >= WAITING_MAX && !self.waiting.contains_key(team) {
            return;
        }
        if let Some(wait) = self.waiting.get_mut(team) {
            return wait.note(amount, free, now);
        }
        let wait = Wait {
            unmet: [amount.into(), Total::ZERO],
            last: amount,
            at: now,
            free: free.unwrap_or(Total::ZERO),
        };
        self.waiting.insert(team.clone(), wait);
        self.levels = None;
    }

    /// Whether a team may take this of a fleet of this size.
    ///
    /// # Errors
    /// [`OverShare`] if it has its share and others below theirs wait.
    pub fn ask(
        &mut self,
        team: &TeamId,
        amount: Amount,
        fleet: Total,
        now: Timestamp,
    ) -> Result<(), OverShare> {
        self.forget(now);
        if self.waiting.keys().all(|other| other == team) {
            return Ok(());
        }
        let levels = self.levels(fleet, now);
        let own = self.stand(team, fleet, &levels, now);
        if own.reaches_with(amount, fleet) {
            return Ok(());
        }
        let is_over = own.holds >= own.share;
        let (mut waiting, mut claims, mut stranded) = (0, Total::ZERO, Total::ZERO);
        for (other, wait) in self.waiting.iter().filter(|(other, _)| *other != team) {
            let standing = self.stand(other, fleet, &levels, now);
            let comes_first = if is_over {
                standing.holds < standing.share
            } else {
                standing.reaches_with(wait.last, fleet)
            };
            if comes_first {
                waiting += 1;
                claims = claims.saturating_add(claim(wait, &standing, fleet));
                stranded = stranded.zip(wait.free, u64::max);
            }
        }
        let free = fleet.saturating_sub(self.sum);
        let needed = claims
            .saturating_add(stranded)
            .saturating_add(amount.into());
        if waiting == 0 || needed.fits_in(free) {
            return Ok(());
        }
        self.wait(team, amount, None, now);
        Err(OverShare {
            team: team.clone(),
            dimension: own.dimension,
            holds_permille: permille(own.holds),
            share_permille: permille(own.share),
            waiting,
        })
    }

    /// How a team stands.
    #[must_use]
    pub fn standing(&self, team: &TeamId, fleet: Total, now: Timestamp) -> Standing {
        self.stand(team, fleet, &self.work_out(fleet, now), now)
    }

    /// How much more a team may have until it has its part, by weight, of a fleet that is divided
    /// among teams of these weights together.
    #[must_use]
    pub fn guarantee(&self, team: &TeamId, weights: u64, fleet: Total) -> Total {
        let weight = u128::from(self.weight(team));
        let part = fleet.zip(Total::ZERO, |whole, _| {
            let part = u128::from(whole) * weight / u128::from(weights.max(1));
            u64::try_from(part).unwrap_or(whole).min(whole)
        });
        let held = self.held.get(team).copied().unwrap_or_default();
        part.saturating_sub(held)
    }

    /// The teams that hold something or wait, with what they hold.
    pub fn teams(&self) -> impl Iterator<Item = &TeamId> {
        let others = self.waiting.keys();
        let waiting = others.filter(|team| !self.held.contains_key(*team));
        self.held.keys().chain(waiting)
    }

    /// How many teams wait.
    #[must_use]
    pub fn waiting(&self, now: Timestamp) -> usize {
        self.waiting
            .values()
            .filter(|wait| waits(wait, now))
            .count()
    }

    /// What all teams hold.
    #[must_use]
    pub const fn held(&self) -> Total {
        self.sum
    }

    fn forget(&mut self, now: Timestamp) {
        let before = self.waiting.len();
        self.waiting.retain(|_, wait| waits(wait, now));
        if self.waiting.len() != before {
            self.levels = None;
        }
    }

    fn stand(&self, team: &TeamId, fleet: Total, levels: &Levels, now: Timestamp) -> Standing {
        let held = self.held.get(team).copied().unwrap_or_default();
        let weight = self.weight(team);
        let unmet = self.waiting.get(team).filter(|wait| waits(wait, now));
        let unmet = unmet.map_or(Total::ZERO, Wait::unmet);
        let (dimension, holds) = held.dominant(fleet);
        // Only what it takes of can be short for it.
        let wanted = held.saturating_add(unmet);
        let short = Dimension::ALL.iter().filter(|d| wanted.get(**d) > 0);
        let level = short
            .map(|d| levels[d.index()])
            .fold(f64::INFINITY, f64::min);
        Standing {
            weight,
            held,
            dimension,
            holds,
            share: (level * f64::from(weight)).min(1.0),
            unmet,
        }
    }

    fn levels(&mut self, fleet: Total, now: Timestamp) -> Levels {
        if let Some((at, levels)) = self.levels
            && now.saturating_since(at) < LEVELS_TTL
        {
            return levels;
        }
        let levels = self.work_out(fleet, now);
        self.levels = Some((now, levels));
        levels
    }

    /// Divides the fleet: for each dimension the level at which the demands, cut to weight times
    /// level, take all of it.
    fn work_out(&self, fleet: Total, now: Timestamp) -> Levels {
        let mut stranded = Total::ZERO;
        let mut demands = Vec::with_capacity(self.held.len() + self.waiting.len());
        let mut is_short = false;
        for team in self.teams() {
            let mut wanted = self.held.get(team).copied().unwrap_or_default();
            let wait = self.waiting.get(team).filter(|wait| waits(wait, now));
            if let Some(wait) = wait {
                wanted = wanted.saturating_add(wait.unmet());
                stranded = stranded.zip(wait.free, u64::max);
                is_short = true;
            }
            let ratio = unbounded(wanted, fleet) / f64::from(self.weight(team));
            if ratio > 0.0 {
                demands.push(Demand {
                    held: wanted,
                    slope: wanted.values().map(|value| value as f64 / ratio),
                    ratio: if wait.is_some() { f64::INFINITY } else { ratio },
                });
            }
        }
        if !is_short {
            return [f64::INFINITY; DIMENSIONS];
        }
        demands.sort_by(|a, b| a.ratio.total_cmp(&b.ratio));
        let whole = fleet.saturating_sub(stranded);
        Dimension::ALL.map(|dimension| level(&demands, dimension, whole.get(dimension)))
    }
}

fn waits(wait: &Wait, now: Timestamp) -> bool {
    now.saturating_since(wait.at) < WAIT
}

/// What a team wants.
struct Demand {
    /// What it has; of one that waits, and wants all it may get, this does not matter.
    held: Total,
    /// How fast its part of each dimension grows with the level.
    slope: [f64; DIMENSIONS],
    /// The level at which it has what it wants.
    ratio: f64,
}

/// The dominant share without a bound: what is wanted may be more than there is.
fn unbounded(wanted: Total, fleet: Total) -> f64 {
    let part = |dimension| {
        let whole = fleet.get(dimension).max(1) as f64;
        wanted.get(dimension) as f64 / whole
    };
    Dimension::ALL.map(part).into_iter().fold(0.0, f64::max)
}

/// The level at which demands, each cut to it by its ratio, take `whole` of a dimension; the
/// demands come with the smallest ratio first.
fn level(demands: &[Demand], dimension: Dimension, whole: u64) -> f64 {
    let whole = whole as f64;
    let index = dimension.index();
    // Those that are met entirely, and how fast all others grow with the level.
    let mut met = 0.0;
    for (position, demand) in demands.iter().enumerate() {
        let growth: f64 = demands[position..].iter().map(|d| d.slope[index]).sum();
        if growth > 0.0 && met + growth * demand.ratio > whole {
            return (whole - met).max(0.0) / growth;
        }
        met += demand.held.get(dimension) as f64;
    }
    f64::INFINITY
}

/// What is to be left free for one that waits: what it wants, up to its share, and at least its
/// newest request.
fn claim(wait: &Wait, standing: &Standing, fleet: Total) -> Total {
    let wanted = unbounded(standing.unmet, fleet);
    let missing = (standing.share - standing.holds).max(0.0);
    let part = if wanted > missing {
        missing / wanted
    } else {
        1.0
    };
    let claim = standing.unmet.scaled(part);
    claim.zip(wait.last.into(), u64::max)
}

fn permille(part: f64) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and 1,000"
    )]
    let permille = (part.clamp(0.0, 1.0) * 1_000.0).round() as u32;
    permille
}
