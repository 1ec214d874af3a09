//! What makes the parts of a request acceptable, the same through every door.
//!
//! Refusals name the field twice: in words for people, as the REST documents call it, and by its
//! path in the `.proto` for programs.

use std::collections::BTreeMap;

use crate::error::ApiError;
use crate::limit::{
    MAX_ENV_BYTES, MAX_ENV_ENTRIES, MAX_ENV_ENTRY_LEN, MAX_IDEMPOTENCY_KEY_LEN, MAX_METADATA_BYTES,
    MAX_METADATA_ENTRIES, MAX_METADATA_KEY_LEN, MAX_TEMPLATE_REFERENCE_LEN,
};
use crate::query::shorten;

/// A reference to a template.
pub(crate) fn template(reference: &str) -> Result<(), ApiError> {
    check_template(reference).map_err(|error| error.at("template"))
}

/// The labels of a sandbox.
pub(crate) fn metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    check_metadata(metadata).map_err(|error| error.at("metadata"))
}

/// The environment of a sandbox.
pub(crate) fn env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    check_env(env).map_err(|error| error.at("env_vars"))
}

/// A key under which a create may be repeated.
pub(crate) fn idempotency_key(key: &str) -> Result<(), ApiError> {
    let is_valid = (1..=MAX_IDEMPOTENCY_KEY_LEN).contains(&key.len())
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if is_valid {
        return Ok(());
    }
    let problem = format!(
        "Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_LEN} letters, digits, dashes or \
         underscores"
    );
    Err(ApiError::validation(problem).at("request_id"))
}

fn check_template(reference: &str) -> Result<(), ApiError> {
    if reference.is_empty() {
        return Err(ApiError::validation("`templateID` must not be empty"));
    }
    if reference.len() > MAX_TEMPLATE_REFERENCE_LEN {
        return Err(ApiError::validation(format_args!(
            "`templateID` has more than {MAX_TEMPLATE_REFERENCE_LEN} bytes"
        )));
    }
    if reference.contains(char::is_control) {
        return Err(ApiError::validation(
            "`templateID` contains control characters",
        ));
    }
    Ok(())
}

fn check_metadata(metadata: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if metadata.len() > MAX_METADATA_ENTRIES {
        return Err(ApiError::validation(format_args!(
            "`metadata` has {} entries, at most {MAX_METADATA_ENTRIES} are allowed",
            metadata.len()
        )));
    }
    let mut total = 0;
    for (key, value) in metadata {
        if key.is_empty() || key.len() > MAX_METADATA_KEY_LEN {
            return Err(ApiError::validation(format_args!(
                "`metadata` key `{}` must have 1 to {MAX_METADATA_KEY_LEN} bytes",
                shorten(key)
            )));
        }
        if key.contains('\0') || value.contains('\0') {
            return Err(ApiError::validation(format_args!(
                "`metadata` entry `{}` contains a NUL byte",
                shorten(key)
            )));
        }
        total += key.len() + value.len();
    }
    if total > MAX_METADATA_BYTES {
        return Err(ApiError::validation(format_args!(
            "`metadata` has {total} bytes, at most {MAX_METADATA_BYTES} are allowed"
        )));
    }
    Ok(())
}

fn check_env(env: &BTreeMap<String, String>) -> Result<(), ApiError> {
    if env.len() > MAX_ENV_ENTRIES {
        return Err(ApiError::validation(format_args!(
            "`envVars` has {} entries, at most {MAX_ENV_ENTRIES} are allowed",
            env.len()
        )));
    }
    let mut total = 0;
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
            return Err(ApiError::validation(format_args!(
                "`envVars` entry `{}` is not a valid environment variable: the name must not be \
                 empty nor contain `=`, and neither part may contain a NUL byte",
                shorten(key)
            )));
        }
        let len = key.len() + value.len();
        if len > MAX_ENV_ENTRY_LEN {
            return Err(ApiError::validation(format_args!(
                "`envVars` entry `{}` has {len} bytes, at most {MAX_ENV_ENTRY_LEN} are allowed",
                shorten(key)
            )));
        }
        total += len;
    }
    if total > MAX_ENV_BYTES {
        return Err(ApiError::validation(format_args!(
            "`envVars` has {total} bytes, at most {MAX_ENV_BYTES} are allowed"
        )));
    }
    Ok(())
}
