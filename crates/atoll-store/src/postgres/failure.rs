//! What a failure means for what was being done.

use sqlx::error::DatabaseError;

use crate::store::Error;

/// What may be done about a failure of a statement, before its transaction was committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection is of no use any more; the transaction with it.
    Lost,
    /// The database ended the transaction, for a reason that passes.
    Passing,
    /// The statement itself was refused: it would be again.
    Refused,
}

/// Codes whose reason passes while the connection stays: conflicts with other transactions (40),
/// a lock or a statement that took too long (55P03, 57014), and what the server lacks for now (53:
/// room on its disk, memory).
const PASSING: [&str; 4] = ["40", "55P03", "57014", "53"];

/// Codes of a connection that is over: broken (08), ended by the server (57P: it shuts down, it
/// crashed, it starts; 25P03: it was idle for too long), too many others (53300), or to a server
/// that takes no writes any more (25006).
const LOST: [&str; 5] = ["08", "57P", "25P03", "53300", "25006"];

impl Failure {
    pub(super) fn of(error: &Error) -> Self {
        match error {
            Error::Database { source, .. } => Self::of_driver(source),
            Error::Locked { .. } => Self::Lost,
            Error::SchemaTooNew { .. }
            | Error::Corrupt { .. }
            | Error::Unknown { .. }
            | Error::Closed => Self::Refused,
        }
    }

    pub(super) fn of_driver(error: &sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self::of_code(error.as_ref()),
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => Self::Lost,
            _ => Self::Refused,
        }
    }

    fn of_code(error: &dyn DatabaseError) -> Self {
        let code = error.code().unwrap_or_default();
        let is_any = |known: &[&str]| known.iter().any(|known| code.starts_with(known));
        if is_any(&LOST) {
            Self::Lost
        } else if is_any(&PASSING) {
            Self::Passing
        } else {
            Self::Refused
        }
    }
}

/// What a server that takes no writes is refused with.
pub(super) fn read_only() -> sqlx::Error {
    sqlx::Error::Protocol("the server takes no writes: it is a standby".to_owned())
}
