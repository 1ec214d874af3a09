//! How many sandboxes will come in the next minutes, and what is held for them.
//!
//! # Method
//!
//! Arrivals of each team with each template are counted by the minute. Two things are kept of them:
//!
//! - a **profile** of the day in buckets of five minutes, each an exponentially weighted mean over
//!   the days: the seasonal part of additive exponential smoothing (P. R. Winters, "Forecasting
//!   sales by exponentially weighted moving averages", 1960), with the level left inside it;
//! - the **shift**: by how much the last minutes differed from the profile. It is expected to go on
//!   and to fade, as the first-order autoregressive correction of J. W. Taylor ("Short-term
//!   electricity demand forecasting using double seasonal exponential smoothing", 2003).
//!
//! The forecast of a minute is profile plus faded shift. A time of day that was not seen yet is
//! expected to be as the last minutes were (simple exponential smoothing).
//!
//! How far off it may be is measured, not assumed: the error over the lead (the time that a node or
//! a warm instance needs to come), squared, by what was expected. That is 1 for arrivals that come
//! by chance and independently, and more for those that come in bursts (the dispersion of a
//! quasi-Poisson model; `McCullagh` and Nelder, "Generalized linear models", 1989). It is kept for
//! the last half hour and for each hour of the day, and the larger one counts.
//!
//! What is held is what comes in the lead at the upper end of the interval, less those of the same
//! series that end meanwhile, and never more than its team's share leaves: [`reserve`].
//!
//! # What it is not
//!
//! It knows days, not weeks: a Monday after a quiet Sunday is forecast from Sunday and the last
//! minutes. It has no clock and draws nothing by chance: the same calls give the same forecast.
//!
//! # Bounds
//!
//! A series takes [`BYTES_PER_SERIES`] and there are at most [`SERIES_MAX`]: 4 MiB in all. Beyond,
//! the one without arrivals for longest is dropped. A minute costs one step for each series.

pub mod reserve;
pub mod series;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use self::reserve::{Hold, Reserve};
use self::series::Series;
use super::amount::Amount;
use super::total::Total;
use crate::id::{TeamId, TemplateId};
use crate::time::Timestamp;

pub use self::series::{BUCKETS, Expected, HOURS, LEAD_MAX, Saved};

/// Series that are kept: a thousand teams with two templates each.
pub const SERIES_MAX: usize = 2_048;

/// Bytes of a series with its name, at most.
pub const BYTES_PER_SERIES: usize = 2_048;

// The two ids are 64 bytes long at most.
const _: () = assert!(Series::BYTES + size_of::<Key>() + 2 * 64 < BYTES_PER_SERIES);

/// The largest part of the fleet that may be held, in percent, whatever is configured: a forecast
/// is no reason to leave half of it idle.
pub const RESERVE_PERCENT_MAX: u32 = 50;

/// The part of the fleet that may be held unless something else is configured, in percent.
pub const RESERVE_PERCENT: u32 = 10;

/// Warm instances of one template, at most: more than start on a node at a time on a dozen nodes.
pub const POOL_MAX: u32 = 1_000;

/// How many standard deviations above the mean are held: enough in 95 of 100 cases.
const MARGIN: f64 = 1.645;

/// Minutes that a series is watched before anything is held for it.
const WATCHED_MINUTES: u32 = 30;

/// A pause in the telling of time that is not taken for a silence: the process stood still.
const GAP_MINUTES: i64 = 10;

/// A series without arrivals for so long is forgotten: what comes weekly is still known.
const IDLE_MINUTES: i64 = 8 * 1_440;

/// What a forecast is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How long a node or a warm instance takes to come, in minutes: 1 to [`LEAD_MAX`].
    pub lead_minutes: usize,
    /// The largest part of the fleet that is held, in percent: up to [`RESERVE_PERCENT_MAX`].
    pub reserve_percent: u32,
    /// Series that are kept: up to [`SERIES_MAX`].
    pub series_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lead_minutes: 5,
            reserve_percent: RESERVE_PERCENT,
            series_max: SERIES_MAX,
        }
    }
}

