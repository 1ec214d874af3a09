//! Ends this process at a named step, as a loss of power would: for tests of what a crash leaves.
//!
//! `ATOLL_CRASH_AT=<step>[:<nth>]` ends it when it comes to the step for the n-th time;
//! `ATOLL_CRASH_AT=@<file>` reads that text from a file whenever a step is reached, so that a test
//! can arm a process that runs. The steps are those of [`atoll_core::crash`]. Honoured only in
//! debug builds and with the feature `crash-points`.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use atoll_core::crash::{self, CONTROL, Hook, NODE};
use rustix::process::{Signal, getpid, kill_process};

const VARIABLE: &str = "ATOLL_CRASH_AT";

/// Arms the process if the environment says so.
///
/// # Errors
/// If it names no step.
pub(crate) fn arm() -> anyhow::Result<()> {
    let Ok(text) = std::env::var(VARIABLE) else {
        return Ok(());
    };
    if !cfg!(any(debug_assertions, feature = "crash-points")) {
        tracing::warn!("{VARIABLE} is not honoured: this build has no crash points");
        return Ok(());
    }
    if !text.starts_with('@') {
        parse(&text)?;
    }
    let points = Points {
        text,
        passes: AtomicU32::new(0),
    };
    // Armed once, for the life of the process.
    crash::install(Box::leak(Box::new(points)));
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<(&str, u32)> {
    let text = text.trim();
    let (step, nth) = text.split_once(':').unwrap_or((text, "1"));
    let is_known = CONTROL.contains(&step) || NODE.contains(&step);
    ensure!(is_known, "{VARIABLE} names no step: `{step}`");
    let nth = nth.parse().with_context(|| format!("in {VARIABLE}"))?;
    Ok((step, nth))
}

struct Points {
    text: String,
    /// How often the armed step was passed.
    passes: AtomicU32,
}

impl Points {
    /// How often the step may be passed before it ends the process; none: it never does.
    fn nth(&self, step: &str) -> Option<u32> {
        let from_file = match self.text.strip_prefix('@') {
            Some(path) => Some(std::fs::read_to_string(path).ok()?),
            None => None,
        };
        let (armed, nth) = parse(from_file.as_deref().unwrap_or(&self.text)).ok()?;
        (armed == step).then_some(nth)
    }
}

impl Hook for Points {
    fn is_armed(&self, step: &str) -> bool {
        self.nth(step).is_some()
    }

    fn reached(&self, step: &str) {
        let Some(nth) = self.nth(step) else {
            return;
        };
        if self.passes.fetch_add(1, Ordering::Relaxed) + 1 == nth {
            // Nothing is flushed and nothing is dropped.
            let _ = kill_process(getpid(), Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_may_be_counted_and_must_be_known() {
        assert_eq!(parse("control.intent").unwrap(), ("control.intent", 1));
        assert_eq!(
            parse("node.remove.gone:3\n").unwrap(),
            ("node.remove.gone", 3)
        );
        for wrong in ["", "control.nowhere", "control.intent:x"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
