//! A freshly started `atoll dev` for suites that find their server in the environment.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::command::Tool;

/// The first start of a data directory makes the template `base`.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// Ctrl-C ends the sandboxes first; each has a bounded end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// How often the end is looked for.
const STOP_LOOK: Duration = Duration::from_millis(50);

/// The line the server prints when it serves.
#[derive(Deserialize)]
struct Ready {
    api_url: String,
    sandbox_url: String,
    api_key: String,
    domain: String,
}

/// A running server with a data directory of its own.
pub(crate) struct DevServer {
    child: Child,
    directory: PathBuf,
    ready: Ready,
}

impl DevServer {
    /// Starts `binary` with everything it makes below `directory`, which must not exist yet, and
    /// waits until it serves. What it logs stands in `server.log` there.
    pub(crate) fn start(binary: &Path, directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).context("make the server's directory")?;
        let log = std::fs::File::create(directory.join("server.log")).context("make its log")?;
        let port = free_port()?;
        let mut child = Command::new(binary)
            .args([
                "dev",
                "--json",
                "--listen",
                &format!("127.0.0.1:{port}"),
                "--data-dir",
            ])
            .arg(directory.join("data"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("start {}", binary.display()))?;
        let ready = wait_ready(&mut child).with_context(|| {
            let said = std::fs::read_to_string(directory.join("server.log")).unwrap_or_default();
            format!("the server does not serve; it said:\n{said}")
        });
        match ready {
            Ok(ready) => Ok(Self {
                child,
                directory: directory.to_owned(),
                ready,
            }),
            Err(error) => {
                // It may be half-way up; nothing of it may stay.
                child.kill().ok();
                child.wait().ok();
                Err(error)
            }
        }
    }

    /// What the SDKs read.
    pub(crate) fn environment(&self) -> [(&'static str, &str); 4] {
        [
            ("E2B_API_KEY", &self.ready.api_key),
            ("E2B_API_URL", &self.ready.api_url),
            ("E2B_SANDBOX_URL", &self.ready.sandbox_url),
            ("E2B_DOMAIN", &self.ready.domain),
        ]
    }

    /// Ctrl-C; it must end by itself and say that all is well.
    pub(crate) fn stop(mut self) -> Result<()> {
        Tool::new("kill")
            .args(["-INT", &self.child.id().to_string()])
            .run()?;
        let looks = STOP_LIMIT.as_millis() / STOP_LOOK.as_millis();
        for _ in 0..looks {
            if let Some(status) = self.child.try_wait().context("look for the server's end")? {
                if !status.success() {
                    bail!(
                        "the server ended with {status}: see {}",
                        self.log().display()
                    );
                }
                std::fs::remove_dir_all(&self.directory).context("remove what the server made")?;
                return Ok(());
            }
            std::thread::sleep(STOP_LOOK);
        }
        bail!(
            "the server did not end within {} s of Ctrl-C",
            STOP_LIMIT.as_secs()
        );
    }

    fn log(&self) -> PathBuf {
        self.directory.join("server.log")
    }
}

impl Drop for DevServer {
    fn drop(&mut self) {
        // After `stop` it has ended and this does nothing.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn wait_ready(child: &mut Child) -> Result<Ready> {
    let output = child
        .stdout
        .take()
        .context("the server's output is a pipe")?;
    let (sender, receiver) = mpsc::sync_channel(1);
    // A pipe cannot be read with a time limit, a channel can; the thread ends with the server.
    std::thread::spawn(move || {
        let mut lines = BufReader::new(output).lines();
        let first = lines.next();
        sender.send(first).ok();
        // Whatever else it prints must not fill the pipe.
        lines.for_each(drop);
    });
    let line = receiver
        .recv_timeout(READY_LIMIT)
        .context("no ready line in time")?
        .context("it ended without a ready line")?
        .context("read its ready line")?;
    serde_json::from_str(&line).with_context(|| format!("read its ready line `{line}`"))
}

fn free_port() -> Result<u16> {
    let probe = std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?;
    Ok(probe.local_addr().context("find a free port")?.port())
}
