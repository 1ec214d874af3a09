//! What must stay secret, in files that only root may read: the team's key, the operator's token,
//! the database; and what somebody else made and gives in files, the join token above all.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use atoll_control::ControlPlane;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::TeamId;
use atoll_proto::join_token::JoinToken;
use atoll_store::cache::Cache;
use atoll_store::cache::redis::RedisCache;
use atoll_store::postgres::DatabaseUrl;
use secrecy::{ExposeSecret, SecretString};

use crate::cli::cache::CacheArgs;
use crate::cli::config::{JoinArgs, KeyArgs};
use crate::cli::database::DatabaseArgs;
use crate::cli::discovery::ConsulArgs;

/// Holds the key of the default team, in the data directory.
const KEY_FILE: &str = "api-key";
/// Holds the join token for a relay, whose node has it from wherever it may be.
pub(crate) const JOIN_TOKEN_VARIABLE: &str = "ATOLL_JOIN_TOKEN";
/// A secret is a line, not a file of data.
const SECRET_BYTES_MAX: u64 = 4096;
/// What users other than a file's owner and group may do with it.
const EVERYBODY: u32 = 0o007;

/// The API key to accept, from where the command line says; none if it says nothing.
///
/// # Errors
/// If what is named cannot be read or is none.
pub(crate) fn api_key(arguments: &KeyArgs) -> anyhow::Result<Option<SecretString>> {
    key(given(
        &arguments.api_key,
        arguments.api_key_file.as_deref(),
    )?)
}

/// Refuses what is no key before anything is made. The message leaves the text out: it may be a
/// secret of something else.
pub(crate) fn key(given: Option<SecretString>) -> anyhow::Result<Option<SecretString>> {
    let is_key = |text: &SecretString| {
        text.expose_secret()
            .strip_prefix("e2b_")
            .is_some_and(|body| {
                body.len() == 40 && body.bytes().all(|byte| byte.is_ascii_hexdigit())
            })
    };
    anyhow::ensure!(
        given.as_ref().is_none_or(is_key),
        "the given API key is none: it must be `e2b_` followed by 40 hexadecimal digits"
    );
    Ok(given)
}

/// The database's URL, from where the command line says; none if it says nothing.
///
/// # Errors
/// If what is named cannot be read or is none. The message leaves the text out.
pub(crate) fn database_url(arguments: &DatabaseArgs) -> anyhow::Result<Option<DatabaseUrl>> {
    let file = arguments.database_url_file.as_deref();
    let Some(text) = given(&arguments.database_url, file)? else {
        return Ok(None);
    };
    match DatabaseUrl::parse(text.expose_secret()) {
        Ok(url) => Ok(Some(url)),
        Err(problem) => bail!("the database's URL is none: {problem}"),
    }
}

/// What servers share, from where the command line says; none if it says nothing.
///
/// # Errors
/// If what is named cannot be read or is none. The message leaves the text out.
pub(crate) fn cache(arguments: &CacheArgs) -> anyhow::Result<Option<Arc<dyn Cache>>> {
    let Some(url) = given(&arguments.redis_url, arguments.redis_url_file.as_deref())? else {
        return Ok(None);
    };
    Ok(Some(Arc::new(RedisCache::new(&url)?)))
}

/// The join token, from where the command line says; none if it says nothing.
///
/// # Errors
/// If what is named cannot be read or is none.
pub(crate) fn join_token(arguments: &JoinArgs) -> anyhow::Result<Option<JoinToken>> {
    let Some(text) = given(&arguments.join_token, arguments.join_token_file.as_deref())? else {
        return Ok(None);
    };
    JoinToken::parse(text.expose_secret())
        .map(Some)
        .context("the join token is none")
}

/// The token that Consul is shown, from where the command line says; none if it says nothing.
///
/// # Errors
/// If what is named cannot be read.
pub(crate) fn consul_token(arguments: &ConsulArgs) -> anyhow::Result<Option<SecretString>> {
    given(
        &arguments.consul_token,
        arguments.consul_token_file.as_deref(),
    )
}

/// The join token that a node hands its relay; none if it has none.
///
/// # Errors
/// If what is handed is none.
pub(crate) fn handed_token() -> anyhow::Result<Option<JoinToken>> {
    let Ok(text) = std::env::var(JOIN_TOKEN_VARIABLE) else {
        return Ok(None);
    };
    let token = JoinToken::parse(SecretString::from(text).expose_secret());
    token.map(Some).context("the join token is none")
}

