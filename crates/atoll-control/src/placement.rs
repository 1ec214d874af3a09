//! Where a sandbox goes: what is asked of the scheduler for it, and what is kept of its answer.
//!
//! Everything that places a sandbox comes through [`Inner::place`]: a create before its row is
//! written, and the reconciler for whatever has to go somewhere else.

use std::sync::Arc;

use atoll_core::id::{Generation, NodeId};
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::decision::{Decision, Refusal};
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::record::{Asked, Record};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::score::{Term, Weights};
use tokio::time::Instant;
use tracing::field::{Empty, display};

use crate::metrics;
use crate::registry::placing::{Wanted, groups};
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

/// A place that was found, and what is kept of how.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) decision: Arc<Decision>,
    pub(crate) record: Box<Record>,
}

/// That there is none, and what is kept of why.
#[derive(Debug, Clone)]
pub(crate) struct Unplaced {
    pub(crate) refusal: Refusal,
    pub(crate) record: Box<Record>,
}

impl Inner {
    /// Chooses a node for a sandbox under a generation and reserves its place, without the nodes
    /// that refused it already.
    ///
    /// # Errors
    /// [`Unplaced`] if no node fits.
    pub(crate) fn place(
        &self,
        sandbox: &Sandbox,
        generation: Generation,
        refused_by: &[NodeId],
    ) -> Result<Placed, Box<Unplaced>> {
        let policy = &self.policy;
        let wanted = Wanted {
            sandbox,
            generation,
            request: request(sandbox, refused_by),
            policy,
            seed: self.draw_seed(),
        };
        let span = tracing::info_span!(
            "schedule",
            sandbox = %sandbox.id,
            generation = generation.get(),
            strategy = policy.strategy.as_str(),
            outcome = Empty,
            node = Empty,
            score = Empty,
            fitting = Empty,
        );
        let began = Instant::now();
        let placed = span.in_scope(|| self.registry.place(&wanted));
        metrics::decided(placed.as_ref().err(), began.elapsed());
        let asked = Asked {
            generation,
            seed: wanted.seed,
            refused: refused_by.to_vec(),
        };
        match placed {
            Ok(placement) => {
                let decision = placement.decision;
                span.record("outcome", "placed");
                span.record("node", display(&decision.node));
                span.record("score", decision.score.total());
                span.record("fitting", decision.fitting);
                let record = Record::of_decision(&decision, placement.sparing, asked);
                Ok(Placed {
                    record: Box::new(record),
                    decision,
                })
            }
            Err(refusal) => {
                span.record("outcome", "refused");
                span.record("fitting", 0);
                let record = Record::of_refusal(&refusal, policy, asked);
                Err(Box::new(Unplaced {
                    record: Box::new(record),
                    refusal,
                }))
            }
        }
    }
}

/// What is asked of a node for a sandbox.
fn request(sandbox: &Sandbox, refused_by: &[NodeId]) -> Request {
    Request {
        amount: sandbox.config.resources.into(),
        template: Some(sandbox.config.build.to_string()),
        groups: groups(sandbox),
        excluded: refused_by.to_vec(),
        ..Request::default()
    }
}
