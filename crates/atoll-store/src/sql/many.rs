//! One statement about many rows.
//!
//! Its text is written for one row. How that becomes few round trips is the dialect's affair:
//! SQLite takes one text that says the same for several rows, of a few fixed lengths so that all
//! stay prepared; PostgreSQL takes the values column by column, as arrays of any length.

use std::sync::LazyLock;

use super::statement::{Statement, Value};

/// For how many rows one text is made, longest first.
pub(crate) const LENGTHS: [usize; 7] = [64, 32, 16, 8, 4, 2, 1];

/// One statement's text in each of [`LENGTHS`].
pub(crate) type Texts = [String; LENGTHS.len()];

/// A statement that is carried out for each of many rows.
#[derive(Debug)]
pub(crate) struct Many {
    /// For SQLite.
    pub(crate) repeated: LazyLock<Texts>,
    /// For PostgreSQL.
    pub(crate) over_columns: LazyLock<String>,
}

/// Makes a [`Many`] of the text for one row. The letters say what its placeholders are: `t` for a
/// text, `n` for a number.
macro_rules! many {
    ($text:expr, $kinds:expr) => {
        $crate::sql::many::Many {
            repeated: std::sync::LazyLock::new(|| $crate::sql::many::repeated_texts($text)),
            over_columns: std::sync::LazyLock::new(|| {
                $crate::sql::many::over_columns($text, $kinds)
            }),
        }
    };
}
pub(crate) use many;

/// The text for SQLite, in each length.
pub(crate) fn repeated_texts(text: &str) -> Texts {
    if text.starts_with("INSERT") {
        LENGTHS.map(|length| more_rows(text, length))
    } else {
        LENGTHS.map(|length| repeated(text, length))
    }
}

/// Appends `text` with its placeholders moved up by `by`; answers the highest one of `text`.
fn push_shifted(target: &mut String, text: &str, by: usize) -> usize {
    let mut highest = 0;
    let mut parts = text.split('$');
    target.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let end = part
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(part.len());
        let (digits, rest) = part.split_at(end);
        let number: usize = digits.parse().unwrap_or(0);
        highest = highest.max(number);
        target.push('$');
        target.push_str(&(number + by).to_string());
        target.push_str(rest);
    }
    highest
}

/// The statement `count` times, to be executed as one.
fn repeated(text: &str, count: usize) -> String {
    let mut whole = String::new();
    let mut bound = 0;
    for _ in 0..count {
        bound += push_shifted(&mut whole, text, bound);
        whole.push(';');
    }
    whole
}

/// An `INSERT … VALUES (…)` with `count` rows, whose placeholders have no names: the time to bind
/// named ones grows with the square of their number. Its values come in the order of the columns.
///
/// One that fails may leave some of its rows: the whole group is rolled back then, so that the
/// database need not keep a copy of each page for the statement alone.
pub(crate) fn more_rows(text: &str, count: usize) -> String {
    let (head, row) = text.split_once("VALUES ").unwrap_or((text, ""));
    let head = head.replacen("INSERT", "INSERT OR FAIL", 1);
    let row = format!("({})", vec!["?"; row.matches('$').count()].join(", "));
    format!("{head}VALUES {}", vec![row; count].join(", "))
}

/// Cuts items into pieces of [`LENGTHS`], each with the text for its length.
pub(crate) fn pieces<T>(
    texts: &'static Texts,
    mut items: Vec<T>,
) -> impl Iterator<Item = (&'static str, Vec<T>)> {
    std::iter::from_fn(move || {
        let index = LENGTHS.iter().position(|length| *length <= items.len())?;
        let rest = items.split_off(LENGTHS[index]);
        let piece = std::mem::replace(&mut items, rest);
        Some((texts[index].as_str(), piece))
    })
}

