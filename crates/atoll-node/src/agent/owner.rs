//! The task that owns one sandbox, from the order to the last file.
//!
//! ```text
//!   record(Starting) ─▶ create ─▶ initialise ─▶ record(Running) ─▶ runs ─▶ release ─▶ forget
//!         │               │           │                             │ by itself,
//!         └───────────────┴───────────┴── fails: undo, refuse       │ or on order
//! ```
//!
//! Between its making and its end a sandbox may be paused and go on any number of times; that is in
//! [`pausing`]. Orders wait while another one is carried out; each takes a bounded time.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use atoll_core::crash;
use atoll_core::id::{BuildId, Generation, SandboxId, TemplateId};
use atoll_core::network::NetworkPolicy;
use atoll_core::node::{NodeEvent, ObservedSandbox, ObservedState, Refusal};
use atoll_core::sandbox::{SandboxSpec, UsageSample};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};

use super::pausing::fence;
use tracing::{Instrument as _, Span};

use super::{Inner, View};
use crate::driver::{self, Created, ImageDefaults, Instance, Timings, Usage};
use crate::guest_client::{self, GUEST_AGENT_PORT};
use crate::ledger::{Record, Stage};
use crate::metrics;

mod pausing;
mod sharing;
mod snapshot;

/// Pause before a release that failed is tried again; doubled each time.
const RELEASE_PAUSE: Duration = Duration::from_millis(200);

/// Longest pause between attempts.
const RELEASE_PAUSE_MAX: Duration = Duration::from_secs(10);

/// What an order to pause or to resume is answered.
pub(super) type Answer = Result<ObservedSandbox, Refusal>;

/// An order to the owner.
#[derive(Debug)]
pub(super) enum Command {
    /// End it and free what it holds, unless it is newer than this.
    Remove(Generation),
    /// Put another egress policy in force.
    UpdateNetwork(NetworkPolicy, oneshot::Sender<Result<(), Refusal>>),
    /// Keep it without serving.
    Pause {
        generation: Generation,
        keep_memory: bool,
        reply: oneshot::Sender<Answer>,
    },
    /// Keep a copy of its files as a template build.
    Snapshot {
        generation: Generation,
        template: TemplateId,
        build: BuildId,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Let it serve again.
    Resume {
        spec: Box<SandboxSpec>,
        reply: oneshot::Sender<Answer>,
    },
}

/// What there is of a sandbox.
#[derive(Debug, Clone)]
pub(super) enum Body {
    Running(Arc<dyn Instance>),
    /// Its processes stand still.
    Frozen(Arc<dyn Instance>),
    /// Nothing but its directory.
    Files,
}

impl Body {
    pub(super) fn running(&self) -> Option<Arc<dyn Instance>> {
        match self {
            Self::Running(instance) => Some(Arc::clone(instance)),
            Self::Frozen(_) | Self::Files => None,
        }
    }

    const fn instance(&self) -> Option<&Arc<dyn Instance>> {
        match self {
            Self::Running(instance) | Self::Frozen(instance) => Some(instance),
            Self::Files => None,
        }
    }
}

/// What comes after a sandbox was as it was for a while.
enum Step {
    /// It is this now.
    Turn(Body),
    /// It is to be removed.
    Remove,
    /// Its processes ended, with a text on how.
    Ended(String),
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

