//! Pausing and resuming on a machine, as `atoll_node::agent` does it: a refusal leaves the sandbox
//! as it was, and a resume makes older orders stale.

use atoll_core::id::{Generation, SandboxId};
use atoll_core::node::{CallOutcome, ObservedSandbox, ObservedState, Refusal};
use atoll_core::sandbox::SandboxSpec;

use super::{FAILS_PER_MILLE, Machine, State, observed};
use crate::options::Sabotage;
use crate::world::lock;

type Key = (SandboxId, Generation);

/// What an order meets.
enum Met {
    Ready(CallOutcome<ObservedSandbox>),
    Busy,
    Begun(Key),
}

fn refuse(refusal: Refusal) -> Met {
    Met::Ready(CallOutcome::Refused(refusal))
}

impl Machine {
    /// Keeps the sandbox without serving; none if the agent died before it could answer.
    pub(crate) async fn pause(
        &self,
        id: SandboxId,
        generation: Generation,
        keep_memory: bool,
    ) -> Option<CallOutcome<ObservedSandbox>> {
        let life = lock(&self.state).life?;
        let key = loop {
            match self.begin_pause(&id, generation) {
                Met::Ready(outcome) => return Some(outcome),
                Met::Busy => self.wait(life).await?,
                Met::Begun(key) => break key,
            }
        };
        self.work(5, 300).await;
        let is_failing = self.world.goes_wrong(FAILS_PER_MILLE);
        let outcome = {
            let mut state = lock(&self.state);
            if state.life != Some(life) {
                return None;
            }
            let copy = state.copies.get_mut(&key)?;
            copy.is_turning = false;
            if is_failing {
                CallOutcome::Refused(Refusal::Failed("it does not freeze".to_owned()))
            } else {
                copy.state = ObservedState::Paused;
                copy.keeps_memory = keep_memory;
                copy.resources = copy.held();
                CallOutcome::Done(observed(&key, copy))
            }
        };
        self.changed.notify_waiters();
        Some(outcome)
    }

    fn begin_pause(&self, id: &SandboxId, generation: Generation) -> Met {
        let mut state = lock(&self.state);
        let Some(key) = newest(&state, id) else {
            return refuse(Refusal::UnknownSandbox);
        };
        if key.1 > generation {
            return refuse(Refusal::StaleGeneration {
                ordered: generation,
                known: key.1,
            });
        }
        match state.copies.get_mut(&key) {
            Some(copy) if copy.is_busy() => Met::Busy,
            Some(copy) if key.1 == generation => match copy.state {
                ObservedState::Paused => Met::Ready(CallOutcome::Done(observed(&key, copy))),
                ObservedState::Running => {
                    copy.is_turning = true;
                    Met::Begun(key)
                }
                ObservedState::Starting | ObservedState::Exited => refuse(Refusal::UnknownSandbox),
            },
            Some(_) | None => refuse(Refusal::UnknownSandbox),
        }
    }

    /// Lets a paused sandbox serve again; none if the agent died before it could answer.
    pub(crate) async fn resume(&self, spec: SandboxSpec) -> Option<CallOutcome<ObservedSandbox>> {
        let life = lock(&self.state).life?;
        if self.world.has(Sabotage::RefuseResumes) {
            let why = "its memory is damaged".to_owned();
            return Some(CallOutcome::Refused(Refusal::Failed(why)));
        }
        let key = loop {
            match self.begin_resume(&spec) {
                Met::Ready(outcome) => return Some(outcome),
                Met::Busy => self.wait(life).await?,
                Met::Begun(key) => break key,
            }
        };
        self.work(5, 200).await;
        let is_failing = self.world.goes_wrong(FAILS_PER_MILLE);
        let outcome = {
            let mut state = lock(&self.state);
            if state.life != Some(life) {
                return None;
            }
            let mut copy = state.copies.remove(&key)?;
            copy.is_turning = false;
            if is_failing {
                copy.resources = copy.held();
                state.copies.insert(key, copy);
                CallOutcome::Refused(Refusal::Failed("it does not thaw".to_owned()))
            } else {
                let key = (key.0, spec.generation);
                copy.state = ObservedState::Running;
                copy.resources = copy.held();
                let seen = observed(&key, &copy);
                state.copies.insert(key, copy);
                CallOutcome::Done(seen)
            }
        };
        self.changed.notify_waiters();
        Some(outcome)
    }

    fn begin_resume(&self, spec: &SandboxSpec) -> Met {
        let mut state = lock(&self.state);
        let stale = |known| {
            refuse(Refusal::StaleGeneration {
                ordered: spec.generation,
                known,
            })
        };
        if let Some(removed) = state.removed.get(&spec.id)
            && *removed >= spec.generation
        {
            return stale(*removed);
        }
        let Some(key) = newest(&state, &spec.id) else {
            return refuse(Refusal::UnknownSandbox);
        };
        if key.1 > spec.generation {
            return stale(key.1);
        }
        let allocated = state.allocated();
        let total = self.told_total();
        let Some(copy) = state.copies.get_mut(&key) else {
            return refuse(Refusal::UnknownSandbox);
        };
        if copy.is_busy() {
            return Met::Busy;
        }
        match copy.state {
            ObservedState::Running if key.1 == spec.generation => {
                Met::Ready(CallOutcome::Done(observed(&key, copy)))
            }
            ObservedState::Paused => {
                let others = allocated.checked_sub(copy.resources);
                let wanted = others.and_then(|others| others.checked_add(copy.full));
                if wanted.is_none_or(|wanted| !wanted.fits_in(total)) {
                    return refuse(Refusal::NoRoom("full".to_owned()));
                }
                // Taken now, so that nothing else is given the room meanwhile.
                copy.resources = copy.full;
                copy.is_turning = true;
                Met::Begun(key)
            }
            ObservedState::Running => refuse(Refusal::Failed("it is not paused".to_owned())),
            ObservedState::Starting | ObservedState::Exited => refuse(Refusal::UnknownSandbox),
        }
    }
}

fn newest(state: &State, id: &SandboxId) -> Option<Key> {
    state.copies.keys().rev().find(|key| key.0 == *id).cloned()
}
