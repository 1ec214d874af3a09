//! The store in PostgreSQL, which several servers may share.
//!
//! What it does is what SQLite does, statement by statement ([`crate::sql`]). What is different is
//! that others write, too, and that the database may go away and come back:
//!
//! - What is read to be changed is locked first, so that a quota is exact whoever asks.
//! - Events get their cursors from one locked row, as the last thing that a group does (see
//!   [`transaction`]), so that cursors rise in the order of commits, for readers everywhere.
//! - What others commit is noticed by looking ([`follow`]); notifications only make that sooner.
//! - A group that could not begin, or that the database ended, is tried again for a while, and what
//!   became of a commit whose answer was lost is found out (see [`writer`]).
//!
//! A server that takes no writes (a standby) is no server for us: what it would show may be old.

mod failure;
mod follow;
mod migrate;
mod readers;
mod transaction;
mod writer;

use std::str::FromStr as _;
use std::time::Duration;

use atoll_core::event::Cursor;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::migration::{self, MigrationState};
use crate::queries;
use crate::sql::SqlStore;
use crate::sql::queue::Writer;
use crate::store::{Error, Result};
pub use readers::PgReaders;
pub(crate) use readers::bound;

/// How long it may take until a connection is made. Whoever asked is told before they give up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a read waits for a free connection, one that is made for it included.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection for reading may stay idle before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);

/// How long the database works on one statement. The longest prunes a few thousand rows.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a statement waits for a lock. Others hold one for a group, which is milliseconds; what
/// takes this long is tried again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a server that stopped within a transaction may hold what that locked: another server's
/// writes wait for it.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(5);

/// Statements that a connection keeps prepared: all that there are, with room for those that are
/// put together.
const STATEMENTS: usize = 256;

/// After how many days a writer that committed nothing is forgotten. It is looked up within
/// seconds, or never.
const WRITERS_KEPT_DAYS: i64 = 7;

/// Connections of one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolSizes {
    /// That write. Groups of several are committed side by side, but for their last step.
    pub writers: u16,
    /// That read.
    pub readers: u16,
}

impl Default for PoolSizes {
    /// One writer commits as much as the database syncs; reads are short.
    fn default() -> Self {
        Self {
            writers: 1,
            readers: 8,
        }
    }
}

/// Where the database is. Its secret is never shown.
#[derive(Clone)]
pub struct DatabaseUrl(PgConnectOptions);

impl DatabaseUrl {
    /// Reads a URL such as `postgres://atoll:secret@db.internal/atoll?sslmode=verify-full`.
    ///
    /// # Errors
    /// What is wrong with it, without its text: that may hold a password.
    pub fn parse(text: &str) -> std::result::Result<Self, &'static str> {
        let is_known = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| text.starts_with(scheme));
        if !is_known {
            return Err("it does not begin with postgres:// or postgresql://");
        }
        let options = PgConnectOptions::from_str(text)
            .map_err(|_| "it cannot be read as postgres://user:password@host:port/database")?;
        if options.get_database().is_none() {
            return Err("it names no database");
        }
        Ok(Self(options))
    }

    /// The same server, another database.
    #[must_use]
    pub fn with_database(&self, name: &str) -> Self {
        Self(self.0.clone().database(name))
    }

    /// As it was given.
    #[cfg(test)]
    pub(crate) const fn plain(&self) -> &PgConnectOptions {
        &self.0
    }

    /// With all that a connection of ours has.
    fn options(&self) -> PgConnectOptions {
        let millis = |time: Duration| time.as_millis().to_string();
        self.0
            .clone()
            .application_name("atoll")
            .statement_cache_capacity(STATEMENTS)
            .options([
                ("statement_timeout", millis(STATEMENT_TIMEOUT)),
                ("lock_timeout", millis(LOCK_TIMEOUT)),
                (
                    "idle_in_transaction_session_timeout",
                    millis(IDLE_IN_TRANSACTION_TIMEOUT),
                ),
                // Each statement sees what was committed before it, also what it waited for.
                ("default_transaction_isolation", "read committed".to_owned()),
                // A server that is gone without a word is noticed, and what it locked is free.
                ("tcp_keepalives_idle", "5".to_owned()),
                ("tcp_keepalives_interval", "2".to_owned()),
                ("tcp_keepalives_count", "3".to_owned()),
            ])
            .disable_statement_logging()
    }
}

