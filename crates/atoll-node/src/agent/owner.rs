//! The task that owns one sandbox, from the order to the last file.
//!
//! ```text
//!   record(Starting) ─▶ create ─▶ initialise ─▶ record(Running) ─▶ runs ─▶ release ─▶ forget
//!         │               │           │                             │ by itself,
//!         └───────────────┴───────────┴── fails: undo, refuse       │ or on order
//! ```
//!
//! Orders wait while the sandbox is being made; that takes a bounded time.

use std::sync::Arc;
use std::time::Duration;

use atoll_core::network::NetworkPolicy;
use atoll_core::node::{NodeEvent, ObservedSandbox, ObservedState, Refusal};
use atoll_core::sandbox::{SandboxSpec, UsageSample};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::{Inner, View};
use crate::driver::{self, Created, ImageDefaults, Instance, Timings, Usage};
use crate::guest_client::{self, GUEST_AGENT_PORT};
use crate::ledger::{Record, Stage};

/// Pause before a release that failed is tried again; doubled each time.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause between attempts.
const RELEASE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// An order to the owner.
#[derive(Debug)]
pub(super) enum Command {
    /// End it and free what it holds.
    Remove,
    /// Put another egress policy in force.
    UpdateNetwork(NetworkPolicy, oneshot::Sender<Result<(), Refusal>>),
}

/// Why a sandbox stopped running.
enum End {
    Ordered,
    ByItself(String),
    /// The agent stops; the sandbox lives on.
    AgentStops,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Owner {
    agent: Arc<Inner>,
    record: Record,
    inbox: mpsc::Receiver<Command>,
    view: watch::Sender<View>,
}

impl Owner {
    pub(super) fn new(
        agent: Arc<Inner>,
        record: Record,
        inbox: mpsc::Receiver<Command>,
        view: watch::Sender<View>,
    ) -> Self {
        Self {
            agent,
            record,
            inbox,
            view,
        }
    }

    /// Makes a sandbox and owns it to its end.
    pub(super) async fn create_and_run(mut self, spec: SandboxSpec) {
        match self.create(&spec).await {
            Ok(instance) => self.run(instance).await,
            Err(refusal) => {
                tracing::warn!(sandbox = %self.record.id, reason = %refusal, "sandbox not made");
                self.remove_directory();
                self.agent.forget(&self.record.id, None);
                // After the room is given back, so that whoever was refused finds it free.
                self.view.send_modify(|view| {
                    view.observed.state = ObservedState::Exited;
                    view.observed.detail = Some(refusal.to_string());
                    view.refusal = Some(refusal);
                });
            }
        }
    }

    /// Owns a sandbox of an earlier run to its end.
    pub(super) async fn run_adopted(self) {
        let instance = self.view.borrow().instance.clone();
        if let Some(instance) = instance {
            self.run(instance).await;
        }
    }

    async fn create(&mut self, spec: &SandboxSpec) -> Result<Arc<dyn Instance>, Refusal> {
        let began = Instant::now();
        self.write_record()?;
        let directory = self.agent.ledger.directory(&self.record.id);
        let created = self.agent.driver.create(spec, &directory).await;
        let Created {
            instance,
            defaults,
            mut timings,
        } = created.map_err(refusal)?;
        let created_at = Instant::now();
        match self.initialise(spec, &defaults, &instance).await {
            Ok(()) => {
                timings.push(("initialise".to_owned(), created_at.elapsed()));
                self.report_start(&instance, began.elapsed(), &timings);
                Ok(instance)
            }
            Err(refusal) => {
                // If the agent stops in the middle, the record still says that it was being made.
                self.release(&instance).await;
                Err(refusal)
            }
        }
    }

    async fn initialise(
        &mut self,
        spec: &SandboxSpec,
        defaults: &ImageDefaults,
        instance: &Arc<dyn Instance>,
    ) -> Result<(), Refusal> {
        let now = self.agent.clock.now();
        let dial = || instance.dial(GUEST_AGENT_PORT);
        tokio::select! {
            done = guest_client::initialise(spec, defaults, now, dial) => {
                done.map_err(|error| failed(&error))?;
            }
            detail = instance.ended() => return Err(Refusal::Failed(detail)),
        }
        self.record.stage = Stage::Running;
        self.record.started_at = Some(self.agent.clock.now());
        self.write_record()
    }

    fn report_start(&self, instance: &Arc<dyn Instance>, total: Duration, timings: &Timings) {
        let record = &self.record;
        let steps: Vec<_> = timings
            .iter()
            .map(|(step, time)| format!("{step} {:.1}", time.as_secs_f64() * 1000.0))
            .collect();
        let total_ms = format!("{:.1}", total.as_secs_f64() * 1000.0);
        let steps = steps.join(", ");
        tracing::info!(
            sandbox = %record.id, generation = record.generation.get(), cell = instance.number(),
            total_ms, steps, "sandbox runs"
        );
        self.log("info", format!("started in {total_ms} ms ({steps})"));
        self.view.send_modify(|view| {
            view.observed.state = ObservedState::Running;
            view.observed.started_at = record.started_at;
            view.instance = Some(Arc::clone(instance));
        });
    }