/// Which arrivals belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Whose.
    pub team: TeamId,
    /// From what.
    pub template: TemplateId,
}

/// What is known of a series, and what follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Outlook {
    /// Arrivals a minute, lately.
    pub level: f64,
    /// Arrivals a minute that this time of day usually sees; none: not seen yet.
    pub season: Option<f64>,
    /// By how much the last minutes differed from that.
    pub shift: f64,
    /// Arrivals that are expected over the lead.
    pub expected: f64,
    /// No fewer than these, in 95 of 100 cases.
    pub low: f64,
    /// No more than these, in 95 of 100 cases.
    pub high: f64,
    /// By how many the forecast over the lead was off, on average over the last half hour.
    pub error: f64,
    /// The mean size.
    pub size: Amount,
    /// The mean lifetime; none: nothing ended yet.
    pub lifetime: Option<Duration>,
    /// Those that run now.
    pub running: u32,
    /// All that ever came.
    pub arrivals: u64,
    /// Minutes that it was watched for.
    pub minutes: u32,
}

/// The series.
#[derive(Debug)]
pub struct Forecast {
    config: Config,
    series: BTreeMap<Key, Series>,
    /// The minute that is under way; none: no time was told yet.
    minute: Option<i64>,
}

impl Forecast {
    /// One that knows nothing. What is beyond the bounds of `config` is taken for the bound.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let config = Config {
            lead_minutes: config.lead_minutes.clamp(1, LEAD_MAX),
            reserve_percent: config.reserve_percent.min(RESERVE_PERCENT_MAX),
            series_max: config.series_max.clamp(1, SERIES_MAX),
        };
        Self {
            config,
            series: BTreeMap::new(),
            minute: None,
        }
    }

    /// What it was made with.
    #[must_use]
    pub const fn config(&self) -> Config {
        self.config
    }

    /// Lets time pass. Answers whether a new minute began: then it is time to
    /// [`Forecast::plan`] anew. Time that goes back is taken for standing still.
    pub fn advance(&mut self, now: Timestamp) -> bool {
        let now = now.as_micros().div_euclid(60_000_000);
        let Some(mut minute) = self.minute.replace(now) else {
            return true;
        };
        if now <= minute {
            self.minute = Some(minute);
            return false;
        }
        if now - minute > GAP_MINUTES {
            self.series.values_mut().for_each(Series::skip);
            minute = now;
        }
        while minute < now {
            for series in self.series.values_mut() {
                series.close(minute, self.config.lead_minutes);
            }
            minute += 1;
        }
        let oldest = now.saturating_sub(IDLE_MINUTES);
        self.series
            .retain(|_, series| series.running > 0 || series.newest >= oldest);
        true
    }

    /// A sandbox was asked for, whether it found room or not.
    pub fn arrived(&mut self, key: &Key, amount: Amount, now: Timestamp) {
        self.advance(now);
        let minute = self.minute.unwrap_or(0);
        if let Some(series) = self.series.get_mut(key) {
            return series.arrived(amount, minute);
        }
        self.make_room();
        let mut series = Series::new();
        series.arrived(amount, minute);
        self.series.insert(key.clone(), series);
    }

    /// One that had arrived found no room: it does not run.
    pub fn refused(&mut self, key: &Key) {
        if let Some(series) = self.series.get_mut(key) {
            series.running = series.running.saturating_sub(1);
        }
    }

    /// One ended after this time.
    pub fn ended(&mut self, key: &Key, lived: Duration) {
        if let Some(series) = self.series.get_mut(key) {
            series.ended(lived);
        }
    }

    /// One runs that had arrived before what was restored begins to count.
    pub fn runs(&mut self, key: &Key) {
        if let Some(series) = self.series.get_mut(key) {
            series.running = series.running.saturating_add(1);
        }
    }

    /// What to hold of a fleet of this size from this minute on. `room` says how much more a team
    /// may have until it has its share: nothing is held beyond, so that who asks for more and more
    /// does not take what is held from others.
    #[must_use]
    pub fn plan(&self, fleet: Total, room: impl Fn(&TeamId) -> Total) -> Reserve {
        let minute = self.minute.unwrap_or(0);
        let mut left: BTreeMap<&TeamId, Total> = BTreeMap::new();
        let needs = self.series.iter().map(|(key, series)| {
            let left = left.entry(&key.team).or_insert_with(|| room(&key.team));
            let each = series.size();
            let count = self.need(series, minute).min(left.holds(each));
            *left = left.saturating_sub(Total::times(each, count));
            (key.clone(), Hold { count, each })
        });
        Reserve::new(needs, fleet.percent(self.config.reserve_percent))
    }

    /// How many come more than end, in the lead, at the upper end of the interval.
    fn need(&self, series: &Series, minute: i64) -> u32 {
        if series.minutes < WATCHED_MINUTES {
            return 0;
        }
        let coming = series.expected(minute, self.config.lead_minutes);
        if coming.mean < f64::EPSILON {
            return 0;
        }
        let ending = series.ending(self.config.lead_minutes);
        // Those that end do so by chance and independently: their variance is their mean.
        let deviation = (coming.variance + ending).sqrt();
        series::whole(coming.mean - ending + MARGIN * deviation)
    }

    /// How many warm instances of a template are wanted if one takes so many minutes to make:
    /// what all teams together ask for in that time, at the upper end of the interval.
    #[must_use]
    pub fn pool(&self, template: &TemplateId, minutes: usize) -> u32 {
        let minute = self.minute.unwrap_or(0);
        let mut sum = Expected::default();
        for (_, series) in self
            .series
            .iter()
            .filter(|(key, _)| key.template == *template)
        {
            let coming = series.expected(minute, minutes);
            sum.mean += coming.mean;
            sum.variance += coming.variance;
        }
        series::whole((sum.mean + MARGIN * sum.variance.sqrt()).ceil()).min(POOL_MAX)
    }

    /// What is known of a series; none: nothing.
    #[must_use]
    pub fn outlook(&self, key: &Key) -> Option<Outlook> {
        let series = self.series.get(key)?;
        let minute = self.minute.unwrap_or(0);
        let Expected { mean, variance } = series.expected(minute, self.config.lead_minutes);
        let margin = MARGIN * variance.sqrt();
        let lifetime_s = series.lifetime_s();
        Some(Outlook {
            level: series.level(),
            season: series.season(minute),
            shift: series.shift(),
            expected: mean,
            low: (mean - margin).max(0.0),
            high: mean + margin,
            error: series.error(),
            size: series.size(),
            lifetime: (lifetime_s > 0.0)
                .then(|| Duration::try_from_secs_f64(lifetime_s).unwrap_or(Duration::MAX)),
            running: series.running,
            arrivals: series.arrivals,
            minutes: series.minutes,
        })
    }

    /// The series there are.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.series.keys()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// What outlives a restart.
    pub fn save(&self) -> impl Iterator<Item = (&Key, Saved)> {
        self.series.iter().map(|(key, series)| (key, series.save()))
    }

    /// Takes over what was saved. What is not sound is left out. Answers whether it was taken.
    pub fn restore(&mut self, key: Key, saved: &Saved) -> bool {
        let Some(series) = Series::restore(saved) else {
            return false;
        };
        self.make_room();
        self.series.insert(key, series);
        true
    }

    /// Drops the series without arrivals for longest if there is no room for one more.
    fn make_room(&mut self) {
        if self.series.len() < self.config.series_max {
            return;
        }
        let oldest = self.series.iter().min_by_key(|(_, series)| series.newest);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.series.remove(&key);
        }
    }
}