    /// Makes a sandbox, within `span`, and owns it to its end.
    pub(super) async fn create_and_run(mut self, spec: SandboxSpec, span: Span) {
        match self.create(&spec).instrument(span).await {
            Ok(instance) => self.run(Body::Running(instance)).await,
            Err(refusal) => {
                tracing::warn!(sandbox = %self.record.id, reason = %refusal, "sandbox not made");
                metrics::not_made();
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
    pub(super) async fn run_adopted(mut self, body: Body, is_degraded: bool) {
        if is_degraded {
            self.note_lost_memory("its processes are gone").await;
        }
        self.run(body).await;
    }

    pub(super) const fn id(&self) -> &SandboxId {
        &self.record.id
    }

    async fn create(&mut self, spec: &SandboxSpec) -> Result<Arc<dyn Instance>, Refusal> {
        let began = Instant::now();
        crash::reached("node.ensure.admitted");
        self.write_record()?;
        crash::reached("node.ensure.recorded");
        let directory = self.agent.ledger.directory(&self.record.id);
        let span = tracing::info_span!("driver.create");
        let driver = &self.agent.driver;
        let created = match &spec.snapshot {
            None => driver.create(spec, &directory).instrument(span).await,
            Some(snapshot) => {
                self.fetch(spec, snapshot, &directory).await?;
                driver.restore(spec, &directory).instrument(span).await
            }
        };
        let Created {
            instance,
            defaults,
            mut timings,
        } = created.map_err(refusal)?;
        crash::reached("node.ensure.created");
        let created_at = Instant::now();
        let initialised = tokio::select! {
            done = self.initialise(spec, &defaults, &instance) => done,
            detail = instance.ended() => Err(Refusal::Failed(detail)),
        };
        let recorded = match initialised {
            Ok(()) => {
                crash::reached("node.ensure.initialised");
                self.record.stage = Stage::Running;
                self.record.started_at = Some(self.agent.clock.now());
                self.write_record()
            }
            Err(refusal) => Err(refusal),
        };
        match recorded {
            Ok(()) => {
                crash::reached("node.ensure.running");
                timings.push(("initialise".to_owned(), created_at.elapsed()));
                self.report_start(&instance, began.elapsed(), &timings);
                Ok(instance)
            }
            Err(refusal) => {
                // If the agent stops in the middle, the record still says that it was being made.
                self.persist("release", || instance.release()).await;
                Err(refusal)
            }
        }
    }

    async fn initialise(
        &self,
        spec: &SandboxSpec,
        defaults: &ImageDefaults,
        instance: &Arc<dyn Instance>,
    ) -> Result<(), Refusal> {
        let now = self.agent.clock.now();
        let dial = || instance.dial(GUEST_AGENT_PORT);
        let span = tracing::info_span!("guest.init");
        let done = guest_client::initialise(spec, defaults, now, dial)
            .instrument(span)
            .await;
        done.map_err(|error| failed(&error))
    }

    fn report_start(&self, instance: &Arc<dyn Instance>, total: Duration, timings: &Timings) {
        let record = &self.record;
        let steps: Vec<_> = timings
            .iter()
            .map(|(step, time)| format!("{step} {}", millis(*time)))
            .collect();
        let total_ms = millis(total);
        let steps = steps.join(", ");
        tracing::info!(
            sandbox = %record.id, generation = record.generation.get(), cell = instance.number(),
            total_ms, steps, "sandbox runs"
        );
        metrics::started(total, timings);
        self.log("info", format!("started in {total_ms} ms ({steps})"));
        self.view.send_modify(|view| {
            view.observed.state = ObservedState::Running;
            view.observed.started_at = record.started_at;
            view.instance = Some(Arc::clone(instance));
        });
    }

    /// Watches over a sandbox through its pauses, and frees it when it ends.
    async fn run(mut self, mut body: Body) {
        let ended = loop {
            let step = self.watch(&body).await;
            body = match (step, body) {
                (Step::Turn(body), _) => body,
                (Step::Ended(why), Body::Frozen(instance)) => {
                    if !self.degrade(&instance, &why).await {
                        return;
                    }
                    Body::Files
                }
                (Step::Ended(detail), last) => {
                    body = last;
                    break Some(self.report_end(detail));
                }
                (Step::Remove, last) => {
                    body = last;
                    break None;
                }
                // The ledger has what the next start needs.
                (Step::AgentStops, _) => return,
            };
        };
        crash::reached("node.remove.ordered");
        // Nobody is to be connected to what is being taken down.
        self.view.send_modify(|view| view.instance = None);
        let is_released = match body.instance() {
            Some(instance) => self.persist("release", || instance.release()).await,
            None => true,
        };
        if is_released {
            crash::reached("node.remove.released");
            self.remove_directory();
            crash::reached("node.remove.gone");
            self.agent.forget(&self.record.id, ended);
        }
    }

    /// Waits for an order that changes what it is, or for its end.
    async fn watch(&mut self, body: &Body) -> Step {
        let running = body.running();
        let period = self.agent.config.usage_interval;
        let mut ticks = interval_at(Instant::now() + period, period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = running.as_ref().and_then(measure);
        let mut shared = self.share(body);
        let mut is_shared = false;
        let ended = async {
            match body.instance() {
                Some(instance) => instance.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(ended);
        loop {
            tokio::select! {
                biased;
                command = self.inbox.recv() => match command {
                    Some(command) => if let Some(step) = self.obey(command, body).await {
                        return step;
                    },
                    None => return Step::AgentStops,
                },
                detail = &mut ended => return Step::Ended(detail),
                () = self.agent.cancel.cancelled() => return Step::AgentStops,
                snapshot = &mut shared, if !is_shared => {
                    is_shared = true;
                    self.note_shared(snapshot).await;
                }
                // What stands still uses nothing that is worth a sample.
                _ = ticks.tick(), if running.is_some() => {
                    last = running.as_ref().and_then(|instance| self.sample(instance, last));
                }
            }
        }
    }

    /// Carries out an order; none if the sandbox is what it was.
    async fn obey(&mut self, command: Command, body: &Body) -> Option<Step> {
        match command {
            // One that was overtaken by a resume: whoever asked asks again, and is refused.
            Command::Remove(generation) if generation < self.record.generation => None,
            Command::Remove(_) => Some(Step::Remove),
            Command::UpdateNetwork(policy, reply) => {
                let updated = match body.instance() {
                    Some(instance) => instance.update_network(&policy).await.map_err(refusal),
                    // Nothing is connected; the resume brings the policy that holds then.
                    None => Ok(()),
                };
                // The caller may have gone away; the policy is in force all the same.
                let _ = reply.send(updated);
                None
            }
            Command::Pause {
                generation,
                keep_memory,
                reply,
            } => {
                let paused = match (fence(generation, self.record.generation), body) {
                    (Err(refusal), _) => Err(refusal),
                    (Ok(()), Body::Running(instance)) => self.pause(instance, keep_memory).await,
                    (Ok(()), Body::Frozen(_) | Body::Files) => Ok(None),
                };
                self.answer(paused, reply)
            }
            Command::Snapshot {
                generation,
                template,
                build,
                reply,
            } => {
                let taken = match fence(generation, self.record.generation) {
                    Err(refusal) => Err(refusal),
                    Ok(()) => self.snapshot(body, &template, &build).await,
                };
                let _ = reply.send(taken);
                None
            }
            Command::Resume { spec, reply } => match self.check_resume(&spec, body) {
                Err(refusal) => self.answer(Err(refusal), reply),
                Ok(false) => self.answer(Ok(None), reply),
                Ok(true) => {
                    let (body, resumed) = self.resume(body.clone(), &spec).await;
                    if resumed.is_err() {
                        self.agent.unfence(&spec, self.record.generation);
                    }
                    self.answer(resumed.map(|()| None), reply);
                    Some(Step::Turn(body))
                }
            },
        }
    }

    /// Answers an order, and passes on what comes next.
    fn answer(
        &self,
        outcome: Result<Option<Step>, Refusal>,
        reply: oneshot::Sender<Answer>,
    ) -> Option<Step> {
        // The caller may have gone away; it is done all the same.
        match outcome {
            // Not settled: the caller learns that nobody knows.
            Ok(Some(Step::AgentStops)) => Some(Step::AgentStops),
            Ok(step) => {
                let _ = reply.send(Ok(self.view.borrow().observed.clone()));
                step
            }
            Err(refusal) => {
                let _ = reply.send(Err(refusal));
                None
            }
        }
    }

    /// Whether there is something to do for this order, or it was done already.
    fn check_resume(&self, spec: &SandboxSpec, body: &Body) -> Result<bool, Refusal> {
        let (ordered, known) = (spec.generation, self.record.generation);
        let newest = self.agent.newest(&self.record.id).unwrap_or(known);
        if ordered < newest {
            return Err(Refusal::StaleGeneration {
                ordered,
                known: newest,
            });
        }
        match body {
            Body::Running(_) => Ok(ordered > known),
            // It was paused after it had been resumed under this one.
            Body::Frozen(_) | Body::Files if ordered == known => {
                Err(Refusal::StaleGeneration { ordered, known })
            }
            Body::Frozen(_) | Body::Files => Ok(true),
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
        let (now, usage) = measure(instance)?;
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

    /// Does a step that must be done, however often that takes; `false` if the agent stops before,
    /// and the next start cleans up.
    async fn persist<F>(&self, step: &str, attempt: impl Fn() -> F) -> bool
    where
        F: Future<Output = Result<(), driver::Error>>,
    {
        let mut pause = RELEASE_PAUSE;
        loop {
            let Err(error) = attempt().await else {
                return true;
            };
            let (id, error) = (&self.record.id, Chain(&error).to_string());
            tracing::warn!(sandbox = %id, step, error, "a step failed, to be tried again");
            metrics::release_failed();
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

fn measure(instance: &Arc<dyn Instance>) -> Option<(Instant, Usage)> {
    Some((Instant::now(), instance.usage().ok()?))
}

fn millis(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
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