/// A secret itself, else the one in the file. Never both: see `crate::config`.
fn given(
    value: &Option<SecretString>,
    file: Option<&Path>,
) -> anyhow::Result<Option<SecretString>> {
    match (value, file) {
        (Some(value), _) => Ok(Some(value.clone())),
        (None, Some(path)) => read(path).map(Some),
        (None, None) => Ok(None),
    }
}

/// The secret in a file that somebody else made.
///
/// # Errors
/// If it cannot be read, or by every user of the machine.
pub(crate) fn read(path: &Path) -> anyhow::Result<SecretString> {
    let shown = path.display();
    let file = fs::File::open(path).with_context(|| format!("read the secret in `{shown}`"))?;
    let meta = file.metadata()?;
    let mode = meta.permissions().mode() & 0o777;
    anyhow::ensure!(
        !meta.is_file() || mode & EVERYBODY == 0,
        "`{shown}` holds a secret and is open to every user of this machine (mode {mode:04o}): \
         run `chmod o= {shown}`"
    );
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(|| format!("read the secret in `{shown}`"))?;
    anyhow::ensure!(
        text.len() as u64 <= SECRET_BYTES_MAX,
        "`{shown}` is no secret: it has more than {SECRET_BYTES_MAX} bytes"
    );
    anyhow::ensure!(!text.trim().is_empty(), "the secret in `{shown}` is empty");
    Ok(SecretString::from(text.trim()))
}

/// The default team and a key of it.
pub(crate) struct TeamKey {
    pub(crate) team: TeamId,
    pub(crate) text: SecretString,
}

/// The key of the default team: the given one, the one of an earlier start, or a new one. It is
/// kept in a file of root's, because the store only has its hash.
pub(crate) async fn team_key(
    control: &ControlPlane,
    data_dir: &Path,
    given: Option<SecretString>,
) -> anyhow::Result<TeamKey> {
    let path = data_dir.join(KEY_FILE);
    let kept = match fs::read_to_string(&path) {
        Ok(text) => Some(SecretString::from(text.trim())),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("read `{}`", path.display())),
    };
    let wanted = given.or(kept);
    let bootstrapped = control
        .bootstrap(wanted.clone())
        .await
        .context("make the default team")?;
    let Some(key) = wanted.or(bootstrapped.key) else {
        bail!(
            "the team's key was made earlier and `{}` is gone; give one with --api-key-file",
            path.display()
        );
    };
    write_secret(&path, &key)?;
    Ok(TeamKey {
        team: bootstrapped.team,
        text: key,
    })
}

/// The secret in this file; made at the first call.
pub(crate) fn secret_file(path: &Path) -> anyhow::Result<SecretString> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(SecretString::from(text.trim())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let mut random = [0; 32];
            SystemRandom.fill(&mut random);
            let secret = SecretString::from(hex::encode(random));
            write_secret(path, &secret)?;
            Ok(secret)
        }
        Err(error) => Err(error).context(format!("read `{}`", path.display())),
    }
}

/// Makes the database a file of root's alone, before there is anything in it: others may pass
/// through the data directory. The store's companion files get the mode of the database.
pub(crate) fn keep_private(path: &Path) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    file.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o600)))
        .with_context(|| format!("write `{}`", path.display()))
}

fn write_secret(path: &Path, secret: &SecretString) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("write `{}`", path.display()))?;
    file.write_all(secret.expose_secret().as_bytes())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_are_taken_as_keys() {
        let given = |text: &str| key(Some(SecretString::from(text)));
        assert!(key(None).unwrap().is_none());
        given("e2b_00112233445566778899aabbccddeeff00112233").unwrap();
        for wrong in [
            "",
            "e2b_",
            "e2b_xyz",
            "00112233445566778899aabbccddeeff00112233",
        ] {
            let error = given(wrong).unwrap_err().to_string();
            assert!(error.contains("40 hexadecimal"), "{error}");
        }
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("join-token");
        fs::write(&path, "0123456789abcdef\n").unwrap();
        for (mode, is_taken) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match read(&path) {
                Ok(secret) => {
                    assert!(is_taken, "{mode:o}");
                    assert_eq!(secret.expose_secret(), "0123456789abcdef");
                }
                Err(error) => {
                    assert!(!is_taken, "{mode:o}: {error}");
                    assert!(error.to_string().contains("chmod o="), "{error}");
                }
            }
        }
        for wrong in ["", " \n", &"a".repeat(5000)] {
            fs::write(&path, wrong).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            read(&path).unwrap_err();
        }
    }

    #[test]
    fn the_database_is_private_also_where_an_older_one_was_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("atoll.db");
        fs::write(&path, "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        keep_private(&path).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "kept");
    }
}
