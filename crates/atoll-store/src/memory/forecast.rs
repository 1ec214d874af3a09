//! What the forecast has learnt.

use async_trait::async_trait;

use super::MemStore;
use crate::store::Result;
use crate::store::forecast::{ForecastRow, ForecastStore};

#[async_trait]
impl ForecastStore for MemStore {
    async fn forecast_put(&self, row: &ForecastRow) -> Result<()> {
        self.tables().forecast = Some(row.clone());
        Ok(())
    }

    async fn forecast_get(&self) -> Result<Option<ForecastRow>> {
        Ok(self.tables().forecast.clone())
    }
}
