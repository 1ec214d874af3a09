//! What is known of the arrivals of one team with one template.

use std::time::Duration;

use crate::scheduler::amount::{Amount, DIMENSIONS};

/// Minutes of a bucket of the day: short enough for what comes by a timetable, long enough that a
/// few arrivals an hour are not taken for one.
pub(super) const BUCKET_MINUTES: i64 = 5;

/// Buckets of a day.
pub const BUCKETS: usize = 288;

/// Hours of a day, each with its own spread.
pub const HOURS: usize = 24;

/// Minutes that a forecast may look ahead, at most.
pub const LEAD_MAX: usize = 15;

const DAY_MINUTES: i64 = 1_440;

/// How much a day's bucket counts beside all days before it: three days back it is a fifth.
const DAY_WEIGHT: f64 = 0.4;

/// How much a minute counts beside those before it: it follows in ten minutes.
const MINUTE_WEIGHT: f64 = 0.1;

/// What is left of a deviation a minute later: half of it after seven minutes.
const FADE: f64 = 0.9;

/// How much a minute counts for the spread and the error: half an hour's worth.
const ERROR_WEIGHT: f64 = 1.0 / 30.0;

/// How much one arrival counts for the size, one end for the lifetime.
const SAMPLE_WEIGHT: f64 = 1.0 / 16.0;

/// What stands for a bucket or an hour that was not seen yet.
const UNSEEN: f32 = -1.0;

/// Arrivals that a minute counts, at most.
const COUNT_MAX: u32 = u16::MAX as u32;

/// The mean of a run of minutes that is not over yet.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Running {
    sum: f64,
    minutes: u16,
}

impl Running {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.minutes += 1;
    }

    /// Ends the run; none if less than half of it was seen.
    fn take(&mut self, minutes: i64) -> Option<f64> {
        let run = std::mem::take(self);
        (2 * i64::from(run.minutes) >= minutes).then(|| run.sum / f64::from(run.minutes.max(1)))
    }
}

/// How many come in a span of minutes.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Expected {
    /// On average.
    pub mean: f64,
    /// The square of the deviation from it that is to be expected.
    pub variance: f64,
}

/// A series of arrivals.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// Arrivals a minute in each bucket of the day.
    profile: Box<[f32; BUCKETS]>,
    /// By hour of the day: the square of the error over the lead, by what was expected.
    spread: [f32; HOURS],
    /// Arrivals of the last minutes, by minute.
    counts: [u16; LEAD_MAX],
    /// What was expected over the lead that began with that minute; [`UNSEEN`]: nothing.
    made: [f32; LEAD_MAX],
    /// Arrivals a minute, lately.
    level: f64,
    /// By how much they differ from the profile, lately.
    shift: f64,
    recent_spread: f64,
    error: f64,
    bucket: Running,
    hour: Running,
    current: u32,
    size: [f64; DIMENSIONS],
    lifetime_s: f64,
    pub(super) running: u32,
    pub(super) arrivals: u64,
    pub(super) minutes: u32,
    /// The minute of the newest arrival.
    pub(super) newest: i64,
}

impl Series {
    pub(super) fn new() -> Self {
        Self {
            profile: Box::new([UNSEEN; BUCKETS]),
            spread: [UNSEEN; HOURS],
            counts: [0; LEAD_MAX],
            made: [UNSEEN; LEAD_MAX],
            level: 0.0,
            shift: 0.0,
            // As if arrivals came by chance and independently (Poisson) until more is known.
            recent_spread: 1.0,
            error: 0.0,
            bucket: Running::default(),
            hour: Running::default(),
            current: 0,
            size: [0.0; DIMENSIONS],
            lifetime_s: 0.0,
            running: 0,
            arrivals: 0,
            minutes: 0,
            newest: i64::MIN,
        }
    }

    /// Bytes of one series, without its name.
    pub(super) const BYTES: usize = size_of::<Self>() + size_of::<[f32; BUCKETS]>();

