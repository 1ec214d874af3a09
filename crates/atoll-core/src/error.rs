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

impl ErrorKind {
    /// A word for it, for counters and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid_argument",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::Unauthenticated => "unauthenticated",
            Self::PermissionDenied => "permission_denied",
            Self::QuotaExceeded => "quota_exceeded",
            Self::RateLimited => "rate_limited",
            Self::NoCapacity => "no_capacity",
            Self::Unavailable => "unavailable",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Unsupported => "unsupported",
            Self::Internal => "internal",
        }
    }
}