/// The text for PostgreSQL: its placeholders become columns of a table made of arrays.
pub(crate) fn over_columns(text: &str, kinds: &str) -> String {
    let count = kinds.len();
    let arrays: Vec<_> = kinds
        .chars()
        .enumerate()
        .map(|(index, kind)| {
            let kind = if kind == 't' { "text" } else { "bigint" };
            format!("${}::{kind}[]", index + 1)
        })
        .collect();
    let names: Vec<_> = (1..=count).map(|number| format!("c{number}")).collect();
    let table = format!("UNNEST({}) AS v({})", arrays.join(", "), names.join(", "));
    if let Some((head, _)) = text.split_once(" VALUES ") {
        let end = text.rfind(" ON CONFLICT").map_or("", |at| &text[at..]);
        return format!("{head} SELECT {} FROM {table}{end}", names.join(", "));
    }
    let (head, rest) = text.split_once(" WHERE ").unwrap_or((text, "TRUE"));
    let joined = match head.split_once(' ') {
        Some(("UPDATE", _)) => " FROM ",
        Some(("DELETE", _)) => " USING ",
        _ => ", ",
    };
    let in_columns = |text: &str| text.replace('$', "c");
    format!(
        "{}{joined}{table} WHERE {}",
        in_columns(head),
        in_columns(rest)
    )
}

/// Turns rows of values into columns.
pub(crate) fn columns<'q>(rows: Vec<Statement<'q>>) -> Vec<Value<'q>> {
    let length = rows.len();
    let mut columns: Vec<Value<'q>> = Vec::new();
    for row in rows {
        if columns.is_empty() {
            columns.extend(row.values.iter().map(|value| match value {
                Value::Text(_) | Value::Texts(_) => Value::Texts(Vec::with_capacity(length)),
                Value::Number(_) | Value::Numbers(_) => Value::Numbers(Vec::with_capacity(length)),
            }));
        }
        for (column, value) in columns.iter_mut().zip(row.values) {
            match (column, value) {
                (Value::Texts(column), Value::Text(text)) => column.push(text),
                (Value::Numbers(column), Value::Number(number)) => column.push(number),
                (column, value) => unreachable!("{value:?} in a column of {column:?}"),
            }
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_texts_have_a_placeholder_for_each_value() {
        assert_eq!(
            repeated("UPDATE t SET a = $2, b = $2 WHERE id = $1", 2),
            "UPDATE t SET a = $2, b = $2 WHERE id = $1;UPDATE t SET a = $4, b = $4 WHERE id = $3;"
        );
        assert_eq!(
            more_rows("INSERT INTO t (a, b) VALUES ($1, $2)", 3),
            "INSERT OR FAIL INTO t (a, b) VALUES (?, ?), (?, ?), (?, ?)"
        );
    }

    #[test]
    fn placeholders_become_columns() {
        assert_eq!(
            over_columns("UPDATE t SET a = $2 WHERE id = $1 RETURNING id", "tn"),
            "UPDATE t SET a = c2 FROM UNNEST($1::text[], $2::bigint[]) AS v(c1, c2) \
             WHERE id = c1 RETURNING id"
        );
        assert_eq!(
            over_columns("DELETE FROM t WHERE id = $1", "t"),
            "DELETE FROM t USING UNNEST($1::text[]) AS v(c1) WHERE id = c1"
        );
        assert_eq!(
            over_columns("INSERT INTO t (a, b) VALUES ($1, $2)", "nt"),
            "INSERT INTO t (a, b) SELECT c1, c2 FROM UNNEST($1::bigint[], $2::text[]) AS v(c1, c2)"
        );
    }

    #[test]
    fn pieces_cover_everything_once() {
        static TEXTS: LazyLock<Texts> = LazyLock::new(|| repeated_texts("SELECT 1"));
        for count in 0..140 {
            let items: Vec<_> = (0..count).collect();
            let seen: Vec<_> = pieces(&TEXTS, items.clone())
                .flat_map(|(_, piece)| piece)
                .collect();
            assert_eq!(seen, items);
        }
    }
}