    pub(super) fn arrived(&mut self, amount: Amount, minute: i64) {
        for (mean, value) in self.size.iter_mut().zip(amount.values()) {
            let value = f64::from(*value);
            if self.arrivals == 0 {
                *mean = value;
            }
            *mean += SAMPLE_WEIGHT * (value - *mean);
        }
        self.arrivals += 1;
        self.current = (self.current + 1).min(COUNT_MAX);
        self.running = self.running.saturating_add(1);
        self.newest = minute;
    }

    pub(super) fn ended(&mut self, lived: Duration) {
        let lived = lived.as_secs_f64();
        if self.lifetime_s == 0.0 {
            self.lifetime_s = lived;
        }
        self.lifetime_s += SAMPLE_WEIGHT * (lived - self.lifetime_s);
        self.running = self.running.saturating_sub(1);
    }

    /// The minute is over: learns from it what came.
    pub(super) fn close(&mut self, minute: i64, lead: usize) {
        let count = std::mem::take(&mut self.current);
        let seen = f64::from(count);
        let known = self.profile[bucket(minute)];
        if known >= 0.0 {
            self.shift += MINUTE_WEIGHT * (seen - f64::from(known) - self.shift);
        }
        self.level += MINUTE_WEIGHT * (seen - self.level);
        self.bucket.add(seen);
        if bucket(minute + 1) != bucket(minute)
            && let Some(mean) = self.bucket.take(BUCKET_MINUTES)
        {
            let known = &mut self.profile[bucket(minute)];
            *known = blend(*known, mean, DAY_WEIGHT);
        }
        self.minutes = self.minutes.saturating_add(1);
        self.counts[slot(minute)] = u16::try_from(count).unwrap_or(u16::MAX);
        self.judge(minute, lead);
        let expected = self.expected(minute, lead).mean;
        self.made[slot(minute + 1)] = narrow(expected);
    }

    /// Compares what was expected over the lead that is over now with what came in it.
    fn judge(&mut self, minute: i64, lead: usize) {
        let first = minute - back(lead) + 1;
        let made = self.made[slot(first)];
        if made >= 0.0 {
            let made = f64::from(made);
            let came = (0..back(lead)).map(|step| f64::from(self.counts[slot(first + step)]));
            let error = came.sum::<f64>() - made;
            // Where next to nothing is expected, one arrival is no sign of bursts.
            let spread = error * error / made.max(1.0);
            self.recent_spread += ERROR_WEIGHT * (spread - self.recent_spread);
            self.error += ERROR_WEIGHT * (error.abs() - self.error);
            self.hour.add(spread);
        }
        if hour(minute + 1) != hour(minute)
            && let Some(mean) = self.hour.take(60)
        {
            let known = &mut self.spread[hour(minute)];
            *known = blend(*known, mean, DAY_WEIGHT);
        }
    }

    /// How many come in so many minutes after this one.
    pub(super) fn expected(&self, minute: i64, minutes: usize) -> Expected {
        let mut fade = 1.0;
        let mut mean = 0.0;
        let mut spread = self.recent_spread;
        for ahead in 1..=back(minutes) {
            fade *= FADE;
            let known = f64::from(self.profile[bucket(minute + ahead)]);
            mean += if known >= 0.0 {
                (known + self.shift * fade).max(0.0)
            } else {
                self.level
            };
            spread = spread.max(f64::from(self.spread[hour(minute + ahead)]));
        }
        Expected {
            mean,
            variance: spread * mean,
        }
    }

    /// How many of those that run now end in so many minutes.
    pub(super) fn ending(&self, minutes: usize) -> f64 {
        if self.lifetime_s <= 0.0 {
            return 0.0;
        }
        let span = 60.0 * back(minutes) as f64;
        // Close to 1 - e^(-span/lifetime), and never above it.
        f64::from(self.running) * span / (span + self.lifetime_s)
    }

    /// The mean size of an arrival, rounded up.
    pub(super) fn size(&self) -> Amount {
        let [cpu, memory, disk, network] = self.size.map(|mean| whole(mean.ceil()));
        Amount::new(cpu, memory, disk, network)
    }

