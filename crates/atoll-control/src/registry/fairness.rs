//! Who gets what there is when there is not enough, and what is held for those who are expected:
//! asked for new sandboxes, before a place is sought for them.
//!
//! What the teams hold follows the account ([`Inner::shift`](super::book::Inner)); who waits is who
//! found no room lately. Sandboxes that exist already, and go somewhere else or are resumed, are
//! not asked about: they were admitted once.

use atoll_core::id::TeamId;
use atoll_core::node::NodeState;
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::constraint::Constraint;
use atoll_core::scheduler::decision::{Change, Refusal};
use atoll_core::scheduler::forecast::reserve::Held;
use atoll_core::scheduler::forecast::{Key, Saved};
use atoll_core::scheduler::shares::OverShare;
use atoll_core::scheduler::total::Total;
use atoll_core::time::Timestamp;
use tokio::time::Instant;

use super::Registry;
use super::book::Inner;
use super::foresight::{Came, Foresight};
use crate::lock::lock;
use crate::view::ForecastView;

/// Why a new sandbox is not to have room although there may be some.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotForIt {
    /// Its team has its share, and others that have not wait.
    #[error(transparent)]
    OverShare(#[from] OverShare),
    /// What is free is held for others.
    #[error(transparent)]
    Held(#[from] Held),
}

fn key(sandbox: &Sandbox) -> Key {
    Key {
        team: sandbox.team.clone(),
        template: sandbox.config.template.clone(),
    }
}

impl Registry {
    /// Counts that a sandbox is asked for, and says whether its team may have it now.
    ///
    /// # Errors
    /// [`NotForIt`].
    pub(crate) fn ask_room(&self, sandbox: &Sandbox) -> Result<(), NotForIt> {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        inner.advance(sandbox.created_at);
        let (key, size) = (key(sandbox), sandbox.config.resources.into());
        if let Some(foresight) = &mut inner.foresight {
            foresight.arrived(&key, size, sandbox.created_at, &inner.shares);
        }
        let answer = inner.may_have(&key, size);
        if let (Some(foresight), Err(_)) = (&mut inner.foresight, &answer) {
            foresight.refused(&key);
        }
        answer
    }

    /// Notes that one that was asked for has its place.
    pub(crate) fn note_came(&self, sandbox: &Sandbox) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        let Some(foresight) = &mut inner.foresight else {
            return;
        };
        foresight.placed(&key(sandbox));
        if let Some(entry) = inner.sandboxes.get_mut(&sandbox.id) {
            entry.came = Some(Came {
                template: sandbox.config.template.clone(),
                at: Instant::now(),
            });
        }
    }

    /// Forgets a sandbox that was not admitted after all.
    pub(crate) fn forget_unadmitted(&self, sandbox: &Sandbox) {
        let mut inner = lock(&self.inner);
        let entry = inner.sandboxes.get_mut(&sandbox.id);
        let came = entry.and_then(|entry| entry.came.take());
        if let (Some(foresight), Some(_)) = (&mut inner.foresight, came) {
            foresight.refused(&key(sandbox));
        }
        inner.remove(&sandbox.id);
    }

    /// Lets the forecast know that time passed, also where nobody comes.
    pub(crate) fn foresee(&self, now: Timestamp) {
        lock(&self.inner).advance(now);
    }

    /// What the forecast has learnt; none: nobody looks ahead.
    pub(crate) fn learnt(&self) -> Option<Vec<(Key, Saved)>> {
        lock(&self.inner).foresight.as_ref().map(Foresight::save)
    }

    /// Takes over what the forecast of an earlier process had learnt; answers how many series.
    pub(crate) fn recall(&self, series: Vec<(Key, Saved)>) -> usize {
        let mut inner = lock(&self.inner);
        let foresight = inner.foresight.as_mut();
        foresight.map_or(0, |foresight| foresight.restore(series))
    }

    /// Counts a sandbox that came before this process among those that run.
    pub(crate) fn note_ran(&self, sandbox: &Sandbox, now: Timestamp) {
        let mut guard = lock(&self.inner);
        let inner = &mut *guard;
        let Some(foresight) = &mut inner.foresight else {
            return;
        };
        let entry = inner.sandboxes.get_mut(&sandbox.id);
        if let Some(entry) = entry.filter(|entry| entry.came.is_none()) {
            foresight.runs(&key(sandbox));
            let age = now.saturating_since(sandbox.created_at);
            let here = Instant::now();
            entry.came = Some(Came {
                template: sandbox.config.template.clone(),
                // Older than this machine's clock can say: as if it came now.
                at: here.checked_sub(age).unwrap_or(here),
            });
        }
    }

    /// Notes a team's weight: its share is another from now on.
    pub(crate) fn set_weight(&self, team: &TeamId, weight: u32) {
        let mut inner = lock(&self.inner);
        if inner.shares.weight(team) != weight {
            inner.shares.set_weight(team, weight);
        }
    }

    /// What is forecast and held; none: nobody looks ahead.
    pub(crate) fn forecast(&self, limit: usize) -> Option<ForecastView> {
        let mut inner = lock(&self.inner);
        let fleet = inner.whole();
        let foresight = inner.foresight.as_ref()?;
        Some(foresight.view(fleet, limit))
    }

    /// Notes that a team's new sandbox found no room. Its team waits from now on, if it is room
    /// that was short for it on most nodes: what asks for something that few nodes have does not
    /// hold up others.
    pub(crate) fn note_no_room(&self, sandbox: &Sandbox, refusal: &Refusal) {
        let (team, size) = (&sandbox.team, sandbox.config.resources);
        if let Some(foresight) = &mut lock(&self.inner).foresight {
            foresight.refused(&key(sandbox));
        }
        if !matches!(refusal.smallest_change, Some(Change::Room { .. })) {
            return;
        }
        let short = [
            Constraint::Cpu,
            Constraint::Memory,
            Constraint::Disk,
            Constraint::Network,
        ];
        let short: u32 = short
            .map(|dimension| refusal.counts.get(dimension))
            .iter()
            .sum();
        let mut inner = lock(&self.inner);
        // What is larger than every node never fits.
        let could_fit = inner.nodes.keys().any(|id| {
            let account = inner.fleet.account(id);
            account.is_some_and(|(total, _)| Amount::from(size).fits_in(total))
        });
        if 2 * short < refusal.counts.sum() || !could_fit {
            return;
        }
        let now = inner.now();
        let free = inner.whole().saturating_sub(inner.shares.held());
        inner.shares.refused(team, size.into(), free, now);
    }
}

impl Inner {
    fn advance(&mut self, now: Timestamp) {
        let fleet = self.whole();
        if let Some(foresight) = &mut self.foresight {
            foresight.advance(now, fleet, &self.shares);
        }
    }

    fn may_have(&mut self, key: &Key, size: Amount) -> Result<(), NotForIt> {
        let (now, fleet) = (self.now(), self.whole());
        if self.shares.waiting(now) > 0 {
            self.shares.ask(&key.team, size, fleet, now)?;
        }
        if let Some(foresight) = &self.foresight {
            foresight.ask(key, size, fleet, &self.shares)?;
        }
        Ok(())
    }

    /// What all nodes together may give away, but for those that are lost: the teams hold parts of
    /// that.
    fn whole(&mut self) -> Total {
        if let Some(whole) = self.whole {
            return whole;
        }
        let mut whole = Total::ZERO;
        for (id, node) in &self.nodes {
            if let Some((total, _)) = self.fleet.account(id)
                && node.standing() != NodeState::Lost
            {
                whole = whole.saturating_add(total.into());
            }
        }
        self.whole = Some(whole);
        whole
    }
}
