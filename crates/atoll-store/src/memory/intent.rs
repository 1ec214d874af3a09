//! What is wanted of sandboxes.

use atoll_core::sandbox::{Desired, EndReason, OnTimeout, Sandbox, State};
use atoll_core::snapshot::Snapshot;

use super::Tables;
use crate::store::{Intent, IntentChange};

impl Tables {
    pub(super) fn intend(&mut self, intent: Intent) -> Option<Sandbox> {
        let row = self
            .sandboxes
            .get_mut(&intent.id)
            .filter(|row| row.desired != Desired::Stopped)?;
        let is_turned = intent.change.turns();
        match intent.change {
            IntentChange::Stop(reason) => {
                row.desired = Desired::Stopped;
                row.stop_reason = Some(reason);
            }
            IntentChange::Expire { seen, how } => {
                if row.deadline != seen || row.desired != Desired::Running {
                    return None;
                }
                match how {
                    OnTimeout::Kill => {
                        row.desired = Desired::Stopped;
                        row.stop_reason = Some(EndReason::Expired);
                    }
                    OnTimeout::Pause { keep_memory } => {
                        row.desired = Desired::Paused;
                        row.keep_memory = keep_memory;
                    }
                }
            }
            IntentChange::Pause { keep_memory } => {
                if !is_settled(row) {
                    return None;
                }
                row.desired = Desired::Paused;
                row.keep_memory = keep_memory;
            }
            IntentChange::Resume { timeout } => {
                if (row.state, row.desired) != (State::Paused, Desired::Paused) {
                    return None;
                }
                row.desired = Desired::Running;
                row.timeout = timeout;
            }
            IntentChange::StayPaused => {
                if (row.state, row.desired) != (State::Paused, Desired::Running) {
                    return None;
                }
                row.desired = Desired::Paused;
            }
            IntentChange::NoteSnapshot(snapshot) => {
                if !is_news(row, &snapshot) {
                    return None;
                }
                row.snapshot = Some(snapshot);
            }
            IntentChange::Restart => {
                if !is_settled(row) {
                    return None;
                }
                row.is_restarting = true;
            }
            IntentChange::SetDeadline(deadline) => row.deadline = deadline,
            IntentChange::ExtendDeadline(deadline) => row.deadline = row.deadline.max(deadline),
            IntentChange::SetNetwork(policy) => row.config.network = policy,
        }
        let claimed_by = intent.claimed_by.filter(|_| is_turned);
        row.claimed_by = claimed_by.or_else(|| row.claimed_by.take());
        row.updated_at = intent.at;
        row.revision += 1;
        let row = row.clone();
        self.record(intent.events);
        self.audit_all(intent.audit.map(|row| *row));
        Some(row)
    }
}

/// Whether it runs and nothing else is wanted of it.
fn is_settled(row: &Sandbox) -> bool {
    (row.state, row.desired, row.is_restarting) == (State::Running, Desired::Running, false)
}

/// Whether it is of what is kept, and newer than what is known.
fn is_news(row: &Sandbox, snapshot: &Snapshot) -> bool {
    let kept = row.kept.filter(|_| row.state == State::Paused);
    kept.is_some_and(|kept| (kept.generation..=row.generation).contains(&snapshot.generation))
        && row.snapshot.as_ref().map(|known| known.generation) < Some(snapshot.generation)
}
