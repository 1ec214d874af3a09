//! Keeping a copy of a sandbox's files as a template build, from which others are made.
//!
//! A running sandbox stands still while its disk is written and copied, and goes on then: what is
//! copied is of one instant. The copy is of the files only; processes are not part of it.

use std::sync::Arc;

use atoll_core::id::{BuildId, TemplateId};
use atoll_core::node::Refusal;
use tokio::time::Instant;

use super::{Body, Owner, failed, millis, refusal};
use crate::driver::Instance;
use crate::image::SnapshotError;

impl Owner {
    /// Makes a build of what is on the sandbox's disk; in any case it then is as it was.
    pub(super) async fn snapshot(
        &self,
        body: &Body,
        template: &TemplateId,
        build: &BuildId,
    ) -> Result<(), Refusal> {
        if !self.agent.driver.capabilities().snapshot {
            return Err(Refusal::Unsupported("snapshot".to_owned()));
        }
        let began = Instant::now();
        let running = body.running();
        let of = (&self.record.template, &self.record.build);
        let copy = |to| async move { self.copy(running.as_ref(), to).await };
        let store = &self.agent.templates;
        match store.snapshot(of, (template, build), copy).await {
            Ok(()) => {
                let total_ms = millis(began.elapsed());
                tracing::info!(
                    sandbox = %self.record.id, %template, %build, total_ms, "snapshot taken"
                );
                self.log("info", format!("snapshot taken in {total_ms} ms"));
                Ok(())
            }
            Err(SnapshotError::UnknownTemplate) => Err(Refusal::UnknownTemplate),
            Err(SnapshotError::Copy(error)) => Err(refusal(error)),
            Err(SnapshotError::Build(error)) => Err(failed(&error)),
        }
    }

    async fn copy(
        &self,
        running: Option<&Arc<dyn Instance>>,
        to: std::path::PathBuf,
    ) -> Result<(), crate::driver::Error> {
        let directory = self.agent.ledger.directory(&self.record.id);
        let Some(instance) = running else {
            return self.agent.driver.copy_files(&directory, &to).await;
        };
        instance.pause().await?;
        let copied = self.agent.driver.copy_files(&directory, &to).await;
        // An agent that dies before this finds a sandbox that is to run, and lets it.
        instance.resume().await?;
        copied
    }
}
