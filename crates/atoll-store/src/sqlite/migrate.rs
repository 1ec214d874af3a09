//! Brings the schema up to date, forward only.

use std::collections::BTreeSet;

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection as _, Row as _};

use crate::queries;
use crate::store::{Error, Result};

/// Every schema change, in order: version, name, text.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (
        1,
        "initial",
        include_str!("../../migrations/sqlite/0001_initial.sql"),
    ),
    (
        2,
        "lifecycle",
        include_str!("../../migrations/sqlite/0002_lifecycle.sql"),
    ),
    (
        3,
        "events",
        include_str!("../../migrations/sqlite/0003_events.sql"),
    ),
    (
        4,
        "teams and audit",
        include_str!("../../migrations/sqlite/0004_teams_audit.sql"),
    ),
    (
        5,
        "webhooks",
        include_str!("../../migrations/sqlite/0005_webhooks.sql"),
    ),
    (
        6,
        "nodes",
        include_str!("../../migrations/sqlite/0006_nodes.sql"),
    ),
    (
        8,
        "pages",
        include_str!("../../migrations/sqlite/0008_pages.sql"),
    ),
    (
        9,
        "decisions",
        include_str!("../../migrations/sqlite/0009_decisions.sql"),
    ),
    (
        10,
        "policy",
        include_str!("../../migrations/sqlite/0010_policy.sql"),
    ),
    (
        12,
        "paused labels",
        include_str!("../../migrations/sqlite/0012_paused_labels.sql"),
    ),
    (
        13,
        "servers",
        include_str!("../../migrations/sqlite/0013_servers.sql"),
    ),
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
    // Each by itself, not by the highest number: changes may reach a file in another order than
    // they were numbered in.
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
