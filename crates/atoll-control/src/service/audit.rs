//! Writing and reading the audit.

use atoll_core::error::ErrorKind;
use atoll_core::id::TeamId;
use atoll_store::store::{AuditFilter, AuditRow};

use super::{ControlPlane, Inner, unavailable};
use crate::audit::{AuditQuery, Deed, Outcome};
use crate::error::{Error, Result};
use crate::limit::AUDIT_LIMIT_MAX;
use crate::view::AuditView;

impl Inner {
    /// How many refusals were left out before this one; none: it is left out itself.
    async fn admit_refusal(&self, team: Option<&TeamId>) -> Option<u64> {
        // A team that cannot be looked up now is as good as a stranger.
        let gate = match team {
            Some(team) => self.gate(team).await.unwrap_or(None),
            None => None,
        };
        match gate {
            Some(gate) => gate.refusals().take(),
            None => self.stranger_refusals.take(),
        }
    }
}

impl ControlPlane {
    /// Records a decided request for a change; durable when this returns.
    ///
    /// # Errors
    /// `Unavailable` for the store: the change, if there was one, stands.
    pub async fn audit_record(&self, deed: Deed) -> Result<()> {
        let inner = &self.inner;
        let is_refused = matches!(deed.outcome, Outcome::Refused(_));
        let left_out = if is_refused {
            match inner.admit_refusal(deed.team.as_ref()).await {
                Some(left_out) => left_out,
                None => return Ok(()),
            }
        } else {
            0
        };
        let row = deed.into_row(inner.clock.now(), left_out);
        match inner.store.audit_append(vec![row]).await {
            Err(error) if is_refused => {
                tracing::warn!(%error, "a refusal is missing in the audit");
                Ok(())
            }
            Err(error) => Err(Error::new(
                ErrorKind::Unavailable,
                "the request may have been carried out, but the audit cannot be written",
            )
            .with_source(error)),
            Ok(()) => Ok(()),
        }
    }

    /// A page of the audit, newest first, and where the next begins.
    ///
    /// # Errors
    /// `InvalidArgument` for a limit out of range.
    pub async fn audit_list(&self, query: AuditQuery) -> Result<(Vec<AuditView>, Option<i64>)> {
        if query.limit == 0 || query.limit > AUDIT_LIMIT_MAX {
            return Err(Error::invalid(format!(
                "limit must be between 1 and {AUDIT_LIMIT_MAX}"
            )));
        }
        let filter = AuditFilter {
            team: query.team,
            actor: query.actor,
            operation: query.operation,
            object: query.object,
            outcome: query.outcome,
            start: query.start,
            end: query.end,
            before: query.before,
            // One more than asked for tells whether there is a next page.
            limit: query.limit + 1,
        };
        let mut rows = self
            .inner
            .store
            .audit_list(&filter)
            .await
            .map_err(unavailable)?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|row| row.seq);
        Ok((rows.into_iter().map(view).collect(), next))
    }
}

fn view(row: AuditRow) -> AuditView {
    AuditView {
        at: row.at,
        team: row.team,
        actor: row.actor,
        operation: row.operation,
        object: row.object,
        outcome: row.outcome,
        address: row.address,
        agent: row.agent,
        trace: row.trace,
        left_out: row.left_out,
    }
}
