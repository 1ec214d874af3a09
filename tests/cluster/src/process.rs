//! One process of the fleet, with its logs.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

/// How long a process that was told to stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EACH: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    logs: PathBuf,
    child: Option<Child>,
}

impl Process {
    /// Not running yet. What it writes goes to `logs/name.out` and `logs/name.err`.
    pub(crate) fn new(name: &str, logs: &Path) -> Self {
        Self {
            name: name.to_owned(),
            logs: logs.to_owned(),
            child: None,
        }
    }

    /// Runs it by this command.
    pub(crate) fn start(&mut self, mut command: Command) -> Result<()> {
        let log = |suffix: &str| -> Result<Stdio> {
            let path = self.logs.join(format!("{}.{suffix}", self.name));
            let file = File::options().create(true).append(true).open(path)?;
            Ok(Stdio::from(file))
        };
        command
            .stdin(Stdio::null())
            .stdout(log("out")?)
            .stderr(log("err")?);
        let child = command.spawn();
        self.child = Some(child.with_context(|| format!("start {}: {command:?}", self.name))?);
        Ok(())
    }

    /// Ends it as a loss of power would.
    pub(crate) fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        kill_process(Pid::from_child(&child), signal)?;
        let since = Instant::now();
        while child.try_wait()?.is_none() {
            if since.elapsed() > STOP_LIMIT {
                child.kill()?;
                anyhow::bail!("{} did not stop within {STOP_LIMIT:?}", self.name);
            }
            sleep(LOOK_EACH).await;
        }
        Ok(())
    }

    /// Whether it runs, for all that is known.
    pub(crate) fn is_running(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// The last lines it wrote.
    pub(crate) fn last_words(&self, lines: usize) -> String {
        let path = self.logs.join(format!("{}.err", self.name));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let last: Vec<&str> = text.lines().rev().take(lines).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What ended already needs no signal.
        let _ = self.kill();
    }
}