    pub(super) const fn lifetime_s(&self) -> f64 {
        self.lifetime_s
    }

    pub(super) const fn level(&self) -> f64 {
        self.level
    }

    pub(super) const fn shift(&self) -> f64 {
        self.shift
    }

    pub(super) const fn error(&self) -> f64 {
        self.error
    }

    /// Arrivals a minute that this time of day usually sees; none: not seen yet.
    pub(super) fn season(&self, minute: i64) -> Option<f64> {
        let known = self.profile[bucket(minute)];
        (known >= 0.0).then(|| f64::from(known))
    }

    /// What passed meanwhile is not known: only what holds for longer is kept.
    pub(super) fn skip(&mut self) {
        self.made = [UNSEEN; LEAD_MAX];
        self.shift = 0.0;
        (self.bucket, self.hour) = (Running::default(), Running::default());
        self.current = 0;
    }

    pub(super) fn save(&self) -> Saved {
        Saved {
            profile: self.profile.to_vec(),
            spread: self.spread.to_vec(),
            level: self.level,
            size: self.size(),
            lifetime_s: self.lifetime_s,
            arrivals: self.arrivals,
            minutes: self.minutes,
            newest_minute: self.newest,
        }
    }

    /// None if it is not what [`Series::save`] made.
    pub(super) fn restore(saved: &Saved) -> Option<Self> {
        let sound = |value: &f32| value.is_finite();
        let is_sound = saved.profile.iter().chain(&saved.spread).all(sound)
            && saved.level.is_finite()
            && saved.lifetime_s.is_finite();
        if !is_sound {
            return None;
        }
        let mut series = Self::new();
        *series.profile = saved.profile.as_slice().try_into().ok()?;
        series.spread = saved.spread.as_slice().try_into().ok()?;
        series.level = saved.level.max(0.0);
        series.size = saved.size.values().map(f64::from);
        series.lifetime_s = saved.lifetime_s.max(0.0);
        series.arrivals = saved.arrivals;
        series.minutes = saved.minutes;
        series.newest = saved.newest_minute;
        Some(series)
    }
}

/// What of a series outlives a restart.
#[derive(Debug, Clone, PartialEq)]
pub struct Saved {
    /// Arrivals a minute, by bucket of the day; below 0: not seen. [`BUCKETS`] of them.
    pub profile: Vec<f32>,
    /// The spread, by hour of the day; below 0: not seen. [`HOURS`] of them.
    pub spread: Vec<f32>,
    /// Arrivals a minute, lately.
    pub level: f64,
    /// The mean size.
    pub size: Amount,
    /// The mean lifetime, in seconds; 0: not known.
    pub lifetime_s: f64,
    /// Arrivals that it has seen.
    pub arrivals: u64,
    /// Minutes that it has seen.
    pub minutes: u32,
    /// The minute of the newest arrival, since the epoch.
    pub newest_minute: i64,
}

fn blend(known: f32, seen: f64, weight: f64) -> f32 {
    if known < 0.0 {
        return narrow(seen);
    }
    let known = f64::from(known);
    narrow(known + weight * (seen - known))
}

fn bucket(minute: i64) -> usize {
    index(minute.rem_euclid(DAY_MINUTES) / BUCKET_MINUTES)
}

fn hour(minute: i64) -> usize {
    index(minute.rem_euclid(DAY_MINUTES) / 60)
}

fn slot(minute: i64) -> usize {
    index(minute.rem_euclid(back(LEAD_MAX)))
}

/// Of a number that is not negative.
fn index(number: i64) -> usize {
    usize::try_from(number).unwrap_or(0)
}

fn back(minutes: usize) -> i64 {
    i64::try_from(minutes.min(LEAD_MAX)).unwrap_or(0)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a mean needs no more digits"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast stops at the bounds, which is what is wanted"
)]
pub(super) fn whole(value: f64) -> u32 {
    value as u32
}
