//! Placements: from a decision through its reservation to the node's answer.
//!
//! A decision reserves its place at once, so that the next one sees it. The node's acceptance makes
//! the reservation an allocation; a definite refusal takes one step to the next alternative; as
//! long as the outcome is unknown, the place stays where it is.
//!
//! Nodes are spared by degrees ([`Sparing`]). A refusal for that reason alone is asked again with
//! less of it: what returned lately or is busy is taken where nothing else fits, what fails is
//! taken where there is nothing else.

use std::sync::Arc;

use atoll_core::id::{BuildId, Generation, NodeId, SandboxId, TeamId};
use atoll_core::reconcile::Observed;
use atoll_core::sandbox::Sandbox;
use atoll_core::scheduler::artifact::{Artifact, Kind};
use atoll_core::scheduler::constraint::{Constraint, Counts};
use atoll_core::scheduler::decision::{Decision, Refusal};
use atoll_core::scheduler::fleet::Fleet;
use atoll_core::scheduler::overlay;
use atoll_core::scheduler::policy::Policy;
use atoll_core::scheduler::request::{Request, Sparing};
use atoll_core::time::Timestamp;

use super::Registry;
use super::book::{Inner, generations};
use crate::lock::lock;

/// What is asked for a sandbox.
#[derive(Debug)]
pub(crate) struct Wanted<'a> {
    /// Which sandbox, as its row says.
    pub(crate) sandbox: &'a Sandbox,
    /// Under which generation.
    pub(crate) generation: Generation,
    /// What is asked of the node; the nodes that refused it are excluded.
    pub(crate) request: Request,
    pub(crate) policy: &'a Policy,
    pub(crate) seed: u64,
}

/// A place that was found.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) decision: Arc<Decision>,
    /// Which nodes were spared.
    pub(crate) sparing: Sparing,
}

/// A decision that its node has not answered yet.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) decision: Arc<Decision>,
    sparing: Sparing,
}

/// The groups that a sandbox belongs to: others may have to be apart from them.
pub(crate) fn groups(sandbox: &Sandbox) -> Vec<String> {
    let config = &sandbox.config;
    overlay::memberships(
        &sandbox.team,
        &config.metadata,
        config.scheduling.as_deref(),
    )
}

impl Registry {
    /// Chooses a node and reserves its place in one step, so that decisions see one another. If the
    /// sandbox's last place was refused by its node, the choice goes on from there.
    ///
    /// # Errors
    /// [`Refusal`] if no node fits. The sandbox is placed nowhere then.
    pub(crate) fn place(&self, wanted: &Wanted<'_>) -> Result<Placement, Refusal> {
        let sandbox = wanted.sandbox;
        let mut inner = lock(&self.inner);
        inner.end_reservations();
        let known = inner.sandboxes.get(&sandbox.id);
        if known.is_none_or(|entry| entry.revision < sandbox.revision) {
            inner.follow(sandbox);
        }
        self.heed_breakers(&mut inner);
        // What it had on the node before is free for others, and for itself.
        let standing = inner.change(&sandbox.id, |entry| {
            entry.node = None;
            entry.standing.take()
        });
        let now = inner.now();
        let (sparing, decision) = decide(&mut inner.fleet, wanted, standing.flatten(), now)?;
        let decision = Arc::new(decision);
        let sequence = inner.next_sequence();
        if let Some(reservation) = decision.reservation {
            inner.note_ending(&sandbox.id, reservation);
        }
        let breakers = &inner.node(&decision.node).breakers;
        breakers.placed();
        if !breakers.is_closed() {
            // It was the probe: nothing follows it before that is over.
            self.troubled.put(&decision.node);
        }
        inner.change(&sandbox.id, |entry| {
            entry.generations = wanted.generation..=wanted.generation;
            entry.observed = Observed::Unknown;
            entry.held = sandbox.config.resources;
            entry.sequence = sequence;
            entry.node = Some(decision.node.clone());
            entry.standing = Some(Standing {
                decision: Arc::clone(&decision),
                sparing,
            });
        });
        Ok(Placement { decision, sparing })
    }

    /// What would be chosen. Nothing is reserved.
    ///
    /// # Errors
    /// As [`Self::place`].
    pub(crate) fn preview(
        &self,
        request: &Request,
        policy: &Policy,
        seed: u64,
    ) -> Result<Placement, Refusal> {
        let mut inner = lock(&self.inner);
        inner.end_reservations();
        self.heed_breakers(&mut inner);
        let now = inner.now();
        let (sparing, decision) = by_degrees(request, |request| {
            inner.fleet.preview(request, policy, seed, now)
        })?;
        Ok(Placement {
            decision: Arc::new(decision),
            sparing,
        })
    }

    /// The node of one of the team's sandboxes.
    pub(crate) fn node_for(&self, team: &TeamId, id: &SandboxId) -> Option<NodeId> {
        let inner = lock(&self.inner);
        let entry = inner.sandboxes.get(id).filter(|entry| entry.team == *team);
        entry.and_then(|entry| entry.node.clone())
    }

