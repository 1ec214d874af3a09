//! Brings the schema up to date, forward only, one server at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::time::timeout;

use crate::queries;
use crate::store::{Error, Result};

/// Every schema change, in order: version, name, text.
const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1,
    "initial",
    include_str!("../../migrations/postgres/0001_initial.sql"),
)];

/// What the servers of one database migrate under.
const LOCK: i64 = 0x0061_746f_6c6c_ffff;

/// How long a server that starts waits for another that migrates: as long as a large table may
/// take.
const PATIENCE: Duration = Duration::from_mins(2);

/// Applies what the database lacks, each change in a transaction of its own.
pub(super) async fn run(connection: &mut PgConnection) -> Result<()> {
    let failed = |source| Error::Database {
        operation: "migrate",
        source,
    };
    let limits = "SET lock_timeout = 0; SET statement_timeout = 0";
    sqlx::raw_sql(limits)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let migrating = async {
        sqlx::query(queries::PG_MIGRATE_LOCK)
            .bind(LOCK)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        apply(connection).await?;
        sqlx::query(queries::PG_MIGRATE_UNLOCK)
            .bind(LOCK)
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        Ok(())
    };
    // A failure leaves the lock to the connection's end, which is the caller's next step.
    timeout(PATIENCE, migrating)
        .await
        .unwrap_or_else(|_| Err(failed(sqlx::Error::PoolTimedOut)))
}

async fn apply(connection: &mut PgConnection) -> Result<()> {
    let failed = |source| Error::Database {
        operation: "migrate",
        source,
    };
    sqlx::query(queries::SCHEMA_TABLE)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
    let applied: BTreeSet<i64> = sqlx::query(queries::SCHEMA_APPLIED)
        .fetch_all(&mut *connection)
        .await
        .and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect())
        .map_err(failed)?;
    let found = applied.last().copied().unwrap_or(0);
    let known = MIGRATIONS.last().map_or(0, |(version, _, _)| *version);
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    let missing = MIGRATIONS
        .iter()
        .filter(|(version, ..)| !applied.contains(version));
    for (version, name, text) in missing {
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
