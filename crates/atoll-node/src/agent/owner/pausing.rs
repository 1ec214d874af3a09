//! Pausing a sandbox, and letting it go on.
//!
//! ```text
//!                  freeze, sync ─▶ record(Paused) ─┬─ with memory ─▶ Frozen
//!   Running ──▶         │                          └─ without ─▶ release, settle ─▶ Files
//!        ▲              └─ fails: thaw, refuse                          ▲
//!        │                                     processes died by themselves
//!        └── record(Running) ◀── initialise ◀─┬─ thaw ───── Frozen ─────┘
//!                                   │         └─ restore ── Files
//!                                   └─ fails: freeze or release, refuse
//! ```
//!
//! The record is what decides. Until it says paused, a crash leaves a sandbox that runs; once it
//! does, the processes count for nothing more than it says, until it says running again. Both are
//! durable beyond the machine, because the sandbox is.

use std::sync::Arc;

use atoll_core::crash;
use atoll_core::node::{NodeEvent, ObservedState, Refusal};
use atoll_core::sandbox::SandboxSpec;
use tokio::time::Instant;

use super::{Body, Chain, Owner, Step, failed, millis, refusal};
use crate::agent::room::Hold;
use crate::driver::{Created, ImageDefaults, Instance};
use crate::ledger::Stage;

/// Why processes do not serve.
enum Failure {
    /// A step failed.
    Refused(Refusal),
    /// They are gone.
    Ended(String),
}

impl Failure {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::Refused(refusal) => refusal,
            Self::Ended(why) => Refusal::Failed(why),
        }
    }
}

impl Owner {
    /// Pauses a running sandbox; a refusal leaves it running.
    pub(super) async fn pause(
        &mut self,
        instance: &Arc<dyn Instance>,
        keep_memory: bool,
    ) -> Result<Option<Step>, Refusal> {
        let began = Instant::now();
        crash::reached("node.pause.ordered");
        instance.pause().await.map_err(refusal)?;
        crash::reached("node.pause.frozen");
        let paused = Stage::Paused {
            has_memory: keep_memory,
        };
        if let Err(refusal) = self.write_stage(paused).await {
            self.record.stage = Stage::Running;
            self.rewrite_record();
            instance.resume().await.map_err(super::refusal)?;
            return Err(refusal);
        }
        crash::reached("node.pause.recorded");
        self.publish_paused();
        let body = if keep_memory {
            Body::Frozen(Arc::clone(instance))
        } else if self.keep_files(instance).await {
            crash::reached("node.pause.released");
            Body::Files
        } else {
            return Ok(Some(Step::AgentStops));
        };
        self.hold_less();
        let (id, total_ms) = (&self.record.id, millis(began.elapsed()));
        tracing::info!(sandbox = %id, keep_memory, total_ms, "sandbox paused");
        let what = if keep_memory {
            "with its memory"
        } else {
            "with its files"
        };
        self.log("info", format!("paused {what} in {total_ms} ms"));
        Ok(Some(Step::Turn(body)))
    }

    /// Lets a sandbox go on under the order's generation; a refusal leaves it as it was.
    pub(super) async fn resume(
        &mut self,
        body: Body,
        spec: &SandboxSpec,
    ) -> (Body, Result<(), Refusal>) {
        let began = Instant::now();
        crash::reached("node.resume.ordered");
        // What it is made of stays what it was.
        let spec = SandboxSpec {
            template: self.record.template.clone(),
            build: self.record.build.clone(),
            resources: self.record.resources,
            ..spec.clone()
        };
        if let Err(refusal) = self.agent.hold(&self.record.id, Hold::Whole) {
            return (body, Err(refusal));
        }
        let before = self.record.stage;
        let (body, resumed) = match body {
            Body::Files => self.restore(&spec).await,
            Body::Frozen(instance) => self.thaw(instance, &spec).await,
            Body::Running(instance) => {
                let renewed = self.serve(&instance, &spec).await;
                let renewed = renewed.map_err(Failure::into_refusal);
                (Body::Running(instance), renewed)
            }
        };
        match &resumed {
            Ok(()) => self.publish_resumed(&body, &millis(began.elapsed())),
            Err(refusal) => {
                tracing::warn!(sandbox = %self.record.id, reason = %refusal, "not resumed");
                self.hold_less();
                if self.record.stage != before {
                    self.tell_changed();
                }
            }
        }
        (body, resumed)
    }

    /// The processes of a paused sandbox died, while nobody resumed it: it keeps its files. `false`
    /// if the agent stops before that is settled.
    pub(super) async fn degrade(&mut self, instance: &Arc<dyn Instance>, why: &str) -> bool {
        let is_settled = self.lose_memory(instance, why).await;
        self.hold_less();
        self.tell_changed();
        is_settled
    }

    /// Takes note that only the files are left.
    pub(super) async fn note_lost_memory(&mut self, why: &str) {
        let files_only = Stage::Paused { has_memory: false };
        if let Err(refusal) = self.write_stage(files_only).await {
            // The next start finds no processes, and comes to the same end.
            tracing::warn!(sandbox = %self.record.id, reason = %refusal, "record not written");
        }
        tracing::warn!(sandbox = %self.record.id, why, "a paused sandbox lost its memory");
        let message = format!("lost its memory while paused ({why}); its files are kept");
        self.log("warn", message);
    }

    async fn lose_memory(&mut self, instance: &Arc<dyn Instance>, why: &str) -> bool {
        self.note_lost_memory(why).await;
        self.keep_files(instance).await
    }

