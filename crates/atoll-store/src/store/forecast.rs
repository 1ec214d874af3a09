//! What the forecast of arrivals has learnt, so that a restart does not begin anew.

use async_trait::async_trait;
use atoll_core::scheduler::forecast::Key;
use atoll_core::scheduler::forecast::series::Saved;
use atoll_core::time::Timestamp;

use super::Result;

/// All of it, as it was at a time.
#[derive(Debug, Clone, PartialEq)]
pub struct ForecastRow {
    /// When.
    pub at: Timestamp,
    /// Each series.
    pub series: Vec<(Key, Saved)>,
}

/// The part of the store that is about the forecast.
#[async_trait]
pub trait ForecastStore: Send + Sync + std::fmt::Debug {
    /// Keeps what was learnt in the place of what was kept before.
    async fn forecast_put(&self, row: &ForecastRow) -> Result<()>;

    /// What was kept last, if anything was and if it can be read: what is damaged, or was written
    /// in another form, is learnt again.
    async fn forecast_get(&self) -> Result<Option<ForecastRow>>;
}
