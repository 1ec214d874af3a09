//! What must stay secret, in files that only root may read: the team's key, the operator's token,
//! the database; and the join token, which somebody else made.

use std::fs;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use anyhow::{Context, bail};
use atoll_control::ControlPlane;
use atoll_control::random::{Random, SystemRandom};
use atoll_core::id::TeamId;
use atoll_proto::join_token::JoinToken;
use secrecy::{ExposeSecret, SecretString};

/// Holds the key of the default team, in the data directory.
const KEY_FILE: &str = "api-key";
/// Holds the join token, where no file does.
pub(crate) const JOIN_TOKEN_VARIABLE: &str = "ATOLL_JOIN_TOKEN";

/// Refuses what is no key before anything is made. The message leaves the text out: it may be a
/// secret of something else.
pub(crate) fn check_key(given: Option<&str>) -> anyhow::Result<()> {
    let is_key = |text: &str| {
        text.strip_prefix("e2b_").is_some_and(|body| {
            body.len() == 40 && body.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    };
    anyhow::ensure!(
        given.is_none_or(is_key),
        "the given API key is none: it must be `e2b_` followed by 40 hexadecimal digits"
    );
    Ok(())
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
    given: Option<String>,
) -> anyhow::Result<TeamKey> {
    let path = data_dir.join(KEY_FILE);
    let kept = match fs::read_to_string(&path) {
        Ok(text) => Some(text.trim().to_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).context(format!("read `{}`", path.display())),
    };
    let wanted = given.or(kept).map(SecretString::from);
    let bootstrapped = control
        .bootstrap(wanted.clone())
        .await
        .context("make the default team")?;
    let Some(key) = wanted.or(bootstrapped.key) else {
        bail!(
            "the team's key was made earlier and `{}` is gone; give one with --api-key",
            path.display()
        );
    };
    write_secret(&path, &key)?;
    Ok(TeamKey {
        team: bootstrapped.team,
        text: key,
    })
}

/// The join token of this file, else of the environment; none if neither names one.
///
/// # Errors
/// If what is named cannot be read or is none.
pub(crate) fn join_token(file: Option<&Path>) -> anyhow::Result<Option<JoinToken>> {
    let (text, from) = match file {
        Some(path) => {
            let text = fs::read_to_string(path)
                .with_context(|| format!("read the join token `{}`", path.display()))?;
            (SecretString::from(text), path.display().to_string())
        }
        None => match std::env::var(JOIN_TOKEN_VARIABLE) {
            Ok(text) => (SecretString::from(text), JOIN_TOKEN_VARIABLE.to_owned()),
            Err(_) => return Ok(None),
        },
    };
    let token = JoinToken::parse(text.expose_secret());
    Ok(Some(token.with_context(|| format!("in {from}"))?))
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
        check_key(None).unwrap();
        check_key(Some("e2b_00112233445566778899aabbccddeeff00112233")).unwrap();
        for wrong in [
            "",
            "e2b_",
            "e2b_xyz",
            "00112233445566778899aabbccddeeff00112233",
        ] {
            let error = check_key(Some(wrong)).unwrap_err().to_string();
            assert!(error.contains("40 hexadecimal"), "{error}");
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
