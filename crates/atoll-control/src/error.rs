//! The one error every use case answers with.

use std::time::Duration;

use atoll_core::error::ErrorKind;

/// The result of a use case.
pub type Result<T> = std::result::Result<T, Error>;

/// Stable machine-readable codes, where clients tell failures of one kind apart.
pub mod code {
    /// A quota of the team is used up.
    pub const QUOTA_EXCEEDED: &str = "team_quota_exceeded";
    /// The team asks faster than its rate allows.
    pub const RATE_LIMITED: &str = "team_rate_limited";
    /// Too much of this is under way; the message says of what.
    pub const OVERLOADED: &str = "overloaded";
    /// No node has room.
    pub const CAPACITY_UNAVAILABLE: &str = "sandbox_capacity_unavailable";
    /// No node answered within the bound; the sandbox was given up.
    pub const PLACEMENT_TIMEOUT: &str = "sandbox_placement_timeout";
    /// No node can run this at all.
    pub const NO_COMPATIBLE_NODE: &str = "sandbox_no_compatible_node";
    /// The node tried and failed.
    pub const CREATE_FAILED: &str = "sandbox_create_failed";
    /// The idempotency key was used with another request.
    pub const IDEMPOTENCY_MISMATCH: &str = "idempotency_request_mismatch";
    /// The first request with this idempotency key has not ended.
    pub const IDEMPOTENCY_IN_PROGRESS: &str = "idempotency_request_in_progress";
    /// The sandbox made under this idempotency key no longer exists.
    pub const IDEMPOTENCY_OUTCOME_UNKNOWN: &str = "idempotency_outcome_unknown";
}

/// Why a use case failed.
///
/// `message` may be shown to the tenant; `source` may not: it belongs in the log.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What sort of failure; status codes follow from it.
    pub kind: ErrorKind,
    /// A stable code from [`code`], where there is one.
    pub code: Option<&'static str>,
    /// Text for the tenant.
    pub message: String,
    /// When trying again makes sense, if the kind allows it at all.
    pub retry_after: Option<Duration>,
    /// The field of the request that is wrong, where it is one.
    pub field: Option<&'static str>,
    /// The cause, for the log.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of this kind with a text for the tenant.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            code: None,
            message: message.into(),
            retry_after: None,
            field: None,
            source: None,
        }
    }

    /// The request itself is wrong.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidArgument, message)
    }

    /// Adds a stable code.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// Adds when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// Adds which field of the request is wrong.
    #[must_use]
    pub fn with_field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What every unknown, foreign or ended sandbox answers, in the words clients know
    /// (E2B wire protocol).
    #[must_use]
    pub fn no_sandbox(id: &atoll_core::id::SandboxId) -> Self {
        Self::new(
            ErrorKind::NotFound,
            format!("Sandbox \"{id}\" doesn't exist or you don't have access to it"),
        )
    }
}
