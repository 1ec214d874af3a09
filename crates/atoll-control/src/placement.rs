//! Where a sandbox goes: what is asked of the scheduler for it, and what is kept of its answer.
//!
//! Everything that places a sandbox comes through [`Inner::place`]: a create before its row is
//! written, and the reconciler for whatever has to go somewhere else.

use std::sync::Arc;

use atoll_core::error::ErrorKind;
use atoll_core::id::{Generation, NodeId};
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::constraint::{Constraints, Expression, Operator};
use atoll_core::scheduler::decision::{Decision, Refusal};
use atoll_core::scheduler::overlay::{self, Invalid, Laid, Level, Subject};
use atoll_core::scheduler::policy::{Policy, Strategy};
use atoll_core::scheduler::record::{Asked, Record};
use atoll_core::scheduler::request::Request;
use atoll_core::scheduler::score::{Term, Weights};
use atoll_core::snapshot::STORE_LABEL;
use tokio::time::Instant;
use tracing::field::{Empty, display};

use crate::error::{Error, Result};
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
    /// As [`Self::try_place`]; the decision counts.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn place(
        &self,
        sandbox: &Sandbox,
        laid: &Laid,
        generation: Generation,
        refused_by: &[NodeId],
    ) -> std::result::Result<Placed, Box<Unplaced>> {
        let began = Instant::now();
        let placed = self.try_place(sandbox, laid, generation, refused_by);
        let refusal = placed.as_ref().err().map(|unplaced| &unplaced.refusal);
        metrics::decided(refusal, began.elapsed());
        placed
    }

    /// As [`Self::place`] for a create whose row is not written yet: a refusal does not count,
    /// since its task decides again.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn place_first(
        &self,
        sandbox: &Sandbox,
        laid: &Laid,
    ) -> std::result::Result<Placed, Box<Unplaced>> {
        let began = Instant::now();
        let placed = self.try_place(sandbox, laid, sandbox.generation, &[]);
        if placed.is_ok() {
            metrics::decided(None, began.elapsed());
        }
        placed
    }

    /// Chooses a node for a sandbox under a generation and reserves its place, without the nodes
    /// that refused it already.
    ///
    /// # Errors
    /// [`Unplaced`] if no node fits.
    fn try_place(
        &self,
        sandbox: &Sandbox,
        laid: &Laid,
        generation: Generation,
        refused_by: &[NodeId],
    ) -> std::result::Result<Placed, Box<Unplaced>> {
        let policy = &laid.policy;
        let wanted = Wanted {
            sandbox,
            generation,
            request: Request {
                excluded: refused_by.to_vec(),
                ..self.request(sandbox, laid)
            },
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
        let placed = span.in_scope(|| self.registry.place(&wanted));
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

    /// What the fleet's, the team's and the request's policies come to for a sandbox.
    ///
    /// # Errors
    /// `InvalidArgument`, with the name of the field, if one level rules out what another asks for;
    /// `NotFound` for the team; `Unavailable` for the store.
    pub(crate) async fn lay(&self, sandbox: &Sandbox) -> Result<Laid> {
        let gate = self.gate(&sandbox.team).await?.ok_or_else(|| {
            let message = format!("there is no team `{}`", sandbox.team);
            Error::new(ErrorKind::NotFound, message)
        })?;
        let mut levels = vec![(Level::Fleet, &self.config.policy)];
        levels.extend(gate.policy().map(|policy| (Level::Team, policy)));
        let said = sandbox.config.scheduling.as_deref();
        levels.extend(said.map(|policy| (Level::Request, policy)));
        let subject = Subject {
            team: &sandbox.team,
            metadata: &sandbox.config.metadata,
            build: sandbox.config.build.as_str(),
        };
        let laid = overlay::lay(&self.policy, &levels, &subject);
        laid.map_err(|invalid| {
            let Invalid { field, problem } = invalid;
            Error::invalid(format!("`scheduling.{field}` {problem}"))
        })
    }

    /// What is asked of a node for a sandbox.
    pub(crate) fn request(&self, sandbox: &Sandbox, laid: &Laid) -> Request {
        let near = laid.near.as_ref();
        // What is kept can be had where the same storage is.
        let storage = sandbox.snapshot.as_ref().map(|snapshot| Expression {
            key: STORE_LABEL.to_owned(),
            operator: Operator::Equals(snapshot.store.to_string()),
        });
        Request {
            constraints: Constraints {
                labels: storage.into_iter().collect(),
                ..Constraints::default()
            },
            amount: sandbox.config.resources.into(),
            template: Some(sandbox.config.build.to_string()),
            near: near.and_then(|id| self.registry.node_for(&sandbox.team, id)),
            spread_group: laid.spread_group.clone(),
            groups: groups(sandbox),
            ..Request::default()
        }
    }
}
