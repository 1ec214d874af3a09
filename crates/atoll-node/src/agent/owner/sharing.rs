//! Keeping a paused sandbox's files where other nodes find them, and starting with such files.
//!
//! The upload belongs to the wait for the next order: an order ends it before anything is done to
//! the disk, and it begins anew if the sandbox is still paused with its files afterwards.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::node::Refusal;
use atoll_core::sandbox::SandboxSpec;
use atoll_core::snapshot::Snapshot;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::{Body, Chain, Owner, failed, millis};
use crate::metrics;
use crate::snapshot::{Error, Of};

/// Pause before an upload that failed is tried again; doubled each time.
const UPLOAD_PAUSE: Duration = Duration::from_secs(1);

/// Longest pause between attempts.
const UPLOAD_PAUSE_MAX: Duration = Duration::from_secs(60);

impl Owner {
    /// Puts the files into shared storage, however often that must be tried. Never ends where there
    /// is nothing to do.
    pub(super) fn share(&self, body: &Body) -> BoxFuture<'static, Snapshot> {
        let agent = Arc::clone(&self.agent);
        let directory = agent.ledger.directory(&self.record.id);
        let of = Of {
            id: self.record.id.clone(),
            generation: self.record.generation,
            template: self.record.template.clone(),
            build: self.record.build.clone(),
        };
        let is_due = matches!(body, Body::Files) && self.record.snapshot.is_none();
        Box::pin(async move {
            let store = agent.config.snapshots.as_ref().filter(|_| is_due);
            let (Some(store), Some(file)) = (store, agent.driver.files(&directory)) else {
                return std::future::pending().await;
            };
            let mut pause = UPLOAD_PAUSE;
            loop {
                let settled = agent.driver.settle(&directory).await;
                let began = Instant::now();
                let done = match settled {
                    Ok(()) => store.upload(&of, file.clone()).await.map_err(|error| {
                        let error = Chain(&error);
                        tracing::warn!(sandbox = %of.id, error = %error, "snapshot not stored");
                    }),
                    Err(error) => {
                        let error = Chain(&error);
                        tracing::warn!(sandbox = %of.id, error = %error, "files not settled");
                        Err(())
                    }
                };
                metrics::stored(
                    done.as_ref().ok().map(|snapshot| snapshot.bytes),
                    began.elapsed(),
                );
                if let Ok(snapshot) = done {
                    return snapshot;
                }
                sleep(pause).await;
                pause = (pause * 2).min(UPLOAD_PAUSE_MAX);
            }
        })
    }

    /// Tells that others can go on from what is in shared storage.
    pub(super) async fn note_shared(&mut self, snapshot: Snapshot) {
        let (bytes, digest) = (snapshot.bytes, snapshot.digest);
        self.record.snapshot = Some(snapshot.clone());
        if let Err(refusal) = self.write_stage(self.record.stage).await {
            // The next start makes it again, of what is there already.
            tracing::warn!(sandbox = %self.record.id, reason = %refusal, "record not written");
        }
        crash::reached("node.snapshot.recorded");
        tracing::info!(sandbox = %self.record.id, bytes, %digest, "snapshot stored");
        self.view
            .send_modify(|view| view.observed.snapshot = Some(snapshot));
        self.tell_changed();
    }

    /// Makes the files that a sandbox starts with of what is in shared storage.
    pub(super) async fn fetch(
        &self,
        spec: &SandboxSpec,
        snapshot: &Snapshot,
        directory: &Path,
    ) -> Result<(), Refusal> {
        let unsupported = || Refusal::Unsupported("snapshots in shared storage".to_owned());
        let store = self.agent.config.snapshots.as_ref();
        let store = store.ok_or_else(unsupported)?;
        let file = self.agent.driver.files(directory);
        let file = file.ok_or_else(unsupported)?;
        let of = Of {
            id: spec.id.clone(),
            generation: snapshot.generation,
            template: spec.template.clone(),
            build: spec.build.clone(),
        };
        let began = Instant::now();
        match store.restore(&of, snapshot, file).await {
            Ok(()) => {
                let total_ms = millis(began.elapsed());
                self.log("info", format!("fetched its files in {total_ms} ms"));
                metrics::fetched(began.elapsed());
                Ok(())
            }
            Err(error) if Error::is_of_storage(&error) => {
                Err(Refusal::BadSnapshot(Chain(&error).to_string()))
            }
            Err(error) => Err(failed(&error)),
        }
    }
}
