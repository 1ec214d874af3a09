//! Brings the schema up to date, forward only.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use crate::queries;
use crate::store::{Error, Result};

/// Every schema change, in order: version, name, text.
const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1,
    "initial",
    include_str!("../../migrations/sqlite/0001_initial.sql"),
)];

/// Applies what the file lacks, each change in a transaction of its own.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<()> {
    let failed = |source| Error::Database {
        operation: "migrate",
        source,
    };
    sqlx::query(queries::SCHEMA_TABLE)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let found: i64 = sqlx::query(queries::SCHEMA_CURRENT)
        .fetch_one(&mut *connection)
        .await
        .and_then(|row| row.try_get(0))
        .map_err(failed)?;
    let known = MIGRATIONS.last().map_or(0, |(version, _, _)| *version);
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    for (version, name, text) in MIGRATIONS.iter().filter(|(version, ..)| *version > found) {
        let mut tx = connection.begin().await.map_err(failed)?;
        sqlx::raw_sql(*text)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query(queries::SCHEMA_ADD)
            .bind(version)
            .bind(*name)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        tracing::info!(version, name, "schema migrated");
    }
    Ok(())
}
