//! Which database the store is in.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use atoll_store::backup::Location;
use atoll_store::postgres::{DatabaseUrl, PoolSizes, PostgresStore};
use atoll_store::sqlite::SqliteStore;
use atoll_store::store::Store;

use crate::cli::database::DatabaseArgs;
use crate::secrets;

/// The file's name in the data directory.
const FILE: &str = "atoll.db";

/// Where the store is.
#[derive(Debug, Clone, Default)]
pub(crate) enum Database {
    /// In a file of the data directory.
    #[default]
    File,
    /// In PostgreSQL, where other servers may be, too.
    Postgres(Box<DatabaseUrl>, PoolSizes),
}

impl Database {
    /// What the settings say.
    ///
    /// # Errors
    /// If they name none, without what they name: it may hold a password.
    pub(crate) fn of(arguments: &DatabaseArgs) -> anyhow::Result<Self> {
        let Some(url) = secrets::database_url(arguments)? else {
            return Ok(Self::File);
        };
        let sizes = PoolSizes {
            writers: arguments.database_writers,
            readers: arguments.database_readers,
        };
        Ok(Self::Postgres(Box::new(url), sizes))
    }

    /// Whether other servers may use the same store.
    pub(crate) const fn is_shared(&self) -> bool {
        matches!(self, Self::Postgres(..))
    }

    /// For the store's own operations; `file` is that in the data directory.
    pub(crate) fn location<'l>(&'l self, file: &'l Path) -> Location<'l> {
        match self {
            Self::File => Location::Sqlite(file),
            Self::Postgres(url, _) => Location::Postgres(url),
        }
    }

    /// Opens the store, and brings its schema up to date.
    ///
    /// # Errors
    /// If that cannot be.
    pub(crate) async fn open(&self, data_dir: &Path) -> anyhow::Result<Arc<dyn Store>> {
        match self {
            Self::File => {
                let path = file(data_dir);
                secrets::keep_private(&path)?;
                let store = SqliteStore::open(&path).await;
                Ok(Arc::new(store.context("open the store")?))
            }
            Self::Postgres(url, sizes) => {
                let store = PostgresStore::connect(url, *sizes).await;
                let store = store.with_context(|| format!("open the store at {url}"))?;
                tracing::info!(%url, "the store is in PostgreSQL");
                Ok(Arc::new(store))
            }
        }
    }
}

/// The file in a data directory.
pub(crate) fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}
