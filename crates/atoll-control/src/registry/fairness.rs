//! Who gets what there is when there is not enough: asked for new sandboxes, before a place is
//! sought for them.
//!
//! What the teams hold follows the account ([`Inner::shift`](super::book::Inner)); who waits is who
//! found no room lately. Sandboxes that exist already, and go somewhere else or are resumed, are
//! not asked about: they were admitted once.

use atoll_core::id::TeamId;
use atoll_core::node::NodeState;
use atoll_core::resources::Resources;
use atoll_core::scheduler::amount::Amount;
use atoll_core::scheduler::constraint::Constraint;
use atoll_core::scheduler::decision::{Change, Refusal};
use atoll_core::scheduler::shares::OverShare;
use atoll_core::scheduler::total::Total;

use super::Registry;
use super::book::Inner;
use crate::lock::lock;

impl Registry {
    /// Whether a team may have one more sandbox of this size.
    ///
    /// # Errors
    /// [`OverShare`] if it has its share of the fleet, and others that have not wait for room.
    pub(crate) fn ask_share(&self, team: &TeamId, size: Resources) -> Result<(), OverShare> {
        let mut inner = lock(&self.inner);
        let now = inner.now();
        if inner.shares.waiting(now) == 0 {
            return Ok(());
        }
        let fleet = inner.whole();
        inner.shares.ask(team, size.into(), fleet, now)
    }

    /// Notes that a team's new sandbox found no room. Its team waits from now on, if it is room
    /// that was short for it on most nodes: what asks for something that few nodes have does not
    /// hold up others.
    pub(crate) fn note_no_room(&self, team: &TeamId, size: Resources, refusal: &Refusal) {
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
