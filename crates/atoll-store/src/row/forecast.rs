//! What the forecast has learnt as JSON. Short names: there are up to two thousand series.

use atoll_core::scheduler::amount::{Amount, Dimension};
use atoll_core::scheduler::forecast::Key;
use atoll_core::scheduler::forecast::series::Saved;
use serde::{Deserialize, Serialize};

use super::json;

/// The form that is written, and the only one that is read: what is lost is learnt again.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Learnt {
    v: u32,
    series: Vec<Series>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Series {
    team: String,
    template: String,
    profile: Vec<f32>,
    spread: Vec<f32>,
    level: f64,
    size: [u32; 4],
    life_s: f64,
    arrivals: u64,
    minutes: u32,
    newest: i64,
}

/// As it is stored.
pub(crate) fn forecast_to_json(series: &[(Key, Saved)]) -> String {
    let series = series.iter().map(|(key, saved)| Series {
        team: key.team.to_string(),
        template: key.template.to_string(),
        profile: saved.profile.clone(),
        spread: saved.spread.clone(),
        level: saved.level,
        size: Dimension::ALL.map(|dimension| saved.size.get(dimension)),
        life_s: saved.lifetime_s,
        arrivals: saved.arrivals,
        minutes: saved.minutes,
        newest: saved.newest_minute,
    });
    json(&Learnt {
        v: VERSION,
        series: series.collect(),
    })
}

/// None if it is damaged or of another form.
pub(crate) fn forecast_from_json(text: &str) -> Option<Vec<(Key, Saved)>> {
    let learnt: Learnt = serde_json::from_str(text).ok()?;
    if learnt.v != VERSION {
        return None;
    }
    let series = learnt.series.into_iter().map(|series| {
        let key = Key {
            team: series.team.parse().ok()?,
            template: series.template.parse().ok()?,
        };
        let [cpu, memory, disk, network] = series.size;
        let saved = Saved {
            profile: series.profile,
            spread: series.spread,
            level: series.level,
            size: Amount::new(cpu, memory, disk, network),
            lifetime_s: series.life_s,
            arrivals: series.arrivals,
            minutes: series.minutes,
            newest_minute: series.newest,
        };
        Some((key, saved))
    });
    series.collect()
}
