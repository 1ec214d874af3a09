//! Backups: everything that a store keeps, in one file that both databases write and read.
//!
//! So a backup is also the way from SQLite to PostgreSQL, and back. It is a snapshot: one read
//! transaction, while servers go on writing. It is restored into an empty database only, in one
//! transaction, which is committed after the whole file was read and its checksum is right.
//!
//! # The file
//!
//! Lines of JSON:
//!
//! ```text
//! {"format":"atoll-backup","version":1,"store":"sqlite"}
//! {"heads":{"audit":7,"events":42}}
//! {"table":"teams","columns":["concurrent","cpu_millis",…]}
//! [1,2000,…]
//! …
//! {"end":{"rows":49,"sha256":"…"}}
//! ```
//!
//! The checksum is of all bytes before the last line. Tables and their columns are those of the
//! schema, which are the same in both databases; a file whose are others is of another version, and
//! is refused rather than guessed at. Left out is what lives with processes: servers and leases.
//! Texts are kept as they are, but PostgreSQL has no character of code 0: there it becomes U+FFFD,
//! in labels, messages and names. What is kept as JSON has it escaped, and keeps it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Read as _, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use crate::postgres::{self, DatabaseUrl};
use crate::queries;
use crate::sql::dialect::{Columns, column};
use crate::sql::statement::{Statement, Value, query};
use crate::sqlite;
use crate::store;
use session::{Column, Session};

mod session;

/// Tables with the order of their rows. What a row refers to comes before it.
const TABLES: [(&str, &str); 17] = [
    ("meta", "name"),
    ("teams", "id"),
    ("api_keys", "id"),
    ("templates", "id"),
    ("template_builds", "id"),
    ("template_names", "owner, name"),
    ("sandboxes", "id"),
    ("sandbox_labels", "sandbox, name"),
    ("events", "seq"),
    ("event_prune", "id"),
    ("event_cursors", "name"),
    ("idempotency_keys", "team, key"),
    ("audit", "seq"),
    ("webhooks", "id"),
    ("nodes", "id"),
    ("corrections", "seq"),
    ("forecast", "name"),
];

/// Tables that are in no backup: what the schema keeps of itself, and what lives with processes.
const LEFT_OUT: [&str; 5] = ["heads", "leases", "schema_version", "servers", "writers"];

/// A table that has a row from the beginning.
const NEVER_EMPTY: &str = "event_prune";

const FORMAT: &str = "atoll-backup";
const VERSION: u32 = 1;

/// Bytes of a line: far more than a row has, so that a file that is none is not read into memory.
const LINE_MAX: u64 = 16 * 1_024 * 1_024;

/// Rows that are written in one statement. SQLite takes some 32,000 values in one.
const ROWS_AT_A_TIME: usize = 500;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database did not do it.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The file could not be read or written.
    #[error("the backup cannot be read or written")]
    Io(#[from] std::io::Error),
    /// The database lacks changes of the schema, or has others.
    #[error("the database's schema is not this version's: run `atoll migrate` first")]
    OtherSchema,
    /// The file is none.
    #[error("it is no backup of Atoll: {detail}")]
    NotOne {
        /// What is wrong with it.
        detail: String,
    },
    /// The file is of another version.
    #[error("the backup is of another version of Atoll: {detail}")]
    OtherVersion {
        /// What differs.
        detail: String,
    },
    /// The file is not whole.
    #[error("the backup is damaged: {detail}; nothing was restored")]
    Damaged {
        /// What is wrong with it.
        detail: String,
    },
    /// There is something in the database already.
    #[error("the database is not empty: `{table}` has rows; nothing was restored")]
    NotEmpty {
        /// Where.
        table: &'static str,
    },
}

/// The result of a backup or of a restoration.
pub type Result<T> = std::result::Result<T, Error>;

