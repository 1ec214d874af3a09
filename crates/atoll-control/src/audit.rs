//! The audit: who asked for which change, from where, and what became of it.
//!
//! The doors record each request that would change something once it is decided, before it is
//! answered: what was answered is in the audit. Where one transaction decides a request, the row is
//! part of it, by the request's [`Receipt`]: a create, a resume or a restart that serves, a pause
//! that is kept, a kill, a new deadline, a new network policy (whether the node has confirmed it is
//! the answer's to say). Else, for a batch of creates, for teams, keys, templates, webhooks and
//! nodes, it is a transaction of its own, right after the change's: a server that dies between the
//! two has changed something that the audit does not tell, and that nobody was told; the sandbox's
//! own events, which share the change's transaction, still tell it.
//!
//! Refusals are recorded at a rate, for each team and for all strangers together, so that whoever
//! floods the door fills neither the store nor the writer; the next row says how many were left
//! out. What was done, or may have been, is never left out. Rows carry no secret: texts that come
//! from a client are cut, and what looks like a key in them is masked.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use atoll_core::id::{KeyId, TeamId};
use atoll_core::quota::Rate;
use atoll_core::time::Timestamp;
use atoll_store::store::AuditRow;
use tokio::sync::OwnedMutexGuard;

use crate::gate::Limiter;
use crate::limit::AUDIT_TEXT_MAX;
use crate::lock::lock;

/// What every key of ours begins with, and E2B's other tokens.
const SECRETS: [&str; 3] = ["e2b_", "sk_", "Bearer "];

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// It certainly changed nothing; the word says why.
    Refused(&'static str),
    /// It may have changed something; the word says what is known.
    Unsure(&'static str),
}

impl Outcome {
    /// Its word in the audit.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Done => "ok",
            Self::Refused(word) | Self::Unsure(word) => word,
        }
    }
}

/// Who asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Actor {
    /// Whoever holds this key.
    Key(KeyId),
    /// Whoever holds the operator's token.
    Operator,
    /// Nobody known.
    Anonymous,
}

impl Actor {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Key(key) => format!("key:{key}"),
            Self::Operator => "operator".to_owned(),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }
}

/// A request for a change, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deed {
    /// For which team, if it is known.
    pub team: Option<TeamId>,
    /// Who asked.
    pub actor: Actor,
    /// For what: `POST /sandboxes`, `DELETE /sandboxes/{sandboxID}`, `rpc CreateSandbox`.
    pub operation: String,
    /// Of what, or what came of it.
    pub object: Option<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// From which address.
    pub address: Option<IpAddr>,
    /// With which program, by its own account.
    pub agent: Option<String>,
    /// The request's trace id.
    pub trace: Option<String>,
}

impl Deed {
    /// Its row, without place.
    pub(crate) fn into_row(self, at: Timestamp, left_out: u64) -> AuditRow {
        AuditRow {
            seq: 0,
            at,
            actor: self.actor.text(),
            team: self.team,
            operation: self.operation,
            object: self.object.as_deref().map(shown),
            outcome: self.outcome.word().to_owned(),
            address: self.address.map(|address| address.to_string()),
            agent: self.agent.as_deref().map(shown),
            trace: self.trace,
            left_out,
        }
    }
}

/// A request's right to one row in the audit: whoever comes first writes it, the transaction that
/// decides the request or its door.
#[derive(Debug, Clone)]
pub struct Receipt {
    deed: Arc<Deed>,
    is_taken: Arc<tokio::sync::Mutex<bool>>,
}

impl Receipt {
    /// Of a request whose outcome is open.
    #[must_use]
    pub fn new(deed: Deed) -> Self {
        Self {
            deed: Arc::new(deed),
            is_taken: Arc::default(),
        }
    }

    /// Takes the right for the door, after a transaction that is under way with it. False: one
    /// has written the row.
    pub async fn settle(&self) -> bool {
        !std::mem::replace(&mut *self.is_taken.lock().await, true)
    }

    /// Takes the right for a transaction, unless somebody has it.
    pub(crate) async fn claim(&self) -> Option<Claim> {
        let is_taken = Arc::clone(&self.is_taken).lock_owned().await;
        (!*is_taken).then(|| Claim {
            deed: Arc::clone(&self.deed),
            is_taken,
        })
    }
}

/// The right to a request's row while a transaction with it is under way. Dropped, it goes back:
/// the transaction did not happen.
#[derive(Debug)]
pub(crate) struct Claim {
    deed: Arc<Deed>,
    is_taken: OwnedMutexGuard<bool>,
}

impl Claim {
    /// The row that says that it was done, to this object.
    pub(crate) fn row(&self, object: &str, at: Timestamp) -> Box<AuditRow> {
        let deed = Deed {
            object: Some(object.to_owned()),
            outcome: Outcome::Done,
            ..Deed::clone(&self.deed)
        };
        Box::new(deed.into_row(at, 0))
    }

    /// The transaction is durable, and the row in it.
    pub(crate) fn keep(mut self) {
        *self.is_taken = true;
    }
}

/// Which part of the audit to read, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditQuery {
    /// For this team.
    pub team: Option<TeamId>,
    /// By this actor: `key:<id>`, `operator`, `anonymous`.
    pub actor: Option<String>,
    /// Of this operation.
    pub operation: Option<String>,
    /// Of this object.
    pub object: Option<String>,
    /// With this outcome.
    pub outcome: Option<String>,
    /// From this instant on.
    pub start: Option<Timestamp>,
    /// Before this instant.
    pub end: Option<Timestamp>,
    /// Older than the row with this number.
    pub before: Option<i64>,
    /// How many rows at most: 1 to [`crate::limit::AUDIT_LIMIT_MAX`].
    pub limit: u32,
}

/// Bounds how many refusals are recorded, and counts the others.
#[derive(Debug)]
pub(crate) struct Refusals {
    limiter: Limiter,
    left_out: Mutex<u64>,
}

impl Refusals {
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            limiter: Limiter::new(rate),
            left_out: Mutex::new(0),
        }
    }

    /// Whether one more may be recorded, and how many before it were not.
    pub(crate) fn take(&self) -> Option<u64> {
        let mut left_out = lock(&self.left_out);
        if self.limiter.check().is_ok() {
            return Some(std::mem::take(&mut *left_out));
        }
        *left_out = left_out.saturating_add(1);
        None
    }
}

/// A client's text, cut, without what looks like a secret.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(AUDIT_TEXT_MAX).collect();
    for secret in SECRETS {
        if let Some(at) = shown.find(secret) {
            shown.truncate(at + secret.len());
            shown.push('…');
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_hold_no_keys() {
        let key = format!("e2b_{}", "0f".repeat(20));
        for text in [key.clone(), format!("curl {key}"), format!("Bearer {key}")] {
            let shown = shown(&text);
            assert!(!shown.contains("0f"), "{shown}");
        }
        assert_eq!(shown("i123abc"), "i123abc");
        assert_eq!(shown(&"x".repeat(1_000)).chars().count(), AUDIT_TEXT_MAX);
    }
}