/// Host, port and database, without names and secrets.
impl std::fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = self.0.get_host();
        let database = self.0.get_database().unwrap_or_default();
        match self.0.get_socket() {
            Some(socket) => write!(f, "postgres://{}/{database}", socket.display()),
            None => write!(f, "postgres://{host}:{}/{database}", self.0.get_port()),
        }
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

/// Which changes of the schema a database has.
///
/// # Errors
/// As [`PostgresStore::connect`].
pub async fn migrations(url: &DatabaseUrl) -> Result<Vec<MigrationState>> {
    let mut connection = connect(&url.options()).await?;
    let applied = migrate::applied(&mut connection).await?;
    migration::states(migrate::MIGRATIONS, &applied)
}

/// Brings a database's schema up to date.
///
/// # Errors
/// As [`PostgresStore::connect`].
pub async fn migrate(url: &DatabaseUrl) -> Result<()> {
    let mut connection = connect(&url.options()).await?;
    migrate::run(&mut connection).await
}

/// A connection for a backup or a restoration, which take as long as they do.
pub(crate) async fn session(url: &DatabaseUrl) -> Result<PgConnection> {
    let endless = [
        ("statement_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ];
    connect(&url.options().options(endless)).await
}

/// A store in PostgreSQL.
pub type PostgresStore = SqlStore<PgReaders>;

impl PostgresStore {
    /// Connects, and brings the schema up to date.
    ///
    /// # Errors
    /// [`Error::SchemaTooNew`] if a newer version migrated it; [`Error::Database`] or
    /// [`Error::Locked`] if it does not answer or takes no writes.
    pub async fn connect(url: &DatabaseUrl, sizes: PoolSizes) -> Result<Self> {
        let mut connection = connect(&url.options()).await?;
        migrate::run(&mut connection).await?;
        let failed = |source| Error::Database {
            operation: "open",
            source,
        };
        sqlx::query(queries::PG_WRITERS_PRUNE)
            .bind(WRITERS_KEPT_DAYS)
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        let head: i64 = sqlx::query_scalar(queries::PG_HEADS)
            .fetch_one(&mut connection)
            .await
            .map_err(failed)?;
        let mut ids = Vec::new();
        for _ in 0..sizes.writers.max(1) {
            let id: String = sqlx::query_scalar(queries::PG_NEW_WRITER)
                .fetch_one(&mut connection)
                .await
                .map_err(failed)?;
            ids.push(id);
        }
        // It is over either way.
        let _ = connection.close().await;
        let readers = pool(sizes.readers.max(1).into()).connect_lazy_with(url.options());
        let (moved, head) = watch::channel(cursor(head));
        let options = url.options();
        let writer = Writer::spawn(head, move |queue| writer::run(options, ids, queue, moved))
            .map_err(|error| failed(sqlx::Error::Io(error)))?;
        Ok(Self {
            readers: PgReaders::new(readers),
            writer,
        })
    }
}

fn cursor(number: i64) -> Cursor {
    Cursor::new(u64::try_from(number).unwrap_or(0))
}

/// Connections to a server that takes writes.
fn pool(most: u32) -> PgPoolOptions {
    PgPoolOptions::new()
        .max_connections(most)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .idle_timeout(IDLE_TIMEOUT)
        // One that broke fails the read, which is tried again: cheaper than a round trip for each.
        .test_before_acquire(false)
        .after_connect(|connection, _| Box::pin(check(connection)))
}

/// One connection to a server that takes writes.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection> {
    let connecting = async {
        let mut connection = PgConnection::connect_with(options).await?;
        check(&mut connection).await?;
        Ok(connection)
    };
    let connected = match timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    };
    connected.map_err(|source| Error::Database {
        operation: "connect",
        source,
    })
}

/// Refuses a server that takes no writes, and has one whose commits are not durable make them so.
async fn check(connection: &mut PgConnection) -> std::result::Result<(), sqlx::Error> {
    let (read_only, durable): (String, String) = sqlx::query_as(queries::PG_SESSION)
        .fetch_one(&mut *connection)
        .await?;
    if read_only == "on" {
        return Err(failure::read_only());
    }
    if durable == "off" {
        sqlx::query(queries::PG_BE_DURABLE)
            .execute(connection)
            .await?;
    }
    Ok(())
}
