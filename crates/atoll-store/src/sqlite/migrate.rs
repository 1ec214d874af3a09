//! Brings the schema up to date, forward only.

use std::collections::BTreeSet;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use crate::migration::{self, Migration};
use crate::queries;
use crate::store::{Error, Result};

/// Every schema change, in order.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "initial",
        text: include_str!("../../migrations/sqlite/0001_initial.sql"),
    },
    Migration {
        version: 2,
        name: "lifecycle",
        text: include_str!("../../migrations/sqlite/0002_lifecycle.sql"),
    },
    Migration {
        version: 3,
        name: "events",
        text: include_str!("../../migrations/sqlite/0003_events.sql"),
    },
    Migration {
        version: 4,
        name: "teams and audit",
        text: include_str!("../../migrations/sqlite/0004_teams_audit.sql"),
    },
    Migration {
        version: 5,
        name: "webhooks",
        text: include_str!("../../migrations/sqlite/0005_webhooks.sql"),
    },
    Migration {
        version: 6,
        name: "nodes",
        text: include_str!("../../migrations/sqlite/0006_nodes.sql"),
    },
    Migration {
        version: 8,
        name: "pages",
        text: include_str!("../../migrations/sqlite/0008_pages.sql"),
    },
    Migration {
        version: 9,
        name: "decisions",
        text: include_str!("../../migrations/sqlite/0009_decisions.sql"),
    },
    Migration {
        version: 10,
        name: "policy",
        text: include_str!("../../migrations/sqlite/0010_policy.sql"),
    },
    Migration {
        version: 12,
        name: "paused labels",
        text: include_str!("../../migrations/sqlite/0012_paused_labels.sql"),
    },
    Migration {
        version: 13,
        name: "servers",
        text: include_str!("../../migrations/sqlite/0013_servers.sql"),
    },
    Migration {
        version: 14,
        name: "weights",
        text: include_str!("../../migrations/sqlite/0014_weights.sql"),
    },
    Migration {
        version: 15,
        name: "snapshots",
        text: include_str!("../../migrations/sqlite/0015_snapshots.sql"),
    },
];

/// Applies what the file lacks, each change in a transaction of its own.
///
/// Each version is looked for by itself: changes that were made side by side may have reached a
/// file in another order than their numbers'.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<()> {
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

/// Which changes the file has; it is not touched.
pub(super) async fn applied(connection: &mut SqliteConnection) -> Result<BTreeSet<i64>> {
    let failed = |source| Error::Database {
        operation: "look at the schema",
        source,
    };
    let is_made: i64 = sqlx::query_scalar(queries::SQLITE_IS_MADE)
        .fetch_one(&mut *connection)
        .await
        .map_err(failed)?;
    if is_made == 0 {
        return Ok(BTreeSet::new());
    }
    sqlx::query_scalar(queries::SCHEMA_APPLIED)
        .fetch_all(connection)
        .await
        .map(|versions| versions.into_iter().collect())
        .map_err(failed)
}
