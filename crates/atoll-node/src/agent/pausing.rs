//! The orders to pause, to resume and to take a snapshot, up to the sandbox's owner, which carries
//! them out.

use atoll_core::id::{BuildId, Generation, SandboxId, TemplateId};
use atoll_core::node::{CallOutcome, ObservedSandbox, Refusal};
use atoll_core::sandbox::SandboxSpec;
use tokio::sync::{mpsc, oneshot};

use super::owner::Command;
use super::{Agent, Inner};

impl Agent {
    /// Keeps the sandbox without serving: with `keep_memory` its processes stand still until it is
    /// resumed, otherwise they end and only its files are kept. `Done` once what is kept would
    /// survive the end of this process, and its files that of the machine. One that is paused
    /// already is `Done` as it is. A refusal left it running.
    pub async fn pause(
        &self,
        id: &SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> CallOutcome<ObservedSandbox> {
        let commands = match self.owner_of(id, generation) {
            Ok(commands) => commands,
            Err(refusal) => return CallOutcome::Refused(refusal),
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Pause {
            generation,
            keep_memory,
            reply,
        };
        self.order(id, commands, command, answer).await
    }

    /// Keeps a copy of the sandbox's files as a template build, from which others can be made; a
    /// running one stands still meanwhile. Of its memory nothing is kept. A build that is here
    /// already is `Done` as it is. The build that the sandbox was made from must stay as long as
    /// the new one; [`Agent::remove_template`] sees to that.
    pub async fn snapshot(
        &self,
        id: &SandboxId,
        generation: Generation,
        template: &TemplateId,
        build: &BuildId,
    ) -> CallOutcome<()> {
        let commands = match self.owner_of(id, generation) {
            Ok(commands) => commands,
            Err(refusal) => return CallOutcome::Refused(refusal),
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Snapshot {
            generation,
            template: template.clone(),
            build: build.clone(),
            reply,
        };
        self.order(id, commands, command, answer).await
    }

    fn owner_of(
        &self,
        id: &SandboxId,
        generation: Generation,
    ) -> Result<mpsc::Sender<Command>, Refusal> {
        let state = self.inner.lock();
        let entry = state.entries.get(id).ok_or(Refusal::UnknownSandbox)?;
        fence(generation, entry.generation)?;
        Ok(entry.commands.clone())
    }

    /// Lets a paused sandbox serve again, under the generation of `spec`, which is newer than the
    /// one it was paused under. Answers once its guest agent is initialised. A refusal left it
    /// paused as it was. One that runs under an older generation takes the newer one.
    ///
    /// What a sandbox is made of (template, size) was decided when it was made; of `spec` count
    /// what its guest agent is told and its network policy.
    pub async fn resume(&self, spec: &SandboxSpec) -> CallOutcome<ObservedSandbox> {
        let commands = {
            let mut state = self.inner.lock();
            let stale = |known| {
                CallOutcome::Refused(Refusal::StaleGeneration {
                    ordered: spec.generation,
                    known,
                })
            };
            if let Some(removed) = state.removed.values.get(&spec.id)
                && *removed >= spec.generation
            {
                return stale(*removed);
            }
            match state.entries.get_mut(&spec.id) {
                None => return CallOutcome::Refused(Refusal::UnknownSandbox),
                Some(entry) if entry.generation > spec.generation => {
                    return stale(entry.generation);
                }
                Some(entry) => {
                    // From here on older orders are refused; the owner takes that back if it
                    // refuses this one.
                    entry.generation = spec.generation;
                    entry.commands.clone()
                }
            }
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::Resume {
            spec: Box::new(spec.clone()),
            reply,
        };
        self.order(&spec.id, commands, command, answer).await
    }

    async fn order<T>(
        &self,
        id: &SandboxId,
        commands: mpsc::Sender<Command>,
        command: Command,
        answer: oneshot::Receiver<Result<T, Refusal>>,
    ) -> CallOutcome<T> {
        let answered = match commands.send(command).await {
            Ok(()) => answer.await.ok(),
            Err(_) => None,
        };
        match answered {
            Some(Ok(done)) => CallOutcome::Done(done),
            Some(Err(refusal)) => CallOutcome::Refused(refusal),
            None if self.inner.lock().entries.contains_key(id) => {
                CallOutcome::Unknown("the node is stopping".to_owned())
            }
            // It was removed, or ended, before its turn came.
            None => CallOutcome::Refused(Refusal::UnknownSandbox),
        }
    }
}

impl Inner {
    /// The newest generation that was ordered of a sandbox that is there.
    pub(super) fn newest(&self, id: &SandboxId) -> Option<Generation> {
        self.lock().entries.get(id).map(|entry| entry.generation)
    }

    /// Lets orders for the generation that is there pass again, after a resume was refused and
    /// unless a newer one waits.
    pub(super) fn unfence(&self, refused: &SandboxSpec, known: Generation) {
        if let Some(entry) = self.lock().entries.get_mut(&refused.id)
            && entry.generation == refused.generation
        {
            entry.generation = known;
        }
    }
}

/// Lets an order for exactly the known generation pass.
pub(super) fn fence(ordered: Generation, known: Generation) -> Result<(), Refusal> {
    match ordered.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(Refusal::StaleGeneration { ordered, known }),
        // What it is about never came to this node.
        std::cmp::Ordering::Greater => Err(Refusal::UnknownSandbox),
    }
}
