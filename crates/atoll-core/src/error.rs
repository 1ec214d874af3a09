//! The kinds of failure every layer agrees on.

/// What sort of failure it is. Status codes, retryability and log level follow from it, in one
/// table of the API crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ErrorKind {
    /// The request itself is wrong.
    InvalidArgument,
    /// No such object, or not the caller's.
    NotFound,
    /// An object of that name exists.
    AlreadyExists,
    /// The object is in a state that does not allow this now.
    Conflict,
    /// No valid credentials.
    Unauthenticated,
    /// Valid credentials without this right.
    PermissionDenied,
    /// A quota of the team is used up.
    QuotaExceeded,
    /// Too many requests; try later.
    RateLimited,
    /// No node has room for it.
    NoCapacity,
    /// A component that is needed does not answer.
    Unavailable,
    /// It did not finish in time; its outcome may be unknown.
    DeadlineExceeded,
    /// This installation cannot do it.
    Unsupported,
    /// A defect of ours.
    Internal,
}