/// Which database.
#[derive(Debug, Clone, Copy)]
pub enum Location<'a> {
    /// A file of SQLite.
    Sqlite(&'a Path),
    /// A database of PostgreSQL.
    Postgres(&'a DatabaseUrl),
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Rows, by table.
    pub rows: BTreeMap<String, u64>,
    /// Checksum, in hex.
    pub sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    format: String,
    version: u32,
    store: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Heads {
    audit: i64,
    events: i64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mark {
    Heads(Heads),
    End { rows: u64, sha256: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct TableLine {
    table: String,
    columns: Vec<String>,
}

/// Tables with their columns, by name.
type Layout = BTreeMap<String, Vec<Column>>;

/// Writes a backup.
///
/// # Errors
/// See [`Error`].
pub async fn write(from: Location<'_>, to: &mut (dyn Write + Send)) -> Result<Summary> {
    let migrations = match from {
        Location::Sqlite(path) => sqlite::migrations(path).await?,
        Location::Postgres(url) => postgres::migrations(url).await?,
    };
    if migrations.iter().any(|migration| !migration.is_applied) {
        return Err(Error::OtherSchema);
    }
    match from {
        Location::Sqlite(path) => dump(sqlite::session(path).await?, "sqlite", to).await,
        Location::Postgres(url) => dump(postgres::session(url).await?, "postgres", to).await,
    }
}

/// Restores a backup into an empty database, whose schema is brought up to date first.
///
/// # Errors
/// See [`Error`]; nothing is restored then.
pub async fn restore(to: Location<'_>, from: &mut (dyn BufRead + Send)) -> Result<Summary> {
    match to {
        Location::Sqlite(path) => {
            sqlite::migrate(path).await?;
            load(sqlite::session(path).await?, from).await
        }
        Location::Postgres(url) => {
            postgres::migrate(url).await?;
            load(postgres::session(url).await?, from).await
        }
    }
}

/// What passes through is counted and summed up.
struct Output<'w> {
    to: &'w mut (dyn Write + Send),
    sum: Sha256,
}

impl Output<'_> {
    fn line(&mut self, value: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(value).map_err(std::io::Error::from)?;
        line.push(b'\n');
        self.sum.update(&line);
        self.to.write_all(&line)?;
        Ok(())
    }
}

async fn dump<S: Session>(
    mut session: S,
    store: &str,
    to: &mut (dyn Write + Send),
) -> Result<Summary> {
    session.run(S::READING.to_owned()).await?;
    let layout = known(session::layout(&mut session).await?)?;
    let sum = Sha256::new();
    let mut output = Output { to, sum };
    output.line(&Header {
        format: FORMAT.to_owned(),
        version: VERSION,
        store: store.to_owned(),
    })?;
    let heads = session.fetch(query(S::HEADS)).await?;
    let heads = heads.first().ok_or(Error::OtherSchema)?;
    let (events, audit) = (column(heads, 0)?, column(heads, 1)?);
    output.line(&Mark::Heads(Heads { audit, events }))?;
    let mut rows = BTreeMap::new();
    for (table, order) in TABLES {
        let columns = &layout[table];
        let names: Vec<_> = columns.iter().map(|column| column.name.clone()).collect();
        let text = format!("SELECT {} FROM {table} ORDER BY {order}", names.join(", "));
        output.line(&TableLine {
            table: table.to_owned(),
            columns: names,
        })?;
        let mut count = 0;
        let mut visit = |row: &S::Row| {
            count += 1;
            output.line(&values(row, columns)?)
        };
        session.visit(text, &mut visit).await?;
        rows.insert(table.to_owned(), count);
    }
    session.run("ROLLBACK".to_owned()).await?;
    let sha256 = hex(&output.sum);
    output.line(&Mark::End {
        rows: rows.values().sum(),
        sha256: sha256.clone(),
    })?;
    output.to.flush()?;
    Ok(Summary { rows, sha256 })
}

/// A row's values.
fn values(row: &impl Columns, columns: &[Column]) -> Result<Vec<Json>> {
    let values = columns.iter().enumerate().map(|(index, it)| {
        Ok(if it.is_text {
            column::<Option<String>>(row, index)?.map_or(Json::Null, Json::from)
        } else {
            column::<Option<i64>>(row, index)?.map_or(Json::Null, Json::from)
        })
    });
    values.collect()
}

fn hex(sum: &Sha256) -> String {
    use std::fmt::Write as _;
    let bytes = sum.clone().finalize();
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The layout, if it is what this version knows.
fn known(mut layout: Layout) -> Result<Layout> {
    layout.retain(|table, _| !LEFT_OUT.contains(&table.as_str()));
    let found: BTreeSet<_> = layout.keys().map(String::as_str).collect();
    let known: BTreeSet<_> = TABLES.iter().map(|(table, _)| *table).collect();
    if found != known {
        return Err(Error::OtherSchema);
    }
    Ok(layout)
}

/// A backup as it is read.
struct Input<'r> {
    from: &'r mut (dyn BufRead + Send),
    sum: Sha256,
    line: Vec<u8>,
}

impl Input<'_> {
    /// The next line. The sum is of those before it.
    fn next(&mut self) -> Result<Json> {
        self.sum.update(&self.line);
        self.line.clear();
        let mut limited = (&mut *self.from).take(LINE_MAX);
        limited.read_until(b'\n', &mut self.line)?;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            return Err(damaged("it ends before its end"));
        }
        let value = serde_json::from_slice(&self.line);
        self.line.push(b'\n');
        value.map_err(|error| damaged(&format!("a line is no JSON: {error}")))
    }
}

fn damaged(detail: &str) -> Error {
    Error::Damaged {
        detail: detail.to_owned(),
    }
}

fn parsed<T: for<'de> Deserialize<'de>>(line: Json, what: &str) -> Result<T> {
    serde_json::from_value(line).map_err(|error| damaged(&format!("{what} is none: {error}")))
}

async fn load<S: Session>(mut session: S, from: &mut (dyn BufRead + Send)) -> Result<Summary> {
    let mut input = Input {
        from,
        sum: Sha256::new(),
        line: Vec::new(),
    };
    head(&mut input)?;
    let writing = S::writing(&TABLES.map(|(table, _)| table));
    session.run(writing).await?;
    let layout = known(session::layout(&mut session).await?)?;
    for (table, _) in TABLES {
        if table != NEVER_EMPTY && session::has_rows(&mut session, table).await? {
            return Err(Error::NotEmpty { table });
        }
    }
    let loaded = load_tables(&mut session, &layout, &mut input).await;
    let end = if loaded.is_ok() { "COMMIT" } else { "ROLLBACK" };
    session.run(end.to_owned()).await?;
    loaded
}

/// Reads what says that it is a backup, before anything is done with the database.
fn head(input: &mut Input<'_>) -> Result<()> {
    let not_one = |detail: String| Error::NotOne { detail };
    let header = input.next().map_err(|error| not_one(error.to_string()))?;
    let header: Header =
        serde_json::from_value(header).map_err(|error| not_one(error.to_string()))?;
    if header.format != FORMAT {
        return Err(not_one(format!("its format is `{}`", header.format)));
    }
    if header.version != VERSION {
        let detail = format!("its form is {}, this is {VERSION}", header.version);
        return Err(Error::OtherVersion { detail });
    }
    Ok(())
}

async fn load_tables<S: Session>(
    session: &mut S,
    layout: &Layout,
    input: &mut Input<'_>,
) -> Result<Summary> {
    let Mark::Heads(heads) = parsed(input.next()?, "the line of heads")? else {
        return Err(damaged("the line of heads is missing"));
    };
    session.run(queries::EVENT_PRUNED_CLEAR.to_owned()).await?;
    let mut rows = BTreeMap::new();
    let mut line = input.next()?;
    for (table, _) in TABLES {
        let said: TableLine = parsed(line, "the line of a table")?;
        let columns = &layout[table];
        let is_same = said.columns.iter().eq(columns.iter().map(|it| &it.name));
        if said.table != table || !is_same {
            let detail = format!("its table `{}` is not this version's", said.table);
            return Err(Error::OtherVersion { detail });
        }
        let mut count = 0;
        let mut pending = Vec::new();
        line = loop {
            let line = input.next()?;
            let Json::Array(values) = line else {
                break line;
            };
            count += 1;
            pending.push(row(columns, values)?);
            if pending.len() == ROWS_AT_A_TIME {
                let rows = std::mem::take(&mut pending);
                session::insert(session, table, columns, rows).await?;
            }
        };
        if !pending.is_empty() {
            session::insert(session, table, columns, pending).await?;
        }
        rows.insert(table.to_owned(), count);
    }
    let Mark::End { rows: all, sha256 } = parsed(line, "the last line")? else {
        return Err(damaged("the last line is missing"));
    };
    if sha256 != hex(&input.sum) || all != rows.values().sum::<u64>() {
        return Err(damaged("its checksum is not that of what it holds"));
    }
    session.run(S::BEFORE_HEADS.to_owned()).await?;
    let set = query(S::HEADS_SET).bind(heads.events).bind(heads.audit);
    session.fetch(set).await?;
    Ok(Summary { rows, sha256 })
}

/// One row's values.
fn row(columns: &[Column], values: Vec<Json>) -> Result<Statement<'static>> {
    if values.len() != columns.len() {
        return Err(damaged("a row has not as many values as its table"));
    }
    let mut row = query("");
    for (column, value) in columns.iter().zip(values) {
        let value = match (column.is_text, value) {
            (true, Json::Null) => Value::Text(None),
            (false, Json::Null) => Value::Number(None),
            (true, Json::String(text)) => Value::from(text),
            (false, Json::Number(number)) => {
                let number = number.as_i64();
                Value::Number(Some(
                    number.ok_or_else(|| damaged("a number is too large"))?,
                ))
            }
            _ => return Err(damaged(&format!("`{}` is of another kind", column.name))),
        };
        row = row.bind(value);
    }
    Ok(row)
}
