//! What `/init` sets: variables, default user and directory, the access token.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Variables that the sandbox itself sets; `/init` may set them, but never takes them away.
const OWN_VARIABLES: [&str; 4] = [
    "E2B_SANDBOX",
    "E2B_SANDBOX_ID",
    "E2B_TEMPLATE_ID",
    "E2B_EVENTS_ADDRESS",
];

/// The agent's settings at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Values {
    /// For every process.
    pub(crate) variables: BTreeMap<String, String>,
    /// Who is meant when nobody is named.
    pub(crate) user: String,
    /// Where processes start when no directory is named.
    pub(crate) workdir: Option<String>,
    /// Wanted on nearly every request, once set.
    pub(crate) token: Option<String>,
    /// The newest `/init` so far, in nanoseconds since 1970.
    pub(crate) newest_ns: Option<i128>,
}

/// The settings, shared by all requests.
#[derive(Debug)]
pub(crate) struct Settings(Mutex<Values>);

impl Settings {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Values {
            variables: BTreeMap::from([("E2B_SANDBOX".to_owned(), "true".to_owned())]),
            user: crate::user::DEFAULT_USER.to_owned(),
            workdir: None,
            token: None,
            newest_ns: None,
        }))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Values> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the request may pass: no token is set, or this is it.
    pub(crate) fn admits(&self, offered: Option<&[u8]>) -> bool {
        match (&self.lock().token, offered) {
            (None, _) => true,
            (Some(token), Some(offered)) => is_equal(token.as_bytes(), offered),
            (Some(_), None) => false,
        }
    }
}

impl Values {
    /// Replaces the variables that clients may set.
    pub(crate) fn replace_variables(&mut self, new: BTreeMap<String, String>) {
        self.variables
            .retain(|key, _| OWN_VARIABLES.contains(&key.as_str()));
        self.variables.extend(new);
    }
}

/// Compares in a time that depends on the lengths only.
pub(crate) fn is_equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .fold(0, |differences, (x, y)| differences | (x ^ y))
            == 0
}
