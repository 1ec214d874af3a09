//! `atoll migrate`, `atoll backup` and `atoll restore`: the database without a server.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use atoll_store::backup::{self, Summary};
use atoll_store::{postgres, sqlite};
use tempfile::NamedTempFile;

use crate::cli::database::{DatabaseCommand, LocationArgs};
use crate::commands::run::Exit;
use crate::database::{Database, file};
use crate::{output, secrets, stack};

/// What stands for standard input and output.
const STANDARD: &str = "-";

/// # Errors
/// What kept it from being done.
pub(crate) async fn run(command: DatabaseCommand) -> anyhow::Result<Exit> {
    match command {
        DatabaseCommand::Migrate { location, check } => migrate(&location, check).await,
        DatabaseCommand::Backup { location, file } => back_up(&location, &file).await,
        DatabaseCommand::Restore { location, file } => restore(&location, &file).await,
    }
}

/// A file has one owner: a server that runs has brought its schema up to date by itself.
fn hold(location: &LocationArgs, database: &Database) -> anyhow::Result<Option<File>> {
    if database.is_shared() {
        return Ok(None);
    }
    let lock = stack::prepare(&location.data.data_dir)?;
    secrets::keep_private(&file(&location.data.data_dir))?;
    Ok(Some(lock))
}

async fn migrate(location: &LocationArgs, is_check: bool) -> anyhow::Result<Exit> {
    let database = Database::of(&location.database)?;
    let path = file(&location.data.data_dir);
    let _lock = if is_check {
        None
    } else {
        hold(location, &database)?
    };
    let states = match &database {
        Database::File => sqlite::migrations(&path).await,
        Database::Postgres(url, _) => postgres::migrations(url).await,
    };
    let missing: Vec<_> = states?.into_iter().filter(|it| !it.is_applied).collect();
    for migration in &missing {
        output::line(&format!("{:>4}  {}", migration.version, migration.name))?;
    }
    if missing.is_empty() {
        output::line("the schema is up to date")?;
        return Ok(Exit::SUCCESS);
    }
    if is_check {
        return Ok(Exit::FAILURE);
    }
    match &database {
        Database::File => sqlite::migrate(&path).await?,
        Database::Postgres(url, _) => postgres::migrate(url).await?,
    }
    output::line("the schema is up to date now")?;
    Ok(Exit::SUCCESS)
}

async fn back_up(location: &LocationArgs, to: &Path) -> anyhow::Result<Exit> {
    let database = Database::of(&location.database)?;
    let path = file(&location.data.data_dir);
    let from = database.location(&path);
    if to == Path::new(STANDARD) {
        backup::write(from, &mut BufWriter::new(std::io::stdout())).await?;
        return Ok(Exit::SUCCESS);
    }
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty());
    // For its owner alone. Whoever looks finds the whole file or none.
    let made = NamedTempFile::new_in(folder.unwrap_or_else(|| Path::new(".")));
    let made = made.with_context(|| format!("write `{}`", to.display()))?;
    let mut buffered = BufWriter::new(made);
    let summary = backup::write(from, &mut buffered).await?;
    let made = buffered.into_inner().context("write the backup")?;
    made.as_file().sync_all()?;
    made.persist_noclobber(to)
        .with_context(|| format!("write `{}`", to.display()))?;
    tell(&summary, "backed up")
}

async fn restore(location: &LocationArgs, from: &Path) -> anyhow::Result<Exit> {
    let database = Database::of(&location.database)?;
    let path = file(&location.data.data_dir);
    let _lock = hold(location, &database)?;
    let to = database.location(&path);
    let summary = if from == Path::new(STANDARD) {
        backup::restore(to, &mut BufReader::new(std::io::stdin())).await?
    } else {
        let read = File::open(from).with_context(|| format!("read `{}`", from.display()))?;
        backup::restore(to, &mut BufReader::new(read)).await?
    };
    tell(&summary, "restored")
}

fn tell(summary: &Summary, what: &str) -> anyhow::Result<Exit> {
    let rows = summary.rows.iter();
    let rows: Vec<_> = rows
        .map(|(table, count)| vec![table.clone(), count.to_string()])
        .collect();
    output::line(&output::table(&["TABLE", "ROWS"], &rows))?;
    output::line(&format!("{what}, SHA-256 {}", summary.sha256))?;
    std::io::stdout().flush()?;
    Ok(Exit::SUCCESS)
}