    /// Watches a running sandbox, and frees it when it ends.
    async fn run(mut self, instance: Arc<dyn Instance>) {
        let end = self.watch(&instance).await;
        let ended = match end {
            // The ledger has what the next start needs.
            End::AgentStops => return,
            End::Ordered => None,
            End::ByItself(detail) => Some(self.report_end(detail)),
        };
        // Nobody is to be connected to what is being taken down.
        self.view.send_modify(|view| view.instance = None);
        if self.release(&instance).await {
            self.remove_directory();
            self.agent.forget(&self.record.id, ended);
        }
    }

    async fn watch(&mut self, instance: &Arc<dyn Instance>) -> End {
        let period = self.agent.config.usage_interval;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = instance.usage().ok().map(|usage| (Instant::now(), usage));
        let ended = instance.ended();
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                command = self.inbox.recv() => match command {
                    Some(Command::UpdateNetwork(policy, reply)) => {
                        let updated = instance.update_network(&policy).await;
                        // The caller may have gone away; the policy is in force all the same.
                        let _ = reply.send(updated.map_err(refusal));
                    }
                    Some(Command::Remove) => return End::Ordered,
                    None => return End::AgentStops,
                },
                detail = &mut ended => return End::ByItself(detail),
                () = self.agent.cancel.cancelled() => return End::AgentStops,
                _ = ticks.tick() => last = self.sample(instance, last),
            }
        }
    }

    fn report_end(&self, detail: String) -> ObservedSandbox {
        tracing::info!(sandbox = %self.record.id, detail, "sandbox ended by itself");
        self.log("warn", format!("ended: {detail}"));
        self.view.send_modify(|view| {
            view.observed.state = ObservedState::Exited;
            view.observed.detail = Some(detail);
        });
        let observed = self.view.borrow().observed.clone();
        self.agent.tell(NodeEvent::Changed(observed.clone()));
        observed
    }

    /// Tells what the sandbox used since the last sample.
    fn sample(
        &self,
        instance: &Arc<dyn Instance>,
        last: Option<(Instant, Usage)>,
    ) -> Option<(Instant, Usage)> {
        let (now, usage) = (Instant::now(), instance.usage().ok()?);
        if let Some((then, before)) = last {
            let used_us = usage.cpu_us.saturating_sub(before.cpu_us);
            let sample = UsageSample {
                at: self.agent.clock.now(),
                cpu_used_pct: percent(used_us, now - then),
                cpu_count: self.record.resources.cpu_millis.div_ceil(1000),
                memory_used_bytes: usage.memory_bytes.saturating_sub(usage.cache_bytes),
                memory_total_bytes: u64::from(self.record.resources.memory_mib) << 20,
                memory_cache_bytes: usage.cache_bytes,
                disk_used_bytes: usage.disk_used_bytes,
                disk_total_bytes: usage.disk_total_bytes,
            };
            self.agent
                .tell(NodeEvent::Usage(self.record.id.clone(), sample));
        }
        Some((now, usage))
    }

    /// Frees what the instance holds, however often that takes; `false` if the agent stops before,
    /// and the next start cleans up.
    async fn release(&self, instance: &Arc<dyn Instance>) -> bool {
        let mut pause = RELEASE_PAUSE;
        loop {
            let Err(error) = instance.release().await else {
                return true;
            };
            let (id, error) = (&self.record.id, Chain(&error).to_string());
            tracing::warn!(sandbox = %id, error, "release failed, to be tried again");
            tokio::select! {
                () = sleep(pause) => {}
                () = self.agent.cancel.cancelled() => return false,
            }
            pause = (pause * 2).min(RELEASE_PAUSE_MAX);
        }
    }

    fn write_record(&self) -> Result<(), Refusal> {
        self.agent
            .ledger
            .write(&self.record)
            .map_err(|error| failed(&error))
    }

    fn remove_directory(&self) {
        let directory = self.agent.ledger.directory(&self.record.id);
        if let Err(error) = self.agent.ledger.remove(&directory) {
            let (id, error) = (&self.record.id, Chain(&error));
            tracing::warn!(sandbox = %id, error = %error, "directory not removed");
        }
    }

    fn log(&self, level: &'static str, message: String) {
        self.agent.tell(NodeEvent::Log {
            id: self.record.id.clone(),
            at: self.agent.clock.now(),
            level,
            message,
        });
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "a share for people and graphs"
)]
fn percent(used_us: u64, time: Duration) -> f32 {
    let time_us = time.as_micros().max(1);
    (used_us as f64 / time_us as f64 * 100.0) as f32
}

fn refusal(error: driver::Error) -> Refusal {
    match error {
        driver::Error::UnknownTemplate => Refusal::UnknownTemplate,
        driver::Error::Unsupported(what) => Refusal::Unsupported(what.to_owned()),
        driver::Error::NoRoom(what) => Refusal::NoRoom(what),
        error @ driver::Error::Failed { .. } => failed(&error),
    }
}

pub(super) fn failed(error: &dyn std::error::Error) -> Refusal {
    Refusal::Failed(Chain(error).to_string())
}

/// An error with its causes, on one line.
pub(super) struct Chain<'a>(pub(super) &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
