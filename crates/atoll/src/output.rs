//! What commands print: tables for people, JSON lines for programs. All output of the binary on
//! standard output passes here, so that a closed pipe ends a command quietly.

use std::io::{self, Write};

use serde::Serialize;

/// Writes text and a newline to standard output.
///
/// # Errors
/// As the write does; a reader that went away is no error.
pub(crate) fn line(text: &str) -> anyhow::Result<()> {
    bytes(format!("{text}\n").as_bytes(), &mut io::stdout().lock())
}

/// Writes a value as one line of JSON to standard output.
///
/// # Errors
/// As [`line()`].
pub(crate) fn json(value: &impl Serialize) -> anyhow::Result<()> {
    line(&serde_json::to_string(value)?)
}

/// Tells a person what went wrong, on standard error.
pub(crate) fn complain(text: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr().lock(), "atoll: {text}");
}

/// Passes bytes on as they are, and flushes.
///
/// # Errors
/// As the write does; a reader that went away is no error.
pub(crate) fn bytes(bytes: &[u8], to: &mut impl Write) -> anyhow::Result<()> {
    match to.write_all(bytes).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// Passes a piece of an endless output on, and flushes.
///
/// # Errors
/// As the write does; also when the reader went away, because then the source must end too.
pub(crate) fn piece(bytes: &[u8], to: &mut impl Write) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}

/// Passes a line of an endless output on.
///
/// # Errors
/// As [`piece`].
pub(crate) fn line_piece(text: &str) -> anyhow::Result<()> {
    Ok(piece(
        format!("{text}\n").as_bytes(),
        &mut io::stdout().lock(),
    )?)
}

/// Lays rows out in columns under a heading. Widths count characters.
pub(crate) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let render = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![render(&mut heading.iter().copied())];
    lines.extend(
        rows.iter()
            .map(|row| render(&mut row.iter().map(String::as_str))),
    );
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = vec![
            vec!["i1".to_owned(), "running".to_owned()],
            vec!["i234567".to_owned(), "paused".to_owned()],
        ];
        assert_eq!(
            table(&["ID", "STATE"], &rows),
            "ID       STATE\ni1       running\ni234567  paused"
        );
    }
}