    /// Ends the processes and settles the files; `false` if the agent stops before the processes
    /// are gone, and the next start goes on with it.
    async fn keep_files(&self, instance: &Arc<dyn Instance>) -> bool {
        if !self.persist("release", || instance.release()).await {
            return false;
        }
        let directory = self.agent.ledger.directory(&self.record.id);
        if let Err(error) = self.agent.driver.settle(&directory).await {
            // They were made durable when it was paused, and wait to be let go of; a restore waits
            // for that too.
            let (id, error) = (&self.record.id, Chain(&error));
            tracing::warn!(sandbox = %id, error = %error, "files not settled");
        }
        true
    }

    /// Lets frozen processes go on. If they turn out to be dead, makes new ones over the files.
    async fn thaw(
        &mut self,
        instance: Arc<dyn Instance>,
        spec: &SandboxSpec,
    ) -> (Body, Result<(), Refusal>) {
        let failure = match self.serve(&instance, spec).await {
            Ok(()) => return (Body::Running(instance), Ok(())),
            Err(failure) => failure,
        };
        let why = match failure {
            Failure::Ended(why) => why,
            Failure::Refused(refusal) => match instance.pause().await {
                Ok(()) => return (Body::Frozen(instance), Err(refusal)),
                Err(error) => format!("{refusal}, {}", Chain(&error)),
            },
        };
        if self.lose_memory(&instance, &why).await {
            self.restore(spec).await
        } else {
            let why = "the node is stopping".to_owned();
            (Body::Files, Err(Refusal::Failed(why)))
        }
    }

    /// Has the processes serve under the order's generation, whether they stand still or run.
    async fn serve(
        &mut self,
        instance: &Arc<dyn Instance>,
        spec: &SandboxSpec,
    ) -> Result<(), Failure> {
        let defaults = self.agent.driver.defaults(&self.record);
        let defaults = defaults.map_err(|error| Failure::Refused(refusal(error)))?;
        let updated = instance.update_network(&spec.network).await;
        updated.map_err(|error| Failure::Refused(failed(&error)))?;
        let resumed = instance.resume().await;
        resumed.map_err(|error| Failure::Refused(failed(&error)))?;
        crash::reached("node.resume.thawed");
        self.begin(spec, &defaults, instance).await
    }

    async fn begin(
        &mut self,
        spec: &SandboxSpec,
        defaults: &ImageDefaults,
        instance: &Arc<dyn Instance>,
    ) -> Result<(), Failure> {
        tokio::select! {
            biased;
            detail = instance.ended() => return Err(Failure::Ended(detail)),
            done = self.initialise(spec, defaults, instance) => {
                done.map_err(Failure::Refused)?;
            }
        }
        crash::reached("node.resume.serving");
        self.write_running(spec).await.map_err(Failure::Refused)?;
        crash::reached("node.resume.recorded");
        Ok(())
    }

    /// Makes new processes over the kept files.
    async fn restore(&mut self, spec: &SandboxSpec) -> (Body, Result<(), Refusal>) {
        let directory = self.agent.ledger.directory(&self.record.id);
        let created = match self.agent.driver.restore(spec, &directory).await {
            Ok(created) => created,
            Err(error) => return (Body::Files, Err(refusal(error))),
        };
        let Created {
            instance, defaults, ..
        } = created;
        crash::reached("node.resume.restored");
        let born = std::mem::replace(&mut self.record.born, spec.generation);
        match self.begin(spec, &defaults, &instance).await {
            Ok(()) => (Body::Running(instance), Ok(())),
            Err(failure) => {
                self.record.born = born;
                // If the agent stops in the middle, the record still says that it is paused.
                self.keep_files(&instance).await;
                (Body::Files, Err(failure.into_refusal()))
            }
        }
    }

    /// Makes it a running one of the order's generation, or leaves the record as it was.
    async fn write_running(&mut self, spec: &SandboxSpec) -> Result<(), Refusal> {
        let before = self.record.clone();
        self.record.generation = spec.generation;
        self.record.snapshot = None;
        let written = self.write_stage(Stage::Running).await;
        if written.is_err() {
            self.record = before;
            self.rewrite_record();
        }
        written
    }

    pub(super) async fn write_stage(&mut self, stage: Stage) -> Result<(), Refusal> {
        self.record.stage = stage;
        let (ledger, record) = (self.agent.ledger.clone(), self.record.clone());
        let written = tokio::task::spawn_blocking(move || ledger.write_durable(&record)).await;
        match written {
            Ok(written) => written.map_err(|error| failed(&error)),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Writes the record again after a change to it failed: which of the two stands in the file is
    /// not known then.
    fn rewrite_record(&self) {
        if let Err(refusal) = self.write_record() {
            tracing::warn!(sandbox = %self.record.id, reason = %refusal, "record not written");
        }
    }

    pub(super) fn tell_changed(&self) {
        let observed = self.view.borrow().observed.clone();
        self.agent.tell(NodeEvent::Changed(observed));
    }

    /// Gives back what the record says is not held; that cannot fail, unless it is gone.
    fn hold_less(&self) {
        let hold = Hold::from(self.record.stage);
        let _ = self.agent.hold(&self.record.id, hold);
        self.view
            .send_modify(|view| view.observed.resources = hold.of(self.record.resources));
    }

    fn publish_paused(&self) {
        self.view.send_modify(|view| {
            view.instance = None;
            view.observed.state = ObservedState::Paused;
        });
    }

    fn publish_resumed(&self, body: &Body, total_ms: &str) {
        let record = &self.record;
        let generation = record.generation.get();
        tracing::info!(sandbox = %record.id, generation, total_ms, "sandbox resumed");
        self.log("info", format!("resumed in {total_ms} ms"));
        self.view.send_modify(|view| {
            view.observed.generation = record.generation;
            view.observed.state = ObservedState::Running;
            view.observed.snapshot = None;
            view.observed.resources = record.resources;
            view.instance = body.running();
        });
    }
}
