//! Logs: where they go and how they look. Standard output belongs to the commands.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::cli::LogFormat;

/// Starts logging to standard error. `ATOLL_LOG` filters as `RUST_LOG` does elsewhere; without it,
/// `default_filter` applies.
pub(crate) fn start(format: LogFormat, default_filter: &str) {
    let filter =
        EnvFilter::try_from_env("ATOLL_LOG").unwrap_or_else(|_| EnvFilter::new(default_filter));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // A second start (a command that runs its own server) keeps the first one's.
    let result = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = result {
        tracing::debug!(%error, "logging was started already");
    }
}
