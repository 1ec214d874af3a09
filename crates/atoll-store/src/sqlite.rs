//! The store in one SQLite file.
//!
//! Writes go through one task that commits them in groups (see [`writer`]); reads use a small pool
//! of their own connections, which write-ahead logging lets run beside the writer. A commit is
//! synced to the disk before its caller hears of it.

mod migrate;
mod transaction;
mod writer;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use atoll_core::event::Cursor;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;

use crate::migration::{self, MigrationState};
use crate::queries;
use crate::sql::SqlStore;
use crate::sql::queue::Writer;
use crate::store::{Error, Result};
pub(crate) use transaction::bound;
use writer::Database;

/// Connections for reading. Reads are short; more would only compete for the cores.
const READERS_MAX: u32 = 4;

/// How long a statement waits for another process that holds the file (a backup, an operator's
/// shell) before it fails.
/// Its caller, and one who came while it waited, are told before they give up.
const BUSY_TIMEOUT: Duration = Duration::from_secs(2);

/// Memory for the writer's pages, in KiB. Ids are random, so the indexes over them are written all
/// over: what does not fit here is read again and again.
const WRITER_CACHE_KIB: u32 = 32 * 1_024;

/// Pages of the log after which they are written into the file itself. Each time costs two more
/// syncs and every page once, however often it changed: at 16 MiB that is seldom enough.
const CHECKPOINT_PAGES: u32 = 4_096;

/// Statements that the writer keeps prepared: all that it has, in each of their lengths.
const WRITER_STATEMENTS: usize = 192;

/// How long a read waits for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// Which changes of the schema a file has; one that does not exist has none, and is not made.
///
/// # Errors
/// As [`SqliteStore::open`].
pub async fn migrations(path: &Path) -> Result<Vec<MigrationState>> {
    let applied = if path.exists() {
        // Without anything that would be written, were it not so already.
        let reading = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = connect(&reading).await?;
        migrate::applied(&mut connection).await?
    } else {
        BTreeSet::new()
    };
    migration::states(migrate::MIGRATIONS, &applied)
}

/// Brings a file's schema up to date, making the file if there is none.
///
/// # Errors
/// As [`SqliteStore::open`].
pub async fn migrate(path: &Path) -> Result<()> {
    let mut connection = connect(&options(path)).await?;
    migrate::run(&mut connection).await?;
    let closed = connection.close().await;
    closed.map_err(|source| Error::Database {
        operation: "migrate",
        source,
    })
}

/// A connection for a backup or a restoration of a file whose schema is up to date.
pub(crate) async fn session(path: &Path) -> Result<SqliteConnection> {
    connect(&options(path).create_if_missing(false)).await
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .disable_statement_logging()
}

async fn connect(options: &SqliteConnectOptions) -> Result<SqliteConnection> {
    let connected = SqliteConnection::connect_with(options).await;
    connected.map_err(|source| Error::Database {
        operation: "open",
        source,
    })
}

/// A store in one SQLite file.
pub type SqliteStore = SqlStore<SqlitePool>;

impl SqliteStore {
    /// Opens the file, making it if there is none, and brings its schema up to date.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] for a file of a newer version; [`Error::Database`] if it cannot be
    /// opened.
    pub async fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Database {
            operation: "open",
            source,
        };
        let options = options(path);
        let writing = options
            .clone()
            .pragma("cache_size", format!("-{WRITER_CACHE_KIB}"))
            .pragma("wal_autocheckpoint", CHECKPOINT_PAGES.to_string())
            .statement_cache_capacity(WRITER_STATEMENTS);
        let mut connection = connect(&writing).await?;
        migrate::run(&mut connection).await?;
        let head: i64 = sqlx::query_scalar(queries::EVENT_HEAD)
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        let (moved, head) = watch::channel(Cursor::new(u64::try_from(head).unwrap_or(0)));
        let database = Database {
            connection,
            options: writing,
        };
        let writer = Writer::spawn(head, move |queue| writer::run(database, queue, moved))
            .map_err(|error| failed(sqlx::Error::Io(error)))?;
        Ok(Self { readers, writer })
    }

    /// How the database would walk a listing.
    #[cfg(test)]
    pub(crate) async fn explain_list(&self, filter: &crate::store::SandboxFilter) -> String {
        use crate::sql::dialect::{Reader, column};
        use crate::sql::read::{bind_list, list_text};
        let text = list_text(filter, SqlitePool::TEXTS);
        let statement = crate::sql::statement::query(format!("EXPLAIN QUERY PLAN {text}"));
        let rows = self
            .readers
            .all("explain", bind_list(statement, filter))
            .await;
        let rows = rows.unwrap();
        let lines: Vec<String> = rows.iter().map(|row| column(row, 3).unwrap()).collect();
        lines.join("\n")
    }
}
