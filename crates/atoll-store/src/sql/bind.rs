//! Rows as values, in the order of the placeholders of their statements.

use atoll_core::id::TeamId;
use atoll_core::lifecycle::state_name;
use atoll_core::sandbox::{EndReason, Sandbox};
use atoll_core::time::Timestamp;

use super::statement::{Statement, query};
use crate::queries;
use crate::row::{
    config_to_json, decision_to_json, desired_name, fields_to_json, micros, reason_name, to_i64,
};
use crate::store::{AuditRow, EventRow, IdempotencyKey, Intent, Transition};

/// A change of a state.
pub(super) fn transition<'q>(text: &'static str, change: &'q Transition) -> Statement<'q> {
    let (state, generation) = change.expected;
    let placement = change.placement.as_ref();
    query(text)
        .bind(change.id.as_str())
        .bind(state_name(state))
        .bind(to_i64(generation.get()))
        .bind(state_name(change.next))
        .bind(placement.map(|(node, _)| node.as_str()))
        .bind(placement.map(|(_, generation)| to_i64(generation.get())))
        .bind(change.started_at.map(Timestamp::as_micros))
        .bind(change.ended_at.map(Timestamp::as_micros))
        .bind(change.stop_reason.map(reason_name))
        .bind(change.last_error.as_deref())
        .bind(change.at.as_micros())
        .bind(change.paused_at.map(Timestamp::as_micros))
        .bind(change.desired.map(desired_name))
        .bind(change.deadline.map(Timestamp::as_micros))
        .bind(i64::from(change.is_detached))
}

/// The end of a sandbox.
pub(super) fn stop<'q>(intent: &'q Intent, reason: EndReason) -> Statement<'q> {
    query(queries::SANDBOX_STOP)
        .bind(intent.id.as_str())
        .bind(intent.at.as_micros())
        .bind(reason_name(reason))
        .bind(intent.claimed_by.as_ref().map(|server| server.as_str()))
}

/// A new sandbox.
pub(super) fn sandbox(sandbox: &Sandbox) -> Statement<'_> {
    let snapshot = sandbox.snapshot.as_ref();
    query(queries::SANDBOX_INSERT)
        .bind(sandbox.id.as_str())
        .bind(sandbox.team.as_str())
        .bind(sandbox.config.template.as_str())
        .bind(sandbox.config.build.as_str())
        .bind(sandbox.config.alias.as_deref())
        .bind(config_to_json(&sandbox.config))
        .bind(state_name(sandbox.state))
        .bind(desired_name(sandbox.desired))
        .bind(sandbox.stop_reason.map(reason_name))
        .bind(to_i64(sandbox.generation.get()))
        .bind(sandbox.node.as_ref().map(|node| node.as_str()))
        .bind(sandbox.created_at.as_micros())
        .bind(sandbox.started_at.map(Timestamp::as_micros))
        .bind(sandbox.deadline.as_micros())
        .bind(sandbox.updated_at.as_micros())
        .bind(sandbox.ended.map(|(at, _)| at.as_micros()))
        .bind(sandbox.last_error.as_deref())
        .bind(sandbox.created_by.as_ref().map(|key| key.as_str()))
        .bind(to_i64(sandbox.revision))
        .bind(micros(sandbox.timeout))
        .bind(i64::from(sandbox.keep_memory))
        .bind(sandbox.kept.map(|kept| to_i64(kept.generation.get())))
        .bind(sandbox.kept.map(|kept| kept.at.as_micros()))
        .bind(i64::from(sandbox.is_restarting))
        .bind(sandbox.claimed_by.as_ref().map(|server| server.as_str()))
        .bind(sandbox.kept_on.as_ref().map(|node| node.as_str()))
        .bind(snapshot.map(|snapshot| snapshot.store.as_str()))
        .bind(snapshot.map(|snapshot| to_i64(snapshot.generation.get())))
        .bind(snapshot.map(|snapshot| snapshot.digest.to_string()))
        .bind(snapshot.map(|snapshot| to_i64(snapshot.bytes)))
}

/// A label of a new sandbox.
pub(super) fn label<'q>(sandbox: &'q Sandbox, name: &'q str, value: &'q str) -> Statement<'q> {
    query(queries::LABEL_INSERT)
        .bind(sandbox.id.as_str())
        .bind(sandbox.team.as_str())
        .bind(name)
        .bind(value)
        .bind(sandbox.created_at.as_micros())
}

/// The key under which a sandbox was made.
pub(super) fn key<'q>(sandbox: &'q Sandbox, idempotency: &'q IdempotencyKey) -> Statement<'q> {
    query(queries::IDEMPOTENCY_INSERT)
        .bind(sandbox.team.as_str())
        .bind(&idempotency.key)
        .bind(&idempotency.fingerprint)
        .bind(sandbox.id.as_str())
        .bind(sandbox.created_at.as_micros())
}

/// What the values of [`event`] are, as [`many`](super::many) has it.
pub(crate) const EVENT_KINDS: &str = "tttnttttt";

/// An event.
pub(crate) fn event(event: &EventRow) -> Statement<'_> {
    query(queries::EVENT_INSERT)
        .bind(event.subject.sandbox().map(|id| id.as_str()))
        .bind(event.subject.node().map(|id| id.as_str()))
        .bind(event.team.as_ref().map(|id| id.as_str()))
        .bind(event.at.as_micros())
        .bind(event.kind.as_str())
        .bind(event.level.as_str())
        .bind(event.message.as_str())
        .bind(fields_to_json(&event.fields))
        .bind(event.decision.as_deref().map(decision_to_json))
}

/// What the values of [`audit`] are.
pub(crate) const AUDIT_KINDS: &str = "nttttttttn";

/// A row of the audit.
pub(crate) fn audit(row: &AuditRow) -> Statement<'_> {
    query(queries::AUDIT_INSERT)
        .bind(row.at.as_micros())
        .bind(row.team.as_ref().map(TeamId::as_str))
        .bind(row.actor.as_str())
        .bind(row.operation.as_str())
        .bind(row.object.as_deref())
        .bind(row.outcome.as_str())
        .bind(row.address.as_deref())
        .bind(row.agent.as_deref())
        .bind(row.trace.as_deref())
        .bind(to_i64(row.left_out))
}
