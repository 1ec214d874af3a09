//! Who is expected, and the room that is held for them.
//!
//! Each new sandbox is counted when it is asked for; what is held is planned anew each minute. What
//! was learnt, and the sandboxes that run, are taken over from the process before.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use atoll_core::id::{TeamId, TemplateId};
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::forecast::reserve::{Held, Reserve};
use atoll_core::scheduler::forecast::{self, Forecast, Key, Saved};
use atoll_core::scheduler::shares::Shares;
use atoll_core::scheduler::total::Total;
use atoll_core::time::Timestamp;
use tokio::time::Instant;

use crate::view::{ForecastView, SeriesView};

/// A sandbox that was counted when it came.
#[derive(Debug)]
pub(super) struct Came {
    pub(super) template: TemplateId,
    pub(super) at: Instant,
}

/// The forecast, and what is held by it.
#[derive(Debug)]
pub(super) struct Foresight {
    forecast: Forecast,
    reserve: Reserve,
    /// The teams that hold something or are expected.
    teams: BTreeSet<TeamId>,
    /// Their weights together.
    weights: u64,
}

impl Foresight {
    pub(super) fn new(config: forecast::Config) -> Self {
        Self {
            forecast: Forecast::new(config),
            reserve: Reserve::default(),
            teams: BTreeSet::new(),
            weights: 0,
        }
    }

    /// Lets time pass; plans anew once a minute. `fleet` is what all nodes may give away.
    pub(super) fn advance(&mut self, now: Timestamp, fleet: Total, shares: &Shares) {
        if !self.forecast.advance(now) {
            return;
        }
        let expected = self.forecast.keys().map(|key| &key.team);
        self.teams = expected.chain(shares.teams()).cloned().collect();
        let weights = self.teams.iter().map(|team| shares.weight(team));
        self.weights = weights.map(u64::from).sum();
        let room = |team: &TeamId| shares.guarantee(team, self.weights, fleet);
        self.reserve = self.forecast.plan(fleet, room);
    }

    /// One is asked for.
    pub(super) fn arrived(&mut self, key: &Key, amount: Amount, now: Timestamp, shares: &Shares) {
        if !self.teams.contains(&key.team) {
            self.teams.insert(key.team.clone());
            self.weights += u64::from(shares.weight(&key.team));
        }
        self.forecast.arrived(key, amount, now);
    }

    /// Whether what is free is not held for others.
    pub(super) fn ask(
        &self,
        key: &Key,
        amount: Amount,
        fleet: Total,
        shares: &Shares,
    ) -> Result<(), Held> {
        let free = fleet.saturating_sub(shares.held());
        let room = shares.guarantee(&key.team, self.weights, fleet);
        self.reserve.ask(key, amount, free, room)
    }

    /// The one that was asked for has its place.
    pub(super) fn placed(&mut self, key: &Key) {
        self.reserve.take(key);
    }

    /// The one that was asked for does not come.
    pub(super) fn refused(&mut self, key: &Key) {
        self.forecast.refused(key);
    }

    pub(super) fn ended(&mut self, key: &Key, lived: Duration) {
        self.forecast.ended(key, lived);
    }

    /// What was learnt.
    pub(super) fn save(&self) -> Vec<(Key, Saved)> {
        let series = self.forecast.save();
        series.map(|(key, saved)| (key.clone(), saved)).collect()
    }

    /// Takes over what was learnt before; answers how many series.
    pub(super) fn restore(&mut self, series: Vec<(Key, Saved)>) -> usize {
        let series = series.into_iter();
        let taken = series.filter(|(key, saved)| self.forecast.restore(key.clone(), saved));
        taken.count()
    }

    /// One runs that came before.
    pub(super) fn runs(&mut self, key: &Key) {
        self.forecast.runs(key);
    }

    /// What is known, those with most arrivals expected first: so many series at most.
    pub(super) fn view(&self, fleet: Total, limit: usize) -> ForecastView {
        let config = self.forecast.config();
        let held: BTreeMap<_, _> = self.reserve.holds().collect();
        let mut series: Vec<_> = self
            .forecast
            .keys()
            .filter_map(|key| {
                Some(SeriesView {
                    team: key.team.clone(),
                    template: key.template.clone(),
                    outlook: self.forecast.outlook(key)?,
                    held: held.get(key).map_or(0, |hold| hold.count),
                    pool: self.forecast.pool(&key.template, config.lead_minutes),
                })
            })
            .collect();
        series.sort_by(|a, b| b.outlook.expected.total_cmp(&a.outlook.expected));
        series.truncate(limit);
        ForecastView {
            lead_minutes: config.lead_minutes,
            reserve_percent: config.reserve_percent,
            fleet,
            held: self.reserve.total(),
            known: self.forecast.len(),
            series,
        }
    }
}
