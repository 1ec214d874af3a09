//! Where a sandbox goes: what is asked of the scheduler for it, and how.
//!
//! Everything that places a sandbox comes through [`Inner::place`]: a create before its row is
//! written, and the reconciler for whatever has to go somewhere else.

use atoll_core::id::{Generation, NodeId};
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::decision::Refusal;
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::score::{Term, Weights};
use tokio::time::Instant;

use crate::metrics;
use crate::registry::placing::{Placement, Wanted};
use crate::service::Inner;

/// What a node with the template is worth beside the 100 of spreading: enough to decide between
/// nodes of about the same load, too little to fill one up.
const TEMPLATE_WEIGHT: u16 = 10;

/// What a node is worth that had no failures lately, as small for the same reason.
const RELIABILITY_WEIGHT: u16 = 10;

/// Spread evenly, rather where the template is and where little failed lately.
pub(crate) fn default_policy() -> Policy {
    Policy {
        preferences: Weights::of(&[
            (Term::Template, TEMPLATE_WEIGHT),
            (Term::Reliability, RELIABILITY_WEIGHT),
        ]),
        ..Policy::new(Strategy::LeastAllocated)
    }
}

impl Inner {
    /// Chooses a node for a sandbox under a generation and reserves its place, without the nodes
    /// that refused it already.
    ///
    /// # Errors
    /// [`Refusal`] if no node fits.
    pub(crate) fn place(
        &self,
        sandbox: &Sandbox,
        generation: Generation,
        refused_by: &[NodeId],
    ) -> Result<Placement, Refusal> {
        let wanted = Wanted {
            sandbox,
            generation,
            request: request(sandbox, refused_by),
            policy: &self.policy,
            seed: self.draw_seed(),
        };
        let began = Instant::now();
        let placed = self.registry.place(&wanted);
        metrics::decided(placed.is_ok(), began.elapsed());
        placed
    }
}

/// What is asked of a node for a sandbox.
fn request(sandbox: &Sandbox, refused_by: &[NodeId]) -> Request {
    Request {
        amount: sandbox.config.resources.into(),
        template: Some(sandbox.config.build.to_string()),
        groups: crate::registry::placing::groups(sandbox),
        excluded: refused_by.to_vec(),
        ..Request::default()
    }
}
