//! What the forecast has learnt outlives the process.

use std::time::Duration;

use atoll_store::store::forecast::ForecastRow;

use crate::world::World;

#[tokio::test]
async fn what_was_learnt_and_what_runs_is_known_after_a_restart() {
    let world = World::new();
    let running = world.start().await;
    for _ in 0..3 {
        running.create().await;
    }
    let seen = |running: &crate::world::Running| {
        let series = running.control.forecast(10).unwrap().series;
        let of_one = |outlook: &atoll_core::scheduler::forecast::Outlook| {
            (outlook.arrivals, outlook.running, outlook.size)
        };
        series
            .iter()
            .map(|one| of_one(&one.outlook))
            .collect::<Vec<_>>()
    };
    let before = seen(&running);
    assert_eq!((before.len(), before[0].0, before[0].1), (1, 3, 3));
    running.stop().await;
    let running = world.start().await;
    assert_eq!(seen(&running), before);
    running.stop().await;

    // So old that it says nothing any more.
    let store = world.store().await;
    let row = store.forecast_get().await.unwrap().unwrap();
    let week = i64::try_from(Duration::from_hours(9 * 24).as_micros()).unwrap();
    let at = row.at.as_micros() - week;
    let old = ForecastRow {
        at: atoll_core::time::Timestamp::from_micros(at),
        ..row
    };
    store.forecast_put(&old).await.unwrap();
    store.close().await;
    let running = world.start().await;
    assert_eq!(seen(&running), []);
    running.stop().await;
}