    /// The node took the sandbox: what was reserved is allocated.
    pub(crate) fn accepted(&self, id: &SandboxId, generation: Generation) {
        let mut inner = lock(&self.inner);
        let now = inner.now();
        let Inner {
            sandboxes, fleet, ..
        } = &mut *inner;
        let entry = sandboxes.get_mut(id);
        let Some(entry) = entry.filter(|entry| entry.generations.contains(&generation)) else {
            return;
        };
        let Some(node) = &entry.node else { return };
        let standing = entry.standing.take();
        match standing.and_then(|standing| standing.decision.reservation) {
            Some(reservation) => {
                if !fleet.commit(reservation, now) {
                    fleet.allocate(node, &entry.holding(entry.held));
                }
            }
            None => fleet.note_start(node, false, now),
        }
    }

    /// Places that are reserved for sandboxes that their nodes have not taken yet.
    pub(crate) fn reservations(&self) -> usize {
        lock(&self.inner).fleet.size().reservations
    }

    /// Notes that a node has the files of a template's build, or has them no more.
    pub(crate) fn note_template(&self, node: &NodeId, build: &BuildId, has: bool) {
        let artifact = Artifact::new(Kind::Template, build.to_string());
        lock(&self.inner).fleet.set_artifact(node, &artifact, has);
    }

    /// A start on a node failed, or nobody knows what became of it: the node gets less. The place
    /// stays where it is until that is known.
    pub(crate) fn start_failed(&self, node: &NodeId) {
        let mut inner = lock(&self.inner);
        let now = inner.now();
        inner.fleet.note_start(node, true, now);
    }

    /// Accounts for a paused sandbox that is to take its whole room again on the node that keeps
    /// it, under this generation.
    ///
    /// # Errors
    /// What is short there, for people.
    pub(crate) fn readmit(
        &self,
        sandbox: &Sandbox,
        generation: Generation,
    ) -> Result<(), &'static str> {
        let mut inner = lock(&self.inner);
        let entry = inner.sandboxes.get(&sandbox.id);
        let Some((held, node)) = entry.and_then(|entry| {
            let node = inner.nodes.get(entry.node.as_ref()?)?;
            Some((entry.held, node))
        }) else {
            return Err("its node is not known");
        };
        let wanted = sandbox.config.resources;
        let missing = wanted.checked_sub(held).unwrap_or_default();
        let total = self.overcommit.apply(node.total);
        let free = total.checked_sub(node.allocated).unwrap_or_default();
        if missing.cpu_millis > free.cpu_millis {
            return Err("its node has too little cpu free");
        }
        if missing.memory_mib > free.memory_mib {
            return Err("its node has too little memory free");
        }
        if missing.disk_mib > free.disk_mib {
            return Err("its node has too little disk free");
        }
        inner.change(&sandbox.id, |entry| {
            entry.held = wanted;
            entry.generations = generations(sandbox, generation);
        });
        Ok(())
    }

    /// Tells the fleet how the breakers of those nodes stand that failed lately.
    fn heed_breakers(&self, inner: &mut Inner) {
        let now = inner.now();
        for id in self.troubled.take() {
            let Some(node) = inner.nodes.get(&id) else {
                continue;
            };
            let is_failing = !node.breakers.allows_placement();
            let is_closed = node.breakers.is_closed();
            inner.fleet.set_failing(&id, is_failing, now);
            if !is_closed {
                self.troubled.keep(id);
            }
        }
    }
}

/// Decides anew, or goes on from a place that its node refused.
fn decide(
    fleet: &mut Fleet,
    wanted: &Wanted<'_>,
    last: Option<Standing>,
    now: Timestamp,
) -> Result<(Sparing, Decision), Refusal> {
    let Wanted {
        request,
        policy,
        seed,
        ..
    } = wanted;
    let is_refused = |last: &Standing| request.excluded.contains(&last.decision.node);
    if let Some(last) = last.filter(is_refused) {
        let sparing = last.sparing;
        let request = with_sparing(request, sparing);
        let refused = Arc::unwrap_or_clone(last.decision);
        if let Ok(decision) = fleet.next(refused, &request, policy, *seed, now) {
            return Ok((sparing, decision));
        }
    }
    by_degrees(request, |request| fleet.decide(request, policy, *seed, now))
}

/// Asks with less and less sparing, as far as a refusal is for that.
fn by_degrees(
    request: &Request,
    mut ask: impl FnMut(&Request) -> Result<Decision, Refusal>,
) -> Result<(Sparing, Decision), Refusal> {
    let mut sparing = Sparing::All;
    loop {
        let refusal = match ask(&with_sparing(request, sparing)) {
            Ok(decision) => return Ok((sparing, decision)),
            Err(refusal) => refusal,
        };
        sparing = match sparing {
            Sparing::All if has_busy(&refusal.counts) => Sparing::Failing,
            Sparing::All | Sparing::Failing if has_failing_only(&refusal.counts) => Sparing::Nobody,
            Sparing::All | Sparing::Failing | Sparing::Nobody => return Err(refusal),
        };
    }
}

fn with_sparing(request: &Request, sparing: Sparing) -> Request {
    Request {
        sparing,
        ..request.clone()
    }
}

fn has_busy(counts: &Counts) -> bool {
    counts.get(Constraint::Starts) + counts.get(Constraint::Pressure) > 0
}

/// Whether those that fail are all there is: then it may be what is started that fails.
fn has_failing_only(counts: &Counts) -> bool {
    let mut fallen = counts.iter().map(|(constraint, _)| constraint);
    counts.get(Constraint::Failing) > 0
        && fallen.all(|fell| fell == Constraint::Failing || fell.is_state())
}
