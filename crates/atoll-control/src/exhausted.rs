//! Tells that something ran out: once for many refusals, so that a storm of them cannot fill the
//! log of events.
//!
//! What was told last is kept by team and by what was short. Within [`EXHAUSTED_INTERVAL`] of it
//! refusals of the same kind are only counted, and the next event says how many there were. One
//! that the store does not take is not written later: the next one tells.

use std::collections::BTreeMap;
use std::sync::Mutex;

use atoll_core::event::{EventKind, Subject};
use atoll_core::id::TeamId;
use atoll_core::quota::{Exceeded, Quota};
use atoll_core::scheduler::decision::Refusal;
use atoll_store::store::EventRow;
use tokio::time::Instant;

use crate::events::{about, with};
use crate::limit::{EXHAUSTED_INTERVAL, EXHAUSTED_TOLD_MAX};
use crate::lock::lock;
use crate::service::Inner;

/// What was short.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Short {
    /// Room on nodes.
    Capacity,
    /// What a team may have.
    Quota(Quota),
}

#[derive(Debug)]
struct Told {
    at: Instant,
    /// Refusals since.
    untold: u64,
}

/// What was told, and when.
#[derive(Debug, Default)]
pub(crate) struct Exhausted {
    told: Mutex<BTreeMap<(TeamId, Short), Told>>,
}

impl Exhausted {
    /// Counts a refusal. Answers how many there were since the last event, this one included, if
    /// it is time for another.
    fn count(&self, team: &TeamId, short: Short) -> Option<u64> {
        let mut told = lock(&self.told);
        let key = (team.clone(), short);
        let now = Instant::now();
        if let Some(last) = told.get_mut(&key) {
            last.untold += 1;
            if now.duration_since(last.at) < EXHAUSTED_INTERVAL {
                return None;
            }
            last.at = now;
            return Some(std::mem::take(&mut last.untold));
        }
        if told.len() >= EXHAUSTED_TOLD_MAX {
            told.retain(|_, last| now.duration_since(last.at) < EXHAUSTED_INTERVAL);
            if told.len() >= EXHAUSTED_TOLD_MAX {
                return None;
            }
        }
        told.insert(key, Told { at: now, untold: 0 });
        Some(1)
    }
}

/// The event for a sandbox of a team that no node has room for, if it is time for one.
pub(crate) fn of_capacity(inner: &Inner, team: &TeamId, refusal: &Refusal) -> Option<EventRow> {
    let message = format!("no node has room: {refusal}");
    let event = row(inner, team, Short::Capacity, message)?;
    let event = with(event, "scope", "fleet");
    let event = with(event, "resource", "capacity");
    Some(if refusal.counts.sum() == 0 {
        event
    } else {
        with(event, "rejected", refusal.counts.to_string())
    })
}

/// The event for a paused sandbox that its own node has no room for, if it is time for one.
pub(crate) fn of_node(inner: &Inner, team: &TeamId, short: &str) -> Option<EventRow> {
    let message = format!("a paused sandbox's node has no room: {short}");
    let event = row(inner, team, Short::Capacity, message)?;
    Some(with(with(event, "scope", "node"), "resource", "capacity"))
}

/// The event for a team that has as much as it may, if it is time for one.
pub(crate) fn of_quota(inner: &Inner, team: &TeamId, exceeded: &Exceeded) -> Option<EventRow> {
    let Exceeded {
        quota,
        used,
        wanted,
        limit,
    } = exceeded;
    let short = Short::Quota(*quota);
    let event = row(inner, team, short, exceeded.to_string())?;
    let event = with(event, "scope", "team");
    let event = with(event, "resource", quota.as_str());
    let event = with(event, "used", used.to_string());
    let event = with(event, "wanted", wanted.to_string());
    Some(with(event, "limit", limit.to_string()))
}

fn row(inner: &Inner, team: &TeamId, short: Short, message: String) -> Option<EventRow> {
    let refusals = inner.exhausted.count(team, short)?;
    let (now, kind) = (inner.clock.now(), EventKind::ResourceExhausted);
    let event = about(
        Subject::Fleet,
        Some(team.clone()),
        now,
        kind,
        "warn",
        message,
    );
    Some(with(event, "refusals", refusals.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn team(number: usize) -> TeamId {
        format!("00000000-0000-4000-8000-{number:012}")
            .parse()
            .unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn one_event_tells_of_many_refusals() {
        let book = Exhausted::default();
        assert_eq!(book.count(&team(1), Short::Capacity), Some(1));
        for _ in 0..1_000 {
            assert_eq!(book.count(&team(1), Short::Capacity), None);
        }
        // Another team, and another shortage, are told of by themselves.
        assert_eq!(book.count(&team(2), Short::Capacity), Some(1));
        assert_eq!(book.count(&team(1), Short::Quota(Quota::Disk)), Some(1));
        tokio::time::advance(EXHAUSTED_INTERVAL).await;
        assert_eq!(book.count(&team(1), Short::Capacity), Some(1_001));
        assert_eq!(book.count(&team(1), Short::Capacity), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_of_it_is_bounded() {
        let book = Exhausted::default();
        let told = (0..2 * EXHAUSTED_TOLD_MAX)
            .filter(|number| book.count(&team(*number), Short::Capacity).is_some())
            .count();
        assert_eq!(told, EXHAUSTED_TOLD_MAX);
        assert_eq!(lock(&book.told).len(), EXHAUSTED_TOLD_MAX);
        tokio::time::advance(EXHAUSTED_INTERVAL).await;
        let late = team(2 * EXHAUSTED_TOLD_MAX);
        assert_eq!(book.count(&late, Short::Capacity), Some(1));
        assert_eq!(lock(&book.told).len(), 1);
    }
}
