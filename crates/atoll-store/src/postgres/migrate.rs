//! Brings the schema up to date, forward only, one server at a time.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};
use tokio::time::timeout;

use crate::migration::{self, Migration};
use crate::queries;
use crate::store::{Error, Result};

/// Every schema change, in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        text: include_str!("../../migrations/postgres/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "weights",
        text: include_str!("../../migrations/postgres/0002_weights.sql"),
    },
    Migration {
        version: 3,
        name: "snapshots",
        text: include_str!("../../migrations/postgres/0003_snapshots.sql"),
    },
];

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
    for migration in migration::missing(MIGRATIONS, &applied)? {
        let mut tx = connection.begin().await.map_err(failed)?;
        sqlx::raw_sql(migration.text)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        sqlx::query(queries::SCHEMA_ADD)
            .bind(migration.version)
            .bind(migration.name)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        tracing::info!(
            version = migration.version,
            name = migration.name,
            "schema migrated"
        );
    }
    Ok(())
}

/// Which changes the database has; it is not touched.
pub(super) async fn applied(connection: &mut PgConnection) -> Result<BTreeSet<i64>> {
    let failed = |source| Error::Database {
        operation: "look at the schema",
        source,
    };
    let is_made: bool = sqlx::query_scalar(queries::PG_IS_MADE)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if !is_made {
        return Ok(BTreeSet::new());
    }
    sqlx::query_scalar(queries::SCHEMA_APPLIED)
        .fetch_all(connection)
        .await
        .map(|versions| versions.into_iter().collect())
        .map_err(failed)
}
