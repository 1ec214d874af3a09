//! How a command finds the server it talks to.
//!
//! Flags and environment win; what they leave open comes from the file that a running `atoll dev`
//! keeps in its data directory, so that on the same machine no variable needs to be set.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::cli::ServerArgs;

const FILE_NAME: &str = "server.json";

/// What a running server tells those who may use it. The `--json` line is the same without
/// `admin_token`.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Connection {
    /// URL of the API.
    pub(crate) api_url: String,
    /// URL of sandbox traffic.
    pub(crate) sandbox_url: String,
    /// A key of the default team.
    pub(crate) api_key: String,
    /// Domain of sandbox host names.
    pub(crate) domain: String,
    /// Process id of the server.
    pub(crate) pid: u32,
    /// Opens the operators' part of the API; only in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) admin_token: Option<String>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("api_url", &self.api_url)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Leaves this where commands on the same machine find it, readable by root alone.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(crate) fn publish(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = file(data_dir);
        let temporary = path.with_extension("tmp");
        let mut options = fs::OpenOptions::new();
        let mut out = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .with_context(|| format!("open `{}`", temporary.display()))?;
        out.write_all(serde_json::to_string(self)?.as_bytes())?;
        fs::rename(&temporary, &path).with_context(|| format!("write `{}`", path.display()))
    }

    /// Takes the file away again; its absence is no error.
    pub(crate) fn withdraw(data_dir: &Path) {
        if let Err(error) = fs::remove_file(file(data_dir)) {
            tracing::debug!(%error, "connection file not removed");
        }
    }

    /// Puts together what flags, environment and file say.
    ///
    /// # Errors
    /// If that does not name a server, or no key for it.
    pub(crate) fn find(arguments: &ServerArgs) -> anyhow::Result<Self> {
        match Self::look(arguments)? {
            Some(connection) => Ok(connection),
            None => bail!(
                "no server known: start one with `atoll dev`, or set E2B_API_URL and E2B_API_KEY"
            ),
        }
    }

    /// As [`Self::find`]; none if nothing names a server.
    ///
    /// # Errors
    /// If something names a server, but not completely.
    pub(crate) fn look(arguments: &ServerArgs) -> anyhow::Result<Option<Self>> {
        let local = Self::read(&arguments.data.data_dir)?;
        let Some(api_url) = arguments.api_url.clone() else {
            return Ok(local.map(|local| Self {
                api_key: arguments
                    .api_key
                    .clone()
                    .unwrap_or_else(|| local.api_key.clone()),
                ..local
            }));
        };
        let same = local.filter(|local| local.api_url == api_url);
        let api_key = arguments
            .api_key
            .clone()
            .or_else(|| same.as_ref().map(|same| same.api_key.clone()));
        let Some(api_key) = api_key else {
            bail!("no key for {api_url}: set E2B_API_KEY or give --api-key");
        };
        Ok(Some(Self {
            sandbox_url: arguments
                .sandbox_url
                .clone()
                .unwrap_or_else(|| api_url.clone()),
            api_url,
            api_key,
            domain: same
                .as_ref()
                .map(|same| same.domain.clone())
                .unwrap_or_default(),
            pid: same.as_ref().map_or(0, |same| same.pid),
            admin_token: arguments
                .admin_token
                .clone()
                .or_else(|| same.and_then(|same| same.admin_token)),
        }))
    }

    fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = file(data_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            // Not ours to read: then flags and environment must say everything.
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
            Err(error) => return Err(error).context(format!("read `{}`", path.display())),
        };
        let connection: Self = serde_json::from_str(&text)
            .with_context(|| format!("`{}` is damaged; remove it", path.display()))?;
        let is_alive = Path::new("/proc").join(connection.pid.to_string()).exists();
        Ok(is_alive.then_some(connection))
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::DataDirArgs;

    fn arguments(data_dir: &Path) -> ServerArgs {
        let data = DataDirArgs {
            data_dir: data_dir.to_owned(),
        };
        ServerArgs {
            api_url: None,
            sandbox_url: None,
            api_key: None,
            admin_token: None,
            data,
        }
    }

    fn connection(pid: u32) -> Connection {
        Connection {
            api_url: "http://127.0.0.1:1".to_owned(),
            sandbox_url: "http://127.0.0.1:2".to_owned(),
            api_key: "e2b_00".to_owned(),
            domain: "example.test".to_owned(),
            pid,
            admin_token: Some("t".to_owned()),
        }
    }

    #[test]
    fn a_published_connection_is_found_while_its_process_lives() {
        let folder = tempfile::tempdir().unwrap();
        assert!(
            Connection::look(&arguments(folder.path()))
                .unwrap()
                .is_none()
        );
        connection(std::process::id())
            .publish(folder.path())
            .unwrap();
        let found = Connection::look(&arguments(folder.path()))
            .unwrap()
            .unwrap();
        assert_eq!(found.sandbox_url, "http://127.0.0.1:2");
        connection(u32::MAX).publish(folder.path()).unwrap();
        assert!(
            Connection::look(&arguments(folder.path()))
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_url_without_any_key_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut arguments = arguments(folder.path());
        arguments.api_url = Some("http://127.0.0.1:9".to_owned());
        let error = Connection::look(&arguments).unwrap_err();
        assert!(error.to_string().contains("E2B_API_KEY"), "{error}");
    }
}
