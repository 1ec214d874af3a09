//! The storage that a node shares with others, as the command line names it.

use std::path::Path;

use anyhow::Context;
use atoll_control::random::{Random, SystemRandom};
use atoll_node::snapshot::{Config, SnapshotStore};
use secrecy::{ExposeSecret, SecretString};

use crate::cli::machine::SharedArgs;
use crate::secrets;

/// Random bytes of the id of a storage that is used for the first time.
const ID_BYTES: usize = 16;

/// The storage; none if none is named.
///
/// # Errors
/// If what is named is none, or does not answer and was never seen by this node.
pub(crate) async fn open(
    arguments: &SharedArgs,
    data_dir: &Path,
) -> anyhow::Result<Option<SnapshotStore>> {
    let Some(url) = &arguments.snapshot_store else {
        let is_alone = arguments.snapshot_credentials.is_none();
        anyhow::ensure!(is_alone, "--snapshot-credentials is for a --snapshot-store");
        return Ok(None);
    };
    let credentials = arguments.snapshot_credentials.as_deref();
    let config = Config {
        url: url.clone(),
        options: credentials.map(options).transpose()?.unwrap_or_default(),
        mib_per_second: arguments.snapshot_mib_per_second,
    };
    let mut fresh = [0; ID_BYTES];
    SystemRandom.fill(&mut fresh);
    let fresh = hex::encode(fresh).parse()?;
    let store = SnapshotStore::open(&config, data_dir, fresh).await;
    let store = store.with_context(|| format!("open the snapshot store `{url}`"))?;
    tracing::info!(url, store = %store.id(), "files of paused sandboxes are shared");
    Ok(Some(store))
}

/// The lines of a file, which are not shown to anybody.
fn options(path: &Path) -> anyhow::Result<Vec<(String, SecretString)>> {
    let text = secrets::read(path)?;
    let lines = text.expose_secret().lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (name, value) = line
                .split_once('=')
                .with_context(|| format!("a line of `{}` is not NAME=VALUE", path.display()))?;
            let value = SecretString::from(value.trim());
            Ok((name.trim().to_ascii_lowercase(), value))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn settings_are_lines_and_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s3");
        std::fs::write(
            &path,
            "# mine\nAWS_REGION = here\naws_secret_access_key=a=b\n",
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let found = options(&path).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret()))
            .collect();
        assert_eq!(
            shown,
            [("aws_region", "here"), ("aws_secret_access_key", "a=b")]
        );
        assert!(!format!("{found:?}").contains("a=b"));
        std::fs::write(&path, "secret").unwrap();
        let error = format!("{:#}", options(&path).unwrap_err());
        assert!(!error.contains("secret\n"), "{error}");
    }
}
