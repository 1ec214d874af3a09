//! Changes of the schema, and which of them a database has.

use std::collections::BTreeSet;

use crate::store::{Error, Result};

/// One change of the schema.
#[derive(Debug)]
pub(crate) struct Migration {
    pub(crate) version: i64,
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// Whether a database has a change of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigrationState {
    /// Its number.
    pub version: i64,
    /// What it is about.
    pub name: &'static str,
    /// Whether the database has it.
    pub is_applied: bool,
}

/// What a database lacks.
///
/// Each version is looked for by itself: changes that were made side by side may have reached a
/// database in another order than their numbers'.
///
/// # Errors
/// [`Error::SchemaTooNew`] if it has more than is known here.
pub(crate) fn missing<'m>(
    all: &'m [Migration],
    applied: &BTreeSet<i64>,
) -> Result<impl Iterator<Item = &'m Migration>> {
    check(all, applied)?;
    let applied = applied.clone();
    Ok(all
        .iter()
        .filter(move |migration| !applied.contains(&migration.version)))
}

/// What a database has and lacks.
///
/// # Errors
/// As [`missing`].
pub(crate) fn states(all: &[Migration], applied: &BTreeSet<i64>) -> Result<Vec<MigrationState>> {
    check(all, applied)?;
    let states = all.iter().map(|migration| MigrationState {
        version: migration.version,
        name: migration.name,
        is_applied: applied.contains(&migration.version),
    });
    Ok(states.collect())
}

fn check(all: &[Migration], applied: &BTreeSet<i64>) -> Result<()> {
    let found = applied.last().copied().unwrap_or(0);
    let known = all.last().map_or(0, |migration| migration.version);
    if found > known {
        return Err(Error::SchemaTooNew { found, known });
    }
    Ok(())
}
