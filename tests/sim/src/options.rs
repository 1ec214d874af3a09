//! What a run is given: everything that happens follows from it.

use clap::ValueEnum;

/// One run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Where all chance comes from.
    pub seed: u64,
    /// Steps before the faults stop.
    pub steps: u32,
    /// Servers on the one store.
    pub servers: usize,
    /// A guarantee that is broken on purpose.
    pub sabotage: Option<Sabotage>,
    /// Whether every line of the trace is kept, not only the last ones.
    pub keeps_trace: bool,
}

impl Options {
    /// Steps of a run where nobody says otherwise: about ten minutes of virtual time.
    pub const STEPS: u32 = 250;

    /// A run of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            seed,
            steps: Self::STEPS,
            servers: 1,
            sabotage: None,
            keeps_trace: false,
        }
    }

    /// The same run with several servers on the one store.
    #[must_use]
    pub const fn with_servers(mut self, servers: usize) -> Self {
        self.servers = servers;
        self
    }

    /// The same run with something broken in it.
    #[must_use]
    pub const fn with_sabotage(mut self, sabotage: Sabotage) -> Self {
        self.sabotage = Some(sabotage);
        self
    }
}

/// A defect that a run is given, to show that the checks can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// Nodes start what older placements order, and half of all orders arrive once more, late: one
    /// that was overtaken by a resume or a restart makes a second copy.
    IgnoreGenerations,
    /// The edge keeps the first route to a sandbox that it was given.
    KeepOldRoutes,
    /// Nodes say that they removed what they keep.
    LieAboutRemovals,
    /// Nodes refuse every removal.
    RefuseRemovals,
    /// Nodes that start again forget what was paused.
    ForgetPaused,
    /// Nodes refuse every resume.
    RefuseResumes,
    /// Nodes report what is gone as running.
    ReportTheGone,
    /// Nodes give and admit twice what they have.
    OverstateRoom,
    /// Heartbeats are lost inside the server.
    IgnoreHeartbeats,
    /// What is lost on the way is taken for refused.
    TakeUnknownForRefused,
    /// The store leaves out the end of a sandbox's states.
    SkipStopping,
    /// The store loses events.
    LoseEvents,
    /// The store gives readers of the sequence the newest event of a page first.
    DisorderEvents,
    /// The store forgets idempotency keys.
    DropIdempotencyKeys,
    /// The store does not count against the quota.
    IgnoreQuota,
    /// The store shows every team's sandboxes to every team.
    MixTeams,
    /// A team's key opens the other team's sandboxes.
    OpenForeign,
    /// The store forgets that a sandbox should be gone.
    ForgetStops,
    /// Deadlines never pass.
    StopTheClock,
}
