//! What the forecast has learnt.

use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::forecast::Key;
use atoll_core::scheduler::forecast::series::Saved;

use super::at;
use crate::store::Store;
use crate::store::forecast::ForecastRow;

pub(super) async fn what_was_learnt_is_kept(store: &dyn Store) {
    assert_eq!(store.forecast_get().await.unwrap(), None);
    let series = |template: &str| {
        let key = Key {
            team: "team".parse().unwrap(),
            template: template.parse().unwrap(),
        };
        let saved = Saved {
            profile: vec![-1.0, 0.1, 2.5],
            spread: vec![-1.0, 1.25],
            level: 0.3,
            size: Amount::new(1, 2, 3, u32::MAX),
            lifetime_s: 12.5,
            arrivals: u64::MAX,
            minutes: 70,
            newest_minute: -5,
        };
        (key, saved)
    };
    let first = ForecastRow {
        at: at(100),
        series: vec![series("base"), series("other")],
    };
    store.forecast_put(&first).await.unwrap();
    assert_eq!(store.forecast_get().await.unwrap(), Some(first));
    let second = ForecastRow {
        at: at(200),
        series: vec![series("base")],
    };
    store.forecast_put(&second).await.unwrap();
    assert_eq!(store.forecast_get().await.unwrap(), Some(second));
}
