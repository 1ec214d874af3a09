//! Where a sandbox would go, and why. Nothing is reserved or written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::network::NetworkPolicy;
use atoll_core::resources::Resources;
use atoll_core::sandbox::OnTimeout;
use atoll_core::scheduler::decision::{Decision, Refusal};
use atoll_core::scheduler::overlay::Overlay;
use atoll_core::scheduler::record::{Asked, Record};

use super::ControlPlane;
use crate::error::Result;
use crate::request::CreateRequest;
use crate::view::{ForecastView, Tenant};

/// What is asked about.
#[derive(Debug, Clone)]
pub struct DryRun {
    /// `[namespace/]alias[:tag]` or a template id.
    pub template: String,
    /// What the sandbox would take; none: what its template says.
    pub resources: Option<Resources>,
    /// Its labels.
    pub metadata: BTreeMap<String, String>,
    /// What is asked for about its node, within its limits.
    pub scheduling: Option<Box<Overlay>>,
}

/// What would be decided.
#[derive(Debug)]
pub struct DryRan {
    /// The decision, or that nothing fits.
    pub found: std::result::Result<Arc<Decision>, Refusal>,
    /// The same as it would be kept with the sandbox.
    pub record: Record,
}

impl ControlPlane {
    /// Who is expected and what is held for them: those with most arrivals expected, so many at
    /// most. None: the forecast is off.
    #[must_use]
    pub fn forecast(&self, limit: usize) -> Option<ForecastView> {
        self.inner.registry.foresee(self.inner.clock.now());
        self.inner.registry.forecast(limit)
    }

    /// Where a create of the tenant's would put its sandbox now, or why nowhere. Equal nodes share
    /// what comes by chance, so a create that follows may go to another one of them.
    ///
    /// # Errors
    /// `NotFound` (template, team), `InvalidArgument` (a policy that one above rules out),
    /// `Unavailable` for the store.
    pub async fn sandbox_dry_run(&self, tenant: &Tenant, asked: DryRun) -> Result<DryRan> {
        let template = self.template_resolve(tenant, &asked.template).await?;
        let request = CreateRequest {
            template: asked.template,
            timeout: Duration::ZERO,
            metadata: asked.metadata,
            env: BTreeMap::new(),
            network: NetworkPolicy::default(),
            is_secured: true,
            on_timeout: OnTimeout::Kill,
            auto_resume: false,
            scheduling: asked.scheduling,
            idempotency_key: None,
            fingerprint: String::new(),
        };
        let inner = &self.inner;
        let mut sandbox = inner.new_row(tenant, request, &template);
        sandbox.config.resources = asked.resources.unwrap_or(sandbox.config.resources);
        let laid = inner.lay(&sandbox).await?;
        let request = inner.request(&sandbox, &laid);
        let seed = inner.draw_seed();
        let found = inner.registry.preview(&request, &laid.policy, seed);
        let asked = Asked {
            generation: sandbox.generation,
            seed,
            refused: Vec::new(),
        };
        let record = match &found {
            Ok(found) => Record::of_decision(&found.decision, found.sparing, asked),
            Err(refusal) => Record::of_refusal(refusal, &laid.policy, asked),
        };
        Ok(DryRan {
            found: found.map(|placement| placement.decision),
            record,
        })
    }
}
