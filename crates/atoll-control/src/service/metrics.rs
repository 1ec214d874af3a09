//! What sandboxes use.

use std::collections::BTreeMap;

use atoll_core::id::SandboxId;
use atoll_core::sandbox::UsageSample;
use atoll_core::time::Timestamp;

use super::ControlPlane;
use crate::error::{Error, Result};
use crate::view::Tenant;

/// Sandboxes in one question (E2B wire protocol).
const IDS_MAX: usize = 100;

impl ControlPlane {
    /// Usage samples of one sandbox with `start <= at <= end`, oldest first.
    ///
    /// # Errors
    /// `NotFound`; `InvalidArgument` if `end` is before `start`.
    pub async fn sandbox_metrics(
        &self,
        tenant: &Tenant,
        id: &SandboxId,
        start: Option<Timestamp>,
        end: Option<Timestamp>,
    ) -> Result<Vec<UsageSample>> {
        if let (Some(start), Some(end)) = (start, end)
            && end < start
        {
            return Err(Error::invalid("the end must not be before the start"));
        }
        self.inner.visible(tenant, id).await?;
        Ok(self.inner.usage.range(id, start, end))
    }

    /// The newest sample of each of several sandboxes; unknown and foreign ones are left out.
    ///
    /// # Errors
    /// `InvalidArgument` for more than 100 ids.
    pub async fn sandbox_metrics_latest(
        &self,
        tenant: &Tenant,
        ids: &[SandboxId],
    ) -> Result<BTreeMap<SandboxId, UsageSample>> {
        if ids.len() > IDS_MAX {
            return Err(Error::invalid(format!(
                "at most {IDS_MAX} sandboxes can be asked for at once"
            )));
        }
        let mut samples = BTreeMap::new();
        for id in ids {
            let Some(sample) = self.inner.usage.latest(id) else {
                continue;
            };
            if self.inner.visible(tenant, id).await.is_ok() {
                samples.insert(id.clone(), sample);
            }
        }
        Ok(samples)
    }
}
