//! What the forecast has learnt.

use async_trait::async_trait;

use super::SqlStore;
use super::apply::{Reply, Write};
use super::decode::time;
use super::dialect::{Reader, Tx, column, one};
use super::statement::query;
use crate::queries;
use crate::row::forecast::{forecast_from_json, forecast_to_json};
use crate::store::Result;
use crate::store::forecast::{ForecastRow, ForecastStore};

/// Keeps it inside the caller's transaction.
pub(super) async fn put<T: Tx>(tx: &mut T, row: &ForecastRow) -> Result<Reply> {
    let statement = query(queries::FORECAST_PUT)
        .bind(row.at.as_micros())
        .bind(forecast_to_json(&row.series));
    tx.execute("keep the forecast", statement).await?;
    Ok(Reply::Unit)
}

#[async_trait]
impl<R: Reader> ForecastStore for SqlStore<R> {
    async fn forecast_put(&self, row: &ForecastRow) -> Result<()> {
        let write = Write::ForecastPut(Box::new(row.clone()));
        self.writer.submit(write).await.map(Reply::into_unit)
    }

    async fn forecast_get(&self) -> Result<Option<ForecastRow>> {
        let statement = query(queries::FORECAST_GET);
        let Some(row) = one(&self.readers, "get the forecast", statement).await? else {
            return Ok(None);
        };
        let at = time(&row, 0)?;
        let series = forecast_from_json(column(&row, 1)?);
        Ok(series.map(|series| ForecastRow { at, series }))
    }
}
