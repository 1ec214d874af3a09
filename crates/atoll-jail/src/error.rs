//! The helper's only error: what was being done, and why it did not work.

use std::fmt;
use std::io;

/// A failed step. Ends as one line of text in a report, so nobody branches on it.
#[derive(Debug)]
pub(crate) struct Error {
    step: String,
    source: io::Error,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.source)
    }
}

/// Short for a result with [`Error`].
pub(crate) type Result<T> = std::result::Result<T, Error>;

/// Names the step in which a failure happened.
pub(crate) trait Context<T> {
    /// Adds the name of the step.
    fn context(self, step: &str) -> Result<T>;

    /// Adds a name that costs something to make.
    fn with_context(self, step: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<io::Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, step: &str) -> Result<T> {
        self.with_context(|| step.to_owned())
    }

    fn with_context(self, step: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error {
            step: step(),
            source: source.into(),
        })
    }
}

/// A failure that no system call reported.
pub(crate) fn failure(step: &str, reason: &str) -> Error {
    Error {
        step: step.to_owned(),
        source: io::Error::other(reason.to_owned()),
    }
}
