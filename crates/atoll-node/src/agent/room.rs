//! What sandboxes hold of the machine, exactly: taken before anything is made, given back after it
//! is gone, and in between as much as each state needs.

use atoll_core::id::SandboxId;
use atoll_core::node::Refusal;
use atoll_core::resources::Resources;

use super::{Inner, State};
use crate::ledger::Stage;

/// How much of its size a sandbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// All: it runs, or is being made.
    Whole,
    /// Memory and disk: it is frozen.
    Memory,
    /// Disk: only its files are kept.
    Files,
}

impl Hold {
    pub(super) const fn of(self, size: Resources) -> Resources {
        match self {
            Self::Whole => size,
            Self::Memory => size.held_when_paused(true),
            Self::Files => size.held_when_paused(false),
        }
    }

    /// Whether it takes one of the places of [`super::Config::max_sandboxes`].
    const fn has_place(self) -> bool {
        !matches!(self, Self::Files)
    }
}

impl From<Stage> for Hold {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Starting | Stage::Running => Self::Whole,
            Stage::Paused { has_memory: true } => Self::Memory,
            Stage::Paused { has_memory: false } => Self::Files,
        }
    }
}

impl Inner {
    /// Takes room and a place for a sandbox that is not there yet.
    pub(super) fn reserve(&self, state: &mut State, wanted: Resources) -> Result<(), Refusal> {
        self.check_place(state)?;
        state.allocated = self.fitting(state, Resources::default(), wanted)?;
        Ok(())
    }

    /// Changes what a sandbox holds. Holding less never fails.
    pub(super) fn hold(&self, id: &SandboxId, hold: Hold) -> Result<(), Refusal> {
        let mut state = self.lock();
        let entry = state.entries.get(id).ok_or(Refusal::UnknownSandbox)?;
        let (before, size) = (entry.hold, entry.size);
        let (held, wanted) = (before.of(size), hold.of(size));
        let allocated = if wanted.fits_in(held) {
            let rest = state.allocated.checked_sub(held);
            rest.and_then(|rest| rest.checked_add(wanted))
                .expect("what is held is part of what is allocated")
        } else {
            if !before.has_place() {
                self.check_place(&state)?;
            }
            self.fitting(&state, held, wanted)?
        };
        state.allocated = allocated;
        if let Some(entry) = state.entries.get_mut(id) {
            entry.hold = hold;
        }
        Ok(())
    }

    fn check_place(&self, state: &State) -> Result<(), Refusal> {
        if state.is_closing {
            return Err(Refusal::NoRoom("the node is stopping".to_owned()));
        }
        let entries = state.entries.values();
        let count = entries.filter(|entry| entry.hold.has_place()).count();
        if count >= self.config.max_sandboxes {
            return Err(Refusal::NoRoom(format!("it runs {count} sandboxes")));
        }
        Ok(())
    }

    /// What would be allocated, if it fits.
    fn fitting(
        &self,
        state: &State,
        held: Resources,
        wanted: Resources,
    ) -> Result<Resources, Refusal> {
        let others = state.allocated.checked_sub(held);
        let others = others.expect("what is held is part of what is allocated");
        let total = self.config.total;
        let sum = others.checked_add(wanted);
        sum.filter(|sum| sum.fits_in(total))
            .ok_or_else(|| Refusal::NoRoom(shortage(total, others, held, wanted)))
    }
}

/// What of the request does not fit.
fn shortage(total: Resources, others: Resources, held: Resources, wanted: Resources) -> String {
    let amounts = |unit, of: fn(Resources) -> u32| (unit, [total, others, held, wanted].map(of));
    let dimensions = [
        amounts("mcpu", |of| of.cpu_millis),
        amounts("MiB memory", |of| of.memory_mib),
        amounts("MiB disk", |of| of.disk_mib),
    ];
    let short: Vec<_> = dimensions
        .iter()
        .filter_map(|(unit, [total, others, held, wanted])| {
            let free = total.saturating_sub(*others);
            let (more, free_more) = (wanted - held.min(wanted), free.saturating_sub(*held));
            (free < *wanted).then(|| format!("{more} {unit} wanted, {free_more} free"))
        })
        .collect();
    short.join("; ")
}
