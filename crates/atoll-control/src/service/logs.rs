//! A sandbox's log: its history, for its owner.

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::SandboxId;
use atoll_store::store::{EventFilter, StoredEvent};

use super::{ControlPlane, unavailable};
use crate::error::{Error, Result};
use crate::request::{LOG_LIMIT_MAX, LogLevel, LogQuery, Order};
use crate::view::{LogLine, Tenant};

const LEVELS: [LogLevel; 4] = [
    LogLevel::Debug,
    LogLevel::Info,
    LogLevel::Warn,
    LogLevel::Error,
];

impl ControlPlane {
    /// Lines of a sandbox's log, also after it ended, as long as its history is kept.
    ///
    /// # Errors
    /// `NotFound` for an unknown or foreign one; `InvalidArgument` for a limit out of range.
    pub async fn sandbox_logs(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        query: &LogQuery,
    ) -> Result<Vec<LogLine>> {
        if query.limit == 0 || query.limit > LOG_LIMIT_MAX {
            return Err(Error::invalid(format!(
                "limit must be between 1 and {LOG_LIMIT_MAX}"
            )));
        }
        let store = &self.inner.store;
        let row = store.sandbox_get(id).await.map_err(unavailable)?;
        if row.is_none_or(|row| row.team != tenant.team) {
            return Err(Error::no_sandbox(id));
        }
        let filter = EventFilter {
            subject: Subject::Sandbox(id.clone()),
            start: query.start,
            is_ascending: query.order == Order::Ascending,
            levels: query.level.map_or_else(Vec::new, |least| {
                LEVELS
                    .into_iter()
                    .filter(|level| *level >= least)
                    .map(LogLevel::as_str)
                    .collect()
            }),
            search: query.search.clone().filter(|text| !text.is_empty()),
            limit: query.limit,
        };
        let events = store.event_list(&filter).await.map_err(unavailable)?;
        let line = |StoredEvent { event, .. }| {
            let mut fields = event.fields;
            if event.kind != EventKind::Log {
                fields.insert("event".to_owned(), event.kind.to_string());
            }
            LogLine {
                at: event.at,
                level: LogLevel::parse(&event.level).unwrap_or(LogLevel::Info),
                message: event.message,
                fields,
            }
        };
        Ok(events.into_iter().map(line).collect())
    }
}
