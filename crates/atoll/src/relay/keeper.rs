//! The node's side of its relay: starting one, finding one again, and having another one take over
//! where the settings or the program changed.

use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use atoll_proto::join_token::JoinToken;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::UnixListener;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{ORDERS_SOCKET, STATE_FILE, State, take_lock};
use crate::cli::NodeArgs;
use crate::cli::config::{LogArgs, LogFormat};
use crate::{listening, secrets};

/// This program, also where its file was replaced since it was started.
const PROGRAM: &str = "/proc/self/exe";
/// What the relay says of itself later on; of root's alone, as the environment is.
const SETTINGS_VARIABLE: &str = "ATOLL_RELAY_SETTINGS";
/// How long a relay may take to say what it is, or to make way: much more than it needs.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long to wait between looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How often the node looks whether its relay lives. Without one nobody reaches sandboxes.
const KEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Keeps a relay for the node of this process.
#[derive(Debug)]
pub(crate) struct Keeper {
    folder: PathBuf,
    listen: SocketAddr,
    traffic: Option<SocketAddr>,
    token: Option<JoinToken>,
    log: LogArgs,
    /// Tells what this one wants from what others wanted, earlier versions included.
    settings: String,
}

impl Keeper {
    pub(crate) fn new(
        arguments: &NodeArgs,
        folder: PathBuf,
        token: Option<JoinToken>,
    ) -> anyhow::Result<Self> {
        let (listen, traffic) = (arguments.listen, arguments.traffic_listen);
        let program = fs::metadata(PROGRAM).context("look at this program")?;
        let secret = token.as_ref().map(JoinToken::fingerprint);
        let settings = format!(
            "{}:{}:{} {listen} {traffic:?} {secret:?}",
            program.dev(),
            program.ino(),
            program.mtime()
        );
        Ok(Self {
            folder,
            listen,
            traffic,
            token,
            log: arguments.log.clone(),
            settings,
        })
    }

    /// Finds the relay that serves this folder, or starts one. Answers where it listens, and later
    /// ones do too.
    ///
    /// # Errors
    /// If there is none and none can be started.
    pub(crate) async fn ensure(&mut self) -> anyhow::Result<SocketAddr> {
        self.listen = self.find_or_start().await?;
        Ok(self.listen)
    }

    async fn find_or_start(&self) -> anyhow::Result<SocketAddr> {
        if !self.is_free()? {
            let state = self
                .wait("the relay says what it is", || Ok(self.state()))
                .await?;
            if state.settings == self.settings {
                return Ok(state.address);
            }
            tracing::info!(pid = state.pid, "another relay takes over");
            let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw);
            // One that is gone has made way.
            let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
            let made_way = || Ok(self.is_free()?.then_some(()));
            self.wait("the relay makes way", made_way).await?;
        }
        self.start().await
    }

    /// Starts relays whenever there is none.
    pub(crate) async fn keep(self, cancel: CancellationToken) {
        let pause = || tokio::time::sleep(KEEP_INTERVAL);
        while cancel.run_until_cancelled(pause()).await.is_some() {
            if !self.is_free().unwrap_or(false) {
                continue;
            }
            tracing::warn!("the relay is gone; starting another one");
            if let Err(error) = self.start().await {
                tracing::warn!("the relay does not start: {error:#}");
            }
        }
    }

    async fn start(&self) -> anyhow::Result<SocketAddr> {
        // Of one before.
        let _ = fs::remove_file(self.folder.join(STATE_FILE));
        let listener = listening::bind(self.listen).await?.into_std()?;
        let mut command = std::process::Command::new(PROGRAM);
        command
            .arg0("atoll")
            .arg("relay")
            .arg("--folder")
            .arg(&self.folder)
            .args(["--log-filter", &self.log.log_filter])
            .env(SETTINGS_VARIABLE, &self.settings)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            // What ends the node at its terminal is not meant for the relay.
            .process_group(0);
        if let Some(traffic) = self.traffic {
            command.args(["--traffic-listen", &traffic.to_string()]);
        }
        if matches!(self.log.log_format, LogFormat::Json) {
            command.args(["--log-format", "json"]);
        }
        match &self.token {
            Some(token) => command.env(secrets::JOIN_TOKEN_VARIABLE, token.expose()),
            None => command.env_remove(secrets::JOIN_TOKEN_VARIABLE),
        };
        let child = tokio::process::Command::from(command).spawn();
        // The runtime reaps it should it end before this process.
        let mut child = child.context("start the relay")?;
        let ready = || {
            let ended = child.try_wait()?;
            ensure!(ended.is_none(), "the relay ended at once; its log says why");
            Ok(self.state())
        };
        Ok(self.wait("the relay is ready", ready).await?.address)
    }

    fn is_free(&self) -> anyhow::Result<bool> {
        Ok(take_lock(&self.folder)?.is_some())
    }

    fn state(&self) -> Option<State> {
        let text = fs::read(self.folder.join(STATE_FILE)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn wait<T>(
        &self,
        what: &str,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let begun = Instant::now();
        loop {
            if let Some(found) = look()? {
                return Ok(found);
            }
            if begun.elapsed() > ANSWER_LIMIT {
                bail!("waited too long: {what}");
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

/// The socket on which the relay passes orders on to this process. What was there is gone with the
/// process before.
///
/// # Errors
/// If it cannot be made.
pub(crate) fn listen_for_orders(folder: &Path) -> anyhow::Result<UnixListener> {
    let path = folder.join(ORDERS_SOCKET);
    let listen = || {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    listen().with_context(|| format!("listen on `{}`", path.display()))
}
